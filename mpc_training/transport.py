"""Connections between parties: mutual TLS 1.3, one a pair, raw buffers, limits and time-outs.

    exchange({peer: arrays to send}, {peer: arrays to fill})      one round

`Transport` is the seam; `TlsTransport` is the only implementation outside tests. All of a round's
sending and receiving goes on at once in one thread, so two parties that send to each other cannot
wait for each other for ever, however little the sockets hold.

A party is known by its certificate and by nothing else: the connection is refused unless the other
side proves to hold the private key of exactly the certificate that the settings give for it
(pinned; no authority and no host name is believed). There is no option for less: no older TLS, no
plain text.

Bytes are counted as they leave: frame headers, payloads, and the 22 bytes that TLS 1.3 with AES-GCM
adds to each record of up to 16 KiB (5 header, 1 type, 16 tag). Handshakes and TCP/IP are not
counted.
"""

import errno
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mpc_training.errors import (
    CertificateError,
    FrameError,
    NotAuthentic,
    PeerError,
    PeerLeft,
    PeerStalled,
    Unreachable,
)
from mpc_training.wire import (
    HEADER_BYTES,
    MAX_HELLO_BYTES,
    MAX_REASON_BYTES,
    Kind,
    read_header,
    read_reason,
)
from mpc_training.wire import write_header as frame_header

Buffer = npt.NDArray[Any]
Outgoing = Mapping[int, Sequence[Buffer]]
Incoming = Mapping[int, Sequence[Buffer]]

RECORD_BYTES = 2**14
RECORD_OVERHEAD = 22
_CHUNK = 2**18
_JOINED = 2**16
_RETRY_SECONDS = 0.05
_IDLE_SECONDS = 3600.0
_HANDSHAKE_SECONDS = 5.0
_BACKLOG = 8


@dataclass
class Traffic:
    """What this party really sent since it connected.

    bytes_sent: with frame headers and TLS records; frames: messages; rounds: exchanges in which
    this party waited for another. Those of party 0 follow one another in every operation, so that
    delays add up over them.
    """

    bytes_sent: int = 0
    frames: int = 0
    rounds: int = 0


class Transport(Protocol):
    """What protocols send through; party: this party's index."""

    party: int
    traffic: Traffic

    def exchange(self, send: Outgoing, receive: Incoming) -> None:
        """One round: send arrays, fill arrays. Raises `PeerError`."""


@dataclass(frozen=True)
class Address:
    """Where a party listens, and the certificate (DER) by which it is known."""

    host: str
    port: int
    certificate: bytes


class _Link:
    """One TLS connection, non-blocking, and the numbers of its next frames."""

    def __init__(self, peer: int, stream: ssl.SSLSocket) -> None:
        self.peer, self.stream = peer, stream
        self.sent = self.received = 0
        self.outgoing: deque[memoryview] = deque()
        self.incoming: deque[memoryview] = deque()
        self.header = bytearray(HEADER_BYTES)
        self.kind, self.length = Kind.DATA, 0
        self.in_header = False
        self.started = False
        stream.setblocking(False)

    def queue(self, kind: Kind, buffers: Sequence[memoryview]) -> None:
        length = sum(view.nbytes for view in buffers)
        header = memoryview(frame_header(kind, self.sent, length))
        self.sent += 1
        if length <= _JOINED:
            self.outgoing.append(memoryview(b"".join((header, *buffers))))
        else:
            self.outgoing.append(header)
            self.outgoing.extend(buffers)

    def expect(self, kind: Kind, buffers: Sequence[memoryview]) -> None:
        self.kind, self.length = kind, sum(view.nbytes for view in buffers)
        self.incoming.append(memoryview(self.header))
        self.incoming.extend(view for view in buffers if view.nbytes)
        self.in_header = True

    def write(self, traffic: Traffic) -> bool:
        """Send what the socket takes; whether anything went."""
        moved = False
        while self.outgoing:
            view = self.outgoing[0][:_CHUNK]
            try:
                self.started = True
                gone = self.stream.send(view)
            except ssl.SSLWantWriteError:
                return moved
            except (OSError, ValueError) as error:
                raise self.left(error) from None
            moved = True
            traffic.bytes_sent += gone + RECORD_OVERHEAD * -(-gone // RECORD_BYTES)
            if gone == self.outgoing[0].nbytes:
                self.outgoing.popleft()
            else:
                self.outgoing[0] = self.outgoing[0][gone:]
        self.started = False
        return moved

    def read(self) -> bool:
        """Take what has come, into what is expected; whether anything came."""
        moved = False
        while self.incoming:
            view = self.incoming[0]
            try:
                came = self.stream.recv_into(view)
            except ssl.SSLWantReadError:
                return moved
            except (OSError, ValueError) as error:
                raise self.left(error) from None
            if came == 0:
                raise PeerLeft(f"party {self.peer} closed the connection: see what it says itself")
            moved = True
            if came < view.nbytes:
                self.incoming[0] = view[came:]
                continue
            self.incoming.popleft()
            if self.in_header:
                self._check()
        return moved

    def _check(self) -> None:
        try:
            farewell = read_header(self.header, self.kind, self.received, self.length)
        except FrameError as error:
            raise FrameError(f"party {self.peer}: {error}") from None
        if farewell is not None:
            raise PeerLeft(f"party {self.peer} stopped: {self._reason(farewell)}")
        self.in_header = False
        self.received += 1

    def _reason(self, length: int) -> str:
        self.stream.settimeout(1.0)
        content = b""
        with suppress(OSError):
            while len(content) < length:
                part = self.stream.recv(length - len(content))
                if not part:
                    break
                content += part
        return read_reason(content) or "it gave no reason"

    def left(self, error: Exception) -> PeerError:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return PeerLeft(
                f"the connection with party {self.peer} failed its check ({reason}): its bytes "
                "were changed on the way, or it refused this party's certificate"
            )
        return PeerLeft(f"party {self.peer} went away ({reason}): see what it says itself")

    def farewell(self, reason: str) -> None:
        """Say why this party stops, if no frame is half sent, and close."""
        with suppress(OSError, ValueError):
            if not self.started and not self.outgoing:
                content = reason.encode()[:MAX_REASON_BYTES]
                self.stream.settimeout(0.5)
                self.stream.sendall(frame_header(Kind.ABORT, self.sent, len(content)) + content)
        self.close()

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self.stream.close()


class TlsTransport:
    """Connections of one party with all others, made by `connect`."""

    def __init__(self, party: int, links: Mapping[int, ssl.SSLSocket], timeout: float) -> None:
        self.party, self.timeout = party, timeout
        self.traffic = Traffic()
        self._links = {peer: _Link(peer, stream) for peer, stream in links.items()}

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

    def wait(self, peer: int) -> None:
        """Until a peer sends something or goes away; however long it takes."""
        link = self._links[peer]
        while not link.stream.pending():
            poll = select.poll()
            poll.register(link.stream.fileno(), select.POLLIN)
            if poll.poll(_IDLE_SECONDS * 1000):
                return

    def _run(self, links: Sequence[_Link]) -> None:
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
            if moved:
                moved_at = monotonic()
                continue
            left = self.timeout - (monotonic() - moved_at)
            if left <= 0 or not _ready(waiting, left):
                names = ", ".join(str(link.peer) for link in waiting)
                raise PeerStalled(
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


def _view(array: Buffer) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _ready(links: Sequence[_Link], seconds: float) -> bool:
    """Wait until one of them can go on; False after `seconds`."""
    poll = select.poll()
    for link in links:
        if link.incoming and link.stream.pending():
            return True
        wish = (select.POLLOUT if link.outgoing else 0) | (select.POLLIN if link.incoming else 0)
        poll.register(link.stream.fileno(), wish)
    return bool(poll.poll(seconds * 1000))


# ---------------------------------------------------------------------------- connecting


@dataclass(frozen=True)
class Identity:
    """Files of this party's certificate and private key (PEM)."""

    certificate: Path
    private_key: Path


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `Unreachable`."""
    try:
        return socket.create_server((host, port), backlog=_BACKLOG, reuse_port=False)
    except OSError as error:
        raise Unreachable(
            f"cannot listen on {host}:{port} ({error.strerror or error}): name a free port"
        ) from None


def connect(
    party: int,
    addresses: Sequence[Address],
    identity: Identity,
    listener: socket.socket,
    timeout: float,
) -> TlsTransport:
    """Connect with every other party: to those before this one, from those after it.

    party: index into `addresses`. timeout: seconds for all to appear, and later for a silent peer.
    Raises `Unreachable`, `NotAuthentic`, `CertificateError`.
    """
    deadline = monotonic() + timeout
    links: dict[int, ssl.SSLSocket] = {}
    try:
        for peer in range(party):
            links[peer] = _call(peer, addresses[peer], identity, deadline)
        expected = {addresses[peer].certificate: peer for peer in range(party + 1, len(addresses))}
        if expected:
            _answer(expected, identity, listener, deadline, links)
    except BaseException:
        for stream in links.values():
            stream.close()
        raise
    return TlsTransport(party, links, timeout)


def call(
    party: int, addresses: Mapping[int, Address], identity: Identity, timeout: float
) -> TlsTransport:
    """Connect, as `party`, with those that are listening already. Raises as `connect` does."""
    deadline = monotonic() + timeout
    links: dict[int, ssl.SSLSocket] = {}
    try:
        for peer, address in addresses.items():
            links[peer] = _call(peer, address, identity, deadline)
    except BaseException:
        for stream in links.values():
            stream.close()
        raise
    return TlsTransport(party, links, timeout)


def answer(
    party: int,
    caller: int,
    known: Sequence[bytes],
    identity: Identity,
    listener: socket.socket,
    timeout: float,
    *,
    patience: float,
) -> TlsTransport:
    """Wait `patience` seconds for a caller with one of the certificates `known` (DER), which
    becomes the peer `caller`. Strangers are refused. Raises `Unreachable` if nobody came."""
    settings = context(ssl.PROTOCOL_TLS_SERVER, identity, known)
    deadline = monotonic() + patience
    while True:
        left = deadline - monotonic()
        listener.settimeout(min(max(left, 0.01), _IDLE_SECONDS))
        try:
            plain, _ = listener.accept()
        except TimeoutError:
            if left > _IDLE_SECONDS:
                continue
            raise Unreachable(f"nobody called within {patience:g} s") from None
        except OSError as error:
            raise Unreachable(f"the listening socket failed ({error.strerror})") from None
        try:
            stream = _shake(settings, plain, server_side=True, deadline=monotonic() + timeout)
        except OSError:
            plain.close()
            continue
        if stream.getpeercert(binary_form=True) in known:
            return TlsTransport(party, {caller: stream}, timeout)
        stream.close()


def context(side: int, identity: Identity, trusted: Sequence[bytes]) -> ssl.SSLContext:
    """TLS 1.3 alone, both sides with certificates, and of those only `trusted` (DER) ones."""
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # the certificate itself is compared, which says more than its name
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a pinned certificate needs no authority
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if side == ssl.PROTOCOL_TLS_SERVER:
        made.num_tickets = 0  # no session is ever resumed
    try:
        made.load_cert_chain(identity.certificate, identity.private_key)
        made.load_verify_locations(cadata=b"".join(trusted))
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"{identity.certificate} and {identity.private_key} cannot be used "
            f"({error.strerror or error}): make them with `mpc-training keys`"
        ) from None
    return made


def _call(peer: int, address: Address, identity: Identity, deadline: float) -> ssl.SSLSocket:
    """Connect to a party that may not have started yet."""
    settings = context(ssl.PROTOCOL_TLS_CLIENT, identity, [address.certificate])
    while True:
        try:
            left = deadline - monotonic()
            plain = socket.create_connection((address.host, address.port), max(left, 0.01))
            break
        except OSError as error:
            if monotonic() + _RETRY_SECONDS >= deadline or error.errno == errno.EACCES:
                raise Unreachable(
                    f"party {peer} does not answer at {address.host}:{address.port} "
                    f"({error.strerror or error}): start it, or correct its address"
                ) from None
            sleep(_RETRY_SECONDS)
    try:
        stream = _shake(settings, plain, server_side=False, deadline=deadline)
    except OSError as error:
        plain.close()
        raise NotAuthentic(
            f"whoever answers at {address.host}:{address.port} is not party {peer} "
            f"({_why(error)}): compare its certificate with the one in the settings"
        ) from None
    if stream.getpeercert(binary_form=True) != address.certificate:
        stream.close()
        raise NotAuthentic(
            f"whoever answers at {address.host}:{address.port} has another certificate than party "
            f"{peer}: compare it with the one in the settings"
        )
    return stream


def _answer(
    expected: dict[bytes, int],
    identity: Identity,
    listener: socket.socket,
    deadline: float,
    links: dict[int, ssl.SSLSocket],
) -> None:
    """Accept those expected; strangers are refused and do not stop the others."""
    settings = context(ssl.PROTOCOL_TLS_SERVER, identity, list(expected))
    refused: list[str] = []
    while expected:
        listener.settimeout(max(deadline - monotonic(), 0.01))
        try:
            plain, _ = listener.accept()
        except OSError:
            names = ", ".join(map(str, sorted(expected.values())))
            if refused:
                raise NotAuthentic(
                    f"party {names} did not connect, and {len(refused)} connections were refused "
                    f"({refused[-1]}): compare its certificate with the one in the settings"
                ) from None
            raise Unreachable(
                f"party {names} did not connect in time: start it, or correct this party's address "
                "in its settings"
            ) from None
        try:
            stream = _shake(settings, plain, server_side=True, deadline=deadline)
        except OSError as error:
            plain.close()
            refused.append(_why(error))
            continue
        peer = expected.pop(stream.getpeercert(binary_form=True) or b"", None)
        if peer is None:
            stream.close()
            refused.append("a certificate that is connected already")
            continue
        links[peer] = stream


def _shake(
    settings: ssl.SSLContext, plain: socket.socket, *, server_side: bool, deadline: float
) -> ssl.SSLSocket:
    plain.settimeout(max(min(_HANDSHAKE_SECONDS, deadline - monotonic()), 0.01))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return settings.wrap_socket(plain, server_side=server_side)


def _why(error: OSError) -> str:
    return str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error)
