"""DP-FC and noisy gradient descent: full-batch steps in a space where all directions are alike.

`fc` is DP-SGD with feature covariance (Mehta et al. 2023, arXiv 2211.13403): F = Σ z zᵀ needs no
label, is published once, and preconditions every gradient by (F/n + reg·I)⁻¹. Two things are read
off F besides: its column of the constant is the mean of the features, and its trace their length.
Rows are centred by the one and scaled to the norm bound by the other before any gradient is made,
so that noise, which is as large as the bound, is not spent on what all rows have in common. Where
public features have whitened the rows already, F is public knowledge, is not published, and steps
are plain.

Privacy: one row adds z·zᵀ to F, at most bound² in Frobenius norm, and a gradient of norm at most
C ≤ √2·bound, clipped by the norm trick, whatever was done to the row. All releases are full-batch
and Gaussian; noise is drawn anew for every class and every step.
"""

import math
from dataclasses import dataclass

import numpy as np

from private_models.arithmetic import largest_gradient
from private_models.noise import Array
from private_models.preparation import Transform
from private_models.releases import UNIT_ROUNDOFF, Release
from private_models.solvers.task import (
    Prepared,
    Shape,
    Task,
    check_count,
    check_positive,
    shares,
    within_logit_bound,
)

COVARIANCE = "covariance of the features"
GRADIENT = "gradient of the loss"
LARGEST_GAIN = 8.0
"""By which rows are made longer after centring, at most."""


@dataclass(frozen=True)
class FeatureCovariance:
    """Preconditioned full-batch gradient descent.

    Attributes:
        steps: gradient releases.
        learning_rate: in units of the inverse of the largest eigenvalue of E z·zᵀ.
        momentum: 0 to 1, 1 excluded.
        clip_norm: of one row's gradient, or None for what is never exceeded, √2·bound.
        covariance_share: of μ² spent on F; 0 where rows were whitened by public features.
        ridge: reg relative to the mean eigenvalue of F, beyond the edge σ√(2d)/n of the spectrum of
            its noise (Wigner's semicircle): below that there is nothing but noise.
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

    def rounding(self, transform: Transform) -> float:
        """Error of a row that gradients see, relative to its bound, at most."""
        if not self.covariance_share:
            return transform.rounding
        # Lengths become longer with the rows, then centring and one more clip factor.
        own = UNIT_ROUNDOFF * (transform.width / 2 + 16)
        return LARGEST_GAIN * (transform.rounding + 8 * UNIT_ROUNDOFF) + own

    def fit(self, task: Task) -> Array:
        """Weights (width, K)."""
        shape = task.shape
        view = self._view(task)
        clip = largest_gradient(shape.bound, self.clip_norm)
        weights = np.zeros((shape.width, shape.classes))
        velocity = np.zeros_like(weights)
        for step in range(self.steps):
            exact = view.prepared.gradient(task.arithmetic, weights, clip)
            gradient = task.mechanism.publish(GRADIENT, exact) / shape.rows
            velocity = self.momentum * velocity + view.precondition(gradient)
            weights = within_logit_bound(weights - view.pace * velocity, shape.bound)
            task.progress("gradient steps", step + 1, self.steps)
        return view.weights(weights)

    def _view(self, task: Task) -> "_View":
        shape = task.shape
        if not self.covariance_share:
            return _View(task.prepared, None, self.learning_rate / shape.curvature, None)
        deviation = task.mechanism.next_release.standard_deviation / shape.rows
        exact = task.arithmetic.gram(task.prepared.chunks(), shape.width)
        published = task.mechanism.publish_symmetric(COVARIANCE, exact) / shape.rows
        inner, covariance = _recentring(published, deviation, task.prepared.transform)
        values, axes = np.linalg.eigh(covariance)
        values = values.clip(0)
        edge = deviation * inner.gain**2 * math.sqrt(2 * shape.width)
        floor = self.ridge * float(values.mean()) + edge
        inverse = (axes / (values + floor)) @ axes.T
        return _View(task.prepared.through(inner), inverse, self.learning_rate, inner)


@dataclass(frozen=True)
class _View:
    """Rows as gradients see them, and steps in that space.

    Attributes:
        prepared: the rows. inverse: (F/n + reg·I)⁻¹, or None for the identity. pace: of a step.
        inner: what was done to prepared rows, or None.
    """

    prepared: Prepared
    inverse: Array | None
    pace: float
    inner: Transform | None

    def precondition(self, gradient: Array) -> Array:
        return gradient if self.inverse is None else self.inverse @ gradient

    def weights(self, found: Array) -> Array:
        """For rows as the task prepared them."""
        if self.inner is None:
            return found
        outer, constant = self.inner.fold(found)
        return np.vstack([outer, constant / self.inner.bias]) if self.inner.bias else outer


def _recentring(published: Array, deviation: float, outer: Transform) -> tuple[Transform, Array]:
    """Centring and scaling read off F/n, and F/n (width, width) as it is after them.

    F/n has noise of `deviation` on the diagonal and 1/√2 of that off it. With a bias column b its
    last column is b·mean, whose noise is taken off by positive-part shrinkage (James & Stein 1961),
    and which is no longer than rows are. Rows become longer by `LARGEST_GAIN` at most, which keeps
    their rounding error bounded.
    """
    inner = len(published) - (outer.bias != 0)
    mean = np.zeros(inner)
    if outer.bias:
        mean = published[:-1, -1] / outer.bias
        noise = inner * deviation**2 / 2 / outer.bias**2
        mean = mean * max(0.0, 1 - noise / max(float(mean @ mean), 1e-300))
        mean *= min(1.0, outer.norm / max(float(np.linalg.norm(mean)), 1e-300))  # a mean of rows
    square = float(np.trace(published[:inner, :inner])) - float(mean @ mean)
    gain = outer.norm / math.sqrt(max(square, (outer.norm / LARGEST_GAIN) ** 2))
    transform = Transform(
        mean, gain, gain, outer.norm, outer.bias, outer.norm, outer.bound**2, 1.0, "recentred"
    )
    covariance = np.zeros_like(published)
    covariance[:inner, :inner] = (published[:inner, :inner] - np.outer(mean, mean)) * gain**2
    if outer.bias:
        covariance[-1, -1] = outer.bias**2
    return transform, covariance
