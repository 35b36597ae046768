"""What command lines show, and how they end: results on stdout, everything else on stderr."""

import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, NoReturn, cast

import typer
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

USER_ERROR, INTERRUPTED = 2, 130
_Misuse = cast(type[Exception], typer.BadParameter.__mro__[2])
"""click's ClickException, or that of the copy of click which newer releases of typer hold."""

notes = Console(stderr=True)
out = Console()


def report(values: dict[str, Any], text: str, as_json: bool) -> None:
    """The result: for a machine, or for a person."""
    if as_json:
        sys.stdout.write(json_text(values) + "\n")
    else:
        out.print(text, highlight=False, markup=False, soft_wrap=True)


def json_text(values: dict[str, Any]) -> str:
    """One line of JSON, in which infinities are null."""
    return json.dumps(_finite(values), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def bar(quiet: bool, unit: str, detail: ProgressColumn | None = None) -> Iterator[Progress]:
    """A progress bar with the time to go, on stderr so that results can be piped.

    detail: what stands before that time, in place of how many are done a second.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        detail or _Rate(),
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


def complain(text: str, program: str = "he-inference") -> None:
    """One clear line on stderr, in the name of a program."""
    _say(f"{program}: {text}", "red")


def _say(line: str, style: str) -> None:
    notes.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


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


def main(
    app: typer.Typer, program: str, extras: str, *expected: type[Exception], lists: bool = False
) -> NoReturn:
    """Run a verb and exit: a user's mistake, and what is `expected`, is one line and code 2.

    extras: of the distribution, that hold the packages which a verb may lack. lists: whether a
    complaint may have lines of its own for each of several faults.
    """
    show_what_can_be_shown(out, sys.stdout)
    show_what_can_be_shown(notes, sys.stderr)
    sys.exit(_run(app, program, extras, expected, lists))


def _run(
    app: typer.Typer, program: str, extras: str, expected: tuple[type[Exception], ...], lists: bool
) -> int:
    """The exit code."""

    def warn(message: Warning | str, *_where: Any, **_named: Any) -> None:
        """One line in place of Python's, which names a file and quotes its source."""
        _say(f"{program}: warning: {' '.join(str(message).split())}", "yellow")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            code = app(standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        forget_output()
        return 1
    except expected as error:
        complain(str(error) if lists else " ".join(str(error).split()), program)
    except _Misuse as error:
        if str(error):  # without any verb typer has shown the help, and says no more
            complain(_misuse(error), program)
    except ModuleNotFoundError as error:
        missing = error.name or "a package"
        complain(f"this verb needs {missing}: pip install 'sottovoce[{extras}]'", program)
    except OSError as error:
        forget_output()
        complain(str(error), program)
    return USER_ERROR


def _misuse(error: Any) -> str:
    """The line for a command line that does not parse."""
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    return f"{error.format_message().rstrip('.')}{hint}"
