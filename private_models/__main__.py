"""`private-models`: train a head with differential privacy, account for it, attack it.

features ─▸ fit, pate ─▸ predict
                ├─▸ audit         account: what is it worth, what does it cost?
                └─▸ bundle ─▸ ask, play   hybrid: all of it once, and what it costs
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any, cast

import typer

from he_inference import terminal
from he_inference.errors import HEError
from private_models.errors import PrivacyError
from private_models.verbs import audit, heads, hybrid, play

USER_ERROR = 2
INTERRUPTED = 130
_Misuse = cast(type[Exception], typer.BadParameter.__mro__[2])
"""click's ClickException, or that of the copy of click which newer releases of typer hold."""

app = typer.Typer(
    help="Train a head that provably forgets its training data.",
    epilog="Try: private-models account --epsilon 1 --delta 1e-5",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for verbs in (heads, audit, hybrid, play):
    app.add_typer(verbs.app)


def _complain(text: str) -> None:
    line = f"private-models: {' '.join(text.split())}"
    terminal.notes.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _warn(message: Warning | str, *_where: Any, **_named: Any) -> None:
    """One line in place of Python's, which names a file and quotes its source."""
    line = f"private-models: warning: {' '.join(str(message).split())}"
    terminal.notes.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _misuse(error: Any) -> str:
    """The line for a command line that does not parse."""
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    return f"{error.format_message().rstrip('.')}{hint}"


def _run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        terminal.forget_output()
        return 1
    except (PrivacyError, HEError) as error:
        _complain(str(error))
    except _Misuse as error:
        if str(error):  # without any verb typer has shown the help, and says no more
            _complain(_misuse(error))
    except ModuleNotFoundError as error:
        _complain(
            f"this verb needs {error.name or 'a package'}: "
            "pip install 'sottovoce[heads,backbones,text]'"
        )
    except OSError as error:
        terminal.forget_output()
        _complain(str(error))
    return USER_ERROR


def main() -> None:
    """Run a verb; a user's mistake is one line on stderr and exit code 2."""
    terminal.show_what_can_be_shown(terminal.out, sys.stdout)
    terminal.show_what_can_be_shown(terminal.notes, sys.stderr)
    sys.exit(_run())


if __name__ == "__main__":
    main()
