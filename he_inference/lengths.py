"""Exact lengths of messages in bytes: what either end measures foreign bytes against.

The envelope is measured by writing empty messages, so that only `wire` knows how it is built.
"""

from dataclasses import replace
from functools import cached_property

from he_inference import wire
from he_inference.cost import download_bytes, key_bytes, upload_bytes
from he_inference.program import KeyPlan, Signature


class Lengths:
    """The lengths in bytes that messages of one signature must have."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature

    @cached_property
    def _envelope(self) -> int:
        keyless = replace(self._signature, keys=KeyPlan(0, ()))
        return len(wire.write_keys(keyless, ()))

    @cached_property
    def keys(self) -> int:
        """A message of evaluation keys."""
        return self._envelope + key_bytes(self._signature)

    def query(self, count: int) -> int:
        """A message of `count` queries."""
        return self._empty_query + count * upload_bytes(self._signature.parameters)

    def answer(self, count: int) -> int:
        """The answer to `count` queries."""
        return self._empty_answer + count * download_bytes(self._signature)

    def queries_in(self, message_bytes: int) -> int:
        """How many queries a message of this length can carry, at most."""
        return (message_bytes - self._empty_query) // upload_bytes(self._signature.parameters)

    def key_id(self, query: bytes) -> bytes:
        """The key id that a query carries behind its header, *unchecked*: a label for logs and
        look-ups. Shorter than `wire.KEY_ID_BYTES` where the message is truncated."""
        start = self._envelope - wire.CHECKSUM_BYTES
        return query[start : start + wire.KEY_ID_BYTES]

    @cached_property
    def _empty_query(self) -> int:
        return len(wire.write_query(self._signature, wire.Query(bytes(wire.KEY_ID_BYTES), ())))

    @cached_property
    def _empty_answer(self) -> int:
        return len(wire.write_answer(self._signature, ()))
