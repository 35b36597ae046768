"""Exact lengths of messages in bytes: what either end measures foreign bytes against."""

from dataclasses import dataclass

from he_inference import wire
from he_inference.cost import download_bytes, key_bytes, upload_bytes
from he_inference.signature import Signature


@dataclass(frozen=True)
class Lengths:
    """The lengths in bytes that messages of one signature must have."""

    signature: Signature

    @property
    def keys(self) -> int:
        """A message of evaluation keys."""
        return wire.envelope_bytes(wire.Kind.EVALUATION_KEYS) + key_bytes(self.signature)

    def query(self, count: int) -> int:
        """A message of `count` queries."""
        each = upload_bytes(self.signature.parameters)
        return wire.envelope_bytes(wire.Kind.QUERY) + count * each

    def answer(self, count: int) -> int:
        """The answer to `count` queries."""
        return wire.envelope_bytes(wire.Kind.ANSWER) + count * download_bytes(self.signature)

    def queries_in(self, message_bytes: int) -> int:
        """How many queries a message of this length can carry, at most."""
        envelope = wire.envelope_bytes(wire.Kind.QUERY)
        return (message_bytes - envelope) // upload_bytes(self.signature.parameters)
