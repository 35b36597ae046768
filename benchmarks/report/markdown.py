"""All tables, in the order of a report, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.measure import Row
from benchmarks.published import beside
from benchmarks.report import arithmetic, heads, hybrid, queries, site, survey, training
from benchmarks.report.table import NOTHING, Column, Table, number, plain

_TOOK: tuple[Column, ...] = (
    ("benchmark", plain("benchmark")),
    ("steps", number("steps", 0)),
    ("minutes", number("minutes", 1)),
)


def markdown(rows: Iterable[Row]) -> str:
    """What was measured, under the environment that it was measured in; then what was not."""
    found = list(rows)
    parts = [environment(row) for row in found if row.get("kind") == "environment"]
    parts += [table.markdown() for table in measured(found)]
    parts += [failure(row) for row in found if row.get("kind") == "failure"]
    return "\n\n".join(parts) + "\n"


def measured(rows: Iterable[Row]) -> list[Table]:
    """A table for each kind of row that there is, and what is published beside ours."""
    found = beside(rows)
    return [
        table for part in (queries, training, heads, hybrid, site) for table in part.tables(found)
    ]


def all_tables(rows: Iterable[Row]) -> list[Table]:
    """The survey, what each benchmark has measured, growth, loads, and how long it took."""
    found = list(rows)
    shown = [*survey.tables(found), *measured(found), *arithmetic.tables(found)]
    return [*shown, *durations(found)]


def durations(rows: Iterable[Row]) -> list[Table]:
    """Minutes of every benchmark, by its finished steps; rows of a file follow its environment."""
    took: dict[str, Row] = {}
    name = ""
    for row in rows:
        if row.get("kind") == "environment":
            name = str(row.get("benchmark"))
        elif row.get("kind") == "step":
            line = took.setdefault(name, {"benchmark": name, "steps": 0, "minutes": 0.0})
            line["steps"] += 1
            line["minutes"] += row["wall_seconds"] / 60
    if not took:
        return []
    total = sum(line["minutes"] for line in took.values())
    note = f"**{total:.1f} minutes** in all, on the machine named above."
    return [Table("How long it took to measure", _TOOK, list(took.values()), note)]


def environment(row: Row) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in row["packages"].items())
    vector = ", ".join(row["simd"]) or NOTHING
    return (
        f"Measured on {row['processor']}, {row['cores']} cores, {row['system']}; Python "
        f"{row['python']}, {packages}; commit {row['commit'] or NOTHING}. "
        f"Vector extensions: {vector}."
    )


def failure(row: Row) -> str:
    """What could not be measured, and why."""
    return f"**{row['system']}** ({row['source']}): not measured. {row['reason']}"
