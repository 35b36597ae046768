"""What the command line shows: results on stdout, everything else on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mpc_training.run import Progress

notes = Console(stderr=True)
out = Console()


def report(values: dict[str, Any], text: str, as_json: bool) -> None:
    """The result: for a machine, or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")
    else:
        out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar(quiet: bool) -> Iterator[Bar]:
    """A progress bar with the time to go, on stderr so that results can be piped."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    hidden = quiet or not notes.is_terminal
    with Bar(*columns, console=notes, disable=hidden, transient=True) as progress:
        yield progress


@contextmanager
def watching(quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Steps as they are made, with the loss if it is opened, and what was sent."""
    with bar(quiet) as progress:
        task = progress.add_task("training", total=None, detail="")

        def watch(line: dict[str, Any]) -> None:
            loss = "" if line["loss"] is None else f"loss {line['loss']:.3f}  "
            detail = f"{loss}{line['bytes_sent'] / 1e6:.0f} MB sent"
            progress.update(task, completed=line["done"], total=line["total"], detail=detail)

        yield watch


@contextmanager
def telling(as_json: bool, lines: bool) -> Iterator[Callable[[Progress], None]]:
    """Progress as a bar for people, or as lines of JSON once a second for programs."""
    with watching(as_json) as watch:
        said = perf_counter()

        def tell(progress: Progress) -> None:
            nonlocal said
            line = {
                "done": progress.done,
                "total": progress.total,
                "bytes_sent": progress.bytes_sent,
                "loss": progress.loss,
            }
            watch(line)
            if as_json and lines and perf_counter() - said > 1:
                said = perf_counter()
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()

        yield tell


def complain(text: str) -> None:
    """One clear line on stderr."""
    line = f"mpc-training: {text}"
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
