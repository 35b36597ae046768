"""DP-SGD and DP-Adam on a linear head, with Poisson batches (Abadi et al. 2016, algorithm 1).

Every step takes each row with probability q, independently and by the noise module's random bits,
clips the gradients of those, adds noise, and divides by q·rows, never by the batch's true size.
An empty batch is a batch: noise alone is published. Priced by privacy loss distributions, for
batches that are really drawn like this, and not for shuffled ones (Chua et al. 2024).

Adam's moments are made of published gradients and cost nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from private_models.accounting import Budget, poisson_noise_multiplier
from private_models.arithmetic import largest_gradient
from private_models.errors import OptionError
from private_models.features import Chunk
from private_models.noise import Array, RandomBits, bernoulli_rows
from private_models.releases import Release
from private_models.solvers.task import (
    Shape,
    Task,
    check_count,
    check_positive,
    within_logit_bound,
)

BATCH_GRADIENT = "gradient of the loss on a Poisson batch"
_ADAM = (0.9, 0.999, 1e-8)


@dataclass(frozen=True)
class PoissonGradient:
    """Noisy steps on Poisson batches.

    Attributes:
        batch_rows: expected rows in a batch; the probability is batch_rows / rows.
        epochs: expected passes over the rows.
        learning_rate: of SGD in units of the inverse of the largest eigenvalue of E z·zᵀ, of Adam
            as it is; gradients are divided by batch_rows.
        clip_norm: of one row's gradient, or None for √2·bound.
        optimiser: "sgd" or "adam".
        momentum: of "sgd".
    """

    batch_rows: int = 4096
    epochs: float = 10.0
    learning_rate: float = 0.3
    clip_norm: float | None = None
    optimiser: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_count("batch_rows", self.batch_rows, 1 << 30)
        check_positive("epochs", self.epochs)
        check_positive("learning rate", self.learning_rate)
        if self.optimiser not in ("sgd", "adam"):
            raise OptionError(f"optimiser {self.optimiser!r}: expected 'sgd' or 'adam'")

    def probability(self, rows: float) -> float:
        """With which a row is in a batch."""
        return min(1.0, self.batch_rows / rows)

    def steps(self, rows: float) -> int:
        """Batches in all."""
        return max(1, round(self.epochs / self.probability(rows)))

    def plan_within(self, shape: Shape, budget: Budget, also_mu: float) -> tuple[Release, ...]:
        """All batches, with the noise that PLD finds for the budget beside `also_mu`."""
        probability, steps = self.probability(shape.rows), self.steps(shape.rows)
        multiplier = poisson_noise_multiplier(budget, probability, steps, also_mu)
        # PLD's multiplier is per example; a replaced row is two, which it knows already.
        clip = largest_gradient(shape.bound, self.clip_norm)
        return (Release(BATCH_GRADIENT, clip, multiplier, shape.parameters, steps, probability),)

    def plan(self, shape: Shape, mu: float) -> tuple[Release, ...]:
        """Not for this solver: Poisson batches have no μ. Raises `OptionError`."""
        raise OptionError("Poisson batches are planned within a budget: use plan_within")

    def fit(self, task: Task) -> Array:
        """Weights (width, K)."""
        shape = task.shape
        probability, steps = self.probability(shape.rows), self.steps(shape.rows)
        clip = largest_gradient(shape.bound, self.clip_norm)
        expected = probability * shape.rows
        weights = np.zeros((shape.width, shape.classes))
        update = _Update(self.optimiser, self.momentum)
        rate = self.learning_rate / (shape.curvature if self.optimiser == "sgd" else 1.0)
        for step in range(steps):
            batch = sampled(task.prepared.chunks(), task.bits, probability)
            exact = task.arithmetic.gradient(batch, weights, clip)
            gradient = task.mechanism.publish(BATCH_GRADIENT, exact) / expected
            weights = within_logit_bound(weights - rate * update(gradient), shape.bound)
            task.progress("batches", step + 1, steps)
        return weights


def sampled(chunks: Iterator[Chunk], bits: RandomBits, probability: float) -> Iterator[Chunk]:
    """A Poisson sample of the rows, in chunks, some of which may be empty."""
    for rows, labels in chunks:
        chosen = bernoulli_rows(bits, probability, len(labels))
        yield rows[chosen], labels[chosen]


class _Update:
    """From a gradient to a step of SGD with momentum, or of Adam (Kingma & Ba 2015)."""

    def __init__(self, optimiser: str, momentum: float) -> None:
        self._adam, self._momentum, self._count = optimiser == "adam", momentum, 0
        self._first: Array | float = 0.0
        self._second: Array | float = 0.0

    def __call__(self, gradient: Array) -> Array:
        if not self._adam:
            self._first = self._momentum * self._first + gradient
            return np.asarray(self._first)
        decay, slow, small = _ADAM
        self._count += 1
        self._first = decay * self._first + (1 - decay) * gradient
        self._second = slow * self._second + (1 - slow) * np.square(gradient)
        corrected = self._first / (1 - decay**self._count)
        root = np.sqrt(self._second / (1 - slow**self._count))
        return np.asarray(corrected / (root + small))
