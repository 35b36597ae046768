"""Settings of private heads, found on Fashion-MNIST: a task that no benchmark of heads measures.

    python -m benchmarks.tune_heads          a line a setting: accuracy at each epsilon
    python -m benchmarks.tune_heads --rows 10000 --epsilons 1

Around what `private_models.choices`, `private_models.quadratic` and `bench_heads` hold, one number
at a time is varied, for us and for the algorithm of Opacus (Poisson batches, by our implementation
of it, on the same rows).
The pixels are features of their own; public rows are set aside as in the benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import typer

from benchmarks.bench_heads import (
    DELTA,
    DIRECTIONS,
    OPACUS,
    RAW_CLIP,
    WHITENED_CLIP,
    one_thread,
    raw_rate,
    whitened_path,
)
from benchmarks.head_tasks import PUBLIC_ROWS, HeadTask, set_aside
from private_models import PrivateClassifier, choices
from private_models import quadratic as hidden_layer
from private_models.solvers.sgd import PoissonGradient
from workloads.fashion import fashion_mnist

FACTORS = (0.5, 1.0, 2.0)
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
VARIED = (
    "DIRECTIONS_AT_UNIT",
    "RIDGE_AT_UNIT_SIGNAL",
    "RATE_AT_UNIT_SIGNAL",
    "LARGEST_PACE",
    "CLIP",
)
TEST_ROWS = 10_000


def pixels(rows: int) -> HeadTask:
    """Fashion-MNIST's pixels: `rows` private ones."""
    pictures, labels = fashion_mnist()
    values = pictures.reshape(len(pictures), -1).astype(np.float32) / np.float32(255)
    cut = slice(TEST_ROWS, TEST_ROWS + PUBLIC_ROWS + rows)
    test = slice(0, TEST_ROWS)
    return set_aside(
        "Fashion-MNIST pixels", values[cut], labels[cut], values[test], labels[test], PUBLIC_ROWS
    )


def accuracy(task: HeadTask, epsilon: float, whitened: bool, **options: object) -> float:
    """Of one fit on the test rows."""
    public = task.public if whitened else None
    head = PrivateClassifier(
        epsilon, DELTA, public_features=public, rows=len(task.features), **options  # type: ignore[arg-type]
    )  # fmt: skip
    head.fit(task.features, task.labels, classes=task.classes)
    return float(head.score(task.test_features, task.test_labels))


def ours(task: HeadTask, epsilons: list[float]) -> Iterator[str]:
    """A constant of `choices` at a time, with public features."""
    for name in VARIED:
        for factor in FACTORS:
            with ExitStack() as stack:
                value = getattr(choices, name) * factor
                stack.enter_context(patch.object(choices, name, value))
                found = [accuracy(task, epsilon, True) for epsilon in epsilons]
            yield f"ours, {name} = {value:g}: {_shown(found)}"


def quadratic(task: HeadTask, epsilons: list[float]) -> Iterator[str]:
    """The hidden layer: how many directions, and their ridge."""
    usual = (DIRECTIONS, hidden_layer.RIDGE)
    varied = [(DIRECTIONS // 2, usual[1]), usual, (DIRECTIONS * 3 // 2, usual[1])]
    varied += [(usual[0], usual[1] * factor) for factor in (0.25, 4.0)]
    for directions, ridge in varied:
        with patch.object(hidden_layer, "RIDGE", ridge):
            found = [accuracy(task, e, True, hidden_directions=directions) for e in epsilons]
        yield f"ours, {directions} directions in a hidden layer, ridge {ridge:g}: {_shown(found)}"


def opacus(task: HeadTask, epsilons: list[float]) -> Iterator[str]:
    """Learning rates, on rows as they are and on whitened ones."""
    for whitened in (False, True):
        for factor in RATES:
            found = []
            for epsilon in epsilons:
                # Rates of `PoissonGradient` are in units of the inverse largest eigenvalue.
                rate = whitened_path(epsilon) if whitened else raw_rate(epsilon) * (1.0 + 1.0)
                clip = WHITENED_CLIP if whitened else RAW_CLIP
                settings = PoissonGradient(
                    int(OPACUS["batch_rows"]), OPACUS["epochs"], rate * factor, clip,
                    momentum=OPACUS["momentum"],
                )  # fmt: skip
                found.append(
                    accuracy(task, epsilon, whitened, solver="sgd", settings=settings, bias=1.0)
                )
            space = "whitened" if whitened else "raw"
            yield f"Poisson SGD, {space}, rate x {factor:g}: {_shown(found)}"


def _shown(found: list[float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in found)


def main(rows: int = 40_000, epsilons: str = "0.5,2", of: str = "ours,quadratic,opacus") -> None:
    """Print one line for each setting."""
    one_thread()
    task, chosen = pixels(rows), [float(epsilon) for epsilon in epsilons.split(",")]
    known = (ours, quadratic, opacus)
    for lines in (by_name for by_name in known if by_name.__name__ in of.split(",")):
        for line in lines(task, chosen):
            typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
