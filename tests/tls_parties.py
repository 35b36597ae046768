"""Certificates, connections and a tampering wire for tests of parties that talk TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from mpc_training import certificates
from mpc_training.connecting import Address, Identity, connect, listen
from mpc_training.transport import TlsTransport
from tests.insecure_parties import in_threads

Result = TypeVar("Result")
Change = Callable[[int, bytes], bytes]
"""From the number of bytes that passed before, and a piece, to what passes instead."""


@dataclass
class Wire:
    """Listens, passes everything on to `target`, and records it. change: of bytes to the target."""

    target: int
    change: Change = lambda _, piece: piece
    recorded: bytearray = field(default_factory=bytearray)
    sent: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.open += [near, far]
                for source, sink, way in ((near, far, 0), (far, near, 1)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, way), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: int) -> None:
        with suppress(OSError):
            while piece := source.recv(2**16):
                self.recorded += piece
                changed = self.change(self.sent[way], piece) if way == 0 else piece
                self.sent[way] += len(piece)
                sink.sendall(changed)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self.listener, *self.open):
            end.close()


def make_identities(folder: Path, names: list[str]) -> list[Identity]:
    """A certificate and key for each name."""
    made = [certificates.make(name, folder) for name in names]
    return [Identity(files.certificate, files.private_key) for files in made]


def addresses_of(identities: list[Identity], ports: list[int]) -> list[Address]:
    """Where these identities listen."""
    return [
        Address("127.0.0.1", port, certificates.read(identity.certificate))
        for identity, port in zip(identities, ports, strict=True)
    ]


def connected(
    identities: list[Identity],
    task: Callable[[TlsTransport], Result],
    *,
    timeout: float = 20.0,
    route: dict[tuple[int, int], int] | None = None,
) -> list[Result]:
    """What each of the parties, connected by TLS in threads, gets from `task`.

    route: (caller, called) → the port to call instead, such as that of a `Wire`; a `Wire` needs the
    target's port, so use `wired` for that.
    """
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen("127.0.0.1", 0)) for _ in identities]
        ports = [listener.getsockname()[1] for listener in listeners]
        return _run(identities, listeners, ports, task, timeout, route or {})


def wired(
    identities: list[Identity],
    task: Callable[[TlsTransport], Result],
    *,
    change: Change = lambda _, piece: piece,
    timeout: float = 20.0,
) -> tuple[list[Result], Wire]:
    """Two parties with a wire between them that 1 calls 0 through, and the wire."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen("127.0.0.1", 0)) for _ in identities]
        ports = [listener.getsockname()[1] for listener in listeners]
        wire = Wire(ports[0], change)
        stack.callback(wire.close)
        route = {(1, 0): wire.port}
        return _run(identities, listeners, ports, task, timeout, route), wire


def _run(
    identities: list[Identity],
    listeners: list[socket.socket],
    ports: list[int],
    task: Callable[[TlsTransport], Result],
    timeout: float,
    route: dict[tuple[int, int], int],
) -> list[Result]:
    def part(index: int) -> Result:
        reached = [route.get((index, peer), port) for peer, port in enumerate(ports)]
        addresses = addresses_of(identities, reached)
        transport = connect(index, addresses, identities[index], listeners[index], timeout)
        try:
            return task(transport)
        finally:
            transport.close()

    return in_threads([partial(part, index) for index in range(len(identities))])
