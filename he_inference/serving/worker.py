"""One worker process, a `Server` in it: both ends of the pipe between.

What evaluates is kept out of the process that faces the network, whichever layout it is: the two
exchange nothing but frames of bytes, of which this side bounds the length, and Python between two
kernels in one of them does not hold up the others.
"""

import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Literal

from he_inference import errors
from he_inference.errors import HEError, MessageError, ServiceError, UnknownKey
from he_inference.processors import processors
from he_inference.programs import AnyProgram
from he_inference.server import Server
from he_inference.serving.key_store import key_path
from he_inference.serving.settings import Settings

Verb = Literal["register", "evaluate", "refuse"]
"""`refuse` is for a query whose keys are not held: it is checked, then answered `UnknownKey`."""

_DONE = b"done"
_LENGTH = struct.Struct("<Q")
PIECE_BYTES = 1 << 20
"""Of a message that goes through the pipe at a time."""
MAX_MESSAGE_BYTES = 4096
TICK_SECONDS = 0.2


class TimeLimit(ServiceError):
    """A request was not answered in time."""


class WorkerDied(ServiceError):
    """A worker process went away in the middle."""


def _work(
    connection: Connection, program: AnyProgram, directory: Path, options: dict[str, Any]
) -> None:
    """The life of a worker process; it ends when the other end of the connection is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides, even where a group is told
    with suppress(EOFError, OSError):
        try:
            server = Server(program, **options)
        except HEError as error:
            connection.send_bytes(str(error).encode()[:MAX_MESSAGE_BYTES])
            return
        connection.send_bytes(_DONE)
        while True:
            verb, payload = connection.recv_bytes(), _receive_pieces(connection.recv_bytes)
            status, answer = _answer(server, directory, verb.decode(), payload)
            connection.send_bytes(status)
            _send_pieces(connection, answer)


def _send_pieces(connection: Connection, data: bytes) -> None:
    """In pieces: whoever receives a frame asks for a buffer of all of it before every read."""
    connection.send_bytes(_LENGTH.pack(len(data)))
    view = memoryview(data)
    for start in range(0, len(data), PIECE_BYTES):
        connection.send_bytes(view[start : start + PIECE_BYTES])


def _receive_pieces(receive: Callable[[], bytes], limit: int | None = None) -> bytes:
    """The reverse. Raises `WorkerDied` for more than `limit` bytes, before they are received."""
    (length,) = _LENGTH.unpack(receive())
    if limit is not None and length > limit:
        raise WorkerDied(f"the worker process answered {length} bytes: expected at most {limit}")
    pieces = []
    while length > 0:
        pieces.append(receive())
        length -= len(pieces[-1])
    return b"".join(pieces)


def _answer(server: Server, directory: Path, verb: str, payload: bytes) -> tuple[bytes, bytes]:
    """(`_DONE`, result) or (name of the error, its message)."""
    try:
        if verb == "register":
            return _DONE, server.register(payload).encode()
        if verb == "evaluate":
            return _DONE, _evaluate(server, directory, payload)
        raise _unknown(server.key_id(payload))
    except MessageError as error:
        return type(error).__name__.encode(), str(error).encode()[:MAX_MESSAGE_BYTES]
    except Exception as error:  # whatever is raised costs this request, not the worker
        return b"ServiceError", f"the evaluation failed with {type(error).__name__}".encode()


def _evaluate(server: Server, directory: Path, query: bytes) -> bytes:
    """Evaluate, taking keys that this worker has not met from where the parent put them."""
    try:
        return server.evaluate(query)
    except UnknownKey:
        key_id = server.key_id(query)
        try:
            keys = key_path(directory, key_id.hex()).read_bytes()
        except FileNotFoundError:
            raise _unknown(key_id) from None
        server.register(keys)
        return server.evaluate(query)


def _unknown(key_id: bytes) -> UnknownKey:
    return UnknownKey(f"no evaluation keys with id {key_id.hex()}: register them (again) first")


@dataclass(frozen=True)
class Start:
    """All that a worker process is started with."""

    program: AnyProgram
    directory: Path
    settings: Settings
    answer_bytes: int


class Worker:
    """The parent's end of one worker process, used by one thread at a time."""

    def __init__(self, start: Start, stopping: Event) -> None:
        context = get_context("spawn")
        self._stopping = stopping
        self._max_bytes = start.answer_bytes
        self._connection, theirs = context.Pipe()
        options = {
            "max_clients": start.settings.cached_key_sets,
            "threads": max(1, processors() // (start.settings.workers or 1)),
            "device": start.settings.device,
        }
        self.process = context.Process(
            target=_work,
            args=(theirs, start.program, start.directory, options),
            daemon=True,
            name="he-inference-worker",
        )
        try:
            self.process.start()
        except OSError as error:
            raise WorkerDied(f"a worker process could not be started: {error}") from None
        finally:
            theirs.close()
        try:
            answer = self._receive(monotonic() + start.settings.start_seconds)
            if answer != _DONE:
                raise ServiceError(answer.decode(errors="replace"))
        except ServiceError:
            self.kill()
            raise

    def ask(self, verb: Verb, payload: bytes, deadline: float) -> bytes:
        """Raises what the worker raised, `WorkerDied` or `TimeLimit`; after those two, kill it."""
        try:
            self._connection.send_bytes(verb.encode())
            _send_pieces(self._connection, payload)
        except OSError:
            raise WorkerDied("the worker process died: send the request again") from None
        status = self._receive(deadline)
        answer = _receive_pieces(lambda: self._receive(deadline), self._max_bytes)
        if status != _DONE:
            raise _error(status, answer)
        return answer

    def _receive(self, deadline: float) -> bytes:
        try:
            while not self._connection.poll(TICK_SECONDS):
                if self._stopping.is_set():
                    raise WorkerDied("the service is stopping: send the request again later")
                if monotonic() > deadline:
                    raise too_late()
            return self._connection.recv_bytes(PIECE_BYTES)
        except (EOFError, OSError):
            raise WorkerDied("the worker process died: send the request again") from None

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def wait(self) -> int | None:
        """The exit code of a process that is going away, as far as it is known soon."""
        self.process.join(TICK_SECONDS)
        return self.process.exitcode

    def kill(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.join()


def too_late() -> TimeLimit:
    return TimeLimit("the time limit was exceeded: send fewer queries in a message")


def _error(status: bytes, message: bytes) -> HEError:
    """What a worker raised, as itself."""
    known = {"MessageError", "WrongProgram", "UnknownKey"}
    name = status.decode(errors="replace")
    kind: type[HEError] = getattr(errors, name) if name in known else ServiceError
    return kind(message.decode(errors="replace"))
