"""Network + wishes → program, parameters, signature: which layout, and of its programs which.

Each layout has a compiler of its own: `packed_compiler`, `coefficient_compiler`, `batch_compiler`.
"""

from collections.abc import Sequence
from typing import Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from he_inference.affine import affine_stages
from he_inference.batch_compiler import CompiledBatch, compile_batch
from he_inference.batch_signature import Response
from he_inference.coefficient_compiler import CompiledCoefficients, compile_coefficients
from he_inference.errors import CompileError, ModelError, ServiceError
from he_inference.network import Network, check_batch
from he_inference.nodes import Array
from he_inference.packed_compiler import Compiled, compile_packed
from he_inference.planning import OBJECTIVES, Objective, Plan, planned
from he_inference.prices import MachinePrices
from he_inference.search import EXAMPLES

LAYOUTS = ("auto", "coefficients", "packed", "batched")
EXTREMES = 8
"""Rows of the first layer for which the largest possible query is among synthetic examples."""


AnyCompiled = Compiled | CompiledBatch | CompiledCoefficients


@overload
def compile(
    network: Network,
    *,
    layout: Literal["packed"],
    precision: float = 10.0,
    examples: npt.ArrayLike | None = None,
    response: Literal["plain"],
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
        them (see `flooding`), "plain" does not. Private where nothing is said. The packed layout
        has plain answers only, and is compiled where "plain" is said.
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
        if response != "plain":
            raise CompileError(_NOT_PRIVATE)
        return compile_packed(network, batch, precision=precision)
    if layout == "coefficients":
        points = compile_coefficients(
            network, batch, precision=precision, response=wanted, prices=_prices().coefficients
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
                    network,
                    batch,
                    precision=precision,
                    response=response,
                    prices=prices.coefficients,
                )
            )
        except CompileError as error:
            refusals["coefficients"] = str(error)
    try:
        if "plain" not in responses:
            raise CompileError(_NOT_PRIVATE)
        points.append(compile_packed(network, batch, precision=precision, prices=prices.packed))
    except CompileError as error:
        refusals["packed"] = str(error)
    return planned(points, refusals)


def _prices() -> MachinePrices:
    """This machine's. They are measured with a client and a server, which compiling needs not."""
    try:
        from he_inference.calibration import calibrated

        return calibrated()
    except (ModuleNotFoundError, ServiceError):  # no numba here to measure with
        return MachinePrices()


def _check_choice(name: str, found: str | None, known: Sequence[str | None]) -> None:
    if found not in known:
        *others, last = filter(None, known)
        raise CompileError(f"{name} {found!r} is unknown: use {', '.join(others)} or {last}")


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
