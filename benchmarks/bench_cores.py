"""One query on one core and on two, in turn: how much sooner a server answers, and at what cost.

Elapsed time is what is asked here, so the machine must be idle: a core that somebody else has
brings nothing. Nor does one whose cache is another: between the rounds `core_distance` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

import he_inference
from benchmarks import measure, tutorial
from benchmarks.bench_query import MNIST_NETWORK, OUR_NAME, PACKAGES
from benchmarks.core_distance import nanoseconds
from benchmarks.measure import OURS, Row, Span
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step
from he_inference.processors import processors
from workloads.datasets import mnist_sample

THREADS = (1, 2)


def steps(asked: Asked) -> Iterable[Step]:
    """Both networks of `bench_query`; a failure where there is one core only."""
    yield Step("cores", partial(measure_cores, 5 if asked.quick else 200))


def measure_cores(rounds: int, emit: Emit, progress: Progress) -> None:
    """A row for each network."""
    if processors() < max(THREADS):
        reason = f"expected {max(THREADS)} cores, found {processors()}"
        emit({"kind": "failure", "system": OUR_NAME, "source": OURS, "reason": reason})
        return
    for name, program in _programs():

        def shown(done: int, name: str = name) -> None:
            progress(f"one and two cores, {name}", done, rounds)

        emit(_row(name, program, rounds, shown))


def _programs() -> Iterator[tuple[str, he_inference.Program]]:
    images = mnist_sample().images
    example = images[:1].astype(np.float32)
    network = he_inference.from_torch(tutorial.module(tutorial.weights()), example)
    yield (
        "tutorial CNN",
        he_inference.compile(network, layout="packed", response="plain", examples=images).program,
    )
    shipped = he_inference.load_network(MNIST_NETWORK)
    yield (
        MNIST_NETWORK.name,
        he_inference.compile(shipped, layout="packed", response="plain", examples=images).program,
    )


def _row(
    name: str, program: he_inference.Program, rounds: int, progress: Callable[[int], None]
) -> Row:
    """Medians over rounds, in each of which a server of each kind answers once, bytes to bytes."""
    client = he_inference.Client(program.signature)
    servers = [he_inference.Server(program, threads=threads) for threads in THREADS]
    for server in servers:
        server.register(client.evaluation_keys())
    query = client.encrypt(np.zeros((1, *program.signature.input_shape)))
    spans: list[list[Span]] = [[] for _ in servers]
    distances: list[float] = []
    nanoseconds(1)  # compiles
    for number in range(-1, rounds):  # the first round warms up
        progress(max(number, 0))
        for server, found in zip(servers, spans, strict=True):
            span, _ = measure.timed(lambda server=server: server.evaluate(query))  # type: ignore[misc]
            found += [span] * (number >= 0)
        distances += [nanoseconds()] * (number >= 0)
    walls = [[span.wall_ms for span in found] for found in spans]
    row: Row = {"kind": "cores", "system": OUR_NAME, "source": OURS, "network": name}
    for threads, found, wall in zip(THREADS, spans, walls, strict=True):
        row |= measure.Summary.of(wall).as_row(f"wall_ms_{threads}")
        row[f"cpu_ms_{threads}"] = measure.Summary.of(span.cpu_ms for span in found).median
    # The lower quartile: threads that began on one processor take longer until they are moved.
    row["cache_line_ns"] = measure.Summary.of(distances).low
    return row | measure.ratio(*walls).as_row("speed_up")


BENCHMARK = Benchmark(
    "cores",
    "One encrypted query on one core and on two: elapsed time, for an idle machine.",
    PACKAGES,
    steps,
)
