"""Tables of private heads: accuracy by epsilon, time and memory, streams of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from benchmarks.measure import OURS, Row
from benchmarks.report.table import Column, Table, number, of_kinds, plain


def tables(rows: Iterable[Row]) -> list[Table]:
    """Accuracy, a table a task; time and memory of a fit; streams."""
    found = list(rows)
    heads = [row for row in found if row.get("kind") == "head"]
    shown = [_task(heads, task) for task in dict.fromkeys(str(row["task"]) for row in heads)]
    if shown:
        shown[0] = replace(shown[0], note=_systems(heads))
        timed = [row for row in heads if row.get("epsilon") == 1.0]
        shown.append(Table("Time and memory of a fit at ε = 1", _HEAD_TIMES, timed, _TIMES_NOTE))
        shown.append(_at_equal_accuracy(heads))
    streams = of_kinds(found, [("head_stream", "Streams of rows", _STREAMS)])
    return shown + [replace(table, note=_STREAMS_NOTE) for table in streams]


def _systems(heads: Sequence[Row]) -> str:
    """What is compared in the tables of accuracy, and for which promise."""
    deltas = ", ".join(dict.fromkeys(f"{row['delta']:g}" for row in heads if "delta" in row))
    return (
        "This and the tables like it: accuracy on test rows of a linear head, trained so that "
        "whoever sees it can hardly tell whether one row was among the training rows; "
        f"δ = {deltas}, diffprivlib's 0. Less ε hides more. All had the same features. "
        "± is the standard deviation over fits, of which the table of time and memory has the "
        "count; – was not run. `fc` is our solver; public whitening scales features by rows that "
        "are public, 5 steps takes a quarter of its steps; a public quadratic layer makes products "
        "of 40 directions of the features first. Opacus trains by DP-SGD, with ghost clipping or "
        "with hooks, the same result by another way; with our public whitening it gets the scaled "
        "features that ours does, and with our layer its products. No privacy is the same head "
        "without noise, whatever ε."
    )


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


def _at_equal_accuracy(heads: Sequence[Row]) -> Table:
    """Opacus' CPU time over that of the fastest of ours that is at least as accurate."""
    found: dict[str, Row] = {}
    for peer in heads:
        if not str(peer["system"]).startswith("Opacus"):
            continue
        same = [row for row in heads if row["source"] == OURS and row["task"] == peer["task"]]
        good = [row for row in same if row.get("epsilon") == peer["epsilon"]
                and row["accuracy"] >= peer["accuracy"]]  # fmt: skip
        line = {"task": peer["task"], "system": peer["system"]}
        cells = found.setdefault(f"{peer['task']}, {peer['system']}", line)
        cells[f"{peer['epsilon']:g}"] = (
            peer["cpu_seconds"] / min(row["cpu_seconds"] for row in good) if good else None
        )
    epsilons = sorted({float(row["epsilon"]) for row in heads if "epsilon" in row})
    columns: list[Column] = [("task", plain("task")), ("system", plain("system"))]
    columns += [(f"ε = {e:g}", _ratio(f"{e:g}")) for e in epsilons]
    title = "Times of ours that a fit takes, at equal accuracy"
    return Table(title, columns, list(found.values()), _EQUAL_NOTE)


def _ratio(name: str) -> Callable[[Row], str]:
    """What is missing was not run, or is more accurate than any of ours."""

    def shown(cells: Row) -> str:
        if name not in cells:
            return "–"
        return "none of ours" if cells[name] is None else f"{cells[name]:.1f}"

    return shown


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
    ("whose figure", plain("source")),
    ("fits", plain("fits")),
    ("CPU s, median", number("cpu_seconds", 2)),
    ("times ours", number("times_ours", 1)),
    ("memory MB, peak", number("memory_bytes", 0, 1e6)),
)
_TIMES_NOTE = (
    "One thread; features are there already. Times ours: over our solver with public whitening on "
    "the same task."
)
_EQUAL_NOTE = (
    "CPU time over that of the fastest of ours, of fewer steps or all, whose mean accuracy is as "
    "high at least; `none of ours` is as accurate, where it says so; – was not run."
)
_STREAMS_NOTE = (
    "Rows are read in pieces and never all in memory. Releases are the noisy sums that are "
    "published, all within one ε."
)
_STREAMS: Sequence[Column] = (
    ("system", plain("system")),
    ("rows", number("rows", 0)),
    ("features", number("width", 0)),
    ("classes", number("classes", 0)),
    ("releases", plain("releases")),
    ("CPU s", number("cpu_seconds", 1)),
    ("memory GB, peak", number("peak_resident_bytes", 2, 1e9)),
)
