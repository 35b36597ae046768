"""`compile(layout="packed")`: one query in the slots of one ciphertext.

The passes, in order:

1. merge     `affine`          everything between two activations becomes one matrix
2. pack      `layouts.packed`  matrices become rotations and products over slots
3. search    `search`          where to rescale, and the bits of every prime
4. schedule  `schedule`        instructions with exact levels and scales
5. check     `checker`         levels and scales once more, by independent code
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from he_inference.affine import AffineStage, affine_stages
from he_inference.backend import clear
from he_inference.checker import check
from he_inference.cost import DEFAULT_PRICES, Cost, Prices, cost
from he_inference.errors import CompileError
from he_inference.layouts.packed import pack
from he_inference.network import Network, check_batch
from he_inference.nodes import Array
from he_inference.parameters import MAX_LOG_MODULUS, Parameters
from he_inference.program import Program
from he_inference.search import Search
from he_inference.signature import Signature


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program, and what people want to know of it before any key is made."""

    network: Network
    program: Program
    cost: Cost

    @property
    def parameters(self) -> Parameters:
        return self.program.parameters

    @property
    def signature(self) -> Signature:
        return self.program.signature

    def simulate(self, x: npt.ArrayLike, *, seed: int = 0) -> Array:
        """What encrypted queries would answer, noise included, without encrypting.

        x: (batch, *input_shape); returns (batch, outputs). Thousands of queries a minute.
        """
        return clear.simulate(self.program, check_batch(x, self.network.input_shape), seed)

    def facts(self) -> dict[str, Any]:
        """The summary's figures, for machines."""
        return {
            "layout": "packed",
            "response": "plain",
            "ring_degree": self.parameters.ring_degree,
            "modulus_bits": self.parameters.total_bits,
            "security_bits": self.signature.security_bits,
            "rotations": self.program.count("rotate"),
            "precision_bits": self.signature.precision_bits,
            "upload_bytes": self.cost.upload_bytes,
            "download_bytes": self.cost.download_bytes,
            "key_bytes": self.cost.key_bytes,
            "client_ms": self.cost.client_ms,
            "server_ms": self.cost.server_ms,
        }

    def summary(self) -> str:
        """A few lines for people: ring, modulus, levels, rotations, bytes, precision, time."""
        p, c, program = self.parameters, self.cost, self.program
        bits = " + ".join(str(prime.bit_length()) for prime in p.data_primes)
        lines = [
            f"ring          N = {p.ring_degree}, {p.slots} slots",
            f"modulus       log2 q = {p.total_bits} of {MAX_LOG_MODULUS[p.ring_degree]} bits "
            f"({bits} | {p.special_prime.bit_length()}), "
            f"{self.signature.security_bits}-bit security",
            f"levels        {len(p.data_primes)} primes, {program.count('rescale')} rescalings",
            f"operations    {program.count('rotate')} rotations, "
            f"{program.count('multiply_plain')} products with weights, "
            f"{program.count('multiply')} products of ciphertexts",
            f"keys          {len(self.signature.keys.levels)} "
            f"({len(self.signature.keys.rotations)} rotation steps), "
            f"{c.key_bytes / 1e6:.2f} MB once",
            f"a query       {c.upload_bytes / 1e3:.1f} kB up, {c.download_bytes / 1e3:.1f} kB down",
            f"takes         {self.signature.input_shape}, values from "
            f"{self.signature.input_range[0]:g} to {self.signature.input_range[1]:g}",
            f"precision     {self.signature.precision_bits:.1f} bits of the largest answer",
            "answers       plain: a client that looks at them closely learns the weights",
            f"time          about {c.client_ms:.0f} ms client, {c.server_ms:.0f} ms server",
        ]
        return "\n".join(lines)


def compile_packed(
    network: Network, batch: Array, *, precision: float, prices: Prices = DEFAULT_PRICES
) -> Compiled:
    """The fastest program that holds the precision. Raises `CompileError` where there is none.

    batch: of examples, (batch, *input_shape). prices: of this machine.
    """
    magnitudes = [float(np.abs(value).max()) for value in network.trace(batch)]
    stages = affine_stages(network, magnitudes)
    for number, stage in enumerate(stages, 1):
        if not any(matrix.nnz for matrix in stage.terms.values()):
            raise CompileError(f"layer {number} does not depend on the query")
    values = _values(stages, batch)
    best: Compiled | None = None
    shortfalls: list[str] = []
    for degree in MAX_LOG_MODULUS:
        try:
            plan = pack(stages, degree // 2)
        except CompileError as error:
            shortfalls.append(f"N = {degree}: {error}")
            continue
        # A larger ring can be cheaper: twice the slots may halve the rotations of a wide layer.
        limit = inf if best is None else best.cost.server_ms
        found = Search(network, plan, degree, values, batch, precision, prices).run(limit)
        if isinstance(found, Program):
            best = Compiled(network, found, cost(found, prices))
        elif best is not None:
            break
        else:
            shortfalls.append(f"N = {degree}: {found}")
    if best is None:
        listing = "\n".join(f"  {line}" for line in shortfalls)
        raise CompileError(f"the network does not fit at {precision:g} bits:\n{listing}")
    check(best.program)
    return best


def _values(stages: Sequence[AffineStage], batch: Array) -> list[Array]:
    """Stage values (batch, size) on the examples; entry 0 is the query itself."""
    values = [batch.reshape(len(batch), -1)]
    for stage in stages:
        total = np.zeros((len(batch), stage.size)) + stage.offset
        for (source, power), matrix in stage.terms.items():
            total += (matrix @ (values[source] ** power).T).T
        values.append(total)
    return values
