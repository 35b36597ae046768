"""The server of the batched layout: a batch of queries in, a batch of answers out, no secret.

SEAL is not loaded here: foreign bytes become checked arrays in `batch_wire`, and the residue engine
computes on those.
"""

from collections.abc import Iterator

from he_inference import batch_wire
from he_inference.backend.residues.evaluator import ResidueEvaluator
from he_inference.batch_wire import Batch, BatchFormat, Readable
from he_inference.layouts.batched import BatchedPlan


class BatchServer:
    """Holds a plan; never an input, and no keys of anyone, as nothing is relinearised or rotated.

    Guarantee and limits are those of `Server`: queries stay secret as long as nothing decrypted
    comes back to it. **The weights are not protected**: every component of an answer is a known
    polynomial of the weights at N points, which a client can solve for. Serve models that clients
    may know.
    """

    def __init__(self, form: BatchFormat, plan: BatchedPlan, *, threads: int | None = None) -> None:
        """threads: as many as this process may use processors, unless given."""
        self._form, self._threads = form, threads
        self._engine = ResidueEvaluator(plan, threads=threads)
        self._memory = batch_wire.query_memory(form)

    def evaluate(self, query: Readable) -> Iterator[bytes]:
        """One batch from a stream → the parts of the answer's message.

        The stream is read, and the answer computed, before the first part is given out; one batch
        at a time. Raises `MessageError` for anything but a batch for this program.
        """
        batch = batch_wire.read_query(self._form, query, into=self._memory, threads=self._threads)
        residues = self._engine.evaluate(batch.residues)
        answer = Batch(batch.ticket, batch.queries, residues)
        return batch_wire.write_answer(self._form, answer)
