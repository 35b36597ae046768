"""How far a training run is: a bar for people, lines of JSON for programs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from rich.progress import TextColumn

from he_inference import terminal
from mpc_training.run import Progress


@contextmanager
def watching(quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Steps as they are made, with the loss if it is opened, and what was sent."""
    with terminal.bar(quiet, "steps", TextColumn("{task.fields[detail]}")) as progress:
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
                sys.stdout.write(terminal.json_text(line) + "\n")
                sys.stdout.flush()

        yield tell
