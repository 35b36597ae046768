"""The client of the batched layout: keys, many queries in one message, and their answers."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType

import numpy as np
import numpy.typing as npt

from he_inference import batch_wire
from he_inference.backend.seal import KeyHolder
from he_inference.batch_wire import BatchFormat, Readable
from he_inference.encryption_worker import EncryptionWorker
from he_inference.errors import AnswerOverflow, EncryptionFailed, InputError
from he_inference.network import check_batch, check_range
from he_inference.nodes import Array
from he_inference.processors import processors
from he_inference.tickets import Tickets
from he_inference.wire import Residues, Seeded

Progress = Callable[[int, int], None]
"""Called with features encrypted so far and in all."""


@dataclass(frozen=True)
class BatchTerms:
    """What a client must know of a batched program; all of it public.

    input_range: (lowest, highest) value that a query may hold.
    input_scale, output_scale: between values and the integers that are encrypted and decrypted.
    resolution: answers are rounded to its multiples; digits beyond it are noise.
    """

    form: BatchFormat
    input_shape: tuple[int, ...]
    input_range: tuple[float, float]
    input_scale: float
    output_scale: float
    resolution: float


class BatchClient:
    """Makes and holds the secret key, encrypts batches of queries, decrypts batches of answers.

    Guarantee: as that of `Client`. Whoever sees only the messages learns how many queries there
    were, when, and that their values were in range; nothing of what queries and answers hold, under
    the 128-bit parameters of the terms, unless something decrypted reaches them.

    Use it as a context manager where it has processes of its own: they end with it.
    """

    def __init__(
        self, terms: BatchTerms, *, secret: Residues | None = None, processes: int | None = None
    ) -> None:
        """Draw a new secret key, or go on with one that `secret` gave out.

        processes: that encrypt side by side, started with the first batch and kept; as many as
            this process may use processors, unless given. 0 encrypts here, one after the other.
        """
        self.terms = terms
        self._keys = KeyHolder(terms.form.parameters, secret)
        self._tickets = Tickets(self._keys.secret)
        self._processes = processors() if processes is None else processes
        self._workers: list[EncryptionWorker] = []
        self._idle: SimpleQueue[EncryptionWorker] = SimpleQueue()

    @property
    def secret(self) -> Residues:
        """The secret key: (primes and the special one, N), as `KeyHolder.secret`."""
        return self._keys.secret

    def check(self, x: npt.ArrayLike) -> Array:
        """Queries as float64, or `InputError` for those that `encrypt` would not take.

        Refused are another shape, more queries than slots, values that are not finite, and values
        outside the range that the program was compiled for, which could overflow unnoticed.
        """
        batch = check_batch(x, self.terms.input_shape)
        slots = self.terms.form.parameters.slots
        if len(batch) > slots:
            raise InputError(f"{len(batch)} queries: at most {slots} go in one batch")
        check_range(batch, self.terms.input_range)
        return batch

    def encrypt(self, x: npt.ArrayLike, progress: Progress | None = None) -> Iterator[bytes]:
        """Queries (batch, *input_shape) → the parts of one message, as they are encrypted.

        Raises `InputError` as `check` does, at once; `EncryptionFailed` while parts are taken.
        """
        batch = self.check(x)
        form = self.terms.form
        features = np.ascontiguousarray(batch.reshape(len(batch), -1).T)
        ciphertexts = _counted(self._encrypted(features), form.features, progress)
        ticket = self._tickets.draw(len(batch))
        return batch_wire.write_query(form, ticket, len(batch), ciphertexts)

    def _encrypted(self, features: Array) -> Iterator[Seeded]:
        """(features, batch) → ciphertexts in order; a few are made ahead."""
        if not self._processes:
            yield from (self._keys.encrypt(row, self.terms.input_scale) for row in features)
            return
        self._start()
        working: deque[Future[Seeded]] = deque()
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

    def _encrypt_elsewhere(self, row: Array) -> Seeded:
        worker = self._idle.get()
        try:
            return worker.encrypt(row)
        finally:
            self._idle.put(worker)

    def _start(self) -> None:
        secret = self._keys.secret
        while len(self._workers) < self._processes:
            form, scale = self.terms.form, self.terms.input_scale
            worker = EncryptionWorker(form.parameters, secret, scale)
            self._workers.append(worker)
            self._idle.put(worker)

    def decrypt(self, answer: Readable) -> Array:
        """An answer message → scores (batch, outputs), rounded to the terms' resolution.

        Raises `MessageError` for anything but an answer to a query of this key, with as many
        answers as there were queries, and `AnswerOverflow` where an answer did not fit the modulus.
        """
        resolution = self.terms.resolution
        return np.rint(self.decrypt_with_noise(answer) / resolution) * resolution

    def decrypt_with_noise(self, answer: Readable) -> Array:
        """As `decrypt`, with the meaningless digits."""
        batch = batch_wire.read_answer(self.terms.form, answer)
        self._tickets.check(batch.ticket, batch.queries)
        scores = [self._scores(ciphertext)[: batch.queries] for ciphertext in batch.residues]
        return np.stack(scores, axis=1)

    def _scores(self, ciphertext: Residues) -> Array:
        """(components, primes, N) → (slots,)."""
        scale, parameters = self.terms.output_scale, self.terms.form.parameters
        slots = self._keys.decrypt_product(ciphertext, scale)
        # What wrapped around the modulus looks random, and then most slots are this large.
        half = 2.0 ** (parameters.log_modulus(len(parameters.data_primes)) - 1)
        if np.abs(slots).max() * scale > half:
            raise AnswerOverflow(
                "the answer is larger than the modulus has room for: compile the network with "
                "examples that are as large as these queries, or the answer was tampered with"
            )
        return slots

    def close(self) -> None:
        """End the processes; another batch would start new ones."""
        workers, self._workers = self._workers, []
        self._idle = SimpleQueue()
        for worker in workers:
            worker.close()

    def __enter__(self) -> "BatchClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _counted(
    ciphertexts: Iterable[Seeded], total: int, progress: Progress | None
) -> Iterator[Seeded]:
    for done, ciphertext in enumerate(ciphertexts, 1):
        yield ciphertext
        if progress is not None:
            progress(done, total)
