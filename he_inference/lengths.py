"""Exact lengths of messages in bytes: what either end measures foreign bytes against."""

from dataclasses import dataclass
from typing import Protocol

from he_inference import coefficient_wire, wire
from he_inference.batch_format import BatchFormat
from he_inference.batch_signature import BatchSignature
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.cost import download_bytes, key_bytes, upload_bytes
from he_inference.signature import Signature
from he_inference.signatures import AnySignature


class Lengths(Protocol):
    """The lengths in bytes that messages of one signature must have."""

    @property
    def max_queries(self) -> int:
        """That one message may hold."""

    @property
    def keys(self) -> int:
        """A message of evaluation keys."""

    def query(self, count: int) -> int:
        """A message of `count` queries."""

    def answer(self, count: int) -> int:
        """The answer to `count` queries."""

    def queries_in(self, message_bytes: int) -> int:
        """How many queries a message of this length can carry, at most."""


def lengths(signature: AnySignature) -> Lengths:
    """Those of its layout."""
    if isinstance(signature, BatchSignature):
        return BatchLengths(BatchFormat.of(signature))
    if isinstance(signature, CoefficientSignature):
        return CoefficientLengths(signature)
    return PackedLengths(signature)


@dataclass(frozen=True)
class PackedLengths:
    """A ciphertext for each query."""

    signature: Signature

    @property
    def max_queries(self) -> int:
        return wire.MAX_QUERIES

    @property
    def keys(self) -> int:
        return wire.envelope_bytes(wire.Kind.EVALUATION_KEYS) + key_bytes(self.signature)

    def query(self, count: int) -> int:
        each = upload_bytes(self.signature.parameters)
        return wire.envelope_bytes(wire.Kind.QUERY) + count * each

    def answer(self, count: int) -> int:
        return wire.envelope_bytes(wire.Kind.ANSWER) + count * download_bytes(self.signature)

    def queries_in(self, message_bytes: int) -> int:
        envelope = wire.envelope_bytes(wire.Kind.QUERY)
        return (message_bytes - envelope) // upload_bytes(self.signature.parameters)


@dataclass(frozen=True)
class CoefficientLengths:
    """A few ciphertexts for each query."""

    signature: CoefficientSignature

    @property
    def max_queries(self) -> int:
        return wire.MAX_QUERIES

    @property
    def keys(self) -> int:
        envelope = wire.envelope_bytes(wire.Kind.EVALUATION_KEYS)
        return envelope + coefficient_wire.key_bytes(self.signature)

    def query(self, count: int) -> int:
        return wire.envelope_bytes(wire.Kind.QUERY) + count * self._each

    def answer(self, count: int) -> int:
        each = coefficient_wire.answer_bytes(self.signature)
        return wire.envelope_bytes(wire.Kind.ANSWER) + count * each

    def queries_in(self, message_bytes: int) -> int:
        return (message_bytes - wire.envelope_bytes(wire.Kind.QUERY)) // self._each

    @property
    def _each(self) -> int:
        s = self.signature
        return s.query_ciphertexts * wire.seeded_bytes(s.query_primes, s.parameters.ring_degree)


@dataclass(frozen=True)
class BatchLengths:
    """A ciphertext for each feature: as long for one query as for all that fit."""

    form: BatchFormat

    @property
    def max_queries(self) -> int:
        return self.form.parameters.slots

    @property
    def keys(self) -> int:
        return self.form.key_bytes

    def query(self, count: int) -> int:
        return self.form.query_bytes

    def answer(self, count: int) -> int:
        return self.form.answer_bytes

    def queries_in(self, message_bytes: int) -> int:
        return self.max_queries
