"""The page is served on loopback until Ctrl-C, and a browser is shown the way."""

import html
import os
import signal
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from secrets import token_urlsafe
from threading import Thread

import uvicorn

from private_models.errors import OptionError
from private_models.play.application import Desk, application
from private_models.play.gate import TOKEN

LOOPBACK = "127.0.0.1"
_TOKEN_BYTES = 24
_CONNECTIONS = 32
_STOP_SECONDS = 3


def serve(desks: Sequence[Desk], port: int, *, browser: bool, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. ready: told the address, once it is listened at.

    port: 0 for a free one. Raises `OptionError` for one that is taken.
    """
    token = token_urlsafe(_TOKEN_BYTES)
    with _listening(port) as listener, _ended_by_signals():
        host = f"{LOOPBACK}:{listener.getsockname()[1]}"
        address = f"http://{host}/?{TOKEN}={token}"
        config = uvicorn.Config(
            application(desks, token, host),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        ready(address)
        with shown(address) if browser else nullcontext(), suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise OptionError(f"port {port} cannot be had: {error.strerror or error}") from None
    with listener:
        yield listener


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM as Ctrl-C: uvicorn raises what ended it once more, and what was started beside it is
    to be ended too, not left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def shown(address: str) -> Iterator[Path]:
    """Open a browser by a file that this user alone may read: an address on its command line could
    be read, with the token, by every user of the machine."""
    with tempfile.TemporaryDirectory(prefix="private-models-play-") as folder:
        path = Path(folder) / "open.html"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(
                '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
                f'<meta http-equiv="refresh" content="0;url={html.escape(address)}">'
            )
        Thread(target=webbrowser.open, args=(path.as_uri(),), daemon=True).start()
        yield path
