"""All results as one page: tables that sort, plots, no request to anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from benchmarks import arithmetic, bench_site, survey
from benchmarks.measure import Row
from benchmarks.page_plots import plots
from benchmarks.report import environment, failure, tables
from benchmarks.table import Column, Table, anchor, inline, number, plain

TEMPLATE = Path(__file__).with_name("page.html")
_TOOK: tuple[Column, ...] = (
    ("benchmark", plain("benchmark")),
    ("steps", number("steps", 0)),
    ("minutes", number("minutes", 1)),
)


def all_tables(rows: Iterable[Row]) -> list[Table]:
    """The survey, what each benchmark has measured, growth, loads, and how long it took."""
    found = list(rows)
    shown = [*survey.tables(found), *tables(found), *bench_site.tables(found)]
    return [*shown, *arithmetic.tables(found), *durations(found)]


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


def page(rows: Iterable[Row]) -> str:
    """HTML of everything that was measured."""
    found = list(rows)
    shown, drawn = all_tables(found), plots(found)
    links = [(title, anchor(title)) for title, _, _ in drawn]
    links += [(table.title, anchor(table.title)) for table in shown]
    said = dict.fromkeys(environment(row) for row in found if row.get("kind") == "environment")
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        links="".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for title, name in links),
        plots="".join(_figure(*plot) for plot in drawn),
        tables="".join(table.html() for table in shown),
        failures="".join(
            f"<p>{inline(failure(row))}</p>" for row in found if row.get("kind") == "failure"
        ),
        environments="".join(f"<p>{escape(line)}</p>" for line in said),
    )


def _figure(title: str, about: str, svg: str) -> str:
    shown = f'<svg role="img" aria-label="{escape(title)}: {escape(about)}" ' + svg[len("<svg ") :]
    return (
        f'<figure id="{anchor(title)}"><h2>{escape(title)}</h2>{shown}'
        f"<figcaption>{escape(about)}</figcaption></figure>"
    )
