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

_LOOK_SECONDS = 10.0
_LOOKS_BEFORE_ABORT = 12
_BACKLOG = 128


class Connection(H11Protocol):
    """Ends itself where no request is in progress for long: first politely, then at once.

    uvicorn waits for the headers of a request, for the rest of a body that it has refused, and
    for an answer to be taken, as long as a client cares to move a byte now and then.
    """

    _watch: asyncio.TimerHandle | None = None
    _seen: object = None
    _idle_looks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch = self.loop.call_later(_LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        self._idle_looks = 0 if busy or self.cycle is not self._seen else self._idle_looks + 1
        self._seen = self.cycle
        if self._idle_looks >= _LOOKS_BEFORE_ABORT:
            self.transport.abort()
        elif self._idle_looks:
            self.transport.close()  # once what was written is sent
        self._watch = self.loop.call_later(_LOOK_SECONDS, self._look)


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
def signals_absorbed(server: uvicorn.Server) -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more; being told to stop is no failure."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
