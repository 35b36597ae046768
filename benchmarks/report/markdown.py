"""All tables, in the order of a report, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.measure import Row
from benchmarks.published import beside
from benchmarks.report import arithmetic, heads, hybrid, machines, queries, site, survey, training
from benchmarks.report.table import NOTHING, Table


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
    """The survey, where each benchmark was measured and what it has measured, growth, loads."""
    found = list(rows)
    before = [*survey.tables(found), *machines.tables(found)]
    return [*before, *measured(found), *arithmetic.tables(found)]


def environment(row: Row) -> str:
    vector = ", ".join(row["simd"]) or NOTHING
    return (
        f"Measured on {row['processor']}, {row['cores']} cores, {row['system']}; "
        f"{machines.versions(row)}; commit {row['commit'] or NOTHING}. "
        f"Vector extensions: {vector}."
    )


def failure(row: Row) -> str:
    """What could not be measured, and why."""
    return f"**{row['system']}** ({row['source']}): not measured. {row['reason']}"
