"""The socket, and connections that are not waited for without end."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from he_inference.errors import ServiceError
from he_inference.serving.settings import Settings

_IDLE_SECONDS = 10.0
_BACKLOG = 128


class Connection(H11Protocol):
    """Closes itself after one to two times `_IDLE_SECONDS` in which no request was in progress.

    uvicorn waits for the headers of a request, or for the rest of a body that it has refused, as
    long as a client cares to send a byte now and then.
    """

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self, seen: object) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if self._watch is not None and idle and self.cycle is seen:
            self.transport.close()
            return
        self._watch = self.loop.call_later(_IDLE_SECONDS, self._look, self.cycle)


def listen(host: str, port: int) -> socket.socket:
    """Take an address; port 0 for any free one. Raises `ServiceError` where it is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ServiceError(f"{host} is not an address of this machine: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ServiceError(
            f"cannot serve at {host}:{port}: {error}; stop what is there or name another port"
        ) from None
    return listener


def configuration(app: Starlette, settings: Settings) -> uvicorn.Config:
    """uvicorn with h11 alone, whose limits on headers hold, and without logs of its own."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=settings.stop_seconds,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
    )


@contextmanager
def signals_absorbed() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more; being told to stop is no failure."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
