"""The server's half of the coefficient layout: foreign bytes become checked arrays, no SEAL."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from he_inference import coefficient_wire, wire
from he_inference.backend import seeds
from he_inference.backend.residues.inner_products import InnerProducts
from he_inference.backend.residues.sanitiser import Sanitiser
from he_inference.coefficient_program import COMPONENTS, CoefficientProgram
from he_inference.coefficient_wire import CoefficientAnswer
from he_inference.errors import UnknownKey
from he_inference.precomputed import Precomputed, precompute
from he_inference.processors import CPU
from he_inference.wire import Residues, Seeded


class CoefficientEngine:
    """What `Server` does with messages for this layout.

    threads: one unless given; a program with many outputs has work for more. precomputed: of this
    very program; made here unless given.
    """

    def __init__(
        self,
        program: CoefficientProgram,
        *,
        threads: int | None = None,
        precomputed: Precomputed | None = None,
    ) -> None:
        """Raises `ServiceError` for what was precomputed of another program."""
        threads = threads or 1
        signature = program.signature
        self._signature, self._layout = signature, signature.layout
        self._primes = signature.parameters.data_primes
        ready = precomputed or precompute(program, CPU)
        ready.check(program)
        self._products = InnerProducts(ready.weights, self._primes[0], threads=threads)
        self._products.prepare()
        self._offset = np.mod(program.offset, self._primes[0]).astype(np.uint64)
        self._places = np.concatenate(
            [self._layout.positions(answer) for answer in range(self._layout.answers)]
        )
        self._answer_of = np.arange(self._layout.outputs) // self._layout.group
        self._sanitiser = None
        if signature.private:
            self._sanitiser = Sanitiser(
                signature.parameters, COMPONENTS, program.flooding_bits, threads=threads
            )
            self._sanitiser.prepare()

    def keys(self, message: bytes) -> Residues | None:
        """A client's encryption of zero, (1, 2, primes, N), or nothing where none is needed.

        Raises `MessageError`.
        """
        zero = coefficient_wire.read_keys(self._signature, message)
        return None if zero is None else _expanded([zero], self._primes)

    def key_id(self, query: bytes) -> bytes:
        """Of the keys that a sound query names. Raises `MessageError`."""
        return wire.read_query(self._signature, query).key_id

    def evaluate(self, query: bytes, keys: Callable[[bytes], Residues | None]) -> bytes:
        """A query message → an answer message. Raises `MessageError`, or what `keys` raises."""
        parsed = wire.read_query(self._signature, query)
        hide = self._hiding(parsed.key_id, keys)
        each, outputs, polynomials = self._layout.queries, [], []
        for start in range(0, len(parsed.ciphertexts), each):
            ciphertexts = _expanded(parsed.ciphertexts[start : start + each], self._primes[:1])
            answers = self._products.evaluate(ciphertexts[:, :, 0])
            if hide is not None:
                answers += hide()
                answers %= np.uint64(self._primes[0])
            found = answers[self._answer_of, 0, self._places] + self._offset
            outputs.append(found % np.uint64(self._primes[0]))
            polynomials.append(answers[:, 1])
        answer = CoefficientAnswer(parsed.ticket, np.stack(outputs), np.stack(polynomials))
        return coefficient_wire.write_answer(self._signature, answer)

    def _hiding(
        self, key_id: bytes, keys: Callable[[bytes], Residues | None]
    ) -> Callable[[], Residues] | None:
        """Draws what makes a query's answers private, (answers, 2, N) modulo the first prime.

        With Q the other primes, an answer c modulo q is sanitised as c·Q modulo q·Q, and divided
        by Q afterwards. Nothing of it depends on c: (c·Q + z) / Q, rounded, is c + z / Q, rounded.
        None where answers are plain; raises `UnknownKey` rather than let private ones go plain.
        """
        if self._sanitiser is None:
            return None
        zero = keys(key_id)
        if zero is None:
            raise UnknownKey(f"no encryption of zero with id {key_id.hex()}: register it first")
        shape = (self._layout.answers, COMPONENTS, len(self._primes), self._layout.degree)
        return partial(self._sanitiser.sanitise, np.zeros(shape, np.uint64), zero)


def _expanded(ciphertexts: Sequence[Seeded], primes: tuple[int, ...]) -> Residues:
    """(count, 2, primes, N): both polynomials, the second one drawn from its seed."""
    shape = (len(ciphertexts), 2, *ciphertexts[0].residues.shape)
    found = np.empty(shape, np.uint64)
    for target, ciphertext in zip(found, ciphertexts, strict=True):
        target[0] = ciphertext.residues
        seeds.expand(ciphertext.seed, primes, target[1])
    return found
