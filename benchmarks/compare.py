"""Two runs, figure by figure: what changed, and which changes are larger than a machine's moods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import PUBLISHED, Row
from benchmarks.report.table import Column, Table, plain

TOLERANCE = 0.15
IDENTITY = (
    "kind", "system", "source", "network", "task", "data", "layout", "response", "optimise",
    "epsilon", "rows", "features", "classes", "images", "device", "delay_ms", "what", "mode",
)  # fmt: skip
"""What says which figure of a run is which of the other; all else that is a number is compared."""
RATIOS = ("cpu_ratio_to_ours", "times_ours", "speed_up")
"""Of the same run: the machine's speed is not in them."""
_SKIPPED = ("step", "environment", "failure")
_SAMPLES = ("_low", "_high", "_spread", "_sample")

Key = tuple[str, ...]


def read(path: Path) -> list[Row]:
    """The rows of a file, or of all files of a folder.

    Raises:
        ValueError: it is neither, or holds no rows.
    """
    paths = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not paths or not all(found.is_file() for found in paths):
        raise ValueError(f"{path}: expected a file of results or a folder of them")
    return [row for found in paths for row in measure.read_rows(found)]


def figures(rows: Iterable[Row]) -> dict[Key, float]:
    """Every number by what it is of, and its name; ratios to our own rows of the run among them."""
    found = [row for row in rows if _is_measured(row)]
    numbers: dict[Key, float] = {}
    for row in found:
        of = tuple(str(row[name]) for name in IDENTITY if row.get(name) is not None)
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_figure(name):
                numbers[*of, name] = float(value)
    return numbers | dict(_ratios(found))


def _is_measured(row: Row) -> bool:
    return row.get("kind") not in _SKIPPED and row.get("source") != PUBLISHED


def _is_figure(name: str) -> bool:
    return name not in IDENTITY and not name.endswith(_SAMPLES) and name != "step"


def _ratios(rows: Sequence[Row]) -> Iterator[tuple[Key, float]]:
    """CPU time and bytes of a training step against our first row of the same network."""
    for network in dict.fromkeys(row["network"] for row in rows if row["kind"] == "training"):
        first, *others = (
            row for row in rows if row["kind"] == "training" and row["network"] == network
        )
        for row in others:
            for name in ("cpu_seconds_per_step", "bytes_per_step"):
                key = "training", str(row["system"]), str(network), f"{name} ratio"
                yield key, row[name] / first[name]


def compared(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """A row for every figure of both; ratios first, then the largest changes."""
    before, after = figures(old), figures(new)
    rows: list[Row] = []
    for key in before.keys() & after.keys():
        if before[key] == after[key] == 0:
            continue
        change = after[key] / before[key] - 1 if before[key] else float("inf")
        ratio = key[-1] in RATIOS or key[-1].endswith("ratio")
        rows.append({"of": ", ".join(key[:-1]), "figure": key[-1], "old": before[key],
                     "new": after[key], "change": change, "ratio": ratio,
                     "marked": abs(change) > TOLERANCE})  # fmt: skip
    return sorted(rows, key=lambda row: (not row["ratio"], -abs(row["change"]), row["of"]))


COLUMNS: Sequence[Column] = (
    ("of", plain("of")),
    ("figure", lambda row: row["figure"] + (" (ratio)" if row["ratio"] else "")),
    ("old", lambda row: f"{row['old']:,.4g}"),
    ("new", lambda row: f"{row['new']:,.4g}"),
    ("change", lambda row: f"{100 * row['change']:+.1f} %" + (" ◂" if row["marked"] else "")),
)


def table(rows: Sequence[Row]) -> Table:
    """Every change; ◂ marks those that are larger than the tolerance."""
    ratios = [row for row in rows if row["ratio"]]
    marked = [row for row in ratios if row["marked"]]
    note = (
        f"{len(marked)} of {len(ratios)} ratios, and "
        f"{sum(row['marked'] for row in rows) - len(marked)} of {len(rows) - len(ratios)} other "
        f"figures, changed by more than {100 * TOLERANCE:.0f} %."
    )
    return Table("Old and new", COLUMNS, rows, note)
