"""Queries and answers of the coefficient layout: a client expands its query before it encrypts."""

from collections.abc import Iterator

import numpy as np

from he_inference import coefficient_wire, wire
from he_inference.backend.seal import KeyHolder
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.embedding import CoefficientReader, constant_of, slots_of
from he_inference.errors import AnswerOverflow, InputError
from he_inference.expansion import features
from he_inference.nodes import Array
from he_inference.progress import Progress
from he_inference.tickets import Tickets
from he_inference.wire import Residues, Seeded


class CoefficientCipher:
    """What `Client` does with its keys for this layout."""

    def __init__(self, signature: CoefficientSignature, keys: KeyHolder, tickets: Tickets) -> None:
        self._signature, self._keys, self._tickets = signature, keys, tickets
        self._layout = signature.layout
        self._readers: dict[int, CoefficientReader] = {}

    @property
    def max_queries(self) -> int:
        """That go in one message."""
        return wire.MAX_QUERIES

    def evaluation_keys(self) -> bytes:
        """An encryption of zero, with which answers are made private."""
        zero = self._keys.zero() if self._signature.needs_keys else None
        return coefficient_wire.write_keys(self._signature, zero)

    def encrypt(self, batch: Array, key_id: bytes, progress: Progress | None) -> Iterator[bytes]:
        """Checked queries (batch, *input_shape) → one message."""
        ciphertexts: list[Seeded] = []
        for done, query in enumerate(batch.reshape(len(batch), 1, -1), 1):
            ciphertexts.extend(self._keys.encrypt_coefficients(slots_of(self._integers(query))))
            if progress is not None:
                progress(done, len(batch))
        message = wire.Query(key_id, self._tickets.draw(len(batch)), tuple(ciphertexts))
        yield wire.write_query(self._signature, message)

    def _integers(self, query: Array) -> Array:
        """A flat query (1, size) → coefficients of its polynomials, (ciphertexts, N).

        Raises `InputError` for those that SEAL does not encode: from a quarter of the prime on.
        """
        found = features(self._signature.monomials, query)[0]
        integers = np.rint(self._layout.query(found) * self._signature.input_scale)
        largest, bits = float(np.abs(integers).max()), self._signature.query_primes[0].bit_length()
        if not largest < 2.0 ** (bits - 2):
            most = 2.0 ** (bits - 2) / self._signature.input_scale
            raise InputError(
                f"products of the query's entries of up to {np.abs(found).max():.3g}: at most "
                f"{most:.3g} fit; compile the network with examples that are as large as this query"
            )
        return np.asarray(integers)

    def decrypt(self, answer: bytes) -> Array:
        """An answer message → scores (batch, outputs). Raises as `Client.decrypt`."""
        parsed = coefficient_wire.read_answer(self._signature, answer)
        self._tickets.check(parsed.ticket, len(parsed.outputs))
        rows = zip(parsed.outputs, parsed.polynomials, strict=True)
        return np.stack([self._scores(outputs, polynomials) for outputs, polynomials in rows])

    def _scores(self, outputs: Residues, polynomials: Residues) -> Array:
        group, found = self._layout.group, []
        residues = np.empty((2, self._layout.degree), np.uint64)
        for number, polynomial in enumerate(polynomials):
            positions = self._layout.positions(number)
            residues[0] = 0
            residues[0, positions] = outputs[number * group :][: len(positions)]
            residues[1] = polynomial
            found.append(self._decrypted(residues, len(positions)))
        integers = np.concatenate(found)
        # Answers like those of the examples are eight times smaller than half the modulus; what
        # wrapped around it may be anything.
        if np.abs(integers).max() > self._signature.parameters.data_primes[0] / 4:
            raise AnswerOverflow.of_query()
        return integers / self._signature.output_scale

    def _decrypted(self, residues: Residues, count: int) -> Array:
        """The outputs that one ciphertext holds."""
        if count == 1:
            return np.array([constant_of(self._keys.decrypt(residues, 1.0))])
        if count not in self._readers:
            positions = np.arange(count) * self._layout.block
            self._readers[count] = CoefficientReader(self._layout.degree, positions)
        return self._readers[count].read(self._keys.decrypt_complex(residues))

    def close(self) -> None:
        """Nothing is held that would have to be closed."""
