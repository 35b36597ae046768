"""One connection between two parties: frames over TLS, counted as they leave.

Bytes are frame headers, payloads, and the 22 bytes that TLS 1.3 with AES-GCM adds to each record of
up to 16 KiB (5 header, 1 type, 16 tag). Handshakes and TCP/IP are not counted.
"""

import socket
import ssl
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mpc_training.errors import FrameError, PeerError, PeerLeft
from mpc_training.wire import HEADER_BYTES, MAX_REASON_BYTES, Kind, read_header, read_reason
from mpc_training.wire import write_header as frame_header

RECORD_BYTES = 2**14
RECORD_OVERHEAD = 22
_CHUNK = 2**18
_JOINED = 2**16


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


class Link:
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
