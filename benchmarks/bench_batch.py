"""Thousands of encrypted queries at once: images a second, bytes, agreement, and SEAL beside us.

For every network, in rounds: the evaluator alone, then with the answers sanitised; request bytes to
response bytes; the client; all of it through HTTP on loopback; the server's memory alone. The row
of SEAL is an estimate from operations timed between our rounds: as many additions of scaled
ciphertexts and squares as CryptoNets' layers need, one of each timed through `tenseal.sealapi` on
one core, at the parameters of our own plan. Running them all would take minutes a batch.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal
from torch import nn

import he_inference
from benchmarks import measure
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step
from benchmarks.system_process import SystemProcess
from he_inference import service
from he_inference.backend.residues.evaluator import ResidueEvaluator
from he_inference.backend.residues.sanitiser import Sanitiser
from he_inference.batch_signature import Response
from he_inference.layouts.batched import BatchedPlan
from he_inference.nn import Square
from he_inference.processors import processors
from he_inference.serving.settings import Settings
from workloads.datasets import Dataset, mnist, mnist_sample
from workloads.models import CRYPTONETS, MNIST_CNN, MNIST_DEEP

TIMED_OPERATIONS = 50
"""Of SEAL, in every round."""
WIDTHS = (25, 50, 100, 200)
"""Hidden units of the networks by which growth is measured."""
BATCH_COUNTS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Case:
    """A network, and the precision that its answers are compiled for."""

    name: str
    model: Path
    precision: float
    beside_seal: bool = False
    most_rounds: int = 5


CASES = (
    Case("CryptoNets' network, two squares", CRYPTONETS, 8.0, beside_seal=True),
    Case("the shipped network, two squares", MNIST_CNN, 10.0),
    Case("the deep network, three squares", MNIST_DEEP, 8.0, most_rounds=3),
)


def steps(asked: Asked) -> Iterable[Step]:
    """A step for every network, then growth; in small, the first network."""
    rounds = 1 if asked.quick else 5
    for case in CASES[:1] if asked.quick else CASES:
        yield Step(case.name, partial(_measure, case, rounds, not asked.quick))
    for growth in (_growth_in_batches, _growth_in_products):
        yield Step(growth.__name__.strip("_"), partial(_grown, growth, rounds))


def _measure(case: Case, rounds: int, full: bool, emit: Emit, progress: Progress) -> None:
    data = mnist().test if full else mnist_sample()
    for row in _Measurement(case, rounds, data, progress).rows():
        emit(row)


def _grown(
    growth: Callable[[int, Progress], measure.Row], rounds: int, emit: Emit, progress: Progress
) -> None:
    emit(growth(rounds, progress))


class _Measurement:
    """One network with both kinds of answers."""

    def __init__(self, case: Case, rounds: int, data: Dataset, progress: Progress) -> None:
        self._case, self._rounds, self._data = case, min(rounds, case.most_rounds), data
        self._progress = progress
        self._network = he_inference.load_network(case.model)
        clear = [self._network.evaluate(part) for part in _parts(data.images, 1000)]
        self._clear = np.concatenate(clear).argmax(1)

    def rows(self) -> Iterator[measure.Row]:
        kinds: tuple[Response, ...] = ("private", "plain")
        compiled = {
            kind: he_inference.compile(
                self._network,
                layout="batched",
                precision=self._case.precision,
                examples=mnist_sample().images,
                response=kind,
            )
            for kind in kinds
        }
        evaluations = {kind: _Evaluation(found.program.plan) for kind, found in compiled.items()}
        beside = SealOperations(compiled["plain"].program.plan)
        spans: dict[str, list[measure.Span]] = {kind: [] for kind in kinds}
        for number in range(self._rounds):
            self._tell("evaluation", number)
            for kind, evaluation in evaluations.items():
                spans[kind].append(evaluation.timed())
            if self._case.beside_seal:
                beside.time()
        for kind, found in compiled.items():
            yield self._row(found, evaluations[kind], spans[kind])
        if self._case.beside_seal:
            yield beside.row(self._case.name)

    def _tell(self, what: str, done: int) -> None:
        self._progress(f"{self._case.name}: {what}", done, self._rounds)

    def _row(
        self,
        compiled: he_inference.CompiledBatch,
        evaluation: _Evaluation,
        evaluated: Sequence[measure.Span],
    ) -> measure.Row:
        slots, correct = compiled.parameters.slots, self._clear == self._data.labels
        return {
            "kind": "batch",
            "system": "Sottovoce",
            "source": measure.OURS,
            "network": self._case.name,
            "response": compiled.signature.response,
            "protects": "data and weights" if compiled.signature.needs_keys else "client data",
            "cores": processors(),
            "batch": slots,
            "ring_degree": compiled.parameters.ring_degree,
            "modulus_bits": compiled.parameters.total_bits,
            "primes": len(compiled.parameters.data_primes),
            "precision_bits": compiled.signature.precision_bits,
            "statistical_bits": compiled.signature.statistical_bits,
            "products_per_image": evaluation.products,
            "accuracy_percent": 100 * float(correct.mean()),
            "accuracy_images": len(self._data),
            "upload_bytes_per_image": compiled.upload_bytes / slots,
            "download_bytes_per_image": compiled.download_bytes / slots,
            "evaluation_key_bytes": compiled.key_bytes,
            "evaluation_images_per_second": slots / (_median_ms(evaluated, "wall_ms") / 1e3),
            **self._flow(compiled),
            "plan": compiled.summary(),
        }

    def _flow(self, compiled: he_inference.CompiledBatch) -> measure.Row:
        """Bytes to bytes, the client, HTTP and memory; and labels of the whole test set."""
        slots = compiled.parameters.slots
        batch = np.resize(self._data.images, (slots, *self._data.images.shape[1:]))
        server = he_inference.Server(compiled.program)
        spans: dict[str, list[measure.Span]] = {"client": [], "server": [], "http": []}
        with (
            he_inference.Client(compiled.signature) as client,
            tempfile.TemporaryDirectory() as folder,
        ):
            server.register(client.evaluation_keys())
            client.encrypt(batch[:1])  # starts its processes
            for number in range(self._rounds):
                self._tell(f"{compiled.signature.response}, batches", number)
                sealing, query = measure.timed(partial(client.encrypt, batch))
                serving, answer = measure.timed(partial(server.evaluate, query))
                opening, _ = measure.timed(partial(client.decrypt, answer))
                spans["client"].append(sealing + opening)
                spans["server"].append(serving)
            equal = self._labels(client, server)
            program, settings = Path(folder) / "program", Settings(request_seconds=300)
            compiled.program.save(program)
            with (
                service.running(program, settings) as url,
                he_inference.RemoteServer(url, timeout=300) as remote,
            ):
                if compiled.signature.needs_keys:
                    remote.register(client.evaluation_keys())
                for number in range(self._rounds + 1):
                    self._tell(f"{compiled.signature.response}, HTTP", number)
                    span, _ = measure.timed(
                        lambda: client.decrypt(remote.evaluate(client.encrypt(batch)))
                    )
                    if number:
                        spans["http"].append(span)
            memory = _server_memory(program, client, batch, Path(folder))
        rates: measure.Row = {}
        for name, found in spans.items():
            rates[f"{name}_images_per_second"] = slots / (_median_ms(found, "wall_ms") / 1e3)
        # The client encrypts in processes of its own, whose CPU time is not this one's.
        rates["server_cpu_ms_per_image"] = _median_ms(spans["server"], "cpu_ms") / slots
        return {**rates, **memory, "queries": len(self._data), "labels_equal": equal}

    def _labels(self, client: he_inference.Client, server: he_inference.Server) -> int:
        """How many labels under encryption are those in the clear, of all images."""
        found = [
            client.decrypt(server.evaluate(client.encrypt(part))).argmax(1)
            for part in _parts(self._data.images, client.max_queries)
        ]
        return int((np.concatenate(found) == self._clear).sum())


def _parts(images: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _median_ms(spans: Sequence[measure.Span], unit: str) -> float:
    return float(statistics.median(getattr(span, unit) for span in spans))


class _Evaluation:
    """The evaluator alone, on uniform residues: its time does not depend on them.

    Where answers are private, with what sanitises them.
    """

    def __init__(self, plan: BatchedPlan) -> None:
        rng, primes = np.random.default_rng(0), plan.parameters.data_primes

        def uniform(*shape: int) -> npt.NDArray[np.uint64]:
            rows = [
                rng.integers(0, p, (*shape, plan.parameters.ring_degree), np.uint64) for p in primes
            ]
            return np.stack(rows, axis=-2)

        self._evaluator = ResidueEvaluator(plan)
        self._queries = uniform(plan.features, 2)
        self._sanitiser = None
        if plan.flooding_bits:
            self._sanitiser = Sanitiser(plan.parameters, plan.components, plan.flooding_bits)
            self._keys = uniform(1 + (plan.components - 2) * len(primes), 2)
        self._answer()  # compiles the kernels
        self.products = products(plan)

    def timed(self) -> measure.Span:
        return measure.timed(self._answer)[0]

    def _answer(self) -> None:
        answers = self._evaluator.evaluate(self._queries)
        if self._sanitiser is not None:
            self._sanitiser.sanitise(answers, self._keys)


def products(plan: BatchedPlan) -> int:
    """Weights times values, over all layers: what the network takes for one query in the clear."""
    return sum(
        block.products
        for stage in plan.stages
        for term in stage.terms.values()
        for block in term.blocks
    )


def _server_memory(
    program: Path, client: he_inference.Client, batch: npt.NDArray[Any], folder: Path
) -> measure.Row:
    """The peak memory of a process that is a server and nothing else, in bytes."""
    keys, request = folder / "keys", folder / "request"
    keys.write_bytes(client.evaluation_keys())
    request.write_bytes(client.encrypt(batch))
    with SystemProcess(sys.executable, "benchmarks.our_server", [str(program)]) as server:
        if client.signature.needs_keys:
            server.ask({"command": "register", "keys": str(keys)})
        answer = server.ask({"command": "evaluate", "request": str(request)})
    return {"server_peak_bytes": answer["peak_bytes"]}


class SealOperations:
    """What the same layers would take as scalar products, sums and squares of SEAL's."""

    def __init__(self, plan: BatchedPlan) -> None:
        self._plan = plan
        literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        literal.set_poly_modulus_degree(plan.parameters.ring_degree)
        literal.set_coeff_modulus([seal.Modulus(prime) for prime in plan.parameters.primes])
        context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
        encoder, self._evaluator = seal.CKKSEncoder(context), seal.Evaluator(context)
        encryptor = seal.Encryptor(context, seal.KeyGenerator(context).secret_key())
        plain, self._weight = seal.Plaintext(), seal.Plaintext()
        encoder.encode(0.5, 2.0**20, plain)
        encoder.encode(0.5, 2.0**10, self._weight)
        self._fresh, self._total, self._scaled = (seal.Ciphertext() for _ in range(3))
        encryptor.encrypt_symmetric(plain, self._fresh)
        self._evaluator.multiply_plain(self._fresh, self._weight, self._total)
        self._sums: list[float] = []
        self._squares: list[float] = []

    def time(self) -> None:
        """Some of each operation."""
        for _ in range(TIMED_OPERATIONS):
            self._sums.append(measure.timed(self._accumulate)[0].cpu_ms)
            self._squares.append(measure.timed(self._square)[0].cpu_ms)

    def _accumulate(self) -> None:
        self._evaluator.multiply_plain(self._fresh, self._weight, self._scaled)
        self._evaluator.add_inplace(self._total, self._scaled)

    def _square(self) -> None:
        self._evaluator.square(self._fresh, self._scaled)

    def row(self, network: str) -> measure.Row:
        plan, each = self._plan, statistics.median(self._sums)
        # A ciphertext of more components costs in proportion: an estimate that favours SEAL.
        sizes = [1.0, *(stage.components / 2 for stage in plan.stages[:-1])]
        total_ms = statistics.median(self._squares) * sum(s.size for s in plan.stages[:-1])
        for stage, size in zip(plan.stages, sizes, strict=True):
            count = sum(b.products for term in stage.terms.values() for b in term.blocks)
            total_ms += each * count * size
        return {
            "kind": "batch",
            "system": "SEAL, scalar operations",
            "source": "estimated from operations measured here",
            "network": network,
            "response": "plain",
            "protects": "client data",
            "cores": 1,
            "batch": plan.queries,
            "evaluation_images_per_second": plan.queries / (total_ms / 1e3),
            "evaluation_cpu_ms_per_image": total_ms / plan.queries,
        }


def _growth_in_batches(rounds: int, progress: Progress) -> measure.Row:
    """One batch after the other, bytes to bytes."""
    images = mnist_sample().images
    network = he_inference.load_network(MNIST_CNN)
    compiled = he_inference.compile(network, layout="batched", examples=images)
    server = he_inference.Server(compiled.program)
    with he_inference.Client(compiled.signature) as client:
        server.register(client.evaluation_keys())
        query = client.encrypt(images)

    def answer(count: int) -> None:
        for _ in range(count):
            server.evaluate(query)

    calls = {count: partial(answer, count) for count in BATCH_COUNTS}
    return _growth("batches", calls, rounds, progress)


def _growth_in_products(rounds: int, progress: Progress) -> measure.Row:
    """The evaluator of ever wider networks. Their plans differ in primes: time is that of one."""
    calls: dict[int, Callable[[], Any]] = {}
    shares = {}
    for width in WIDTHS:
        module = nn.Sequential(nn.Flatten(), nn.Linear(784, width), Square(), nn.Linear(width, 10))
        images = mnist_sample().images
        network = he_inference.from_torch(module.eval(), images)
        compiled = he_inference.compile(
            network, layout="batched", precision=8.0, examples=images, response="plain"
        )
        evaluation = _Evaluation(compiled.program.plan)
        calls[evaluation.products] = evaluation.timed
        shares[evaluation.products] = 1 / len(compiled.parameters.data_primes)
    return _growth("products", calls, rounds, progress, shares)


def _growth(
    what: str,
    calls: Mapping[int, Callable[[], Any]],
    rounds: int,
    progress: Progress,
    shares: dict[int, float] | None = None,
) -> measure.Row:
    """Milliseconds at every size, and the line through them."""
    spans: dict[int, list[float]] = {size: [] for size in calls}
    for number in range(rounds):
        progress(f"growth with {what}", number, rounds)
        for size, call in calls.items():
            spans[size].append(measure.timed(call)[0].wall_ms)
    sizes = np.array(list(spans), dtype=np.float64)
    times = np.array([statistics.median(found) for found in spans.values()])
    times *= [1.0 if shares is None else shares[size] for size in spans]
    slope, start = np.polyfit(sizes, times, 1)
    rest = times - (slope * sizes + start)
    return {
        "kind": "growth",
        "what": what,
        "sizes": [int(size) for size in sizes],
        "milliseconds": [float(time) for time in times],
        "fixed_ms": float(start),
        "each_ms": float(slope),
        "explained": float(1 - (rest**2).sum() / ((times - times.mean()) ** 2).sum()),
    }


BENCHMARK = Benchmark(
    "batch",
    "Thousands of encrypted queries at once: images a second, bytes, agreement of labels.",
    ("sottovoce", "tenseal", "numpy", "numba"),
    steps,
)
