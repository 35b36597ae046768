"""Tickets: by them a client knows an answer to its own query, and keeps no list of queries.

A ticket is a random nonce, and a MAC (HMAC-SHA256, halved) of the nonce and the number of queries
under a key derived from the secret key. The server returns it as it came.
"""

import hashlib
import hmac
import secrets

from he_inference.errors import MessageError
from he_inference.wire import TICKET_BYTES, Residues

_HALF = TICKET_BYTES // 2


class Tickets:
    """Draws and checks the tickets of one secret key.

    Guarantee: a ticket that passes was drawn with this key for as many queries (up to a forgery of
    128 bits). It does not say that an answer was computed rightly, or whether it came before.
    """

    def __init__(self, secret: Residues) -> None:
        self._key = hashlib.sha256(b"sottovoce ticket\n" + secret.tobytes()).digest()

    def draw(self, queries: int) -> bytes:
        nonce = secrets.token_bytes(_HALF)
        return nonce + self._tag(nonce, queries)

    def check(self, ticket: bytes, queries: int) -> None:
        """Raises `MessageError` for a ticket that was not drawn here for so many queries."""
        if not hmac.compare_digest(ticket[_HALF:], self._tag(ticket[:_HALF], queries)):
            raise MessageError(
                "the message does not answer a query of this key, or not as many: ask again"
            )

    def _tag(self, nonce: bytes, queries: int) -> bytes:
        tag = hmac.new(self._key, nonce + queries.to_bytes(4, "little"), "sha256")
        return tag.digest()[:_HALF]
