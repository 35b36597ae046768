"""Queries and answers of the packed layout: a ciphertext for each query, one for each answer."""

from collections.abc import Iterator

import numpy as np

from he_inference import wire
from he_inference.backend.seal import KeyHolder
from he_inference.errors import AnswerOverflow
from he_inference.nodes import Array
from he_inference.progress import Progress
from he_inference.signature import Signature
from he_inference.tickets import Tickets
from he_inference.wire import Residues


class PackedCipher:
    """What `Client` does with its keys for this layout."""

    def __init__(self, signature: Signature, keys: KeyHolder, tickets: Tickets) -> None:
        self._signature, self._keys, self._tickets = signature, keys, tickets

    @property
    def max_queries(self) -> int:
        """That go in one message."""
        return wire.MAX_QUERIES

    def evaluation_keys(self) -> bytes:
        made = self._keys.evaluation_keys(self._signature.keys)
        return wire.write_keys(self._signature, made)

    def encrypt(self, batch: Array, key_id: bytes, progress: Progress | None) -> Iterator[bytes]:
        """Checked queries (batch, *input_shape) → one message."""
        flat = np.concatenate([batch.reshape(len(batch), -1), np.zeros((len(batch), 1))], axis=1)
        ciphertexts = []
        for done, slots in enumerate(flat[:, self._signature.gather], 1):
            ciphertexts.append(self._keys.encrypt(slots, self._signature.input_scale))
            if progress is not None:
                progress(done, len(batch))
        query = wire.Query(key_id, self._tickets.draw(len(batch)), tuple(ciphertexts))
        yield wire.write_query(self._signature, query)

    def decrypt(self, answer: bytes) -> Array:
        """An answer message → scores (batch, outputs). Raises as `Client.decrypt`."""
        parsed = wire.read_answer(self._signature, answer)
        self._tickets.check(parsed.ticket, len(parsed.polynomials))
        return np.stack([self._scores(residues) for residues in parsed.polynomials])

    def _scores(self, residues: Residues) -> Array:
        scale = self._signature.output_scale
        scores = self._keys.decrypt(residues, scale)[self._signature.output_slots]
        # An answer is far smaller; what wrapped around the modulus is about as large as it.
        if np.abs(scores).max() * scale > self._signature.parameters.data_primes[0] / 2:
            raise AnswerOverflow.of_query()
        return scores

    def close(self) -> None:
        """Nothing is held that would have to be closed."""
