"""Queries and answers of the batched layout: a ciphertext for each feature of thousands of queries.

Making them is most of a client's work, so processes share it: SEAL holds Python's lock.
"""

import io
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

from he_inference import batch_wire
from he_inference.backend.seal import KeyHolder
from he_inference.batch_format import BatchFormat
from he_inference.batch_signature import BatchSignature
from he_inference.encryption_worker import EncryptionWorker
from he_inference.errors import AnswerOverflow, EncryptionFailed
from he_inference.nodes import Array
from he_inference.processors import processors
from he_inference.progress import Progress
from he_inference.tickets import Tickets
from he_inference.wire import Residues, Seeded


class BatchCipher:
    """What `Client` does with its keys for this layout.

    processes: that encrypt side by side, started with the first batch and kept; as many as this
        process may use processors, unless given. 0 encrypts here, one after the other.
    """

    def __init__(
        self,
        signature: BatchSignature,
        keys: KeyHolder,
        tickets: Tickets,
        processes: int | None = None,
    ) -> None:
        self._signature, self._keys, self._tickets = signature, keys, tickets
        self._form = BatchFormat.of(signature)
        self._processes = processors() if processes is None else processes
        self._workers: list[EncryptionWorker] = []
        self._idle: SimpleQueue[EncryptionWorker] = SimpleQueue()
        weakref.finalize(self, _close, self._workers)

    @property
    def max_queries(self) -> int:
        """That go in one message."""
        return self._form.parameters.slots

    def evaluation_keys(self) -> bytes:
        """What answers are sanitised with; a message of no keys where they are plain."""
        return batch_wire.write_keys(self._form, self._made_keys())

    def _made_keys(self) -> Iterator[Seeded]:
        if self._form.private:
            yield self._keys.zero()
            for power in range(2, self._form.components):
                yield from self._keys.power_digits(power)

    def encrypt(self, batch: Array, key_id: bytes, progress: Progress | None) -> Iterator[bytes]:
        """Checked queries (batch, *input_shape) → the parts of one message, as they are made.

        Raises `EncryptionFailed` while parts are taken.
        """
        features = np.ascontiguousarray(batch.reshape(len(batch), -1).T)
        ciphertexts = _counted(self._encrypted(features), len(features), progress)
        ticket = self._tickets.draw(len(batch))
        return batch_wire.write_query(self._form, key_id, ticket, len(batch), ciphertexts)

    def _encrypted(self, features: Array) -> Iterator[Seeded | bytes]:
        """(features, batch) → ciphertexts in order, packed by whom made them; a few made ahead."""
        if not self._processes:
            yield from (self._keys.encrypt(row, self._signature.input_scale) for row in features)
            return
        self._start()
        working: deque[Future[bytes]] = deque()
        try:
            with ThreadPoolExecutor(self._processes) as pool:
                for row in features:
                    working.append(pool.submit(self._encrypt_elsewhere, row))
                    if len(working) > 2 * self._processes:
                        yield working.popleft().result()
                while working:
                    yield working.popleft().result()
        except EncryptionFailed:
            self.close()
            raise

    def _encrypt_elsewhere(self, row: Array) -> bytes:
        worker = self._idle.get()
        try:
            return worker.encrypt(row)
        finally:
            self._idle.put(worker)

    def _start(self) -> None:
        if len(self._workers) == self._processes:
            return
        secret, scale = self._keys.secret, self._signature.input_scale
        while len(self._workers) < self._processes:
            worker = EncryptionWorker(self._form.parameters, secret, scale)
            self._workers.append(worker)
            self._idle.put(worker)

    def decrypt(self, answer: bytes) -> Array:
        """An answer message → scores (batch, outputs). Raises as `Client.decrypt`."""
        batch = batch_wire.read_answer(self._form, io.BytesIO(answer))
        self._tickets.check(batch.ticket, batch.queries)
        scores = [self._scores(ciphertext)[: batch.queries] for ciphertext in batch.residues]
        return np.stack(scores, axis=1)

    def _scores(self, ciphertext: Residues) -> Array:
        """(components, primes, N), or (2, N) modulo the first prime → (slots,)."""
        scale, parameters = self._signature.output_scale, self._form.parameters
        if self._form.private:
            slots, level = self._keys.decrypt(ciphertext, scale), 1
        else:
            slots = self._keys.decrypt_product(ciphertext, scale)
            level = len(parameters.data_primes)
        # What wrapped around the modulus looks random, and then most slots are this large.
        if np.abs(slots).max() * scale > 2.0 ** (parameters.log_modulus(level) - 1):
            raise AnswerOverflow.of_query()
        return slots

    def close(self) -> None:
        """End the processes; another batch would start new ones."""
        _close(self._workers)
        self._idle = SimpleQueue()


def _close(workers: list[EncryptionWorker]) -> None:
    while workers:
        workers.pop().close()


def _counted(
    ciphertexts: Iterator[Seeded | bytes], total: int, progress: Progress | None
) -> Iterator[Seeded | bytes]:
    for done, ciphertext in enumerate(ciphertexts, 1):
        yield ciphertext
        if progress is not None:
            progress(done, total)
