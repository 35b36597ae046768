"""Recipes: a network of `networks` trained on MNIST from nothing, its teacher included."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from rich.progress import Progress
from torch import nn

from workloads.datasets import Splits, mnist
from workloads.fitting import FittingError, Recipe, accuracy, fit
from workloads.networks import ARCHITECTURES


@dataclass(frozen=True)
class TrainingResult:
    """What `train_mnist` reached.

    Attributes:
        architecture: its name in `networks.ARCHITECTURES`.
        epochs, seed: as trained.
        test_accuracy: fraction of the 10,000 test images.
        teacher_accuracy: the teacher's, likewise; None without one.
        losses: mean loss of each epoch.
        seconds: wall time of all of it, the teacher's training included.
    """

    architecture: str
    epochs: int
    seed: int
    test_accuracy: float
    teacher_accuracy: float | None
    losses: tuple[float, ...] = field(repr=False)
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What `train_mnist` does by default for one architecture; zero teacher epochs: no teacher."""

    epochs: int
    teacher_epochs: int = 0
    recipe: Recipe = field(default_factory=Recipe)


TEACHER = "relu-teacher"

PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "mnist-cnn": Plan(epochs=40, teacher_epochs=14),
        "tutorial-cnn": Plan(epochs=30),
        "cryptonets": Plan(epochs=30),
        "mnist-deep": Plan(epochs=60, teacher_epochs=14, recipe=Recipe(learning_rate=8e-3)),
        TEACHER: Plan(epochs=14, recipe=Recipe(learning_rate=3e-3)),
    }
)
"""The default for each of `networks.ARCHITECTURES`."""


def train_mnist(
    architecture: str,
    *,
    epochs: int | None = None,
    seed: int = 0,
    data: Splits | None = None,
    teacher: nn.Module | None = None,
    teacher_epochs: int | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Sequential, TrainingResult]:
    """A network trained on MNIST from nothing, and how well it does.

    Equal arguments give equal networks on the same machine with as many threads.

    Args:
        architecture: a name in `networks.ARCHITECTURES`.
        epochs: passes through the training images; the architecture's plan where None.
        seed: decides initial weights, order and distortions.
        data: `datasets.mnist()` where None.
        teacher: a trained network to learn from; one is trained where None.
        teacher_epochs: how long, where one is trained; the plan's where None; 0 for no teacher.
        progress: as `fitting_progress` makes; nothing is shown where None.

    Returns:
        The network, in evaluation mode, and the result.

    Raises:
        FittingError: no such architecture, or as `fit` does.
        DatasetError: as `mnist` does.
    """
    start = time.perf_counter()
    plan = _plan(architecture)
    data = data or mnist()
    teacher_epochs = plan.teacher_epochs if teacher_epochs is None else teacher_epochs
    if teacher is None and teacher_epochs > 0:
        teacher, _ = train_mnist(
            TEACHER, epochs=teacher_epochs, seed=seed, data=data, progress=progress
        )
    network = _initial(architecture, seed)
    epochs = plan.epochs if epochs is None else epochs
    fitted = fit(
        network,
        data.train,
        epochs=epochs,
        seed=seed,
        teacher=teacher,
        recipe=plan.recipe,
        progress=progress,
        description=architecture,
    )
    return network, TrainingResult(
        architecture,
        epochs,
        seed,
        test_accuracy=accuracy(network, data.test),
        teacher_accuracy=None if teacher is None else accuracy(teacher, data.test),
        losses=fitted.losses,
        seconds=time.perf_counter() - start,
    )


def _plan(architecture: str) -> Plan:
    if architecture not in PLANS:
        raise FittingError(f"Expected architecture={architecture!r} to be one of {list(PLANS)}")
    return PLANS[architecture]


def _initial(architecture: str, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ARCHITECTURES[architecture]()
    if architecture == TEACHER:
        # Channels last in memory: a quarter faster where a convolution has many of them.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
