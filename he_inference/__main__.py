"""`he-inference`: one verb for each role in an encrypted query.

train ─▸ compile ─▸ keygen ─▸ encrypt ─▸ evaluate ─▸ decrypt    with files in between
                └─▸ serve  ◂─▸ query                            over HTTP
plan                                                            what `compile` can choose from
demo                                                            all of it, on this machine
"""

import typer

from he_inference import terminal
from he_inference.errors import HEError
from he_inference.verbs import demo, messages, networks, query, serve
from workloads.datasets import DatasetError

app = typer.Typer(
    help="Ask a model without showing it your data.",
    epilog="Try it all at once: he-inference demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for verbs in (networks, messages, serve, query, demo):
    app.add_typer(verbs.app)


def main() -> None:
    """Run a verb; a user's mistake is one line on stderr and exit code 2."""
    terminal.main(app, "he-inference", "all", HEError, DatasetError, lists=True)


if __name__ == "__main__":
    main()
