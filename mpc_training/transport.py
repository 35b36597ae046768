"""What parties send through: raw buffers, limits and time-outs, a round at a time.

    exchange({peer: arrays to send}, {peer: arrays to fill})      one round

`Transport` is the seam; `TlsTransport` is the only implementation outside tests. All of a round's
sending and receiving goes on at once in one thread, so two parties that send to each other cannot
wait for each other for ever, however little the sockets hold.
"""

import math
import select
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mpc_training.errors import FrameError, PeerStalled
from mpc_training.link import Link, Traffic
from mpc_training.wire import MAX_HELLO_BYTES, Kind

Buffer = npt.NDArray[Any]
Outgoing = Mapping[int, Sequence[Buffer]]
Incoming = Mapping[int, Sequence[Buffer]]
_IDLE_SECONDS = 3600.0


class Transport(Protocol):
    """What protocols send through; party: this party's index."""

    party: int
    traffic: Traffic

    def exchange(self, send: Outgoing, receive: Incoming) -> None:
        """One round: send arrays, fill arrays. Raises `PeerError`."""


class TlsTransport:
    """Connections of one party with all others, made by `connect`."""

    def __init__(self, party: int, links: Mapping[int, ssl.SSLSocket], timeout: float) -> None:
        self.party, self.timeout = party, timeout
        self._deadline = math.inf
        self.traffic = Traffic()
        for stream in links.values():
            _watch(stream, timeout)
        self._links = {peer: Link(peer, stream) for peer, stream in links.items()}

    def exchange(self, send: Outgoing, receive: Incoming) -> None:
        """One round of raw arrays, C-contiguous, little-endian; see `Transport`.

        Raises `PeerStalled` after `timeout` seconds in which nothing moved, `FrameError` for a
        frame that is not the one expected, `PeerLeft` when a connection ends.
        """
        self.traffic.rounds += bool(receive)
        self.frames(
            Kind.DATA,
            {peer: [_view(array) for array in arrays] for peer, arrays in send.items()},
            {peer: [_view(array) for array in arrays] for peer, arrays in receive.items()},
        )

    def frames(
        self,
        kind: Kind,
        send: Mapping[int, Sequence[memoryview]],
        receive: Mapping[int, Sequence[memoryview]],
    ) -> None:
        """Send one frame each, and fill the buffers of one frame each."""
        for peer, views in send.items():
            self._links[peer].queue(kind, views)
            self.traffic.frames += 1
        for peer, views in receive.items():
            self._links[peer].expect(kind, views)
        self._run([self._links[peer] for peer in {*send, *receive}])

    @property
    def peers(self) -> frozenset[int]:
        """The other parties."""
        return frozenset(self._links)

    def greet(self, greetings: Mapping[int, bytes]) -> dict[int, bytes]:
        """Exchange one greeting with each peer; theirs, at most `MAX_HELLO_BYTES` long."""
        heard = {peer: bytearray(MAX_HELLO_BYTES) for peer in greetings}
        lengths = {peer: np.zeros(1, "<u4") for peer in greetings}
        self.frames(
            Kind.HELLO,
            {peer: [_view(np.array([len(content)], "<u4"))] for peer, content in greetings.items()},
            {peer: [_view(length)] for peer, length in lengths.items()},
        )
        for peer, length in lengths.items():
            if length[0] > MAX_HELLO_BYTES:
                raise FrameError(
                    f"party {peer} announces a greeting of {length[0]} bytes: expected up to "
                    f"{MAX_HELLO_BYTES}; nothing was read"
                )
        self.frames(
            Kind.HELLO,
            {peer: [memoryview(content)] for peer, content in greetings.items()},
            {peer: [memoryview(heard[peer])[: int(lengths[peer][0])]] for peer in greetings},
        )
        return {peer: bytes(heard[peer][: int(lengths[peer][0])]) for peer in greetings}

    def limit(self, seconds: float) -> None:
        """From now on, all there is to send and receive must be through within this time, however
        steadily bytes move; until the next limit. A peer that is no party may drip them."""
        self._deadline = monotonic() + seconds

    def wait(self, peer: int) -> None:
        """Until a peer sends something or goes away; however long it takes."""
        link = self._links[peer]
        while not link.stream.pending():
            poll = select.poll()
            poll.register(link.stream.fileno(), select.POLLIN)
            if poll.poll(_IDLE_SECONDS * 1000):
                return

    def _run(self, links: Sequence[Link]) -> None:
        """Move bytes both ways until all is sent and received."""
        moved_at = monotonic()
        while True:
            moved = False
            for link in links:
                moved |= link.write(self.traffic)
                moved |= link.read()
            waiting = [link for link in links if link.outgoing or link.incoming]
            if not waiting:
                return
            now = monotonic()
            moved_at = now if moved else moved_at
            end = min(moved_at + self.timeout, self._deadline)
            if now >= end or not (moved or _ready(waiting, end - now)):
                raise self._stalled(waiting)

    def _stalled(self, waiting: Sequence[Link]) -> PeerStalled:
        names = ", ".join(str(link.peer) for link in waiting)
        if monotonic() >= self._deadline:
            return PeerStalled(f"party {names} is too slow: its time is over")
        return PeerStalled(
            f"nothing moved for {self.timeout:g} s: party {names} is connected and silent; "
            "see whether it still runs, and resume all parties from the last checkpoint"
        )

    def stop(self, reason: str) -> None:
        """Tell the others why, as far as that is possible, and close every connection."""
        for link in self._links.values():
            link.farewell(reason)

    def close(self) -> None:
        """Close every connection."""
        for link in self._links.values():
            link.close()


def _watch(stream: ssl.SSLSocket, timeout: float) -> None:
    """Let the operating system find a peer whose machine or network is gone: waiting for it, which
    may last for ever, then ends."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        seconds = max(1, math.ceil(timeout / 2))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(1000 * timeout))


def _view(array: Buffer) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _ready(links: Sequence[Link], seconds: float) -> bool:
    """Wait until one of them can go on; False after `seconds`."""
    poll = select.poll()
    for link in links:
        if link.incoming and link.stream.pending():
            return True
        wish = (select.POLLOUT if link.outgoing else 0) | (select.POLLIN if link.incoming else 0)
        poll.register(link.stream.fileno(), wish)
    return bool(poll.poll(seconds * 1000))
