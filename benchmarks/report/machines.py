"""What every benchmark was measured on, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measure import Row
from benchmarks.report.table import Column, Table, number, plain

TITLE = "Measured where and when"


def _vectors(row: Row) -> str:
    """The widest vectors, by which machines differ most."""
    wide = any(str(name).startswith("avx512") for name in row["simd"])
    return "AVX-512" if wide else "AVX2" if "avx2" in row["simd"] else ", ".join(row["simd"])


def versions(row: Row) -> str:
    """Of Python and of the packages that a run names."""
    packages = ", ".join(f"{name} {version}" for name, version in row["packages"].items())
    return f"Python {row['python']}, {packages}"


COLUMNS: Sequence[Column] = (
    ("benchmark", plain("benchmark")),
    ("processor", plain("processor")),
    ("vectors", _vectors),
    ("cores", number("cores", 0)),
    ("processes that ran at its start", number("load", 1)),
    ("commit", plain("commit")),
    ("minutes", number("minutes", 1)),
    ("versions", versions),
)
NOTE = (
    "The tables below have their rows from these runs; compare those of other commits or machines "
    "by their ratios. Processes that ran are the machine's load: well above what the run itself "
    "brings, they were others' on a shared machine, and elapsed times then are longer than CPU "
    "times. A + behind a commit: files were edited."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """A line for each run; the rows of a file follow its environment."""
    runs: list[Row] = []
    for row in rows:
        if row.get("kind") == "environment":
            runs.append(dict(row))
        elif row.get("kind") == "step" and runs:
            runs[-1]["minutes"] = runs[-1].get("minutes", 0.0) + row["wall_seconds"] / 60
    return [Table(TITLE, COLUMNS, runs, NOTE)] if runs else []
