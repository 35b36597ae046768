"""`python -m benchmarks`: list what can be measured, measure it, print what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import (
    bench_batch,
    bench_cores,
    bench_heads,
    bench_hybrid,
    bench_points,
    bench_query,
    bench_trained,
    bench_training,
    measure,
)
from benchmarks.head_plot import PLOT, accuracy_plot
from benchmarks.readme import blocks, filled, measured
from benchmarks.report import markdown

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"
EXIT_USAGE = 2

app = typer.Typer(
    help=__doc__,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Example: python -m benchmarks run query --quick --peers",
)
console = Console(stderr=True)


@dataclass(frozen=True)
class Asked:
    """What the command line asks of a benchmark, and where its rows and its progress go."""

    quick: bool
    peers: bool
    queries: int | None
    emit: bench_query.Emit
    progress: bench_query.Progress


def run_query(asked: Asked) -> None:
    """One encrypted query: CPU time, bytes, memory, accuracy; with peers on the same network."""
    beside = tuple(bench_query.PEERS) if asked.peers else ()
    plan = bench_query.Plan.quick(beside) if asked.quick else bench_query.Plan(peers=beside)
    if asked.queries is not None:
        plan = replace(plan, queries=asked.queries)
    bench_query.run(plan, asked.emit, asked.progress)


def run_batch(asked: Asked) -> None:
    """Thousands of encrypted queries at once: images a second, bytes, agreement of labels."""
    bench_batch.run(1 if asked.quick else 5, not asked.quick, asked.emit, asked.progress)


def run_points(asked: Asked) -> None:
    """One encrypted query, point by point: time against bytes, keys and accuracy; linear heads."""
    count = asked.queries or (10 if asked.quick else 1000)
    bench_points.run(count, 2 if asked.quick else 10, not asked.quick, asked.emit, asked.progress)


def run_cores(asked: Asked) -> None:
    """One encrypted query on one core and on two: elapsed time, for an idle machine."""
    bench_cores.run(5 if asked.quick else 200, asked.emit, asked.progress)


def run_training(asked: Asked) -> None:
    """A training step on shares: CPU seconds, bytes, rounds; CrypTen and SPU with peers."""
    networks = ("mlp",) if asked.quick else bench_training.NETWORKS
    bench_training.run(networks, 1 if asked.quick else 2, asked.peers, asked.emit, asked.progress)


def run_trained(asked: Asked) -> None:
    """Whole runs on shares of MNIST: accuracy, and that of the same loop in the clear."""
    networks = ("mlp",) if asked.quick else tuple(bench_trained.RECIPES)
    bench_trained.run(networks, 3 if asked.quick else None, asked.emit, asked.progress)


def run_heads(asked: Asked) -> None:
    """Private heads: accuracy at six epsilons, time, memory; Opacus and diffprivlib with peers."""
    plan = bench_heads.Plan.quick() if asked.quick else bench_heads.Plan()
    if not asked.peers:
        plan = replace(plan, peer_seeds=0)
    bench_heads.run(plan, asked.emit, asked.progress)


def run_hybrid(asked: Asked) -> None:
    """Private heads asked under encryption: accuracy over whole test sets, time, bytes."""
    singles = asked.queries or (20 if asked.quick else 200)
    seeds = 1 if asked.quick else 5
    bench_hybrid.run(seeds, singles, not asked.quick, "auto", asked.emit, asked.progress)


BENCHMARKS: Mapping[str, Callable[[Asked], None]] = {
    "query": run_query,
    "batch": run_batch,
    "points": run_points,
    "cores": run_cores,
    "training": run_training,
    "heads": run_heads,
    "hybrid": run_hybrid,
    "trained": run_trained,
}
"""What `run` can measure, by name; `list` prints the first line of each docstring."""


@app.command(name="list")
def list_benchmarks() -> None:
    """Name what can be measured."""
    for name, runner in BENCHMARKS.items():
        typer.echo(f"{name}  {(runner.__doc__ or '').strip().splitlines()[0]}")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="what to measure; see `list`")],
    quick: Annotated[bool, typer.Option("--quick", help="small sample; not to quote")] = False,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="run peers too; installs each in its own environment"),
    ] = False,
    queries: Annotated[
        int | None, typer.Option(min=1, help="encrypted queries to each network")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSON lines; results/NAME.jsonl by default")
    ] = None,
) -> None:
    """Measure, one JSON line for each row as it is known, and print the tables."""
    if name not in BENCHMARKS:
        _refuse(f"no benchmark is called {name!r}: expected one of {', '.join(BENCHMARKS)}")
    path = RESULTS_FOLDER / f"{name}.jsonl" if output is None else output
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream, _progress_bar() as progress:
        BENCHMARKS[name](
            Asked(
                quick=quick,
                peers=peers,
                queries=queries,
                emit=lambda row: measure.write_row(stream, row),
                progress=progress,
            )
        )
    _show(path)


@app.command()
def report(
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines; results/query.jsonl by default")
    ] = None,
) -> None:
    """Print the tables of a run as Markdown; rendered where the output is a terminal."""
    path = RESULTS_FOLDER / "query.jsonl" if file is None else file
    if not path.is_file():
        _refuse(f"{path} is not there: run `python -m benchmarks run query` first")
    _show(path)


@app.command()
def readme() -> None:
    """Write the figures of results/ into README.md, and draw the heads' plot in docs/."""
    project = RESULTS_FOLDER.parents[1]
    rows = measured(RESULTS_FOLDER)
    page = project / "README.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), blocks(rows)), encoding="utf-8")
    if any(row.get("kind") == "head" for row in rows):
        (project / PLOT).write_text(accuracy_plot(rows), encoding="utf-8")


def _show(path: Path) -> None:
    try:
        text = markdown(measure.read_rows(path))
    except ValueError as error:
        _refuse(str(error))
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        typer.echo(text)


def _refuse(message: str) -> None:
    typer.echo(f"benchmarks: {message}", err=True)
    raise typer.Exit(EXIT_USAGE)


@contextmanager
def _progress_bar() -> Iterator[bench_query.Progress]:
    """A bar with the time that remains, on standard error; nothing where that is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def advance(what: str, done: int, steps: int) -> None:
            if bar.tasks[0].description != what:
                bar.reset(task, description=what, total=steps)
            bar.update(task, completed=done)

        yield advance


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
