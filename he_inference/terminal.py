"""What the command line shows: results on stdout, everything else on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

notes = Console(stderr=True)
out = Console()


def report(values: dict[str, Any], text: str, as_json: bool) -> None:
    """The result: for a machine, or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
    else:
        out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar(quiet: bool, unit: str) -> Iterator[Progress]:
    """A progress bar with the time to go, on stderr so that results can be piped."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(),
        TimeRemainingColumn(),
    )
    hidden = quiet or not notes.is_terminal
    with Progress(*columns, console=notes, disable=hidden, transient=True) as progress:
        yield progress


@contextmanager
def stages(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar that shows one stage after another: what is done, steps done, steps in all."""
    with bar(quiet, "steps") as progress:
        task = progress.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield show


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


def note(text: str) -> None:
    """A remark beside the result, on stderr."""
    notes.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    line = f"he-inference: {text}"
    notes.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def forget_output() -> None:
    """What could not be written: at the end Python would try again, and fail again."""
    with suppress(OSError, ValueError):  # in a test there is no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def show_what_can_be_shown(console: Console, stream: Any) -> None:
    """Characters that a terminal does not know become question marks, not an error."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")
    console.file = stream
