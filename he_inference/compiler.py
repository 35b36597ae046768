"""Network + wishes → program, parameters, signature.

The passes of the packed layout, in order (the batched one is in `batch_compiler`):

1. merge     `affine`          everything between two activations becomes one matrix
2. pack      `layouts.packed`  matrices become rotations and products over slots
3. search    `search`          where to rescale, and the bits of every prime
4. schedule  `schedule`        instructions with exact levels and scales
5. check     `checker`         levels and scales once more, by independent code
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from he_inference.affine import AffineStage, affine_stages
from he_inference.backend import clear
from he_inference.batch_compiler import CompiledBatch, compile_batch
from he_inference.batch_signature import Response
from he_inference.checker import check
from he_inference.coefficient_compiler import CompiledCoefficients, compile_coefficients
from he_inference.cost import Cost, cost
from he_inference.errors import CompileError, ModelError
from he_inference.layouts.packed import pack
from he_inference.network import Network, check_batch
from he_inference.nodes import Array
from he_inference.parameters import MAX_LOG_MODULUS, Parameters
from he_inference.planning import OBJECTIVES, Objective, Plan, planned
from he_inference.prices import CoefficientPrices
from he_inference.program import Program
from he_inference.search import EXAMPLES, Search
from he_inference.signature import Signature

LAYOUTS = ("auto", "coefficients", "packed", "batched")
EXTREMES = 8
"""Rows of the first layer for which the largest possible query is among synthetic examples."""


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


AnyCompiled = Compiled | CompiledBatch | CompiledCoefficients


@overload
def compile(
    network: Network,
    *,
    layout: Literal["packed"],
    precision: float = 10.0,
    examples: npt.ArrayLike | None = None,
    response: Literal["plain"] | None = None,
    optimise: Objective = "balanced",
) -> Compiled: ...


@overload
def compile(
    network: Network,
    *,
    layout: Literal["coefficients"],
    precision: float = 10.0,
    examples: npt.ArrayLike | None = None,
    response: Response | None = None,
    optimise: Objective = "balanced",
) -> CompiledCoefficients: ...


@overload
def compile(
    network: Network,
    *,
    layout: Literal["batched"],
    precision: float = 10.0,
    examples: npt.ArrayLike | None = None,
    response: Response | None = None,
    optimise: Objective = "balanced",
) -> CompiledBatch: ...


@overload
def compile(
    network: Network,
    *,
    layout: str = "auto",
    precision: float = 10.0,
    examples: npt.ArrayLike | None = None,
    response: str | None = None,
    optimise: str = "balanced",
) -> AnyCompiled: ...


def compile(
    network: Network,
    *,
    layout: str = "auto",
    precision: float = 10.0,
    examples: npt.ArrayLike | None = None,
    response: str | None = None,
    optimise: str = "balanced",
) -> AnyCompiled:
    """Choose ring, primes, scales, levels and rotations for a network, at 128-bit security.

    layout: "coefficients", a few ciphertexts for one query and nothing but sums at the server, for
        networks with one layer of products at most; "packed", one query in the slots of one
        ciphertext, for deeper ones; "auto", whichever of these `optimise` prefers; "batched", as
        many queries in as many slots, for thousands of them at once.
    precision: bits; the root mean square error of answers is expected to be at most 2^-precision
        times the largest answer on the examples, as an average over queries and keys.
    examples: typical queries (batch, *input_shape), by which magnitudes are judged. Answers up to
        2^3 times larger than theirs fit; larger ones are wrong, and where all slots of an answer
        are alike (a network with one output) nobody notices. Without them synthetic queries in the
        network's input range are used, extremes among them. They are not kept.
    response: "private" hides the weights in answers as far as the answers themselves do not show
        them (see `flooding`), "plain" does not. Private where nothing is said, but for the packed
        layout, which has plain answers only: "auto" takes it where "plain" is said, and no sooner.
    optimise: what single queries should have little of: "latency", CPU time of client and server;
        "bytes", up and down; "keys", bytes of evaluation keys; "balanced", the time until an answer
        arrives over a link of 100 Mbit/s. See `planning`; `plan` returns all there is to choose
        from.

    Raises `CompileError` where it does not fit, naming the smallest change that would.
    """
    _check_choice("layout", layout, LAYOUTS)
    _check_choice("response", response, (None, "private", "plain"))
    _check_choice("optimise", optimise, OBJECTIVES)
    batch = _examples(network, examples, precision)
    wanted: Response = "plain" if response == "plain" else "private"
    if layout == "batched":
        return compile_batch(
            network,
            batch,
            precision=precision,
            response=wanted,
            keep_labels=examples is not None,
        )
    if layout == "packed":
        if response == "private":
            raise CompileError(_NOT_PRIVATE)
        return _compile_packed(network, batch, precision)
    if layout == "coefficients":
        points = compile_coefficients(
            network, batch, precision=precision, response=wanted, prices=_prices()
        )
        return planned(list(points), {}).chosen(optimise)
    return _planned(network, batch, precision, (wanted,)).chosen(optimise)


def plan(
    network: Network,
    *,
    precision: float = 10.0,
    examples: npt.ArrayLike | None = None,
    response: str | None = None,
) -> Plan[Compiled | CompiledCoefficients]:
    """Every program for single queries that is worth considering, with what it costs.

    As `compile` with "auto"; response: of these answers only, of both kinds unless given.
    """
    _check_choice("response", response, (None, "private", "plain"))
    batch = _examples(network, examples, precision)
    kinds: tuple[Response, ...] = get_args(Response)
    wanted = tuple(kind for kind in kinds if response in (None, kind))
    return _planned(network, batch, precision, wanted)


_NOT_PRIVATE = (
    "the packed layout has no private answers: use layout='batched', or choose "
    "response='plain' where clients may know the weights"
)


def _planned(
    network: Network, batch: Array, precision: float, responses: Sequence[Response]
) -> Plan[Compiled | CompiledCoefficients]:
    """Programs of both layouts for single queries, and why one has none."""
    points: list[Compiled | CompiledCoefficients] = []
    refusals: dict[str, str] = {}
    prices = _prices()
    for response in responses:
        try:
            points.extend(
                compile_coefficients(
                    network, batch, precision=precision, response=response, prices=prices
                )
            )
        except CompileError as error:
            refusals["coefficients"] = str(error)
    try:
        if "plain" not in responses:
            raise CompileError(_NOT_PRIVATE)
        points.append(_compile_packed(network, batch, precision))
    except CompileError as error:
        refusals["packed"] = str(error)
    return planned(points, refusals)


def _prices() -> CoefficientPrices:
    """This machine's. They are measured with a client and a server, which compiling needs not."""
    from he_inference.calibration import calibrated

    return calibrated()


def _check_choice(name: str, found: str | None, known: Sequence[str | None]) -> None:
    if found not in known:
        *others, last = filter(None, known)
        raise CompileError(f"{name} {found!r} is unknown: use {', '.join(others)} or {last}")


def _compile_packed(network: Network, batch: Array, precision: float) -> Compiled:
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
        found = Search(network, plan, degree, values, batch, precision).run(limit)
        if isinstance(found, Program):
            best = Compiled(network, found, cost(found))
        elif best is not None:
            break
        else:
            shortfalls.append(f"N = {degree}: {found}")
    if best is None:
        listing = "\n".join(f"  {line}" for line in shortfalls)
        raise CompileError(f"the network does not fit at {precision:g} bits:\n{listing}")
    check(best.program)
    return best


def _examples(network: Network, examples: npt.ArrayLike | None, precision: float) -> Array:
    """A few queries to judge magnitudes by: the caller's, or noise of three kinds.

    Raises `ModelError` for what is no network, `CompileError` for a precision out of range.

    Without the caller's, the extremes are among them: for the first layer's heaviest rows, the
    query in the input range that makes each as large as it can be.
    """
    if not isinstance(network, Network):
        raise ModelError(
            f"expected a Network, found {type(network).__name__}: call from_torch(module, example)"
        )
    if not 1 <= precision <= 40:
        raise CompileError(f"precision {precision} bits: expected 1 to 40")
    if examples is not None:
        batch = check_batch(examples, network.input_shape)
        low, high = network.input_range
        if batch.min() < low or batch.max() > high:
            raise CompileError(
                f"the examples hold values from {batch.min():.6g} to {batch.max():.6g}, and the "
                f"network takes {low:g} to {high:g}: give from_torch a larger example, or "
                "input_range=(lowest, highest)"
            )
        return batch[: 32 * EXAMPLES]
    low, high = network.input_range
    rng = np.random.default_rng(0)
    dense = rng.uniform(low, high, (EXAMPLES, *network.input_shape))
    sparse = np.where(rng.random(dense.shape) < 0.2, dense, np.clip(0.0, low, high))
    edges = np.where(rng.random(dense.shape) < 0.5, low, high)
    extremes = _extremes(network)
    return np.concatenate([extremes, dense, sparse, edges])


def _extremes(network: Network) -> Array:
    """Queries aligned with rows of the first stage, both ways."""
    low, high = network.input_range
    first = affine_stages(network, [1.0] * len(network.nodes))[0].terms.get((0, 1))
    if first is None or not first.nnz:
        return np.zeros((0, *network.input_shape))
    weights = np.asarray(abs(first).sum(axis=1)).ravel()
    signs = np.sign(first[np.argsort(-weights)[:EXTREMES]].toarray())
    queries = [np.where(sign * signs > 0, high, low) for sign in (1, -1)]
    return np.concatenate(queries).reshape(-1, *network.input_shape).astype(np.float64)


def _values(stages: Sequence[AffineStage], batch: Array) -> list[Array]:
    """Stage values (batch, size) on the examples; entry 0 is the query itself."""
    values = [batch.reshape(len(batch), -1)]
    for stage in stages:
        total = np.zeros((len(batch), stage.size)) + stage.offset
        for (source, power), matrix in stage.terms.items():
            total += (matrix @ (values[source] ** power).T).T
        values.append(total)
    return values
