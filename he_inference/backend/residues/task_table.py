"""Tasks whose rows have numbers of their own → a table with a place in memory for every row."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from he_inference.backend.residues import row_tasks as op

Integers = npt.NDArray[np.int64]
Block = tuple[int, int]
"""Rows that lie one after the other: the first one's number, and how many."""

_ROWS = (op.TARGET, op.SECOND, op.SOURCE, op.OTHER, op.OWN_ROW)
"""Fields that name rows of the workspace."""
_WINDOW = 1
"""Phases by which a task may come earlier than those before it: rows should not wait for long."""


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
    ordered, starts = _in_phases(tasks)
    places, rows = _placed(blocks, ordered, starts, kept)
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


def _before(tasks: Sequence[Task], places: Integers) -> Iterator[list[int]]:
    """For every task those that must be done: they wrote what it reads or writes over, or read what
    it writes over, at its place in memory."""
    writer, readers = dict[int, int](), defaultdict[int, list[int]](list)
    for number, task in enumerate(tasks):
        reads, writes = ([int(places[row]) for row in rows] for rows in (task.reads, task.writes))
        found = {writer[row] for row in (*reads, *writes) if row in writer}
        found |= {reader for row in writes for reader in readers[row]}
        for row in reads:
            readers[row].append(number)
        for row in writes:
            writer[row], readers[row] = number, []
        yield sorted(found - {number})


def _in_phases(tasks: Sequence[Task]) -> tuple[list[Task], list[int]]:
    """Tasks by phase, and for every one the first of its phase: no two of a phase meet in a row.

    A task comes as early as what it reads is there, and what it writes is read no more.
    """
    phase, last = [0] * len(tasks), 0
    written, read = dict[int, int](), dict[int, int]()
    for number, task in enumerate(tasks):
        after = [written.get(row, -1) for row in (*task.reads, *task.writes)]
        after += [read.get(row, -1) for row in task.writes]
        here = max(max(after, default=-1) + 1, last - _WINDOW)
        for row in task.reads:
            read[row] = max(read.get(row, -1), here)
        for row in task.writes:
            written[row] = here
        phase[number], last = here, max(last, here)
    order = sorted(range(len(tasks)), key=phase.__getitem__)
    ordered = sorted(phase)
    return [tasks[number] for number in order], [bisect_left(ordered, p) for p in ordered]


def _placed(
    blocks: Sequence[Block],
    tasks: Sequence[Task],
    starts: Sequence[int],
    kept: Sequence[int],
) -> tuple[Integers, int]:
    """The place of every row in a workspace, and the workspace's rows.

    A place is free again when the phase is over in which the last of its block was used, but for
    those that are kept.
    """
    block_of = np.concatenate([np.full(count, b) for b, (_, count) in enumerate(blocks)])
    begins, ends = np.full(len(blocks), len(tasks)), np.zeros(len(blocks), np.int64)
    for task, start in zip(tasks, starts, strict=True):
        for row in (*task.reads, *task.writes):
            block = block_of[row]
            begins[block], ends[block] = min(begins[block], start), max(ends[block], start)
    ends[block_of[list(kept)]] = len(tasks)
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
