"""A process that encrypts, both ends of the pipes to it: SEAL holds Python's lock in every call.

The secret key reaches the process as the second frame through its standard input: it is in no
argument, no environment variable and no file, and leaves no trace when the process is gone. The
process ends when that pipe is closed, so it does not outlive whoever started it.

A frame is a length (u64, little-endian) and as many bytes. Parameters (JSON), secret key and scale
(float64) come first, then the slots of one plaintext after the other (float64); each is answered
by `_DONE` and a seeded ciphertext as it stands in a message, or by the text of an error.
"""

import json
import os
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from typing import IO

import numpy as np

from he_inference.backend.seal import KeyHolder
from he_inference.batch_wire import pack_seeded
from he_inference.errors import EncryptionFailed
from he_inference.nodes import Array
from he_inference.parameters import Parameters
from he_inference.wire import Residues

_LENGTH = struct.Struct("<Q")
_SCALE = struct.Struct("<d")
_DONE, _FAILED = b"made....", b"refused."
_CLOSE_SECONDS = 5.0


class EncryptionWorker:
    """The parent's end of one process, used by one thread at a time."""

    def __init__(self, parameters: Parameters, secret: Residues, scale: float) -> None:
        """Starts the process and does not wait until it is ready. Raises `EncryptionFailed`."""
        self._process, self._requests, self._answers = _start()
        try:
            self._send(json.dumps(parameters.to_json()).encode())
            self._send(secret.astype("<u8").tobytes())
            self._send(_SCALE.pack(scale))
        except EncryptionFailed:
            self.close()
            raise

    def encrypt(self, slots: Array) -> bytes:
        """(slots,) → a fresh ciphertext, as `batch_wire.pack_seeded`. Raises `EncryptionFailed`."""
        self._send(slots.astype("<f8").tobytes())
        try:
            answer = _receive(self._answers)
        except (EOFError, OSError):
            raise _died() from None
        if not answer.startswith(_DONE):
            reason = answer[len(_FAILED) :].decode(errors="replace")
            raise EncryptionFailed(f"SEAL cannot encrypt this: {reason}")
        return answer[len(_DONE) :]

    def close(self) -> None:
        """End the process. May be repeated."""
        for pipe in (self._requests, self._answers):
            with suppress(OSError):
                pipe.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, data: bytes) -> None:
        try:
            _send(self._requests, data)
        except (OSError, ValueError):
            raise _died() from None


def _died() -> EncryptionFailed:
    return EncryptionFailed("a process that encrypts went away: encrypt the batch again")


def _start() -> tuple["subprocess.Popen[bytes]", IO[bytes], IO[bytes]]:
    """The process, its requests and its answers.

    Not by `multiprocessing`, which would run the caller's own script a second time.
    """
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            process_group=0 if os.name == "posix" else None,  # a terminal's Ctrl-C is for us alone
        )
    except OSError as error:
        raise EncryptionFailed(f"a process that encrypts could not be started: {error}") from None
    if process.stdin is None or process.stdout is None:
        raise _died()
    return process, process.stdin, process.stdout


def _send(pipe: IO[bytes], *parts: bytes) -> None:
    pipe.write(_LENGTH.pack(sum(map(len, parts))))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return data


def work(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The life of a worker process; returns when `requests` ends."""
    with suppress(EOFError, OSError):
        parameters = Parameters.from_json(json.loads(_receive(requests)))
        secret = np.frombuffer(_receive(requests), "<u8")
        keys = KeyHolder(parameters, secret.reshape(len(parameters.primes), -1))
        (scale,) = _SCALE.unpack(_receive(requests))
        while True:
            _send(answers, *_answer(parameters, keys, _receive(requests), scale))


def _answer(
    parameters: Parameters, keys: KeyHolder, slots: bytes, scale: float
) -> tuple[bytes, bytes]:
    try:
        ciphertext = keys.encrypt(np.frombuffer(slots, "<f8"), scale)
    except Exception as error:  # whatever SEAL throws costs this plaintext, not the process
        return _FAILED, str(error).encode()
    return _DONE, pack_seeded(parameters, ciphertext)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and closes the pipe
    with os.fdopen(os.dup(1), "wb") as _answers:
        os.dup2(2, 1)  # nothing that a library says gets between the frames
        work(sys.stdin.buffer, _answers)
