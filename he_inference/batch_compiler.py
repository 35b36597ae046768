"""`compile(layout="batched")`: a network for thousands of encrypted queries at once."""

from dataclasses import dataclass
from math import ceil, floor, log2
from secrets import token_bytes
from typing import Any

import numpy.typing as npt

from he_inference.batch_program import BatchProgram, check
from he_inference.batch_signature import BatchSignature, Response
from he_inference.cost import SEED_BYTES, packed_bytes
from he_inference.flooding import response_bits, statistical_bits
from he_inference.layouts.batched import BatchedPlan
from he_inference.layouts.batched_search import RESPONSE_SHARE, batched_plan
from he_inference.network import Network, check_batch
from he_inference.nodes import Array
from he_inference.parameters import MAX_LOG_MODULUS, Parameters

_IDENTITY_BYTES = 16


@dataclass(frozen=True, eq=False)
class CompiledBatch:
    """A program, and what people want to know of it before any key is made."""

    network: Network
    program: BatchProgram

    @property
    def parameters(self) -> Parameters:
        return self.program.parameters

    @property
    def signature(self) -> BatchSignature:
        return self.program.signature

    def simulate(self, x: npt.ArrayLike, *, seed: int = 0) -> Array:
        """What encrypted queries would answer, noise included, without encrypting.

        x: (batch, *input_shape); returns (batch, outputs).
        """
        return self.program.plan.simulate(check_batch(x, self.network.input_shape), seed=seed)

    @property
    def upload_bytes(self) -> int:
        """Ciphertexts of a batch, however many queries are in it."""
        return self.signature.features * self._seeded

    @property
    def download_bytes(self) -> int:
        """Ciphertexts of the answers to a batch."""
        s, p = self.signature, self.parameters
        if s.response == "private":
            return s.outputs * sum(s.response_bits) * p.ring_degree // 8
        return s.outputs * s.components * packed_bytes(p.data_primes, p.ring_degree)

    @property
    def key_bytes(self) -> int:
        """What a client's keys take, once."""
        return self.signature.seeded_keys * self._seeded

    @property
    def _seeded(self) -> int:
        return SEED_BYTES + packed_bytes(self.parameters.data_primes, self.parameters.ring_degree)

    def facts(self) -> dict[str, Any]:
        """The summary's figures, for machines; bytes are those of a full batch."""
        return {
            "layout": "batched",
            "response": self.signature.response,
            "statistical_bits": self.signature.statistical_bits,
            "queries_a_batch": self.parameters.slots,
            "ring_degree": self.parameters.ring_degree,
            "modulus_bits": self.parameters.total_bits,
            "security_bits": self.signature.security_bits,
            "rotations": 0,
            "precision_bits": self.signature.precision_bits,
            "upload_bytes": self.upload_bytes,
            "download_bytes": self.download_bytes,
            "key_bytes": self.key_bytes,
        }

    def summary(self) -> str:
        """A few lines for people: ring, modulus, weights, keys, bytes, what answers show."""
        plan, p, most = self.program.plan, self.parameters, self.parameters.slots
        bits = " + ".join(str(prime.bit_length()) for prime in p.data_primes)
        low, high = self.signature.input_range
        lines = [
            f"ring          N = {p.ring_degree}, {most} queries a batch",
            f"modulus       log2 q = {p.total_bits} of {MAX_LOG_MODULUS[p.ring_degree]} bits "
            f"({bits} | {p.special_prime.bit_length()}), "
            f"{self.signature.security_bits}-bit security",
            f"weights       {', '.join(map(str, plan.weight_bits))} bits, no rescaling",
            f"keys          {self._keys()}",
            f"a full batch  {self.upload_bytes / 1e6:.1f} MB up, "
            f"{self.upload_bytes / most / 1e3:.1f} kB a query; "
            f"{self.download_bytes / 1e6:.2f} MB down",
            f"takes         {self.signature.input_shape}, values from {low:g} to {high:g}",
            f"precision     {plan.precision_bits:.1f} bits of the largest answer",
            f"answers       {self._answers()}",
        ]
        return "\n".join(lines)

    def _keys(self) -> str:
        if not self.signature.seeded_keys:
            return "none go to the server"
        return f"{self.key_bytes / 1e6:.2f} MB once, no rotations"

    def _answers(self) -> str:
        if self.signature.response == "plain":
            return "plain: a client that looks at them closely learns the weights"
        return (
            f"private: flooded with {self.program.plan.flooding_bits} bits, statistical distance "
            f"2^-{self.signature.statistical_bits:.0f} a message (at most 2^-40)"
        )


def compile_batch(
    network: Network,
    examples: Array,
    *,
    precision: float,
    response: Response,
    keep_labels: bool,
) -> CompiledBatch:
    """Choose integers, ring and primes. Raises `CompileError` as `batched_plan` does."""
    plan = batched_plan(
        network,
        examples,
        precision=precision,
        private=response == "private",
        keep_labels=keep_labels,
    )
    program = BatchProgram(_signature(plan, response, 2.0**-precision), plan)
    check(program)
    return CompiledBatch(network, program)


def _signature(plan: BatchedPlan, response: Response, wanted: float) -> BatchSignature:
    parameters, primes = plan.parameters, plan.parameters.data_primes
    scale, kept, hidden = plan.output_scale, (0, 0), 0.0
    if response == "private":
        for prime in primes[1:]:
            scale /= prime
        kept = response_bits(parameters, RESPONSE_SHARE * wanted * plan.largest_answer * scale)
        hidden = statistical_bits(parameters, plan.components, plan.outputs, plan.flooding_bits)
    error = plan.largest_answer * 2.0**-plan.precision_bits
    return BatchSignature(
        identity=token_bytes(_IDENTITY_BYTES),
        parameters=parameters,
        input_shape=plan.input_shape,
        input_range=plan.input_range,
        input_scale=plan.input_scale,
        outputs=plan.outputs,
        output_scale=scale,
        components=plan.components,
        response=response,
        response_bits=kept,
        statistical_bits=hidden,
        precision_bits=floor(10 * plan.precision_bits) / 10,
        resolution=2.0 ** ceil(log2(error)),
    )
