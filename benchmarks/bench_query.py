"""One encrypted query: what it costs, beside peers on the same network and machine, and how exact.

Two networks. The tutorial CNN is what every peer runs too, in turn, one query each a round, on one
core. The shipped MNIST network is ours alone: accuracy in the clear on the whole test set, labels
under encryption held against labels in the clear, and the memory of a server that stands alone.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import he_inference
from benchmarks import measure, tutorial
from benchmarks.measure import OURS, PEER, Row, Summary
from benchmarks.peer_environment import InstallError, peer_python
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step
from benchmarks.system_process import PROJECT, AnswerError, SystemProcess
from workloads.datasets import mnist, mnist_sample

Array = npt.NDArray[np.float64]

OUR_NAME = "Sottovoce"
BY_SEAL = "Sottovoce, SEAL evaluating"
"""The same program on a server that uses SEAL: what our own evaluator brings."""
PEERS: Mapping[str, str] = {
    "tenseal_vector": "TenSEAL",
    "orion_v2": "Orion 2",
    "helayers_seal": "HElayers",
}
"""The peers by script, in `peers/`, and the name that a table gives them."""

MNIST_NETWORK = PROJECT / "workloads" / "models" / "mnist_cnn.safetensors"
PACKAGES = ("sottovoce", "tenseal", "numpy", "numba", "torch")
STAGES = ("encrypt", "server", "decrypt")
CLAIM = {
    "protects": "client data",
    "adversary": "semi-honest server",
    "rounds": 1,
    "cores": 1,
}
"""Whom each measured system protects against whom, and how often the parties speak."""


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: timed rounds on the tutorial network, in each of which every system answers once.
        queries: encrypted queries to the shipped network.
        memory_queries: queries to the server whose memory is weighed.
        peers: scripts in `peers/` to run beside ours.
        full_test_set: accuracy on all 10,000 test images, not on the sample in the project.
    """

    rounds: int = 20
    queries: int = 1000
    memory_queries: int = 10
    peers: tuple[str, ...] = ()
    full_test_set: bool = True

    @classmethod
    def quick(cls, peers: tuple[str, ...] = ()) -> Plan:
        """Enough to see that everything runs; too little to quote."""
        return cls(rounds=3, queries=20, memory_queries=2, peers=peers, full_test_set=False)


def steps(asked: Asked) -> Iterable[Step]:
    """The tutorial network beside peers, and the shipped one.

    A peer that does not install or fails becomes a row that says so.
    """
    beside = tuple(PEERS) if asked.peers else ()
    plan = Plan.quick(beside) if asked.quick else Plan(peers=beside)
    if asked.queries is not None:
        plan = replace(plan, queries=asked.queries)
    yield Step("tutorial", partial(measure_tutorial, plan))
    yield Step("shipped", partial(measure_mnist, plan, MNIST_NETWORK))


# The tutorial network, ours beside the peers.


def measure_tutorial(plan: Plan, emit: Emit, progress: Progress) -> None:
    """One row for each system that runs, one failure for each that does not."""
    with tempfile.TemporaryDirectory() as folder:
        _measure_tutorial(plan, Path(folder), emit, progress)


def _measure_tutorial(plan: Plan, folder: Path, emit: Emit, progress: Progress) -> None:
    weights = tutorial.weights()
    images = np.asarray(mnist_sample().images[: plan.rounds + 1, 0], dtype=np.float64)
    rounds = len(images) - 1
    task, program = folder / "tutorial.npz", folder / "tutorial.program"
    tutorial.write_task(task, weights, images)
    example = images[:1, None].astype(np.float32)
    network = he_inference.from_torch(tutorial.module(weights), example)
    typical = mnist_sample().images
    he_inference.compile(network, layout="packed", response="plain", examples=typical).program.save(
        program
    )
    clear = tutorial.clear_logits(weights, images)
    with contextlib.ExitStack() as stack:
        systems: dict[str, Measured] = {}
        for position, (name, source, start) in enumerate(_starts(plan, program)):
            progress(f"preparing {name}", position, 2 + len(plan.peers))
            try:
                process = stack.enter_context(start())
                systems[name] = Measured(process, source, process.prepare(task), [])
                process.query(0)
            except (InstallError, AnswerError) as error:
                systems.pop(name, None)
                emit(failure(name, source, str(error)))
        for index in range(1, rounds + 1):
            progress("one query each", index - 1, rounds)
            one_round(systems, index, emit)
        progress("one query each", rounds, rounds)
    for name, measured in systems.items():
        emit(_tutorial_row(name, measured, systems.get(OUR_NAME), clear[1:]))


@dataclass(frozen=True)
class Measured:
    """A system that runs: what it said when it was prepared, and its answers so far."""

    process: SystemProcess
    source: str
    prepared: Row
    answers: list[Row]

    def column(self, name: str) -> list[float]:
        """One figure of every answer, in their order."""
        return [float(answer[name]) for answer in self.answers]


def _starts(plan: Plan, program: Path) -> Iterator[tuple[str, str, Callable[[], SystemProcess]]]:
    """Name, source and how to start each system; a peer is installed when it is started."""
    yield OUR_NAME, OURS, lambda: our_process(program)
    yield BY_SEAL, OURS, lambda: our_process(program, "seal")
    for peer in plan.peers:

        def start(peer: str = peer) -> SystemProcess:
            return SystemProcess(peer_python(peer), f"benchmarks.peers.{peer}")

        yield PEERS[peer], PEER, start


def our_process(program: Path, backend: str = "residues") -> SystemProcess:
    """Our client and server in a process of their own."""
    return SystemProcess(sys.executable, "benchmarks.our_system", [str(program), backend])


def one_round(systems: dict[str, Measured], index: int, emit: Emit) -> None:
    """Each system answers once; who goes first changes from round to round."""
    names = list(systems)
    turn = index % len(names) if names else 0
    for name in names[turn:] + names[:turn]:
        measured = systems[name]
        try:
            measured.answers.append(measured.process.query(index))
        except AnswerError as error:
            del systems[name]
            emit(failure(name, measured.source, str(error)))


def _tutorial_row(name: str, measured: Measured, ours: Measured | None, clear: Array) -> Row:
    logits = np.array([answer["logits"] for answer in measured.answers])
    row: Row = {
        "kind": "tutorial",
        "system": name,
        "source": measured.source,
        "network": "tutorial CNN",
        **CLAIM,
        **measured.prepared,
        **costs(measured.answers),
        **agreement(logits, clear),
    }
    if ours is not None:
        times = measure.ratio(measured.column("cpu_ms"), ours.column("cpu_ms"))
        row |= times.as_row("cpu_ratio_to_ours")
    return row


def costs(answers: Sequence[Row]) -> Row:
    """Medians in milliseconds with their quartiles, the bytes of a query, and the sample."""
    row: Row = {"queries": len(answers)}
    for name in (
        *(f"{stage}_cpu_ms" for stage in STAGES),
        "cpu_ms",
        "server_wall_ms",
        "wall_ms",
    ):
        row |= Summary.of(float(answer[name]) for answer in answers).as_row(name)
    row["cpu_spread"] = Summary.of(float(answer["cpu_ms"]) for answer in answers).spread
    for name in ("request_bytes", "response_bytes"):
        row[name] = int(Summary.of(float(answer[name]) for answer in answers).median)
    row["cpu_ms_sample"] = [round(float(answer["cpu_ms"]), 3) for answer in answers]
    return row


def agreement(logits: Array, clear: Array) -> Row:
    """Encrypted logits held against those in the clear, both of shape (queries, outputs)."""
    return {
        "labels_equal": int(np.sum(logits.argmax(axis=1) == clear.argmax(axis=1))),
        "largest_logit_error": float(np.abs(logits - clear).max()),
        "largest_clear_logit": float(np.abs(clear).max()),
    }


def failure(system: str, source: str, reason: str) -> Row:
    """The row of a system that could not be measured."""
    return {"kind": "failure", "system": system, "source": source, "reason": reason}


# The shipped network, ours alone.


def measure_mnist(plan: Plan, network_path: Path, emit: Emit, progress: Progress) -> None:
    """One row: accuracy in the clear, agreement and costs under encryption, memory."""
    with tempfile.TemporaryDirectory() as folder:
        if network_path.is_file():
            _measure_mnist(plan, network_path, Path(folder), emit, progress)
        else:
            emit(failure(OUR_NAME, OURS, f"{network_path.name} is not in workloads/models"))


def _measure_mnist(
    plan: Plan, network_path: Path, folder: Path, emit: Emit, progress: Progress
) -> None:
    network = he_inference.load_network(network_path)
    test = mnist().test if plan.full_test_set else mnist_sample()
    progress("accuracy in the clear", 0, 1)
    clear = evaluate(network, test.images)
    accuracy = float(np.mean(clear.argmax(axis=1) == test.labels))
    queries = min(plan.queries, len(test))
    task, program = folder / "mnist.npz", folder / "mnist.program"
    compiling, compiled = measure.timed(lambda: _compiled(network))
    compiled.program.save(program)
    tutorial.write_task(task, {}, np.asarray(test.images[:queries, 0], dtype=np.float64))
    try:
        with our_process(program) as process:
            prepared = process.prepare(task)
            answers = []
            for index in range(queries):
                progress("encrypted queries", index, queries)
                answers.append(process.query(index))
            progress("encrypted queries", queries, queries)
        memory = server_memory(program, test.images[: plan.memory_queries], folder)
    except AnswerError as error:
        emit(failure(OUR_NAME, OURS, str(error)))
        return
    emit(
        {
            "kind": "mnist",
            "system": OUR_NAME,
            "source": OURS,
            "network": network_path.name,
            **CLAIM,
            "compile_cpu_ms": compiling.cpu_ms,
            **prepared,
            "accuracy_percent": 100 * accuracy,
            "accuracy_images": len(test),
            **costs(answers),
            **agreement(np.array([answer["logits"] for answer in answers]), clear[:queries]),
            **memory,
        }
    )


def evaluate(network: he_inference.Network, queries: npt.NDArray[Any], batch: int = 1000) -> Array:
    """Float64 logits in the clear, (count, outputs), some queries (count, ...) at a time."""
    starts = range(0, len(queries), batch)
    return np.concatenate([network.evaluate(queries[start : start + batch]) for start in starts])


def _compiled(network: he_inference.Network) -> he_inference.Compiled:
    return he_inference.compile(
        network, layout="packed", response="plain", examples=mnist_sample().images
    )


def server_memory(program: Path, queries: npt.NDArray[Any], folder: Path) -> Row:
    """The peak memory of a server process that never holds the client's side, in bytes.

    `server_start_bytes` is the peak before keys arrive: interpreter, libraries, program.
    """
    client = he_inference.Client(he_inference.load_program(program).signature)
    keys, request = folder / "keys", folder / "request"
    keys.write_bytes(client.evaluation_keys())
    with SystemProcess(sys.executable, "benchmarks.our_server", [str(program)]) as server:
        started = server.ask({"command": "register", "keys": str(keys)})
        answer: Row = started
        for query in queries:
            request.write_bytes(client.encrypt(query[None].astype(np.float64)))
            answer = server.ask({"command": "evaluate", "request": str(request)})
    return {
        "server_start_bytes": started["before_keys_bytes"],
        "server_peak_bytes": answer["peak_bytes"],
    }


BENCHMARK = Benchmark(
    "query",
    "One encrypted query: CPU time, bytes, memory, accuracy; with peers on the same network.",
    PACKAGES,
    steps,
)
