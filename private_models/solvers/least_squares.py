"""DP least squares: sums of products published once, then a linear system.

`shared_gram=False` is DP-LS as published (Mehta et al. 2022, arXiv 2205.02973, algorithm 2): a
global Gram G = Σ z zᵀ, a Gram A_c and a sum b_c for every class, and

    (A_c + α·G + reg·I) w_c = b_c .

`shared_gram=True` publishes G and the sums alone, and regresses the labels on the features with one
factorisation for all classes:  (G + reg·I) w_c = b_c.  It has K times fewer numbers to hide.

Privacy: one row touches G, one A_c and one b_c, with norms bound², bound² and bound; classes are
disjoint, so they are one release and not K. Under `replace` a row may touch two of each. What is
solved afterwards, projection to positive semidefinite matrices included, is post-processing.
"""

import math
from dataclasses import dataclass

import numpy as np

from private_models.errors import OptionError
from private_models.noise import Array
from private_models.releases import Release
from private_models.solvers.task import Shape, Task, check_positive, shares

GRAM = "Gram matrix of the features"
CLASS_GRAMS = "Gram matrix of every class"
CLASS_SUMS = "sum of the features of every class"
_MOST_NUMBERS = 1 << 28
"""In the Grams of all classes: 2 GB."""


@dataclass(frozen=True)
class LeastSquares:
    """One-shot least squares.

    Attributes:
        shared_gram: one Gram for all classes, or one each, as published.
        ridge: reg relative to the mean eigenvalue of G, beyond what its noise asks for.
        gram_weight: α of the published form.
        gram_share: of μ² spent on G, and on the class Grams again where there are any.
    """

    shared_gram: bool = True
    ridge: float = 0.01
    gram_weight: float = 0.1
    gram_share: float = 0.2

    def __post_init__(self) -> None:
        check_positive("ridge", self.ridge)

    def plan(self, shape: Shape, mu: float) -> tuple[Release, ...]:
        """G, the class Grams if asked for, the class sums."""
        triangle = shape.width * (shape.width + 1) // 2
        if not self.shared_gram and shape.width**2 * shape.classes > _MOST_NUMBERS:
            raise OptionError(
                f"{shape.classes} Gram matrices of {shape.width} features need "
                f"{shape.width**2 * shape.classes * 8 / 1e9:.1f} GB: use shared_gram=True"
            )
        portion, square = self.gram_share, shape.bound**2
        if self.shared_gram:
            multipliers = shares(mu, [portion, 1 - portion])
        else:
            multipliers = shares(mu, [portion, portion, 1 - portion])
        gram = Release(GRAM, shape.sensitivity(square, True), multipliers[0], triangle)
        sums = Release(
            CLASS_SUMS, shape.sensitivity(shape.bound), multipliers[-1], shape.parameters
        )
        if self.shared_gram:
            return gram, sums
        each = Release(
            CLASS_GRAMS, shape.sensitivity(square, True), multipliers[1], triangle * shape.classes
        )
        return gram, each, sums

    def fit(self, task: Task) -> Array:
        """Weights (width, K)."""
        width, classes = task.shape.width, task.shape.classes
        deviation = task.mechanism.next_release.standard_deviation
        edge = deviation * math.sqrt(2 * width)
        exact = task.arithmetic.gram(task.prepared.chunks(), width)
        gram = positive(task.mechanism.publish_symmetric(GRAM, exact))
        grams = None if self.shared_gram else self._class_grams(task)
        exact = task.arithmetic.class_sums(task.prepared.chunks(), width, classes)
        sums = task.mechanism.publish(CLASS_SUMS, exact)
        reg = (self.ridge * float(np.trace(gram)) / width + edge) * np.eye(width)
        if grams is None:
            # Labels less 1/K, so that no class is favoured by the features' mean.
            return np.asarray(np.linalg.solve(gram + reg, sums - sums.mean(axis=1, keepdims=True)))
        systems = grams + self.gram_weight * gram + reg
        return np.asarray(np.linalg.solve(systems, sums.T[:, :, None])[:, :, 0].T)

    def _class_grams(self, task: Task) -> Array:
        width, classes = task.shape.width, task.shape.classes
        exact = np.stack(
            [
                task.arithmetic.gram(
                    ((z[labels == k], labels[labels == k]) for z, labels in task.prepared.chunks()),
                    width,
                )
                for k in range(classes)
            ]
        )
        upper = np.triu_indices(width)
        scale = np.where(upper[0] == upper[1], 1.0, math.sqrt(2))
        noisy = task.mechanism.publish(CLASS_GRAMS, exact[:, upper[0], upper[1]] * scale) / scale
        grams = np.empty_like(exact)
        grams[:, upper[0], upper[1]] = noisy
        grams[:, upper[1], upper[0]] = noisy
        return np.stack([positive(gram) for gram in grams])


def positive(symmetric: Array) -> Array:
    """The nearest positive semidefinite matrix in Frobenius norm (Higham 1988)."""
    values, axes = np.linalg.eigh(symmetric)
    return np.asarray((axes * values.clip(0)) @ axes.T)
