"""The public part of a program of the coefficient layout: all that a client needs, no weights.

As `signature`: a client may get it from a server that it does not trust, so everything is checked.
It shows which products of a query's entries the network is made of, which is its geometry (kernel
sizes and strides), and of their weights only which are zero everywhere.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import isfinite, prod
from typing import Any

import numpy as np

from he_inference.batch_signature import MAX_MESSAGE_BYTES, MIN_STATISTICAL_BITS, Response
from he_inference.expansion import MAX_MONOMIALS, NONE, Indices
from he_inference.layouts.batched import MAX_PRIME_BITS
from he_inference.layouts.coefficients import MAX_CIPHERTEXTS, MAX_GROUP, CoefficientLayout
from he_inference.nodes import Shape
from he_inference.parameters import SECURITY_BITS, Parameters
from he_inference.signature import FORMAT, MIN_RESOLUTION, VERSION, from_json, integer

LAYOUT = "coefficients"
MAX_OUTPUTS = 1 << 16


@dataclass(frozen=True, eq=False)
class CoefficientSignature:
    """All that a client needs, and nothing of the weights but the exponents of the scales.

    identity: 16 random bytes made by the compiler; messages carry it.
    parameters: queries and answers are modulo the first data prime, q. The others are there where
        answers are private, for the noise that hides what they must not show.
    monomials: (M, 2) int32, the products of a flat query's entries that are encrypted; see
        `expansion`. group: outputs to a ciphertext of the answer; see `layouts.coefficients`.
    input_scale, output_scale: between values and the integers that are encrypted and decrypted.
    response: "private" answers are sanitised; "plain" ones **hold the weights**.
    answer_bits: bits kept of every coefficient of an answer's second polynomial.
    statistical_bits: −log2 of the distance between a private answer and one made from the scores
        alone; 0 for plain ones. What the server promises; a client cannot check it.
    precision_bits, resolution: as those of `Signature`.
    """

    identity: bytes
    parameters: Parameters
    input_shape: Shape
    input_range: tuple[float, float]
    monomials: Indices
    outputs: int
    group: int
    input_scale: float
    output_scale: float
    response: Response
    answer_bits: int
    statistical_bits: float
    precision_bits: float
    resolution: float

    @property
    def layout(self) -> CoefficientLayout:
        degree = self.parameters.ring_degree
        return CoefficientLayout(degree, len(self.monomials), self.outputs, self.group)

    @property
    def private(self) -> bool:
        return self.response == "private"

    @property
    def needs_keys(self) -> bool:
        """Whether a server must hold something of a client's before it can answer: an encryption
        of zero, where answers are private."""
        return self.private

    @property
    def query_primes(self) -> tuple[int, ...]:
        return self.parameters.data_primes[:1]

    @property
    def query_ciphertexts(self) -> int:
        return self.layout.queries

    @property
    def cut_bits(self) -> int:
        """Low bits that the coefficients of an answer's second polynomial do not carry."""
        return self.parameters.data_primes[0].bit_length() - self.answer_bits

    @property
    def security_bits(self) -> int:
        """Parameters cannot be made below this."""
        return SECURITY_BITS

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that both sides must agree on before they exchange anything.

        Of the monomials as they are: what a compressor makes of them differs between its versions.
        """
        monomials = sha256(self.monomials.astype("<i4").tobytes()).hexdigest()
        return sha256(self._json(monomials)).digest()

    def to_bytes(self) -> bytes:
        """JSON, as `from_bytes` reads it."""
        return self._json(_packed(self.monomials))

    def _json(self, monomials: str) -> bytes:
        value = {
            "format": FORMAT,
            "version": VERSION,
            "layout": LAYOUT,
            "identity": self.identity.hex(),
            "parameters": self.parameters.to_json(),
            "input_shape": list(self.input_shape),
            "input_range": list(self.input_range),
            "monomials": monomials,
            "outputs": self.outputs,
            "group": self.group,
            "input_scale": self.input_scale,
            "output_scale": self.output_scale,
            "response": self.response,
            "answer_bits": self.answer_bits,
            "statistical_bits": self.statistical_bits,
            "precision_bits": self.precision_bits,
            "resolution": self.resolution,
        }
        return json.dumps(value, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CoefficientSignature":
        """Read a signature from a file or from a server that is not trusted.

        Raises `ModelFileError` or `ParameterError`.
        """
        return from_json(data, LAYOUT, cls._from_json)

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> "CoefficientSignature":
        signature = cls(
            identity=bytes.fromhex(value["identity"]),
            parameters=Parameters.from_json(value["parameters"]),
            input_shape=tuple(integer(n) for n in value["input_shape"]),
            input_range=(float(value["input_range"][0]), float(value["input_range"][1])),
            monomials=_unpacked(value["monomials"]),
            outputs=integer(value["outputs"]),
            group=integer(value["group"]),
            input_scale=float(value["input_scale"]),
            output_scale=float(value["output_scale"]),
            response=value["response"],
            answer_bits=integer(value["answer_bits"]),
            statistical_bits=float(value["statistical_bits"]),
            precision_bits=float(value["precision_bits"]),
            resolution=float(value["resolution"]),
        )
        signature._check()
        return signature

    def _check(self) -> None:
        size, (low, high) = prod(self.input_shape), self.input_range
        first = self.parameters.data_primes[0]
        numbers = (low, high, self.precision_bits, self.statistical_bits, self.resolution)
        sound = (
            len(self.identity) == 16
            and len(self.input_shape) in (1, 3)
            and 0 < size < 1 << 31
            and min(self.input_shape) > 0
            and self.monomials[:, 0].min() >= NONE
            and self.monomials[:, 1].min() >= 0
            and self.monomials.max() < size
            and 0 < self.outputs <= MAX_OUTPUTS
            and 0 < self.group <= min(self.outputs, MAX_GROUP)
            and max(self.parameters.data_primes).bit_length() <= MAX_PRIME_BITS
            and self.layout.queries <= MAX_CIPHERTEXTS
            and 8 * self.layout.answers * self.parameters.ring_degree <= MAX_MESSAGE_BYTES
            and 1 <= self.input_scale < first
            and 1 <= self.output_scale < first
            and 1 <= self.answer_bits <= first.bit_length()
            and all(map(isfinite, numbers))
            and self.resolution >= MIN_RESOLUTION
            and low < high
            and (
                (self.response == "private" and self.statistical_bits >= MIN_STATISTICAL_BITS
                 and len(self.parameters.data_primes) > 1)
                or (self.response == "plain" and self.statistical_bits == 0)
            )
        )  # fmt: skip
        if not sound:
            raise ValueError("its fields contradict each other, or ask for more than is accepted")


def _packed(monomials: Indices) -> str:
    """Differences from row to row, compressed: they repeat, as windows do."""
    steps = np.diff(monomials.astype("<i4"), axis=0, prepend=np.zeros((1, 2), "<i4"))
    return base64.b64encode(zlib.compress(np.ascontiguousarray(steps.T).tobytes(), 9)).decode()


def _unpacked(text: str) -> Indices:
    """The reverse; raises `ValueError` for anything else before too much is allocated."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), 8 * MAX_MONOMIALS)
    except zlib.error as error:
        raise ValueError(f"monomials that do not unpack: {error}") from None
    if not unpacker.eof or not data or len(data) % 8:
        raise ValueError(f"monomials of {len(data)} bytes, expected pairs of at most "
                         f"{MAX_MONOMIALS}")  # fmt: skip
    steps = np.frombuffer(data, "<i4").reshape(2, -1).T
    found = np.cumsum(steps, axis=0, dtype=np.int64)
    if np.abs(found).max() > np.iinfo(np.int32).max:
        raise ValueError("monomials of entries that no query has")
    return found.astype(np.int32)
