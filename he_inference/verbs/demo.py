"""`he-inference demo`: all of it, on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from he_inference import terminal, user_files
from he_inference.verbs.options import Json, check_range
from workloads.demo import Report, run_demo
from workloads.pictures import terminal_digits

MAX_DIGITS = 300
"""As many as the sample holds that comes with the project."""

app = typer.Typer()


@app.command(epilog="Example: he-inference demo --queries 20 --picture digits.png")
def demo(
    queries: Annotated[int, typer.Option(help=f"Digits to classify, 1 to {MAX_DIGITS}.")] = 20,
    picture: Annotated[Path, typer.Option(help="Where to save the digits with their labels.")] = (
        Path("sottovoce-demo.png")
    ),
    as_json: Json = False,
) -> None:
    """Classify encrypted handwritten digits: a server on loopback, a client, and what it cost."""
    check_range("--queries", queries, 1, MAX_DIGITS)
    user_files.check_output(picture)
    with terminal.bar(as_json, "digits") as progress:
        task = progress.add_task("compiling, starting a server", total=queries)

        def show(stage: str, done: int) -> None:
            progress.update(task, description=stage, completed=done)

        report = run_demo(queries, picture, show)
    if as_json:
        sys.stdout.write(terminal.json_text(report.values()) + "\n")
    else:
        _show_demo(report)


def _show_demo(report: Report) -> None:
    braille = terminal.out.encoding.startswith("utf")
    for line in terminal_digits(
        report.images, report.captions(), terminal.out.width, braille=braille
    ):
        terminal.out.print(line, highlight=False)
    terminal.out.print(report.table())
    terminal.out.print(
        f"picture saved: {report.picture}", highlight=False, markup=False, soft_wrap=True
    )
