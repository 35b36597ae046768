"""A table of results: what its columns show of a row, as Markdown and as HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.measure import PUBLISHED, Row
from benchmarks.published import UNTRACED

Column = tuple[str, Callable[[Row], str]]
NOTHING = "–"
_LONG = 36
"""Characters from which a cell of words is given width."""
_NUMBER = re.compile(r"-?[\d,]*\.?\d+")


@dataclass(frozen=True)
class Table:
    """Rows under a title.

    Attributes:
        title: one line.
        columns: a heading, and what to show of a row below it.
        rows: what was measured or published, a row a line.
        note: Markdown below the table; "" for none.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str = ""

    def cells(self) -> list[list[str]]:
        """The lines below the headings; a figure that a row does not have is a dash."""
        return [[_shown(show, row) for _, show in self.columns] for row in self.rows]

    def headings(self) -> list[str]:
        """What stands above the columns."""
        return [heading for heading, _ in self.columns]

    def markdown(self) -> str:
        """Title, table and note."""
        lines = [self.headings(), ["---"] * len(self.columns), *self.cells()]
        parts = [f"## {self.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join([*parts, self.note] if self.note else parts)

    def html(self) -> str:
        """A `<section>` whose table scrolls by itself; cells carry the number to be sorted by."""
        head = "".join(
            '<th scope="col" aria-sort="none">'
            f'<button type="button">{escape(heading)}</button></th>'
            for heading in self.headings()
        )
        body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in self.cells())
        title = escape(self.title)
        return (
            f'<section id="{anchor(self.title)}"><h2>{title}</h2>'
            f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f"{''.join(f'<p>{inline(line)}</p>' for line in self.note.splitlines() if line)}"
            "</section>"
        )


def anchor(title: str) -> str:
    """A name for a heading, as links to it need it."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def inline(text: str) -> str:
    """HTML of a line of Markdown: bold, emphasis and code, and the rest as it is."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text.removeprefix("- ")))
    text = re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def _cell(text: str) -> str:
    number = _NUMBER.match(text)
    if number is None:
        return f"<td{' class=long' if len(text) > _LONG else ''}>{escape(text)}</td>"
    value = number[0].replace(",", "")
    return f'<td class="number" data-value="{value}">{escape(text)}</td>'


def _shown(show: Callable[[Row], str], row: Row) -> str:
    try:
        return show(row)
    except (KeyError, TypeError):
        return NOTHING


def of_kinds(
    rows: Iterable[Row], layouts: Sequence[tuple[str, str, Sequence[Column]]]
) -> list[Table]:
    """A table for each (kind, title, columns) of which there are rows, in that order."""
    found = list(rows)
    tables = []
    for kind, title, columns in layouts:
        if chosen := [row for row in found if row.get("kind") == kind]:
            tables.append(Table(title, columns, chosen))
    return tables


def hardware(row: Row) -> str:
    """What a published figure was measured on, or how many cores ours had."""
    if "hardware" in row:
        return str(row["hardware"])
    return "1 core" if row["cores"] == 1 else f"{row['cores']} cores"


def plain(name: str) -> Callable[[Row], str]:
    """The value as it is."""
    return lambda row: NOTHING if row[name] is None else str(row[name])


def source(row: Row) -> str:
    """Measured by whom; or published, and in which paper."""
    return f"{row['source']}: {row['paper']}" if "paper" in row else str(row["source"])


def published_note(rows: Iterable[Row]) -> str:
    """What published figures in a table are worth; "" where there are none."""
    papers = [str(row.get("paper", "")) for row in rows if row.get("source") == PUBLISHED]
    if not papers:
        return ""
    note = "Published figures are of other hardware and years: a ratio to them compares both."
    if any(UNTRACED in paper for paper in papers):
        note += f" Those of which it says “{UNTRACED}” are not to be rested on."
    return note


def number(name: str, digits: int, unit: float = 1.0) -> Callable[[Row], str]:
    """A number in a unit, with so many digits after the point."""
    return lambda row: f"{float(row[name]) / unit:,.{digits}f}"


def milliseconds(name: str) -> Callable[[Row], str]:
    """The median, between its quartiles."""
    return lambda row: f"{row[name]:,.1f} ({row[f'{name}_low']:,.1f}–{row[f'{name}_high']:,.1f})"
