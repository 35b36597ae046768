"""DP-Newton: noisy gradients and Hessians of K one-against-rest logistic losses.

(Mehta et al. 2022, arXiv 2205.02973, algorithm 3.) A step of every class is published at once; one
row touches all K of them, so sensitivities grow with √K. This is what makes it the weakest of the
solvers here for many classes; it is kept for comparison and for K = 2.

Privacy: one row adds (σ − y)·z to each gradient, at most bound, and σ(1 − σ)·z·zᵀ to each Hessian,
at most bound²/4; all K of them together √K times that.
"""

import math
from dataclasses import dataclass

import numpy as np

from private_models.errors import OptionError
from private_models.noise import Array
from private_models.releases import Release
from private_models.solvers.least_squares import positive
from private_models.solvers.task import (
    Shape,
    Task,
    check_count,
    check_positive,
    shares,
    within_logit_bound,
)

GRADIENTS = "gradients of all classes"
HESSIANS = "Hessians of all classes"
_MOST_NUMBERS = 1 << 28


@dataclass(frozen=True)
class Newton:
    """A few damped Newton steps.

    Attributes:
        steps: each publishes gradients and Hessians.
        ridge: reg relative to bound²/4/width, the mean eigenvalue at the start, beyond the noise.
        hessian_share: of μ² spent on Hessians.
        damping: of a full step.
    """

    steps: int = 3
    ridge: float = 0.1
    hessian_share: float = 0.3
    damping: float = 1.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1000)
        check_positive("ridge", self.ridge)

    def plan(self, shape: Shape, mu: float) -> tuple[Release, ...]:
        """For every step the gradients, then the Hessians."""
        if shape.width**2 * shape.classes > _MOST_NUMBERS:
            raise OptionError(
                f"{shape.classes} Hessians of {shape.width} features need "
                f"{shape.width**2 * shape.classes * 8 / 1e9:.1f} GB: use solver='fc'"
            )
        root = math.sqrt(shape.classes)
        first, second = shares(
            mu / math.sqrt(self.steps), [1 - self.hessian_share, self.hessian_share]
        )
        triangle = shape.classes * shape.width * (shape.width + 1) // 2
        step = (
            Release(GRADIENTS, shape.sensitivity(root * shape.bound), first, shape.parameters),
            Release(HESSIANS, shape.sensitivity(root * shape.bound**2 / 4, True), second, triangle),
        )
        return step * self.steps

    def fit(self, task: Task) -> Array:
        """Weights (width, K)."""
        shape = task.shape
        weights = np.zeros((shape.width, shape.classes))
        upper = np.triu_indices(shape.width)
        scale = np.where(upper[0] == upper[1], 1.0, math.sqrt(2))
        for step in range(self.steps):
            gradient, hessian = task.arithmetic.logistic(task.prepared.chunks(), weights)
            gradient = task.mechanism.publish(GRADIENTS, gradient)
            edge = task.mechanism.next_release.standard_deviation * math.sqrt(2 * shape.width)
            noisy = task.mechanism.publish(HESSIANS, hessian[:, upper[0], upper[1]] * scale) / scale
            floor = self.ridge * shape.rows * shape.bound**2 / 4 / shape.width + edge
            for k in range(shape.classes):
                system = np.empty((shape.width, shape.width))
                system[upper], system.T[upper] = noisy[k], noisy[k]
                system = positive(system) + floor * np.eye(shape.width)
                weights[:, k] -= self.damping * np.linalg.solve(system, gradient[:, k])
            weights = within_logit_bound(weights, shape.bound)
            task.progress("Newton steps", step + 1, self.steps)
        return weights
