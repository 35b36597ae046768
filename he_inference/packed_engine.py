"""The server's half of the packed layout: one query after the other, on residues or by SEAL."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from he_inference import wire
from he_inference.errors import ServiceError
from he_inference.program import Program
from he_inference.wire import Residues, Seeded, SwitchingKey

BACKENDS = ("residues", "seal")


class _Evaluator(Protocol):
    """What runs a program."""

    def keys(self, keys: Sequence[SwitchingKey]) -> Any:
        """Evaluation keys in the order of `KeyPlan.levels`, as `evaluate` takes them."""

    def evaluate(self, keys: Any, query: Seeded) -> Residues:
        """A fresh query → (2, N) coefficients of the answer modulo the first prime."""


class PackedEngine:
    """What `Server` does with messages for this layout.

    threads: that share one query, for which they wait in turns without giving up the processor:
    one, unless given. backend: "residues", our own evaluator, compiled by numba and without SEAL;
    "seal", Microsoft SEAL through TenSEAL, which is the reference and several times slower; its
    digits are not centred, so that answers may lose some bits of the precision promised.
    """

    def __init__(
        self, program: Program, *, threads: int | None = None, backend: str = BACKENDS[0]
    ) -> None:
        """Raises `ServiceError` for a backend that is unknown or not installed."""
        self._program = program
        self._evaluator = _evaluator(program, threads or 1, backend)

    def keys(self, message: bytes) -> Any:
        """Evaluation keys, checked and prepared. Raises `MessageError`."""
        return self._evaluator.keys(wire.read_keys(self._program.signature, message))

    def key_id(self, query: bytes) -> bytes:
        """Of the keys that a sound query names. Raises `MessageError`."""
        return wire.read_query(self._program.signature, query).key_id

    def evaluate(self, query: bytes, keys: Callable[[bytes], Any]) -> bytes:
        """A query message → an answer message. Raises `MessageError`, or what `keys` raises."""
        parsed = wire.read_query(self._program.signature, query)
        found = keys(parsed.key_id)
        answers = tuple(self._evaluator.evaluate(found, c) for c in parsed.ciphertexts)
        return wire.write_answer(self._program.signature, wire.Answer(parsed.ticket, answers))


def _evaluator(program: Program, threads: int, backend: str) -> _Evaluator:
    if backend == "seal":
        from he_inference.backend.seal import Evaluator

        return Evaluator(program)
    if backend != "residues":
        raise ServiceError(f"backend {backend!r} is unknown: use one of {', '.join(BACKENDS)}")
    try:
        from he_inference.backend.residues.packed_evaluator import PackedEvaluator
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"evaluating needs {error.name}: pip install 'sottovoce[batch]', or choose "
            "backend='seal', which is several times slower"
        ) from None
    evaluator = PackedEvaluator(program, threads=threads)
    evaluator.prepare()
    return evaluator
