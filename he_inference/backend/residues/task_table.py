"""Tasks whose rows have numbers of their own → a table with a place in memory for every row."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from operator import ne

import numpy as np
import numpy.typing as npt

from he_inference.backend.residues import row_tasks as op

Integers = npt.NDArray[np.int64]
Block = tuple[int, int]
"""Rows that lie one after the other: the first one's number, and how many."""

_ROWS = (op.TARGET, op.SECOND, op.SOURCE, op.OTHER, op.OWN_ROW)
"""Fields that name rows of the workspace."""
_SLACK = 4
"""Tasks after its last use for which a place is not used again: nobody waits for it then."""
_TRANSFORM, _LITTLE, _CROSSING = 14, 4, 10
"""Work of a task, roughly in microseconds: for a transform, for a row that is only multiplied or
added, and for one that another thread had. That is one where cores share a cache, and 13 where they
do not, most of it when the row is written over: a plan for the one must do for the other."""


@dataclass(frozen=True)
class Task:
    """Fields by number, and terms as (row, …) with the number of rows that each begins with."""

    fields: dict[int, int]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    terms: tuple[tuple[int, ...], ...] = ()
    rows_of_term: int = 1


@dataclass(frozen=True, eq=False)
class TaskTable:
    """What `row_tasks.run` reads.

    tasks: int64 (count, FIELDS). lists: int64, their terms. threads: int64 (count,), that tasks are
    planned for. rows: of the workspace. kept: places of rows that are there at the end.
    """

    tasks: Integers
    lists: Integers
    threads: Integers
    rows: int
    kept: tuple[int, ...]

    def order(self, thread: int) -> Integers:
        """Tasks of a thread, and then those of others, which it does if they are late."""
        return np.argsort(self.threads != thread, kind="stable").astype(np.int64)


def write(
    tasks: Sequence[Task], blocks: Sequence[Block], kept: Sequence[int], threads: int
) -> TaskTable:
    """blocks: of all rows, in the order of their numbers."""
    ordered, planned = _planned(tasks, threads)
    places, rows = _placed(blocks, ordered, planned, kept)
    table = np.zeros((len(ordered), op.FIELDS), np.int64)
    table[:, [op.PLACES, op.OWN]] = -1
    lists: list[int] = []
    for entry, task, before in zip(table, ordered, _before(ordered, places), strict=True):
        for name, value in task.fields.items():
            entry[name] = places[value] if name in _ROWS else value
        entry[op.LIST], entry[op.TERMS] = len(lists), sum(map(len, task.terms))
        for term in task.terms:
            lists += [int(places[row]) for row in term[: task.rows_of_term]]
            lists += term[task.rows_of_term :]
        entry[op.AFTER] = len(lists)
        lists += [*before, -1]
    found = tuple(int(places[row]) for row in kept)
    return TaskTable(
        table, np.array(lists or [0], np.int64), np.array(planned, np.int64), rows, found
    )


def _before(tasks: Sequence[Task], places: Integers | None = None) -> Iterator[list[int]]:
    """For every task those that must be done: they wrote what it reads or writes over, or read what
    it writes over, at its place in memory, or by the rows' own numbers."""
    writer, readers = dict[int, int](), defaultdict[int, list[int]](list)
    for number, task in enumerate(tasks):
        reads, writes = (
            list(rows) if places is None else [int(places[row]) for row in rows]
            for rows in (task.reads, task.writes)
        )
        found = {writer[row] for row in (*reads, *writes) if row in writer}
        found |= {reader for row in writes for reader in readers[row]}
        for row in reads:
            readers[row].append(number)
        for row in writes:
            writer[row], readers[row] = number, []
        yield sorted(found - {number})


def _planned(tasks: Sequence[Task], threads: int) -> tuple[list[Task], list[int]]:
    """Tasks in the order in which they start, and the thread of each.

    Of what is ready always that with most work behind it, on the thread that is done with it first
    (Topcuoglu, Hariri and Wu 2002, "HEFT"), which is later where rows come from another.
    """
    before, after = list(_before(tasks)), defaultdict[int, list[int]](list)
    for number, earlier in enumerate(before):
        for other in earlier:
            after[other].append(number)
    work, behind = [_work(task) for task in tasks], [0] * len(tasks)
    for number in reversed(range(len(tasks))):
        behind[number] = work[number] + max((behind[n] for n in after[number]), default=0)
    left = [len(earlier) for earlier in before]
    ready = [(-behind[n], n) for n, waits in enumerate(left) if not waits]
    heapify(ready)
    free, ends, plan = [0] * threads, [0] * len(tasks), list[tuple[int, int, int]]()
    holders = defaultdict[int, set[int]](set)
    while ready:
        _, number = heappop(ready)
        task, earliest = tasks[number], max((ends[n] for n in before[number]), default=0)
        starts = [max(time, earliest) for time in free]
        ends[number], thread = min(
            (start + work[number] + _CROSSING * sum(t not in holders[r] for r in task.reads), t)
            for t, start in enumerate(starts)
        )
        free[thread] = ends[number]
        plan.append((starts[thread], number, thread))
        for row in task.reads:
            holders[row].add(thread)
        for row in task.writes:
            holders[row] = {thread}
        for other in after[number]:
            left[other] -= 1
            if not left[other]:
                heappush(ready, (-behind[other], other))
    plan.sort()
    return [tasks[number] for _, number, _ in plan], [thread for _, _, thread in plan]


def _work(task: Task) -> int:
    fields = task.fields
    match fields[op.OPERATION]:
        case op.DIGIT:
            return _TRANSFORM
        case op.DIVIDE:
            return _TRANSFORM + _LITTLE * (1 + len(task.terms))
        case op.SWITCH | op.SPREAD:
            digits = fields[op.COUNT]
            return (digits - (fields[op.OWN] >= 0)) * _TRANSFORM + 2 * digits * _LITTLE
        case op.INNER:
            return 2 * fields[op.COUNT] * _LITTLE
        case op.WEIGH:
            return 3 * len(task.terms) * _LITTLE
        case _:
            return _LITTLE * max(1, len(task.terms))


def _placed(
    blocks: Sequence[Block], tasks: Sequence[Task], planned: Sequence[int], kept: Sequence[int]
) -> tuple[Integers, int]:
    """The place of every row in a workspace, and the workspace's rows.

    A place is free again soon after the last of its block was used, but for those that are kept.
    Memory that another thread has in its cache is slow to write, so a block goes where the same
    threads had the rows before it, or where nobody was.
    """
    block_of = np.concatenate([np.full(count, b) for b, (_, count) in enumerate(blocks)])
    begins, ends = np.full(len(blocks), len(tasks)), np.zeros(len(blocks), np.int64)
    users = [0] * len(block_of)  # threads, as bits
    for number, (task, thread) in enumerate(zip(tasks, planned, strict=True)):
        rows = [*task.reads, *task.writes]
        used = block_of[rows]
        begins[used], ends[used] = np.minimum(begins[used], number), number + _SLACK
        for row in rows:
            users[row] |= 1 << thread
    ends[block_of[list(kept)]] = len(tasks) + _SLACK
    places = np.zeros(len(block_of), np.int64)
    until, last = list[int](), list[int]()  # for every place: when it is free, who had it
    for block in np.argsort(begins, kind="stable"):
        first, count = blocks[block]
        now = users[first : first + count]
        free = [end < begins[block] for end in until] + [True] * count
        start = min(
            (sum(map(ne, last[s : s + count], now)), s)
            for s in range(len(until) + 1)
            if all(free[s : s + count])
        )[1]
        stop = start + count
        until[start:stop], last[start:stop] = [int(ends[block])] * count, now
        places[first : first + count] = np.arange(start, stop)
    return places, len(until)
