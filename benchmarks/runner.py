"""A run of a benchmark, step by step, into a file of JSON lines that says which steps are done.

An interrupted run is taken up where it stopped, by the same command on the same machine and code;
anything else starts anew. Steps that are half done are measured again, and their rows dropped.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.steps import Asked, Benchmark, Progress

STEP = "step"
"""Kind of the row that ends a step: its key, and the seconds that it took."""
_CHANGING = ("load",)
"""Of an environment, what may differ between two halves of a run."""


def run(benchmark: Benchmark, asked: Asked, path: Path, fresh: bool, progress: Progress) -> int:
    """Measure what is not in the file yet; returns how many steps were there already.

    Raises:
        OSError: the file cannot be written.
        ValueError: it holds something else than rows; remove it, or ask for a fresh run.
    """
    environment: Row = {
        **measure.environment(benchmark.packages),
        "benchmark": benchmark.name,
        "options": asked.options(),
    }
    kept = [environment] if fresh else finished(path, environment)
    done = {row[STEP] for row in kept if row["kind"] == STEP}
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, kept)
    with path.open("a", encoding="utf-8") as stream:
        for step in benchmark.steps(asked):
            if step.key in done:
                continue

            def emit(row: Row, key: str = step.key) -> None:
                if row.get("kind") != "environment":
                    measure.write_row(stream, {**row, STEP: key})

            span, _ = measure.timed(lambda: step.measure(emit, progress))  # noqa: B023
            took = {"wall_seconds": span.wall_ms / 1e3, "cpu_seconds": span.cpu_ms / 1e3}
            measure.write_row(stream, {"kind": STEP, STEP: step.key, **took})
    return len(done)


def finished(path: Path, environment: Row) -> list[Row]:
    """The environment and the rows of the steps that a file has whole, if it is of such a run."""
    rows = list(measure.read_rows(path, torn=True)) if path.is_file() else []
    if not rows or _identity(rows[0]) != _identity(environment):
        return [environment]
    done = {row[STEP] for row in rows if row.get("kind") == STEP}
    return [rows[0], *(row for row in rows[1:] if row.get(STEP) in done)]


def seconds(path: Path) -> float | None:
    """How long the run in a file took, all its steps; None where it does not say."""
    if not path.is_file():
        return None
    with contextlib.suppress(ValueError):
        rows = [row for row in measure.read_rows(path) if row.get("kind") == STEP]
        return sum(float(row["wall_seconds"]) for row in rows) if rows else None
    return None


def _identity(environment: Row) -> Row:
    return {name: value for name, value in environment.items() if name not in _CHANGING}


def _replace(path: Path, rows: list[Row]) -> None:
    """At once, so that whoever interrupts this loses nothing."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8") as stream:
        for row in rows:
            measure.write_row(stream, row)
    os.replace(unfinished, path)
