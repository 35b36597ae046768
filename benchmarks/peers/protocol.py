"""How a system under measurement talks to the benchmark: a line of JSON in, a line of JSON out.

    {"command": "prepare", "task": PATH}   → settings, bytes of the evaluation keys, versions
    {"command": "query", "image": k}       → times of the three stages, bytes, logits
    end of input                           → the process ends

PATH is an .npz file: the weights of the network and `images`, float64 (count, 28, 28) in [0, 1];
our own system takes other queries too, (count, ...).
The stages are timed here and only here, the same way for every system: encrypting to bytes,
evaluating bytes to bytes, decrypting from bytes. A library's own reading and writing of its
messages is therefore counted, and what crosses is what is weighed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import measure

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]


class System(ABC):
    """One system: a client and a server in one process, with only bytes between them."""

    @abstractmethod
    def prepare(self, weights: Weights) -> dict[str, Any]:
        """Make keys and compile the network; return what to report, sizes in bytes.

        Expected entries: version, settings (text), evaluation_key_bytes, security_bits.
        """

    @abstractmethod
    def encrypt(self, image: Array) -> bytes:
        """The client's request for one image of shape (28, 28)."""

    @abstractmethod
    def evaluate(self, request: bytes) -> bytes:
        """The server's response, computed without the secret key."""

    @abstractmethod
    def decrypt(self, response: bytes) -> Array:
        """The ten logits, on the client."""


def serve(system: System) -> None:
    """Answer the commands on standard input until it ends; whatever a library prints is kept out.

    An exception becomes an answer {"error": …}, and the process goes on.
    """
    measure.pin_to_one_core()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    session = _Session(system)
    with contextlib.redirect_stdout(sys.stderr), answers:
        for line in sys.stdin:
            measure.write_row(answers, session.answer(json.loads(line)))


class _Session:
    def __init__(self, system: System) -> None:
        self.system = system
        self.images: Array = np.empty((0, 28, 28))

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if command["command"] == "prepare":
                return self.prepare(command["task"])
            if command["command"] == "query":
                return self.query(int(command["image"]))
        except Exception as error:  # reported; the benchmark goes on with the others
            return {"error": f"{type(error).__name__}: {error}"}
        return {"error": f"Unknown command {command['command']!r}"}

    def prepare(self, path: str) -> dict[str, Any]:
        with np.load(path, allow_pickle=False) as archive:
            weights = {name: archive[name].astype(np.float64) for name in archive.files}
        self.images = weights.pop("images")
        span, sizes = measure.timed(lambda: self.system.prepare(weights))
        return {"prepare_cpu_ms": span.cpu_ms, "prepare_wall_ms": span.wall_ms, **sizes}

    def query(self, index: int) -> dict[str, Any]:
        image = np.ascontiguousarray(self.images[index])
        encrypting, request = measure.timed(lambda: self.system.encrypt(image))
        evaluating, response = measure.timed(lambda: self.system.evaluate(request))
        decrypting, logits = measure.timed(lambda: self.system.decrypt(response))
        total = encrypting + evaluating + decrypting
        return {
            "encrypt_cpu_ms": encrypting.cpu_ms,
            "server_cpu_ms": evaluating.cpu_ms,
            "decrypt_cpu_ms": decrypting.cpu_ms,
            "cpu_ms": total.cpu_ms,
            "server_wall_ms": evaluating.wall_ms,
            "wall_ms": total.wall_ms,
            "request_bytes": len(request),
            "response_bytes": len(response),
            "logits": [float(logit) for logit in np.ravel(logits)],
        }
