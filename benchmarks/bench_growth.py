"""How the cost of an encrypted query grows: with width, depth, classes and queries in a batch.

Networks of random weights: what a ciphertext costs does not depend on them. Client and server in
one process on one core, every size once a round, so that a slow moment slows all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits
from torch import nn

import he_inference
from benchmarks import measure
from benchmarks.bench_points import linear_head
from benchmarks.bench_query import OUR_NAME, PACKAGES
from benchmarks.fits import power_law
from benchmarks.measure import OURS, Row
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step
from he_inference.nn import Square

ROUNDS = 7
EXAMPLES = 64
STAGES = ("client", "server")


@dataclass(frozen=True)
class Axis:
    """One thing that grows while all else stays.

    Attributes:
        name: of what there is more.
        sizes: how much of it.
        network: the network of a size, and typical queries to it.
        options: of `he_inference.compile`.
        queries: in one message, of a size.
    """

    name: str
    sizes: Sequence[int]
    network: Callable[[int], tuple[he_inference.Network, npt.NDArray[Any]]]
    options: Mapping[str, Any]
    queries: Callable[[int], int] = lambda _: 1


def dense(widths: Sequence[int], inputs: int) -> tuple[he_inference.Network, npt.NDArray[Any]]:
    """A square after every hidden layer; weights that keep the size of values as it is."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(widths))
        for before, after in zip((inputs, *widths), widths, strict=False):
            layer = nn.Linear(before, after)
            nn.init.normal_(layer.weight, std=1.2 / before**0.5)
            layers += [layer, Square()]
    examples = np.random.default_rng(0).uniform(-1, 1, (EXAMPLES, inputs)).astype(np.float32)
    return he_inference.from_torch(nn.Sequential(*layers[:-1]).eval(), examples), examples


def _wide(width: int) -> tuple[he_inference.Network, npt.NDArray[Any]]:
    return dense((width, 10), 256)


def _deep(squares: int) -> tuple[he_inference.Network, npt.NDArray[Any]]:
    return dense((32,) * squares + (10,), 64)


def _classes(classes: int) -> tuple[he_inference.Network, npt.NDArray[Any]]:
    rows = np.random.default_rng(0).standard_normal((EXAMPLES, 1280))
    return linear_head(classes), rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _batch(_: int) -> tuple[he_inference.Network, npt.NDArray[Any]]:
    return dense((32, 10), 64)


PACKED = {"layout": "packed", "response": "plain"}
AXES = (
    Axis("hidden units, packed", (16, 32, 64, 128), _wide, PACKED),
    Axis("squares in depth, packed", (1, 2, 3, 4), _deep, PACKED),
    Axis("classes, coefficients", (10, 100, 1000), _classes, {"layout": "coefficients"}),
    Axis("queries in a message, batched", (1, 64, 1024, 4096), _batch,
         {"layout": "batched", "precision": 8.0}, lambda size: size),
)  # fmt: skip


def steps(asked: Asked) -> Iterable[Step]:
    """A step for every axis."""
    for axis in AXES:
        sizes = axis.sizes[:2] if asked.quick else axis.sizes
        yield Step(axis.name, partial(grow, axis, sizes, 2 if asked.quick else ROUNDS))


def grow(axis: Axis, sizes: Sequence[int], rounds: int, emit: Emit, progress: Progress) -> None:
    """One row: CPU milliseconds of client and server at every size, and the fitted exponents."""
    spans: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    bytes_up = []
    with threadpool_limits(1):
        asks = [_asked(axis, size) for size in sizes]
        for number in range(-1, rounds):  # the first round warms up
            progress(axis.name, max(number, 0), rounds)
            for size, (client, server, queries) in zip(sizes, asks, strict=True):
                sealing, request = measure.timed(partial(client.encrypt, queries))
                serving, answer = measure.timed(partial(server.evaluate, request))
                opening, _ = measure.timed(partial(client.decrypt, answer))
                if number < 0:
                    bytes_up.append(len(request) + len(answer))
                    continue
                spans[size].append({"client": (sealing + opening).cpu_ms, "server": serving.cpu_ms})
        for client, _, _ in asks:
            client.close()
    row: Row = {"kind": "power", "what": axis.name, "system": OUR_NAME, "source": OURS,
                "sizes": list(sizes), "bytes": bytes_up}  # fmt: skip
    for stage in STAGES:
        costs = [measure.Summary.of(s[stage] for s in spans[size]).median for size in sizes]
        law = power_law(sizes, costs)
        row |= {f"{stage}_ms": costs, f"{stage}_exponent": law.exponent,
                f"{stage}_explained": law.explained}  # fmt: skip
    emit(row | {"bytes_exponent": power_law(sizes, bytes_up).exponent})


def _asked(
    axis: Axis, size: int
) -> tuple[he_inference.Client, he_inference.Server, npt.NDArray[Any]]:
    """A client, a server that has its keys, and what is asked."""
    network, examples = axis.network(size)
    compiled = he_inference.compile(network, examples=examples, **axis.options)
    client = he_inference.Client(compiled.signature, **_one_process(axis))
    server = he_inference.Server(compiled.program)
    server.register(client.evaluation_keys())
    return client, server, np.resize(examples, (axis.queries(size), *examples.shape[1:]))


def _one_process(axis: Axis) -> dict[str, Any]:
    return {"processes": 0} if axis.options["layout"] == "batched" else {}


BENCHMARK = Benchmark(
    "growth",
    "How an encrypted query's cost grows with width, depth, classes and queries; exponents.",
    PACKAGES,
    steps,
)
