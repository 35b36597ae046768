"""Tasks whose rows have numbers of their own → a table with a place in memory for every row."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

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
_TRANSFORM, _LITTLE = 10, 3
"""Work of a task, roughly: for a transform, and for a row that is only multiplied or added."""


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

    tasks: int64 (count, FIELDS). lists: int64, their terms. rows: of the workspace. kept: places of
    rows that are there at the end.
    """

    tasks: Integers
    lists: Integers
    rows: int
    kept: tuple[int, ...]


def write(tasks: Sequence[Task], blocks: Sequence[Block], kept: Sequence[int]) -> TaskTable:
    """blocks: of all rows, in the order of their numbers."""
    ordered = _in_order(tasks)
    places, rows = _placed(blocks, ordered, kept)
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
    return TaskTable(table, np.array(lists or [0], np.int64), rows, found)


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


def _in_order(tasks: Sequence[Task]) -> list[Task]:
    """As two threads would start them, of what is ready always that with most work behind it.

    List scheduling by bottom levels (Graham 1969; Adam, Chandy and Dickson 1974).
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
    busy: list[tuple[int, int]] = []
    order: list[int] = []
    now = 0
    while ready or busy:
        while ready and len(busy) < 2:
            _, number = heappop(ready)
            order.append(number)
            heappush(busy, (now + work[number], number))
        now, done = heappop(busy)
        for number in after[done]:
            left[number] -= 1
            if not left[number]:
                heappush(ready, (-behind[number], number))
    return [tasks[number] for number in order]


def _work(task: Task) -> int:
    fields = task.fields
    match fields[op.OPERATION]:
        case op.DIGIT | op.DIVIDE:
            return _TRANSFORM
        case op.SWITCH | op.SPREAD:
            digits = fields[op.COUNT]
            return (digits - (fields[op.OWN] >= 0)) * _TRANSFORM + digits * _LITTLE
        case _:
            return _LITTLE


def _placed(
    blocks: Sequence[Block], tasks: Sequence[Task], kept: Sequence[int]
) -> tuple[Integers, int]:
    """The place of every row in a workspace, and the workspace's rows.

    A place is free again soon after the last of its block was used, but for those that are kept.
    """
    block_of = np.concatenate([np.full(count, b) for b, (_, count) in enumerate(blocks)])
    begins, ends = np.full(len(blocks), len(tasks)), np.zeros(len(blocks), np.int64)
    for number, task in enumerate(tasks):
        used = block_of[[*task.reads, *task.writes]]
        begins[used], ends[used] = np.minimum(begins[used], number), number + _SLACK
    ends[block_of[list(kept)]] = len(tasks) + _SLACK
    places, top = np.zeros(len(block_of), np.int64), 0
    live: list[tuple[int, int, int]] = []
    for block in np.argsort(begins, kind="stable"):
        first, count = blocks[block]
        live = sorted(place for place in live if place[2] >= begins[block])
        start = 0
        for low, high, _ in live:
            if low - start >= count:
                break
            start = max(start, high)
        live.append((start, start + count, int(ends[block])))
        places[first : first + count] = np.arange(start, start + count)
        top = max(top, start + count)
    return places, top
