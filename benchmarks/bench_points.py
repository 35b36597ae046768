"""What one answer costs, point by point: time, bytes, keys, accuracy, with weights hidden or not.

Trained networks and linear heads of random weights, each with the layouts and kinds of answer that
it is served with. The systems of one task take turns, a query each in a round, every one in a
process of its own on one core. Accuracy is the exact network's, in the clear, on all test images.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import he_inference
from benchmarks import measure, tutorial
from benchmarks.bench_query import (
    CLAIM,
    OUR_NAME,
    PACKAGES,
    Array,
    Measured,
    agreement,
    costs,
    evaluate,
    failure,
    one_round,
    our_process,
    server_memory,
)
from benchmarks.measure import OURS, Row
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step
from benchmarks.system_process import AnswerError
from workloads.datasets import Dataset, mnist, mnist_sample
from workloads.models import MNIST_CNN, MNIST_QUADRATIC, MNIST_QUADRATIC_WIDE

FEATURES = 1280
"""Of a linear head: what MobileNetV2 and EfficientNet-B0 give."""
EXAMPLES = 300
PROTECTS: Mapping[str, str] = {"plain": "client data", "private": "data and weights"}
"""What each kind of answer hides from the other side."""


@dataclass(frozen=True)
class Service:
    """How a network is served: arguments of `he_inference.compile`."""

    layout: str
    response: str
    optimise: str = "latency"

    @property
    def name(self) -> str:
        return f"{self.layout}, {self.response}, {self.optimise}"


PACKED = Service("packed", "plain")
FAST = Service("coefficients", "plain"), Service("coefficients", "private")
SMALL = tuple(replace(service, optimise="bytes") for service in FAST)


@dataclass(frozen=True, eq=False)
class Questions:
    """What a network is asked.

    Attributes:
        queries: float64 (count, *input_shape).
        examples: typical queries, other than those, by which magnitudes are judged.
        labels: int64 (count,); None where there is no right answer.
    """

    queries: Array
    examples: Array
    labels: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Task:
    """A network, how to get it and what it is asked, and the ways to serve it."""

    name: str
    network: Callable[[], he_inference.Network]
    questions: Callable[[bool], Questions]
    services: tuple[Service, ...]


def images(whole: bool) -> Questions:
    """MNIST's test images, or the sample in the project."""
    data: Dataset = mnist().test if whole else mnist_sample()
    examples = mnist_sample().images.astype(np.float64)
    return Questions(data.images.astype(np.float64), examples, data.labels)


def unit_features(whole: bool) -> Questions:
    """Features in random directions, of unit norm, as they are before a head is trained."""
    count = EXAMPLES + (1000 if whole else EXAMPLES)
    features = np.random.default_rng(0).standard_normal((count, FEATURES))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Questions(features[EXAMPLES:], features[:EXAMPLES], None)


def linear_head(classes: int) -> he_inference.Network:
    """A dense layer of random weights for features of unit norm; answers are of standard normal
    size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        layer = nn.Linear(FEATURES, classes)
        nn.init.normal_(layer.weight)
    return he_inference.from_torch(layer, np.zeros((1, FEATURES)), input_range=(-1.0, 1.0))


def _stored(model: Path) -> Callable[[], he_inference.Network]:
    return partial(he_inference.load_network, model)


TASKS: tuple[Task, ...] = (
    Task("MNIST, one square", _stored(MNIST_QUADRATIC), images, (*FAST, *SMALL)),
    Task("MNIST, one wide square", _stored(MNIST_QUADRATIC_WIDE), images, FAST),
    Task("MNIST, two squares", _stored(MNIST_CNN), images, (PACKED,)),
    Task("linear head, 1280 to 10", partial(linear_head, 10), unit_features, FAST),
    Task("linear head, 1280 to 1000", partial(linear_head, 1000), unit_features, FAST),
)


def steps(asked: Asked) -> Iterable[Step]:
    """A step for every task; a service that fails gives a row that says why."""
    queries = asked.queries or (10 if asked.quick else 1000)
    memory_queries = 2 if asked.quick else 10
    for task in TASKS:
        yield Step(task.name, partial(_measure, task, queries, memory_queries, not asked.quick))


def _measure(
    task: Task, queries: int, memory_queries: int, whole: bool, emit: Emit, progress: Progress
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for row in _Points(task, queries, memory_queries, whole, Path(folder)).rows(progress):
            emit(row)


class _Points:
    """One task under measurement."""

    def __init__(
        self, task: Task, queries: int, memory_queries: int, whole: bool, folder: Path
    ) -> None:
        self.task, self.folder = task, folder
        self.network = task.network()
        self.questions = task.questions(whole)
        self.clear = evaluate(self.network, self.questions.queries)
        self.count = min(queries, len(self.clear))
        self.memory_queries = memory_queries
        self.asked = folder / "queries.npz"
        tutorial.write_task(self.asked, {}, self.questions.queries[: self.count])

    def rows(self, progress: Progress) -> Iterator[Row]:
        failures: list[Row] = []
        systems: dict[str, Measured] = {}
        compiled: dict[str, Row] = {}
        with contextlib.ExitStack() as stack:
            for number, service in enumerate(self.task.services):
                name = f"{self.task.name}, {service.name}"
                progress(f"preparing {name}", number, len(self.task.services))
                try:
                    compiled[name] = self._compile(service)
                    process = stack.enter_context(our_process(self._program(service)))
                    systems[name] = Measured(process, OURS, process.prepare(self.asked), [])
                except (he_inference.HEError, AnswerError) as error:
                    failures.append(failure(name, OURS, str(error)))
            for index in range(self.count):
                progress(self.task.name, index, self.count)
                one_round(systems, index, failures.append)
            progress(self.task.name, self.count, self.count)
        for service in self.task.services:
            name = f"{self.task.name}, {service.name}"
            if name in systems:
                yield self._row(service, compiled[name], systems[name])
        yield from failures

    def _program(self, service: Service) -> Path:
        return self.folder / f"{service.name}.program"

    def _compile(self, service: Service) -> Row:
        span, compiled = measure.timed(
            lambda: he_inference.compile(
                self.network,
                layout=service.layout,
                response=service.response,
                optimise=service.optimise,
                examples=self.questions.examples,
            )
        )
        compiled.program.save(self._program(service))
        facts = compiled.facts()
        return {
            "compile_cpu_ms": span.cpu_ms,
            "estimated_cpu_ms": facts["client_ms"] + facts["server_ms"],
            **{name: facts[name] for name in ("ring_degree", "modulus_bits", "precision_bits")},
            "prime_bits": [prime.bit_length() for prime in compiled.parameters.primes],
        }

    def _row(self, service: Service, compiled: Row, measured: Measured) -> Row:
        logits = np.array([answer["logits"] for answer in measured.answers])
        memory = server_memory(
            self._program(service), self.questions.queries[: self.memory_queries], self.folder
        )
        return {
            "kind": "point",
            "system": OUR_NAME,
            "source": OURS,
            "network": self.task.name,
            "layout": service.layout,
            "response": service.response,
            "optimise": service.optimise,
            **CLAIM,
            "protects": PROTECTS[service.response],
            **compiled,
            **measured.prepared,
            **self._accuracy(),
            **costs(measured.answers),
            **agreement(logits, self.clear[: self.count]),
            **memory,
        }

    def _accuracy(self) -> Row:
        """Of the exact network in the clear, on every question; nothing where none is right."""
        labels = self.questions.labels
        if labels is None:
            return {}
        right = float(np.mean(self.clear.argmax(axis=1) == labels))
        return {"accuracy_percent": 100 * right, "accuracy_images": len(labels)}


BENCHMARK = Benchmark(
    "points",
    "One encrypted query, point by point: time against bytes, keys and accuracy; linear heads.",
    PACKAGES,
    steps,
)
