"""What is chosen where the user does not: from n, epsilon and the shape, never from private rows.

The one number that matters is the *signal*, s = μ·n/d: how large the mean of a feature over n rows
is against the noise, for a head that spends a total μ on d features. The constants were first found
on training images of CIFAR-10 through EfficientNet-Lite0, and kept because `benchmarks.tune_heads`
finds none that is clearly better on Fashion-MNIST, which no benchmark of heads measures; the pace,
and those of rows that nothing public whitens, were found on Fashion-MNIST alone. Settings that a
user tunes on private rows cost budget that nothing here counts.
"""

import math

from private_models.solvers.gradient import FeatureCovariance
from private_models.solvers.least_squares import LeastSquares

DIRECTIONS_AT_UNIT = 2.2
"""Times √(μ·n): how many public directions are worth their noise."""
LARGEST_RIDGE, RIDGE_AT_UNIT_SIGNAL = 4.0, 40.0
RATE_AT_UNIT_SIGNAL = 2.0
LARGEST_RATE = 4.0
"""Plain descent on a softmax loss, whose curvature is at most half, is stable below 4."""
LARGEST_PACE = 10.0
"""Of descent on whitened rows: a rate over 1 − momentum, which takes what the rate may not."""
PATIENT_BELOW = 800.0
"""μ·n below which descent on whitened rows slows down, by the root: of so few rows each step shows
little but noise, in whatever number of features."""
MOMENTUM = 0.9
"""Where F is published: of heavy-ball descent, which stays stable up to a rate of 7.6."""
STEPS = 20
CLIP = 0.7
"""Of a row's gradient, relative to the row's norm: an example that is half right has less, one that
is wrong has up to √2. Half the noise of never clipping, for a bias that is smaller than it."""


def signal(mu: float, rows: float, features: int) -> float:
    """s = μ·n/d."""
    return mu * max(rows, 1.0) / features


def whitening_directions(mu: float, rows: float) -> int:
    """How many principal directions of the public features are kept.

    Each that is kept adds noise; those of small variance tell classes apart only when there is
    little of it.
    """
    return max(2, round(DIRECTIONS_AT_UNIT * math.sqrt(mu * max(rows, 1.0))))


def whitening_ridge(strength: float) -> float:
    """Ridge of public whitening, relative to the mean variance: mutes what is mostly noise."""
    return min(LARGEST_RIDGE, max(1e-2, RIDGE_AT_UNIT_SIGNAL / strength))


def descent(strength: float, features: int, whitened: bool, bound: float) -> FeatureCovariance:
    """Gradient descent on rows of norm `bound`.

    Whitened rows: steps as long as the signal bears, with momentum for what is over the largest
    rate. Else the preconditioner, whose floor rises with the noise of F, shortens them where there
    is none, and momentum makes up for what the floor takes from directions of small variance.
    """
    if whitened:
        patience = math.sqrt(min(1.0, strength * features / PATIENT_BELOW))
        pace = min(LARGEST_PACE, RATE_AT_UNIT_SIGNAL * math.sqrt(strength) * patience)
        rate = min(LARGEST_RATE, pace)
        return FeatureCovariance(
            STEPS, rate, 1 - rate / pace, clip_norm=CLIP * bound, covariance_share=0.0
        )
    return FeatureCovariance(STEPS, LARGEST_RATE, MOMENTUM, clip_norm=CLIP * bound)


def least_squares(strength: float, shared_gram: bool) -> LeastSquares:
    """Least squares with a ridge for the signal."""
    return LeastSquares(shared_gram=shared_gram, ridge=min(100.0, max(1e-3, 0.1 / strength)))
