"""Our client and server as a measured system: the same protocol, the same clock as the peers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import he_inference
from benchmarks import measure
from benchmarks.peers.protocol import Array, System, Weights, serve

SingleQueryProgram = he_inference.Program | he_inference.CoefficientProgram

_EVALUATORS = {"residues": "key switching of our own", "seal": "SEAL"}


class OurSystem(System):
    """A compiled program; only bytes pass between the client and the server."""

    def __init__(self, program_path: str, backend: str = "residues") -> None:
        """Remember what to load, and what the server evaluates with; `prepare` does it."""
        self.program_path, self.backend = program_path, backend

    def prepare(self, weights: Weights) -> dict[str, Any]:
        """Load the program and make keys. Its weights count, not those of the task."""
        program = he_inference.load_program(self.program_path)
        if isinstance(program, he_inference.BatchProgram):
            raise ValueError(f"{self.program_path}: expected a program for single queries")
        self.client = he_inference.Client(program.signature)
        self.server = he_inference.Server(program, backend=self.backend)
        evaluation_keys = b""
        if program.signature.needs_keys:
            evaluation_keys = self.client.evaluation_keys()
            self.server.register(evaluation_keys)
        return {
            "version": measure.versions(["sottovoce", "tenseal"]),
            "settings": _settings(program, self.backend),
            "evaluation_key_bytes": len(evaluation_keys),
            "security_bits": program.signature.security_bits,
        }

    def encrypt(self, image: Array) -> bytes:
        """One image, or one row of features, as the only one of its batch."""
        return bytes(self.client.encrypt(image.reshape(1, *self.client.signature.input_shape)))

    def evaluate(self, request: bytes) -> bytes:
        """What the server does with a request."""
        return bytes(self.server.evaluate(request))

    def decrypt(self, response: bytes) -> Array:
        """The logits of the one query."""
        return np.asarray(self.client.decrypt(response), dtype=np.float64)


def _settings(program: SingleQueryProgram, backend: str) -> str:
    parameters = program.signature.parameters
    bits = [prime.bit_length() for prime in parameters.data_primes]
    special = parameters.special_prime.bit_length()
    return (
        f"N = {parameters.ring_degree}, primes {bits} + [{special}] bits, "
        f"{_arrangement(program, backend)}, symmetric encryption"
    )


def _arrangement(program: SingleQueryProgram, backend: str) -> str:
    if isinstance(program, he_inference.Program):
        return (
            f"packed layout, {len(program.signature.keys.rotations)} rotations, evaluated by "
            f"{_EVALUATORS[backend]}"
        )
    layout = program.signature.layout
    return (
        f"coefficient layout, {layout.features} products of entries in {layout.queries} "
        f"ciphertexts, answers in {layout.answers}"
    )


if __name__ == "__main__":
    serve(OurSystem(*sys.argv[1:]))
