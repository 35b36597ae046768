"""`private-models`: train a head with differential privacy, account for it, attack it.

features ─▸ fit, pate ─▸ predict
                ├─▸ audit         account: what is it worth, what does it cost?
                └─▸ bundle ─▸ ask, play   hybrid: all of it once, and what it costs
"""

import typer

from he_inference import terminal
from he_inference.errors import HEError
from private_models.errors import PrivacyError
from private_models.verbs import audit, heads, hybrid, play

app = typer.Typer(
    help="Train a head that provably forgets its training data.",
    epilog="Try: private-models account --epsilon 1 --delta 1e-5",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for verbs in (heads, audit, hybrid, play):
    app.add_typer(verbs.app)


def main() -> None:
    """Run a verb; a user's mistake is one line on stderr and exit code 2."""
    terminal.main(app, "private-models", "heads,backbones,text", PrivacyError, HEError)


if __name__ == "__main__":
    main()
