"""The one form that messages of a batched program may have: shapes and lengths, before any byte."""

import struct
from dataclasses import dataclass

from he_inference import wire
from he_inference.batch_signature import BatchSignature
from he_inference.cost import SEED_BYTES, packed_bytes
from he_inference.parameters import Parameters
from he_inference.wire import Kind

SHAPE = struct.Struct("<IIHHI")
"""Queries, ciphertexts, polynomials of each, primes, N."""


@dataclass(frozen=True)
class BatchFormat:
    """All that the form of messages depends on.

    digest: of the signature. components: polynomials of a plain answer's ciphertexts.
    seeded_keys: ciphertexts in a client's keys. response_bits: of every coefficient of a private
    answer's c0 and c1; zeros for plain answers.
    """

    digest: bytes
    parameters: Parameters
    features: int
    outputs: int
    components: int
    seeded_keys: int = 0
    response_bits: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, signature: BatchSignature) -> "BatchFormat":
        return cls(
            signature.digest,
            signature.parameters,
            signature.features,
            signature.outputs,
            signature.components,
            signature.seeded_keys,
            signature.response_bits,
        )

    @property
    def private(self) -> bool:
        """Whether answers are sanitised."""
        return self.response_bits != (0, 0)

    @property
    def cut_bits(self) -> tuple[int, int]:
        """Low bits of c0 and c1 that a private answer does not carry."""
        whole = self.primes[0].bit_length()
        return whole - self.response_bits[0], whole - self.response_bits[1]

    @property
    def primes(self) -> tuple[int, ...]:
        return self.parameters.data_primes

    @property
    def degree(self) -> int:
        return self.parameters.ring_degree

    @property
    def polynomial_bytes(self) -> int:
        return packed_bytes(self.primes, self.degree)

    @property
    def query_bytes(self) -> int:
        """Of a whole message, however many queries are in it."""
        return _ENVELOPE + wire.KEY_ID_BYTES + self.features * self.seeded_bytes

    @property
    def seeded_bytes(self) -> int:
        return SEED_BYTES + self.polynomial_bytes

    @property
    def answer_bytes(self) -> int:
        each = self.components * self.polynomial_bytes
        if self.private:
            each = sum(self.response_bits) * self.degree // 8
        return _ENVELOPE + self.outputs * each

    @property
    def key_bytes(self) -> int:
        """Of a message of one client's keys."""
        ends = wire.HEADER_BYTES + wire.CHECKSUM_BYTES
        return ends + self.seeded_keys * self.seeded_bytes

    def shape(self, kind: Kind) -> tuple[int, int, int, int]:
        """Ciphertexts, polynomials of each that are sent, primes, N."""
        if kind is Kind.BATCH_QUERY:
            return self.features, 1, len(self.primes), self.degree
        if self.private:
            return self.outputs, 2, 1, self.degree
        return self.outputs, self.components, len(self.primes), self.degree

    @property
    def residues(self) -> tuple[int, ...]:
        """Shape of an answer's array: without an axis for primes where there is only one."""
        ciphertexts, polynomials, primes, degree = self.shape(Kind.BATCH_ANSWER)
        return (ciphertexts, polynomials, *(() if self.private else (primes,)), degree)


_ENVELOPE = wire.HEADER_BYTES + wire.TICKET_BYTES + SHAPE.size + wire.CHECKSUM_BYTES
