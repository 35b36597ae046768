"""Tables of private heads: accuracy by epsilon, time and memory, streams of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.measure import Row
from benchmarks.report.table import Column, Table, number, of_kinds, plain


def tables(rows: Iterable[Row]) -> list[Table]:
    """Accuracy, a table a task; time and memory of a fit; streams."""
    found = list(rows)
    heads = [row for row in found if row.get("kind") == "head"]
    shown = [_task(heads, task) for task in dict.fromkeys(str(row["task"]) for row in heads)]
    if heads:
        timed = [row for row in heads if row.get("epsilon") == 1.0]
        shown.append(Table("Time and memory of a fit at ε = 1", _HEAD_TIMES, timed))
    return shown + of_kinds(found, [("head_stream", "Streams of rows", _STREAMS)])


def _task(rows: Sequence[Row], task: str) -> Table:
    """A line a system, a column an epsilon."""
    found = [row for row in rows if row["task"] == task]
    epsilons = sorted({float(row["epsilon"]) for row in found if "epsilon" in row})
    columns: list[Column] = [("system", plain("system"))]
    columns += [(f"ε = {e:g}", _at(e)) for e in epsilons]
    systems: dict[str, Row] = {}
    for row in found:
        cells = systems.setdefault(str(row["system"]), {"system": row["system"]})
        cells[f"{row.get('epsilon', 0.0):g}"] = row
    size = f"{found[0]['rows']:,} rows of {found[0]['features']:,} features"
    return Table(f"{task}: {size}, accuracy %", columns, list(systems.values()))


def _at(epsilon: float) -> Callable[[Row], str]:
    """Mean ± standard deviation over fits, how many if not five; what needs none, for all."""

    def shown(cells: Row) -> str:
        row = cells[f"{epsilon:g}"] if f"{epsilon:g}" in cells else cells["0"]
        if "epsilon" not in row:
            return f"{100 * row['accuracy']:.1f}"
        spread = f" ± {100 * row['accuracy_deviation']:.1f}" if row["fits"] > 1 else ""
        return f"{100 * row['accuracy']:.1f}{spread}"

    return shown


_HEAD_TIMES: Sequence[Column] = (
    ("task", plain("task")),
    ("system", plain("system")),
    ("figure", plain("source")),
    ("fits", plain("fits")),
    ("CPU s", number("cpu_seconds", 2)),
    ("times ours", number("times_ours", 1)),
    ("memory MB, peak", number("memory_bytes", 0, 1e6)),
)
_STREAMS: Sequence[Column] = (
    ("system", plain("system")),
    ("rows", number("rows", 0)),
    ("features", plain("width")),
    ("classes", plain("classes")),
    ("releases", plain("releases")),
    ("CPU s", number("cpu_seconds", 1)),
    ("memory GB, peak", number("peak_resident_bytes", 2, 1e9)),
)
