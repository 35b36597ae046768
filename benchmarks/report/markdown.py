"""All tables, in the order of a report, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.measure import Row
from benchmarks.published import beside
from benchmarks.report import arithmetic, heads, hybrid, machines, queries, site, survey, training
from benchmarks.report.table import NOTHING, Table

WORDS = (
    "**Who hides what.** In a *query* one client asks one server that follows the protocol but is "
    "curious: the server never sees data, scores or label. *Plain* answers hide nothing else: a "
    "client that looks closely can learn weights. *Private* answers hide the weights too. In "
    "*training on shares* three parties, or two and a dealer, hold shares of data and model; one "
    "of them may be curious.",
    "**Layouts.** *Coefficients*: one query, networks of at most one square. *Packed*: one query, "
    "deeper ones. *Batched*: thousands of queries in one message. A *square* is what stands where "
    "other networks have ReLU.",
    "**Columns.** *CPU ms*: processor time of one query, client and server together unless a "
    "column names one; each is one thread. *Elapsed*: by the clock. Times are medians; "
    "(quartiles): half of all runs lie between them. *Up*: from client to server; *down*: back; kB "
    "are 1,000 bytes, MB and GB likewise. *Keys*: evaluation keys, which the client makes and "
    "sends once. *Labels as in the clear*: encrypted queries that got the label that the same "
    "network gives without encryption; *accuracy in the clear*: of that network on the test set. "
    f"{NOTHING}: not measured, or not published.",
    "**Whose figure.** *Ours measured*, or *peer measured here*: on the machines in the table "
    "below, in turn. *Published*: from the paper that stands there, on its own hardware.",
)
"""What tables take for granted, as paragraphs of Markdown."""


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
