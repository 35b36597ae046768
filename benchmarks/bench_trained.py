"""Whole runs of three parties on MNIST, against the same loop in the clear."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import measure, our_parties
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step
from mpc_training import local_parties
from mpc_training.clear_run import accuracy, train_in_the_clear
from mpc_training.model_file import read_model
from mpc_training.training import Recipe
from workloads.datasets import mnist

RECIPES = {
    "mlp": Recipe(learning_rate=0.1, momentum=0.9, batch=128, epochs=5, decay=0.7),
    "lenet": Recipe(learning_rate=0.05, momentum=0.9, batch=32, epochs=1, decay=0.2),
}


def steps(asked: Asked) -> Iterable[Step]:
    """A run of each network; of three steps of the first, to try it."""
    for network in list(RECIPES)[: 1 if asked.quick else None]:
        yield Step(network, partial(_measure, network, 3 if asked.quick else None))


def _measure(network: str, steps: int | None, emit: Emit, progress: Progress) -> None:
    splits = mnist()
    progress(network, 0, 1)
    run = our_parties.planned(network, 3, RECIPES[network], steps)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        _, reports = our_parties.trained(run, splits, Path(name))
        seconds = time.perf_counter() - begun
        _, weights = read_model(Path(name) / "model-0.safetensors")
    pixels = np.rint(splits.train.images * our_parties.DIVISOR).astype(np.uint8)
    pieces = local_parties.spread(pixels, splits.train.labels, run.seed, run.owners)
    plain = train_in_the_clear(run, pieces, our_parties.DIVISOR)
    tested = splits.test.images, splits.test.labels
    emit(
        {
            "kind": "trained",
            "system": "Sottovoce, three parties",
            "source": measure.OURS,
            "network": network,
            "epochs": run.recipe.epochs,
            "batch": run.recipe.batch,
            "steps": reports[0]["steps"],
            "accuracy_percent": 100 * accuracy(run.network, weights, *tested),
            "plain_accuracy_percent": 100 * accuracy(run.network, plain, *tested),
            "test_images": len(splits.test),
            "largest_weight_difference": float(np.abs(weights - plain).max()),
            "seconds": seconds,
            "rollbacks": reports[0]["rollbacks"],
            **local_parties.figures(reports),
        }
    )


BENCHMARK = Benchmark(
    "trained",
    "Whole runs on shares of MNIST: accuracy, and that of the same loop in the clear.",
    ("sottovoce", "numpy"),
    steps,
)
