"""Recipes: a network of `networks` trained on MNIST from nothing, its teacher included."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from he_inference.network import load_network
from he_inference.nn import Polynomial
from he_inference.nodes import Activation, Array, Conv2d, Flatten, Linear, Node, ScaleShift
from workloads.augmentation import Distortion
from workloads.datasets import Splits, mnist
from workloads.fitting import FittingError, Recipe, accuracy, fit
from workloads.models import MNIST_CNN
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
    """What `train_mnist` does by default for one architecture.

    Attributes:
        epochs: passes through the training images.
        teacher_epochs: of a teacher that is trained first; zero for none.
        shipped_teacher: a trained network in `models` that is the teacher instead.
        recipe: how the network is trained.
    """

    epochs: int
    teacher_epochs: int = 0
    shipped_teacher: Path | None = None
    recipe: Recipe = field(default_factory=Recipe)


TEACHER = "relu-teacher"

FIXED_PLACES = Recipe(
    distortion=Distortion(degrees=10.0, scaling=0.1, shear=0.1, shift=0.06, warp=0.04)
)
"""For networks with nothing but a dense layer behind their first squares: they cannot follow digits
that move far."""

PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "mnist-cnn": Plan(epochs=40, teacher_epochs=14),
        "tutorial-cnn": Plan(epochs=30),
        "cryptonets": Plan(epochs=30),
        "mnist-deep": Plan(epochs=60, teacher_epochs=14, recipe=Recipe(learning_rate=8e-3)),
        "mnist-quadratic": Plan(epochs=8, shipped_teacher=MNIST_CNN, recipe=FIXED_PLACES),
        "mnist-quadratic-wide": Plan(epochs=8, shipped_teacher=MNIST_CNN, recipe=FIXED_PLACES),
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
        teacher: a trained network to learn from; the plan's, shipped or trained, where None.
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
    if teacher is None and teacher_epochs is None and plan.shipped_teacher is not None:
        teacher = shipped(plan.shipped_teacher)
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


def shipped(path: Path) -> nn.Sequential:
    """A network of `models` as float32 torch modules, to learn from.

    Raises:
        FittingError: it is no plain sequence of layers.
        ModelFileError: it cannot be read.
    """
    nodes = load_network(path).nodes[1:]
    if any(node.sources != (place,) for place, node in enumerate(nodes)):
        raise FittingError(f"{path}: expected layers one after the other, found branches")
    return nn.Sequential(*map(_module, nodes)).eval()


def _module(node: Node) -> nn.Module:
    match node:
        case Conv2d():
            maps, channels, height, width = node.weight.shape
            kernel = height, width
            convolution = nn.Conv2d(channels, maps, kernel, node.stride, node.padding)
            return _with(convolution, node.weight, node.bias)
        case Linear():
            outputs, inputs = node.weight.shape
            return _with(nn.Linear(inputs, outputs), node.weight, node.bias)
        case ScaleShift():
            return Polynomial(np.stack([node.shift, node.scale], axis=1).astype(np.float32))
        case Activation():
            return Polynomial(node.coefficients.astype(np.float32))
        case Flatten():
            return nn.Flatten()
    raise FittingError(f"Expected layers of the networks that ship; found {type(node).__name__}")


def _with(layer: nn.Conv2d | nn.Linear, weight: Array, bias: Array) -> nn.Module:
    state = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    layer.load_state_dict(state)
    return layer


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
