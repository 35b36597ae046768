"""The public part of a program of the batched layout: all that a client needs, no weights.

As `signature`: a client may get it from a server that it does not trust, so everything is checked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import isfinite, prod
from typing import Any, Literal, get_args

from he_inference.nodes import Shape
from he_inference.parameters import SECURITY_BITS, Parameters
from he_inference.signature import (
    FORMAT,
    MAX_KEY_BYTES,
    MIN_RESOLUTION,
    VERSION,
    from_json,
    integer,
)

LAYOUT = "batched"
MAX_COMPONENTS = 9
"""Of a ciphertext after three squares, one after the other."""
MAX_MESSAGE_BYTES = 4 << 30
"""Of one batch: a signature that asks for more is refused before anything is encrypted."""
MIN_STATISTICAL_BITS = 40

Response = Literal["private", "plain"]
"""Whether answers are sanitised; see `backend.residues.sanitiser` for what that hides."""


@dataclass(frozen=True, eq=False)
class BatchSignature:
    """All that a client needs, and nothing of the weights but the exponents of the scales.

    identity: 16 random bytes made by the compiler; messages carry it.
    input_scale, output_scale: between values and the integers that are encrypted and decrypted.
    components: polynomials of a ciphertext after the last layer, one more than its degree in the
        secret.
    response: "private" answers are two polynomials modulo the first prime; "plain" ones are all
        components as the server computed them, **which hold the weights**.
    response_bits: bits kept of every coefficient of c0 and c1 of a private answer.
    statistical_bits: −log2 of the distance between a message of private answers and one made from
        the answers alone; 0 for plain ones. What the server promises; a client cannot check it.
    precision_bits, resolution: as those of `Signature`; the former rounded down to a tenth.
    """

    identity: bytes
    parameters: Parameters
    input_shape: Shape
    input_range: tuple[float, float]
    input_scale: float
    outputs: int
    output_scale: float
    components: int
    response: Response
    response_bits: tuple[int, int]
    statistical_bits: float
    precision_bits: float
    resolution: float

    @property
    def features(self) -> int:
        """Ciphertexts of a query: one for each number in it."""
        return prod(self.input_shape)

    @property
    def needs_keys(self) -> bool:
        """Whether a server must hold a client's evaluation keys before it can answer."""
        return self.response == "private"

    @property
    def cut_bits(self) -> tuple[int, int]:
        """Low bits of c0 and c1 that a private answer does not carry."""
        whole = self.parameters.data_primes[0].bit_length()
        return whole - self.response_bits[0], whole - self.response_bits[1]

    @property
    def seeded_keys(self) -> int:
        """Seeded ciphertexts that a client's evaluation keys consist of; none for plain answers.

        An encryption of zero, and for every power of the secret above the first one for each prime.
        """
        if self.response == "plain":
            return 0
        return 1 + (self.components - 2) * len(self.parameters.data_primes)

    @property
    def security_bits(self) -> int:
        """Parameters cannot be made below this."""
        return SECURITY_BITS

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that both sides must agree on before they exchange anything."""
        return sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """JSON, the same bytes for the same signature."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            "layout": LAYOUT,
            "identity": self.identity.hex(),
            "parameters": self.parameters.to_json(),
            "input_shape": list(self.input_shape),
            "input_range": list(self.input_range),
            "input_scale": self.input_scale,
            "outputs": self.outputs,
            "output_scale": self.output_scale,
            "components": self.components,
            "response": self.response,
            "response_bits": list(self.response_bits),
            "statistical_bits": self.statistical_bits,
            "precision_bits": self.precision_bits,
            "resolution": self.resolution,
        }
        return json.dumps(value, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "BatchSignature":
        """Read a signature from a file or from a server that is not trusted.

        Raises `ModelFileError` or `ParameterError`.
        """
        return from_json(data, LAYOUT, cls._from_json)

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> "BatchSignature":
        signature = cls(
            identity=bytes.fromhex(value["identity"]),
            parameters=Parameters.from_json(value["parameters"]),
            input_shape=tuple(integer(n) for n in value["input_shape"]),
            input_range=(float(value["input_range"][0]), float(value["input_range"][1])),
            input_scale=float(value["input_scale"]),
            outputs=integer(value["outputs"]),
            output_scale=float(value["output_scale"]),
            components=integer(value["components"]),
            response=value["response"],
            response_bits=(integer(value["response_bits"][0]), integer(value["response_bits"][1])),
            statistical_bits=float(value["statistical_bits"]),
            precision_bits=float(value["precision_bits"]),
            resolution=float(value["resolution"]),
        )
        signature._check()
        return signature

    def _check(self) -> None:
        parameters, (low, high) = self.parameters, self.input_range
        top = len(parameters.data_primes)
        whole = 2.0 ** parameters.log_modulus(top)
        private = self.response == "private"
        answered = 2.0 ** parameters.log_modulus(1) if private else whole
        row = 8 * parameters.ring_degree
        sound = (
            len(self.identity) == 16
            and len(self.input_shape) in (1, 3)
            and min(self.input_shape) > 0
            and self.response in get_args(Response)
            and 2 <= self.components <= MAX_COMPONENTS
            and self.outputs > 0
            and max(self.features, self.outputs * self.components) * top * row <= MAX_MESSAGE_BYTES
            and 2 * self.seeded_keys * top * row <= MAX_KEY_BYTES
            and all(map(isfinite, (low, high, self.precision_bits, self.statistical_bits)))
            and isfinite(self.resolution)
            and self.resolution >= MIN_RESOLUTION
            and low < high
            and 1 <= self.input_scale < whole
            and 1 <= self.output_scale < answered
            and (not private or self.statistical_bits >= MIN_STATISTICAL_BITS)
            and (
                all(1 <= bits <= parameters.data_primes[0].bit_length() for bits in
                    self.response_bits)
                if private
                else self.response_bits == (0, 0)
            )
        )  # fmt: skip
        if not sound:
            raise ValueError("its fields contradict each other, or ask for more than is accepted")
