"""Training networks whose activations are polynomials, so that they survive encryption.

A polynomial has no bound: a pre-activation far out gives a huge value, a huge gradient, and under
encryption a value beyond the modulus. So the loop distorts images, clips gradients, penalises
pre-activations outside a range, averages weights over steps, learns from the soft labels of a ReLU
network (Hinton, Vinyals and Dean 2015), and holds the vertex of each quadratic near its inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, update_bn

from he_inference.nn import Polynomial, Square
from workloads.augmentation import Distortion, distorted
from workloads.datasets import Dataset


class FittingError(Exception):
    """A training that cannot start or cannot go on; the message says why, and what to change."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How `fit` trains.

    Attributes:
        batch: images a step.
        learning_rate: AdamW's at the top of the one-cycle schedule, a quarter of the way.
        weight_decay: AdamW's, on weight matrices alone.
        gradient_norm: the largest norm that a gradient keeps.
        distortion: of each image at each step, but for the last epochs.
        plain_epochs: how many last epochs see the images as they are.
        distillation: the share of the loss that is the teacher's; the rest is the labels'.
        temperature: what logits are divided by when compared with the teacher's.
        bound: size of a pre-activation up to which there is no penalty.
        range_penalty: weight of the mean square by which pre-activations exceed `bound`.
        average_decay: of the moving average of weights, a step.
        vertex: how far from zero the vertex -b/(2a) of a quadratic ax² + bx + c may lie. The
            compiler computes a(x + b/(2a))² + e, in which a distant vertex drowns x.
        curvature: the least a. A positive one loses nothing where a layer follows with weights of
            either sign.
    """

    batch: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    distortion: Distortion = field(default_factory=Distortion)
    plain_epochs: int = 2
    distillation: float = 0.9
    temperature: float = 3.0
    bound: float = 6.0
    range_penalty: float = 1e-2
    average_decay: float = 0.998
    vertex: float = 3.0
    curvature: float = 0.02


@dataclass(frozen=True)
class Fitted:
    """What `fit` did: the mean loss of each epoch, and wall seconds."""

    losses: tuple[float, ...]
    seconds: float


def fitting_progress() -> Progress:
    """A bar for `fit` to fill: loss and accuracy over the epoch so far, time to go."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.2%}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def fit(
    network: nn.Module,
    data: Dataset,
    *,
    epochs: int,
    seed: int = 0,
    teacher: nn.Module | None = None,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    description: str = "training",
) -> Fitted:
    """Train a network in place, and leave it in evaluation mode with averaged weights.

    The statistics of its BatchNorms are in the end those of the undistorted images.

    Args:
        network: gives logits, float (batch, classes), for images.
        data: what to train on; of each epoch's order an incomplete last batch is left out.
        epochs: passes through the data.
        seed: decides order, distortions and dropout.
        teacher: gives logits of the same shape to learn from, computed for each distorted batch.
        recipe: `Recipe()` where None.
        progress: as `fitting_progress` makes; nothing is shown where None.
        description: what the bar is labelled with.

    Raises:
        FittingError: epochs < 1, fewer than two images, or a loss that is infinite or NaN.
    """
    if epochs < 1 or len(data) < 2:
        raise FittingError(f"Expected epochs={epochs} >= 1 and len(data)={len(data)} >= 2")
    recipe = recipe or Recipe()
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]), _evaluating(teacher):
        torch.manual_seed(seed)
        run = _Run(network, data, epochs, seed, teacher, recipe)
        with _shown(progress, description, epochs * run.steps) as show:
            losses = tuple(run.epoch(number, show) for number in range(epochs))
        run.settle()
    return Fitted(losses, time.perf_counter() - start)


def accuracy(network: nn.Module, data: Dataset) -> float:
    """The fraction of images whose largest logit is their label's, in evaluation mode."""
    right = 0
    with torch.no_grad(), _evaluating(network):
        both = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        for images, labels in zip(*(torch.split(each, 500) for each in both), strict=True):
            right += int((network(images).argmax(1) == labels).sum())
    return right / len(data)


Tensors = tuple[Tensor, ...] | list[Tensor]
Average = Callable[[Tensors, Tensors, Tensor | int], None]

Show = Callable[[float, float], None]
"""Shown after each step: loss and accuracy over the epoch so far."""


class _Run:
    """One training as it goes on."""

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        epochs: int,
        seed: int,
        teacher: nn.Module | None,
        recipe: Recipe,
    ) -> None:
        self.network, self.epochs, self.teacher, self.recipe = network, epochs, teacher, recipe
        self.images, self.labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        self.batch = min(recipe.batch, len(data))
        self.steps = len(data) // self.batch
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.AdamW(_groups(network, recipe), lr=recipe.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, recipe.learning_rate, total_steps=epochs * self.steps, pct_start=0.25
        )
        self.average = AveragedModel(network, multi_avg_fn=_moving_average(recipe.average_decay))

    def epoch(self, number: int, show: Show) -> float:
        """Train on all images once; their mean loss."""
        self.network.train()
        order = torch.randperm(len(self.labels), generator=self.generator)
        batches = torch.split(order, self.batch)[: self.steps]
        loss, right = 0.0, 0
        for step, rows in enumerate(batches, 1):
            images, labels = self.images[rows], self.labels[rows]
            if number < self.epochs - self.recipe.plain_epochs:
                images = distorted(images, self.recipe.distortion, self.generator)
            step_loss, logits = self._step(images, labels)
            loss, right = loss + step_loss, right + int((logits.argmax(1) == labels).sum())
            show(loss / step, right / (step * self.batch))
        return loss / self.steps

    def settle(self) -> None:
        """Put the averaged weights into the network, with statistics that belong to them."""
        chunks = math.ceil(len(self.images) / 1000)  # of nearly equal size, so that none is of one
        update_bn(torch.tensor_split(self.images, chunks), self.average)
        self.network.load_state_dict(self.average.module.state_dict())
        self.network.eval()

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        self.optimiser.zero_grad()
        with _pre_activations(self.network) as inputs:
            logits = self.network(images)
        loss = self._loss(logits, images, labels) + self.recipe.range_penalty * sum(
            (_excess(values, self.recipe.bound) for values in inputs), start=torch.zeros(())
        )
        if not loss.isfinite():
            raise FittingError(
                f"Expected a finite loss; found {loss.item()} after {self.schedule.last_epoch} "
                "steps. Lower the learning rate, or put a BatchNorm before each polynomial."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_norm)
        self.optimiser.step()
        self.schedule.step()
        hold_vertices(self.network, self.recipe)
        self.average.update_parameters(self.network)
        return loss.item(), logits

    def _loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        hard = functional.cross_entropy(logits, labels)
        if self.teacher is None:
            return hard
        with torch.no_grad():
            taught = self.teacher(images)
        soft = _divergence(logits, taught, self.recipe.temperature)
        return hard + self.recipe.distillation * (soft - hard)


def hold_vertices(network: nn.Module, recipe: Recipe) -> None:
    """Move the coefficients of every quadratic ax² + bx + c to where a >= `recipe.curvature` and
    the vertex lies within `recipe.vertex` of zero; both sets are convex, so averages stay inside.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Polynomial) and module.degree == 2:
                _, slope, curvature = module.coefficients.unbind(-1)
                curvature.clamp_(min=recipe.curvature)
                limit = 2 * recipe.vertex * curvature
                slope.copy_(slope.clamp(-limit, limit))


def _divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher || student) at temperature T, the mean over images; T² keeps the gradients'
    size (Hinton et al. 2015, section 2).
    """
    student, teacher = ((x / temperature).log_softmax(1) for x in (logits, taught))
    divergence = functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
    return temperature**2 * divergence


def _excess(values: Tensor, bound: float) -> Tensor:
    return (values.abs() - bound).relu().square().mean()


def _groups(network: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Parameters with weight decay, matrices and kernels, and those without."""
    parameters = [
        (parameter, parameter.ndim > 1 and not isinstance(module, Polynomial))
        for module in network.modules()
        for parameter in module.parameters(recurse=False)
    ]
    return [
        {"params": [p for p, decays in parameters if decays], "weight_decay": recipe.weight_decay},
        {"params": [p for p, decays in parameters if not decays], "weight_decay": 0.0},
    ]


def _moving_average(decay: float) -> Average:
    """An exponential average that starts with shorter memory, for trainings of few steps."""

    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        with torch.no_grad():
            for average, value in zip(averages, values, strict=True):
                average.lerp_(value, 1 - keep)

    return update


@contextmanager
def _pre_activations(network: nn.Module) -> Iterator[list[Tensor]]:
    """What each polynomial activation is given while this is open, in the order of evaluation."""
    inputs: list[Tensor] = []

    def keep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append(arguments[0])

    modules = [m for m in network.modules() if isinstance(m, Polynomial | Square)]
    hooks = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(network: nn.Module | None) -> Iterator[None]:
    """Evaluation mode for a while, then each module's mode as it was."""
    modes = [(module, module.training) for module in network.modules()] if network else []
    try:
        if network:
            network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _shown(progress: Progress | None, description: str, steps: int) -> Iterator[Show]:
    """A way to show each step: on a bar of its own, or not at all."""
    if progress is None:
        yield lambda loss, accuracy: None
        return
    task = progress.add_task(description, total=steps, loss=math.nan, accuracy=0.0)
    yield lambda loss, accuracy: progress.update(task, advance=1, loss=loss, accuracy=accuracy)
