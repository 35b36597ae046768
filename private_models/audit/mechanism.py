"""Many fits of a tiny problem with and without one row, which is made to be seen.

If fits are μ-Gaussian-private, no statistic of them separates the two cases better than N(0, 1)
from N(μ, 1). The test counts, and turns the counts into a lower bound on μ that holds with the
confidence asked for, so on ε at a δ (Nasr et al. 2023, arXiv 2302.07956, section 5). Where batches
are sampled and fits are not Gaussian, the bound is that of any (ε, δ): TPR ≤ e^ε·FPR + δ; weaker.

It reads the mechanism's noise and clipping, so a fault of those shows; it does not see whether the
accountant's formula is right for another shape of data.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from private_models.accounting import gaussian_epsilon
from private_models.audit.findings import Bound, Fit, Steps, ignore, rate_at_least, rate_at_most
from private_models.errors import OptionError
from private_models.noise import Array
from private_models.pate.ensemble import NoisyVotes
from private_models.statement import Statement

_LARGEST_MU = 100.0
_LEARNING_SHARE = 4
"""One run in so many finds the statistic and the threshold; the others count."""
Proof = Callable[[float, float], float]
"""From a rate of hits, at least, and of false alarms, at most, to what that proves; negative or
−∞ where it is nothing."""


@dataclass(frozen=True)
class Problem:
    """Known rows, and one more that is there or not.

    Attributes:
        features: (rows, 4). labels: (rows,) class indices. label: of the canary. classes: K.
        canary: (4,), in the third direction, where weights of the head are looked at.
    """

    features: Array
    labels: npt.NDArray[np.int64]
    canary: Array
    label: int
    classes: int


def canary_alone(norm_bound: float, classes: int = 3) -> Problem:
    """Thirty rows in the first two directions, and a canary alone in the third.

    Its norm is ten times the bound: it will be clipped, or else it will be seen.
    """
    angles = 2 * math.pi * np.arange(30) / 30
    features = np.zeros((30, 4))
    features[:, 0], features[:, 1] = np.cos(angles) * norm_bound, np.sin(angles) * norm_bound
    labels = (np.arange(30) % classes).astype(np.int64)
    return Problem(features, labels, _canary(norm_bound), 0, classes)


def canary_against(norm_bound: float, company: int = 1000) -> Problem:
    """A canary of class 0 among rows of its own direction and the other class.

    For second-order methods: it weakens the gradient that these agree on and adds to the curvature,
    so both of what is published tell of it.
    """
    features = np.zeros((company, 4))
    features[:, 2] = norm_bound
    return Problem(features, np.ones(company, np.int64), _canary(norm_bound), 0, 2)


def _canary(norm_bound: float) -> Array:
    canary = np.zeros(4)
    canary[2] = 10 * norm_bound
    return canary


@dataclass(frozen=True)
class MechanismAudit:
    """A bound, and the statistic that it rests on, for a picture: (runs counted,) in both cases."""

    bound: Bound
    there: Array
    absent: Array


def audit_mechanism(
    fit: Fit,
    problem: Problem,
    runs: int = 1000,
    confidence: float = 0.999,
    progress: Steps = ignore,
) -> MechanismAudit:
    """A lower bound on epsilon from `runs` fits with the canary and as many without.

    The statistic, a linear one of the weights in the canary's direction, is fixed by the first
    quarter of the runs, and the threshold too; the others, which are independent, count.
    Raises `OptionError`.
    """
    if not (4 <= runs <= 10**6 and 0.5 < confidence < 1):
        raise OptionError(f"{runs} runs at confidence {confidence}: expected 4 to 10^6, 0.5 to 1")
    with_it = np.vstack([problem.features, problem.canary])
    labels = np.append(problem.labels, problem.label)
    there, absent = np.empty((2, runs, problem.classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoisyVotes)  # which is what is attacked here
        for run in range(runs):
            there[run] = (head := fit(with_it, labels)).weights[:, 2]
            absent[run] = fit(problem.features, problem.labels).weights[:, 2]
            progress(run + 1)
    statement = head.statement
    pairs = _statistics(there, absent)
    found, method = _found(pairs, statement, confidence)
    bound = Bound(statement.epsilon, found, statement.delta, confidence, runs, method)
    counted = slice(runs // _LEARNING_SHARE, None)
    return MechanismAudit(bound, pairs[0][0][counted], pairs[0][1][counted])


def _found(
    pairs: list[tuple[Array, Array]], statement: Statement, confidence: float
) -> tuple[float, str]:
    if all(release.sampled in (None, 1.0) for release in statement.releases):
        risk = (1 - confidence) / (2 * len(pairs))  # two rates each
        mu = max(separation(pair, risk, _gaussian) for pair in pairs)
        return gaussian_epsilon(min(mu, _LARGEST_MU), statement.delta), "Gaussian privacy"
    # Of any mechanism, in either direction: that the canary is there, and that it is not.
    both = [*pairs, *((-absent, -there) for there, absent in pairs)]
    risk = (1 - confidence) / (2 * len(both))

    def proof(low: float, high: float) -> float:
        return math.log((low - statement.delta) / high) if low > statement.delta else -math.inf

    return max(separation(pair, risk, proof) for pair in both), "counts alone"


def _gaussian(low: float, high: float) -> float:
    """μ ≥ Φ⁻¹(TPR) − Φ⁻¹(FPR) (Dong, Roth & Su 2022, definition 2.6)."""
    return float(norm.ppf(low) - norm.ppf(high))


def _statistics(there: Array, absent: Array) -> list[tuple[Array, Array]]:
    """Two numbers a run, more when the canary is there; weights are learnt on the first quarter.

    The first is the best linear one, (Σ + small)⁻¹ times the difference of means: where classes
    share their noise, Σ is singular in the direction that cancels it, and nothing hides there.
    """
    first = len(there) // _LEARNING_SHARE
    centred = np.concatenate(
        [there[:first] - there[:first].mean(0), absent[:first] - absent[:first].mean(0)]
    )
    covariance = centred.T @ centred / len(centred)
    ridge = 1e-9 * float(np.trace(covariance)) + 1e-300
    shift = there[:first].mean(0) - absent[:first].mean(0)
    best = np.linalg.solve(covariance + ridge * np.eye(len(shift)), shift)
    return [(there @ best, absent @ best), (there @ shift, absent @ shift)]


def separation(statistic: tuple[Array, Array], risk: float, proof: Proof) -> float:
    """What the two samples prove; either rate is wrong with probability `risk` at most.

    The threshold is the one with which the first quarter proves most by itself, or comes closest to
    proving anything. Judged as if there were more runs, a tail where luck left one alarm too few
    would win. On the others, rates are bounded in the same way, by Clopper and Pearson.
    """
    there, absent = statistic
    first = len(there) // _LEARNING_SHARE
    pooled = np.concatenate([there[:first], absent[:first]])

    def proved(rows: slice, threshold: float) -> float:
        hits, alarms = (side[rows] > threshold for side in statistic)
        low = rate_at_least(int(hits.sum()), len(hits), risk)
        return proof(low, rate_at_most(int(alarms.sum()), len(alarms), risk))

    thresholds = np.quantile(pooled, np.linspace(0.02, 0.98, 49)).tolist()
    best = max(thresholds, key=lambda threshold: proved(slice(0, first), threshold))
    return max(0.0, proved(slice(first, None), best))
