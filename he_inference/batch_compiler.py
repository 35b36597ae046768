"""`compile(layout="batched")`: a network for thousands of encrypted queries at once."""

from dataclasses import dataclass
from hashlib import sha256
from math import ceil, log2
from secrets import token_bytes

import numpy.typing as npt

from he_inference.batch_client import BatchClient, BatchTerms
from he_inference.batch_server import BatchServer
from he_inference.batch_wire import BatchFormat
from he_inference.layouts.batched import BatchedPlan
from he_inference.layouts.batched_search import batched_plan
from he_inference.network import Network, check_batch
from he_inference.nodes import Array
from he_inference.parameters import MAX_LOG_MODULUS, SECURITY_BITS


@dataclass(frozen=True, eq=False)
class CompiledBatch:
    """A plan for the server, terms for clients, and what people want to know beforehand.

    program: the plan, which holds the weights. signature: all that a client needs, public.
    """

    network: Network
    program: BatchedPlan
    signature: BatchTerms

    def server(self, *, threads: int | None = None) -> BatchServer:
        return BatchServer(self.signature.form, self.program, threads=threads)

    def client(self, *, processes: int | None = None) -> BatchClient:
        """A client with a new secret key."""
        return BatchClient(self.signature, processes=processes)

    def simulate(self, x: npt.ArrayLike, *, seed: int = 0) -> Array:
        """What encrypted queries would answer: (batch, *input_shape) → (batch, outputs)."""
        return self.program.simulate(check_batch(x, self.network.input_shape), seed=seed)

    def summary(self) -> str:
        """A few lines for people."""
        plan, form = self.program, self.signature.form
        p = plan.parameters
        bits = " + ".join(str(prime.bit_length()) for prime in p.data_primes)
        most = plan.queries
        lines = [
            f"ring          N = {p.ring_degree}, {most} queries a batch",
            f"modulus       log2 q = {p.total_bits} of {MAX_LOG_MODULUS[p.ring_degree]} bits "
            f"({bits} | {p.special_prime.bit_length()}), {SECURITY_BITS}-bit security",
            f"weights       {', '.join(map(str, plan.weight_bits))} bits, no rescaling",
            "keys          none go to the server",
            f"a full batch  {form.query_bytes / 1e6:.1f} MB up, "
            f"{form.query_bytes / most / 1e3:.1f} kB a query; "
            f"{form.answer_bytes / 1e6:.1f} MB down",
            f"precision     {plan.precision_bits:.1f} bits of the largest answer",
        ]
        return "\n".join(lines)


def compile_batch(
    network: Network, examples: npt.ArrayLike, *, precision: float = 10.0
) -> CompiledBatch:
    """Choose integers, ring and primes. Raises `CompileError` as `batched_plan` does.

    examples: typical queries (batch, *input_shape), by which magnitudes, precision and labels are
        judged.
    """
    plan = batched_plan(network, check_batch(examples, network.input_shape), precision=precision)
    digest = sha256(token_bytes(32) + plan.parameters.digest).digest()
    form = BatchFormat(digest, plan.parameters, plan.features, plan.outputs, plan.components)
    error = plan.largest_answer * 2.0**-plan.precision_bits
    terms = BatchTerms(
        form,
        network.input_shape,
        network.input_range,
        plan.input_scale,
        plan.output_scale,
        resolution=2.0 ** ceil(log2(error)),
    )
    return CompiledBatch(network, plan, terms)
