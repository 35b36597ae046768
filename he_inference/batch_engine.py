"""The server's half of the batched layout: foreign bytes become checked arrays, SEAL sees none."""

import io
from collections.abc import Callable
from typing import Protocol

from he_inference import batch_wire
from he_inference.backend.residues.evaluator import ResidueEvaluator
from he_inference.backend.residues.sanitiser import Sanitiser
from he_inference.batch_format import BatchFormat
from he_inference.batch_program import BatchProgram
from he_inference.batch_wire import Batch
from he_inference.errors import ServiceError
from he_inference.layouts.batched import BatchedPlan
from he_inference.processors import CPU
from he_inference.wire import Residues


class _Evaluator(Protocol):
    """The layers of a network, on residues."""

    def evaluate(self, queries: Residues) -> Residues:
        """uint64 (features, 2, primes, N) → uint64 (outputs, components, primes, N)."""


class BatchEngine:
    """What `Server` does with messages for this layout.

    threads: as many as this process may use processors, unless given. device: "cpu", or one of
    torch's, on which layers are evaluated instead ("cuda"). The memory of one batch is
    kept from query to query: for the system to provide it takes as long as expanding all seeds.
    """

    def __init__(
        self, program: BatchProgram, *, threads: int | None = None, device: str = CPU
    ) -> None:
        plan = program.plan
        self._form, self._threads = BatchFormat.of(program.signature), threads
        self._evaluator = _evaluator(plan, threads, device)
        self._sanitiser = None
        if self._form.private:
            self._sanitiser = Sanitiser(
                plan.parameters, plan.components, plan.flooding_bits, threads=threads
            )
            self._sanitiser.prepare()
        self._memory = batch_wire.query_memory(self._form)

    def keys(self, message: bytes) -> Residues:
        """Evaluation keys as arrays, checked. Raises `MessageError`."""
        return batch_wire.read_keys(self._form, message)

    def key_id(self, query: bytes) -> bytes:
        """Of the keys that a sound query names. Raises `MessageError`."""
        return self._read(query).key_id

    def _read(self, query: bytes) -> Batch:
        stream = io.BytesIO(query)
        return batch_wire.read_query(self._form, stream, into=self._memory, threads=self._threads)

    def evaluate(self, query: bytes, keys: Callable[[bytes], Residues]) -> bytes:
        """A query message → an answer message. Raises `MessageError`, or what `keys` raises."""
        batch = self._read(query)
        found = keys(batch.key_id) if self._sanitiser else None
        residues = self._evaluator.evaluate(batch.residues)
        if self._sanitiser is not None and found is not None:
            residues = self._sanitiser.sanitise(residues, found)
        answer = Batch(batch.ticket, batch.queries, residues)
        return b"".join(batch_wire.write_answer(self._form, answer))


def _evaluator(plan: BatchedPlan, threads: int | None, device: str) -> _Evaluator:
    """Raises `ServiceError` for a device that is not there."""
    if device == CPU:
        evaluator = ResidueEvaluator(plan, threads=threads)
        evaluator.prepare()
        return evaluator
    try:
        from he_inference.backend.residues.torch_evaluator import TorchResidueEvaluator
    except ModuleNotFoundError:
        raise ServiceError(f"device {device!r} needs torch: pip install 'sottovoce[all]'") from None
    return TorchResidueEvaluator(plan, device)
