"""Thousands of encrypted queries at once: images a second, bytes, agreement, and SEAL beside us.

The row of SEAL is an estimate from operations timed in the same run: as many additions of scaled
ciphertexts and squares as the layers need, one of each timed through `tenseal.sealapi` on one core,
at the parameters of our own plan. Running them all would take minutes a batch.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tenseal.sealapi as seal

import he_inference
from benchmarks import measure
from benchmarks.bench_query import Emit, Progress
from he_inference.backend.residues.evaluator import ResidueEvaluator
from he_inference.layouts.batched import BatchedPlan
from he_inference.network import Network
from he_inference.processors import processors
from workloads.datasets import mnist, mnist_sample
from workloads.models import MNIST_CNN

TIMED_OPERATIONS = 50


def run(rounds: int, full_test_set: bool, emit: Emit, progress: Progress) -> None:
    """Measure the shipped network, batch after batch, SEAL's operations between the batches."""
    emit(measure.environment(("sottovoce", "tenseal", "numpy", "numba")) | {"benchmark": "batch"})
    network = he_inference.load_network(MNIST_CNN)
    images = mnist().test.images if full_test_set else mnist_sample().images
    compiled = he_inference.compile_batch(network, mnist_sample().images)
    plan, slots = compiled.program, compiled.program.queries
    batches = [images[start : start + slots] for start in range(0, len(images), slots)]
    emit(_measured(compiled, network, batches, rounds, progress) | {"plan": compiled.summary()})
    del batches
    emit(_seal(plan, rounds))


def _measured(
    compiled: he_inference.CompiledBatch,
    network: Network,
    batches: Sequence[Any],
    rounds: int,
    progress: Progress,
) -> measure.Row:
    server, slots = compiled.server(), compiled.program.queries
    spans: dict[str, list[measure.Span]] = {"client": [], "server": [], "evaluation": []}
    equal = count = 0
    with compiled.client() as client:
        for number in range(max(rounds, len(batches)) + 1):  # the first one compiles kernels
            batch = batches[number % len(batches)]
            progress("batches", number, rounds + 1)
            sealing, query = measure.timed(lambda x=batch: b"".join(client.encrypt(x)))  # type: ignore[misc]
            serving, answer = measure.timed(
                lambda q=query: b"".join(server.evaluate(io.BytesIO(q)))  # type: ignore[misc]
            )
            opening, scores = measure.timed(lambda a=answer: client.decrypt(io.BytesIO(a)))  # type: ignore[misc]
            if number:
                spans["client"].append(sealing + opening)
                spans["server"].append(serving)
            if number < len(batches):
                equal += int((scores.argmax(1) == network.evaluate(batch).argmax(1)).sum())
                count += len(batch)
    form = compiled.signature.form
    spans["evaluation"] = _evaluation(compiled.program, rounds)
    rates = {
        f"{name}_images_per_second": slots / (statistics.median(s.wall_ms for s in found) / 1e3)
        for name, found in spans.items()
    }
    cpu = {
        f"{name}_cpu_ms_per_image": statistics.median(s.cpu_ms for s in found) / slots
        for name, found in spans.items()
    }
    return {
        "kind": "batch",
        "system": "Sottovoce",
        "source": measure.OURS,
        "protects": "client data",
        "cores": processors(),
        "batch": slots,
        "queries": count,
        "labels_equal": equal,
        "upload_bytes_per_image": form.query_bytes / slots,
        "download_bytes_per_image": form.answer_bytes / slots,
        "peak_bytes": measure.peak_memory_bytes(),
        **rates,
        **cpu,
    }


def _evaluation(plan: BatchedPlan, rounds: int) -> list[measure.Span]:
    """The evaluator alone, on uniform residues: its time does not depend on them."""
    rng = np.random.default_rng(0)
    shape = (plan.features, 2, plan.parameters.ring_degree)
    queries = np.stack(
        [rng.integers(0, prime, shape, dtype=np.uint64) for prime in plan.parameters.data_primes],
        axis=2,
    )
    engine = ResidueEvaluator(plan)
    engine.evaluate(queries)
    return [measure.timed(lambda: engine.evaluate(queries))[0] for _ in range(rounds)]


def _seal(plan: BatchedPlan, rounds: int) -> measure.Row:
    """What the same layers would take as scalar products, sums and squares of SEAL's."""
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(plan.parameters.ring_degree)
    literal.set_coeff_modulus([seal.Modulus(prime) for prime in plan.parameters.primes])
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
    encoder, evaluator = seal.CKKSEncoder(context), seal.Evaluator(context)
    encryptor = seal.Encryptor(context, seal.KeyGenerator(context).secret_key())
    plain, weight = seal.Plaintext(), seal.Plaintext()
    encoder.encode(0.5, 2.0**20, plain)
    encoder.encode(0.5, 2.0**10, weight)
    fresh, total, scaled = seal.Ciphertext(), seal.Ciphertext(), seal.Ciphertext()
    encryptor.encrypt_symmetric(plain, fresh)
    evaluator.multiply_plain(fresh, weight, total)

    def accumulate() -> None:
        evaluator.multiply_plain(fresh, weight, scaled)
        evaluator.add_inplace(total, scaled)

    each = _median_ms(accumulate, rounds)
    square = _median_ms(lambda: evaluator.square(fresh, scaled), rounds)
    products = [
        sum(block.products for term in stage.terms.values() for block in term.blocks)
        for stage in plan.stages
    ]
    # A ciphertext of more components costs in proportion: an estimate that favours SEAL.
    sizes = [1.0, *(stage.components / 2 for stage in plan.stages[:-1])]
    squares = sum(stage.size for stage in plan.stages[:-1])
    total_ms = each * sum(n * size for n, size in zip(products, sizes, strict=True))
    total_ms += square * squares
    return {
        "kind": "batch",
        "system": "SEAL, scalar operations",
        "source": "estimated from operations measured here",
        "protects": "client data",
        "cores": 1,
        "batch": plan.queries,
        "evaluation_images_per_second": plan.queries / (total_ms / 1e3),
        "evaluation_cpu_ms_per_image": total_ms / plan.queries,
    }


def _median_ms(call: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds * TIMED_OPERATIONS):
        span, _ = measure.timed(call)
        times.append(span.cpu_ms)
    return statistics.median(times)
