"""`private-models play`: the page, for bundles of one's own or for the digits that ship."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from he_inference import terminal
from private_models.errors import OptionError

if TYPE_CHECKING:
    from private_models.play.application import Desk

app = typer.Typer()
BESIDE = "a process of its own on this machine, which has no key"


@app.command(epilog="Example: private-models play")
def play(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(help="Bundles, a tab each, or public parts with --server. None: digits."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="URL that answers for the one public part that is named.")
    ] = None,
    insecure_plain_http: Annotated[
        bool, typer.Option("--insecure-plain-http", help="Without TLS, beyond this machine.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open none.")] = False,
) -> None:
    """Draw a digit, drop a picture or type a sentence, and ask about it encrypted, on a page.

    The page is served to this machine alone, and keys stay here. A whole bundle is served by a
    process of its own, which sees ciphertexts; a public part needs --server. Ctrl-C ends it all.
    """
    from private_models.play.serving import serve

    places = bundles or []
    if server is not None and (len(places) != 1 or not _is_public(places[0])):
        raise OptionError("--server goes with one public part, BUNDLE/public")
    with ExitStack() as stack:
        made = [_desk(place, server, insecure_plain_http) for place in places] or [_digits()]
        with ThreadPoolExecutor(len(made)) as pool:  # a server takes seconds to start
            desks = list(pool.map(stack.enter_context, made))
        serve(desks, port, browser=not no_browser, ready=_announce)


def _announce(address: str) -> None:
    typer.echo(f"open {address}  (Ctrl-C ends it)")
    terminal.note("keys stay in this process; what is asked is not kept")


def _is_public(place: Path) -> bool:
    from private_models.hybrid.bundle import PUBLIC, SINGLE

    return not (place / SINGLE).exists() and not (place / PUBLIC).exists()


@contextmanager
def _desk(place: Path, server: str | None, insecure_plain_http: bool) -> Iterator["Desk"]:
    from private_models.hybrid import Client, load_public, running
    from private_models.hybrid.bundle import PUBLIC
    from private_models.play.application import Desk

    if _is_public(place):
        public = load_public(place)
        if server is None:
            raise OptionError(
                f"{place} is a public part: say --server, the URL that answers for it"
            )
        with Client(public, server, insecure_plain_http=insecure_plain_http) as client:
            yield Desk(place.absolute().parent.name or str(place), client, f"at {server}")
        return
    with running(place) as url, Client(place / PUBLIC, url) as client:
        yield Desk(place.absolute().name, client, BESIDE)


@contextmanager
def _digits() -> Iterator["Desk"]:
    """The private head that ships, behind a server of its own."""
    from private_models.backbones.orientations import orientations
    from private_models.head import load_head
    from private_models.hybrid import Client, build, running
    from private_models.play.application import Desk
    from workloads.datasets import mnist_sample
    from workloads.models import PRIVATE_DIGITS

    backbone = orientations()
    examples = backbone.features(list(mnist_sample().images[:, 0]))
    made = build(load_head(PRIVATE_DIGITS), backbone, examples=examples, layout="coefficients")
    with running(made) as url, Client(made.public, url, backbone=backbone) as client:
        yield Desk("Digits", client, BESIDE)
