"""The pages that hold figures, written from results alone: README.md's blocks, and all of docs/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.report.head_plot import PLOT, accuracy_plot
from benchmarks.report.markdown import WORDS, all_tables, failure
from benchmarks.report.page import page
from benchmarks.report.readme import blocks, filled, measured

PROJECT = Path(__file__).resolve().parents[2]
README, FIGURES, REPORT = "README.md", "docs/figures.md", "docs/report.html"
_HEAD = (
    "# Figures\n\n"
    "Written by `python -m benchmarks readme` from `benchmarks/results/`. `make bench` measures "
    "what takes an hour, `python -m benchmarks list` says what there is, and the head of each "
    "`benchmarks/bench_*.py` how it is measured. The same as a page with plots and tables that "
    "sort: [`report.html`](report.html).\n"
)


def contents(folder: Path) -> Mapping[str, str]:
    """The text of every page for the results in a folder, by its path in the project."""
    rows = measured(folder)
    readme = (PROJECT / README).read_text(encoding="utf-8")
    found = {
        README: filled(readme, blocks(rows)),
        FIGURES: figures(rows),
        REPORT: page(rows),
    }
    if any(row.get("kind") == "head" for row in rows):
        found[PLOT] = accuracy_plot(rows)
    return found


def write(folder: Path) -> None:
    """Write all of them."""
    for name, text in contents(folder).items():
        (PROJECT / name).write_text(text, encoding="utf-8")


def figures(rows: Sequence[Row]) -> str:
    """What words mean, all tables, and what could not be measured."""
    parts = [_HEAD, "## How to read it", *WORDS, *(table.markdown() for table in all_tables(rows))]
    parts += [failure(row) for row in rows if row.get("kind") == "failure"]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
