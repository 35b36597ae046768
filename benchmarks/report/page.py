"""All results as one page: tables that sort, plots, no request to anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from benchmarks.measure import Row
from benchmarks.report.markdown import WORDS, all_tables, failure
from benchmarks.report.plots import plots
from benchmarks.report.table import anchor, inline

TEMPLATE = Path(__file__).with_name("page.html")


def page(rows: Iterable[Row]) -> str:
    """HTML of everything that was measured."""
    found = list(rows)
    shown, drawn = all_tables(found), plots(found)
    links = [(title, anchor(title)) for title, _, _ in drawn]
    links += [(table.title, anchor(table.title)) for table in shown]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        words="".join(f"<p>{inline(words)}</p>" for words in WORDS),
        links="".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for title, name in links),
        plots="".join(_figure(*plot) for plot in drawn),
        tables="".join(table.html() for table in shown),
        failures="".join(
            f"<p>{inline(failure(row))}</p>" for row in found if row.get("kind") == "failure"
        ),
    )


def _figure(title: str, about: str, svg: str) -> str:
    shown = f'<svg role="img" aria-label="{escape(title)}: {escape(about)}" ' + svg[len("<svg ") :]
    return (
        f'<figure id="{anchor(title)}"><h2>{escape(title)}</h2>{shown}'
        f"<figcaption>{escape(about)}</figcaption></figure>"
    )
