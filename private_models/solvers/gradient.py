"""DP-FC and noisy gradient descent: full-batch steps in a space where all directions are alike.

`fc` is DP-SGD with feature covariance (Mehta et al. 2023, arXiv 2211.13403): F = Σ z zᵀ needs no
label, is published once, and preconditions every gradient by (F/n + reg·I)⁻¹. Where public features
have whitened the rows already, F is public knowledge, is not published, and steps are plain.

Privacy: one row adds z·zᵀ to F, at most bound² in Frobenius norm, and a gradient of norm at most
C ≤ √2·bound, clipped by the norm trick. All releases are full-batch and Gaussian; noise is drawn
anew for every class and every step.
"""

import math
from dataclasses import dataclass

import numpy as np

from private_models.arithmetic import largest_gradient
from private_models.noise import Array
from private_models.releases import Release
from private_models.solvers.task import (
    Shape,
    Task,
    check_count,
    check_positive,
    shares,
    within_logit_bound,
)

COVARIANCE = "covariance of the features"
GRADIENT = "gradient of the loss"


@dataclass(frozen=True)
class FeatureCovariance:
    """Preconditioned full-batch gradient descent.

    Attributes:
        steps: gradient releases.
        learning_rate: in units of the inverse of the largest eigenvalue of E z·zᵀ.
        momentum: 0 to 1, 1 excluded.
        clip_norm: of one row's gradient, or None for what is never exceeded, √2·bound.
        covariance_share: of μ² spent on F; 0 where rows were whitened by public features.
        ridge: reg relative to the mean eigenvalue of F, beyond what its noise asks for.
    """

    steps: int
    learning_rate: float
    momentum: float = 0.0
    clip_norm: float | None = None
    covariance_share: float = 0.1
    ridge: float = 0.1

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 100_000)
        check_positive("learning rate", self.learning_rate)

    def plan(self, shape: Shape, mu: float) -> tuple[Release, ...]:
        """F, unless its share is 0, then the gradients, alike."""
        clip = largest_gradient(shape.bound, self.clip_norm)
        share = self.covariance_share
        gradients = Release(
            GRADIENT,
            shape.sensitivity(clip),
            math.sqrt(self.steps / (1 - share)) / mu,
            shape.parameters,
            self.steps,
        )
        if not share:
            return (gradients,)
        covariance = Release(
            COVARIANCE,
            shape.sensitivity(shape.bound**2, orthogonal=True),
            shares(mu, [share, 1 - share])[0],
            shape.width * (shape.width + 1) // 2,
        )
        return covariance, gradients

    def fit(self, task: Task) -> Array:
        """Weights (width, K)."""
        shape = task.shape
        precondition, pace = self._preconditioner(task)
        clip = largest_gradient(shape.bound, self.clip_norm)
        weights = np.zeros((shape.width, shape.classes))
        velocity = np.zeros_like(weights)
        for step in range(self.steps):
            exact = task.arithmetic.gradient(task.prepared.chunks(), weights, clip)
            gradient = task.mechanism.publish(GRADIENT, exact) / shape.rows
            velocity = self.momentum * velocity + precondition @ gradient
            weights = within_logit_bound(weights - pace * velocity, shape.bound)
            task.progress("gradient steps", step + 1, self.steps)
        return weights

    def _preconditioner(self, task: Task) -> tuple[Array, float]:
        """(F/n + reg·I)⁻¹, and the learning rate in its units.

        reg is `ridge`·mean eigenvalue, and at least the edge σ√(2d)/n of the spectrum of F's
        noise, off-diagonal standard deviation σ/√2 (Wigner's semicircle): below it there is none
        but noise.
        """
        shape = task.shape
        if not self.covariance_share:
            return np.eye(shape.width), self.learning_rate / shape.curvature
        deviation = task.mechanism.next_release.standard_deviation
        exact = task.arithmetic.gram(task.prepared.chunks(), shape.width)
        published = task.mechanism.publish_symmetric(COVARIANCE, exact) / shape.rows
        values, axes = np.linalg.eigh(published)
        values = values.clip(0)
        edge = deviation * math.sqrt(2 * shape.width) / shape.rows
        floor = self.ridge * float(values.mean()) + edge
        return (axes / (values + floor)) @ axes.T, self.learning_rate
