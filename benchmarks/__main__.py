"""`python -m benchmarks`: list what can be measured, measure it, compare and print it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import compare as comparison
from benchmarks import measure, runner
from benchmarks.registry import BENCHMARKS, SESSION
from benchmarks.report import page, pages
from benchmarks.report.markdown import markdown
from benchmarks.steps import Asked
from benchmarks.steps import Progress as Tell

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"
QUICK_FOLDER = RESULTS_FOLDER / "quick"
EXIT_CHANGED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130

app = typer.Typer(
    help=__doc__,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Example: python -m benchmarks run query --quick --peers",
)
console = Console(stderr=True)


@app.command(name="list")
def list_benchmarks() -> None:
    """Name what can be measured, and how long its last run took."""
    for name, benchmark in BENCHMARKS.items():
        took = runner.seconds(RESULTS_FOLDER / f"{name}.jsonl")
        minutes = "" if took is None else f"  ({took / 60:.1f} minutes)"
        typer.echo(f"{name:9} {benchmark.about}{minutes}")


@app.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"what to measure, see `list`; all: {' '.join(SESSION)}"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="small sample; not to quote")] = False,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="run peers too; installs each in its own environment"),
    ] = False,
    queries: Annotated[
        int | None, typer.Option(min=1, help="encrypted queries to each network")
    ] = None,
    device: Annotated[
        str, typer.Option(help="where torch may compute what is no secret: auto, cpu, cuda")
    ] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="measure again what is there")] = False,
    output: Annotated[
        Path | None, typer.Option(help="a file, or a folder for several; results/ by default")
    ] = None,
) -> None:
    """Measure, one JSON line for each row as it is known, and print the tables.

    A run that is interrupted goes on where it stopped, by the same command.
    """
    chosen = list(SESSION) if names in (None, ["all"]) else list(names or ())
    for name in chosen:
        if name not in BENCHMARKS:
            _refuse(f"no benchmark is called {name!r}: expected one of {', '.join(BENCHMARKS)}")
    if len(chosen) > 1 and output is not None and output.suffix:
        _refuse(f"expected a folder for {len(chosen)} benchmarks, found {output}")
    asked = Asked(quick=quick, peers=peers, queries=queries, device=device)
    folder = QUICK_FOLDER if quick else RESULTS_FOLDER
    if len(chosen) == 1:
        path = folder / f"{chosen[0]}.jsonl" if output is None else output
        path = path if path.suffix else path / f"{chosen[0]}.jsonl"
        _run_here(chosen[0], asked, path, fresh)
        return
    _run_each(chosen, asked, output or folder, fresh)


def _run_here(name: str, asked: Asked, path: Path, fresh: bool) -> None:
    try:
        with _progress_bar(name) as progress:
            already = runner.run(BENCHMARKS[name], asked, path, fresh, progress)
    except KeyboardInterrupt:
        typer.echo("benchmarks: stopped; the same command goes on from here", err=True)
        raise typer.Exit(EXIT_STOPPED) from None
    except (ValueError, OSError) as error:
        _refuse(str(error))
    if already:
        typer.echo(f"benchmarks: {already} steps were there; --fresh measures them again", err=True)
    _show(path)


def _run_each(names: Sequence[str], asked: Asked, folder: Path, fresh: bool) -> None:
    """A process for each, so that no one's threads, memory or core are another's."""
    took = {name: runner.seconds(RESULTS_FOLDER / f"{name}.jsonl") for name in names}
    for place, name in enumerate(names):
        known = [took[later] for later in names[place:]]
        left = sum(seconds for seconds in known if seconds is not None)
        unknown = sum(seconds is None for seconds in known)
        about = f"about {left / 60:.0f} minutes left" if left and not asked.quick else ""
        about += f", {unknown} of unknown length" if unknown and about else ""
        typer.echo(f"benchmarks: {name}, {place + 1} of {len(names)}  {about}", err=True)
        command = [sys.executable, "-m", "benchmarks", "run", name, "--device", asked.device]
        command += ["--output", str(folder / f"{name}.jsonl")]
        command += ["--quick"] * asked.quick + ["--peers"] * asked.peers + ["--fresh"] * fresh
        command += [] if asked.queries is None else ["--queries", str(asked.queries)]
        code = subprocess.run(command, cwd=RESULTS_FOLDER.parents[1], check=False).returncode
        if code:
            raise typer.Exit(code)


@app.command()
def report(
    source: Annotated[
        Path | None, typer.Argument(help="a file of results or a folder; results/ by default")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="the page; docs/report.html by default for results/")
    ] = None,
) -> None:
    """Write one self-contained page of tables and plots; print the tables as Markdown."""
    where = RESULTS_FOLDER if source is None else source
    try:
        rows = comparison.read(where)
    except ValueError as error:
        _refuse(f"{error}: run `python -m benchmarks run` first")
    target = pages.PROJECT / pages.REPORT if source is None else output
    if output is not None:
        target = output
    if target is not None:
        target.write_text(page.page(rows), encoding="utf-8")
        typer.echo(f"benchmarks: {target.name} is written", err=True)
    _print(markdown(rows))


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="a file of results, or a folder of them")],
    new: Annotated[Path, typer.Argument(help="the same, of another run")],
    every: Annotated[bool, typer.Option("--all", help="figures that hardly changed too")] = False,
) -> None:
    """Every ratio and figure of two runs; exit code 1 if a ratio changed by more than 15 %."""
    try:
        rows = comparison.compared(comparison.read(old), comparison.read(new))
    except ValueError as error:
        _refuse(str(error))
    if not rows:
        _refuse(f"{old} and {new} have no figure in common")
    shown = [row for row in rows if every or row["ratio"] or row["marked"]]
    _print(comparison.table(rows).markdown() if every else comparison.table(shown).markdown())
    if any(row["ratio"] and row["marked"] for row in rows):
        raise typer.Exit(EXIT_CHANGED)


@app.command()
def readme() -> None:
    """Write the figures of results/ into README.md and docs/, with the plots."""
    pages.write(RESULTS_FOLDER)


def _show(path: Path) -> None:
    try:
        _print(markdown(measure.read_rows(path)))
    except ValueError as error:
        _refuse(str(error))


def _print(text: str) -> None:
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        typer.echo(text)


def _refuse(message: str) -> NoReturn:
    typer.echo(f"benchmarks: {message}", err=True)
    raise typer.Exit(EXIT_USAGE)


@contextmanager
def _progress_bar(name: str) -> Iterator[Tell]:
    """A bar with the time that remains, on standard error; nothing where that is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def advance(what: str, done: int, steps: int) -> None:
            if bar.tasks[0].description != what:
                bar.reset(task, description=what, total=steps)
            bar.update(task, completed=done)

        yield advance


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
