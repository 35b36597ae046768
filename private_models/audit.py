"""Attacks on one's own heads: what they find is a lower bound, and never a guarantee.

*Mechanism test.* Many fits of a tiny problem with and without one row that is alone in its own
direction. If fits are μ-Gaussian-private, no statistic of them separates the two cases better than
N(0, 1) from N(μ, 1). The test counts, and turns the counts into a lower bound on μ that holds with
the confidence asked for, so on ε at a δ (Nasr et al. 2023, arXiv 2302.07956, section 5). It reads
the mechanism's noise and clipping, so a fault of those shows; it does not see whether the
accountant's formula is right for another shape of data.

*Membership inference.* LiRA (Carlini et al. 2022, arXiv 2112.03570): shadow heads on random halves
give, for each row, scores with and without it; a likelihood ratio of two normals decides.

A low bound means that this attack failed, and nothing more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from scipy.stats import beta, norm

from private_models.accounting import check_delta, gaussian_epsilon
from private_models.errors import InputError, OptionError
from private_models.head import PrivateHead
from private_models.noise import Array, RandomBits, bernoulli_rows

Fit = Callable[[Array, npt.NDArray[np.int64]], PrivateHead]
"""From features and class indices to a head, with noise of its own each time."""

NO_REASSURANCE = "a lower bound: this attack found this much; a low one proves nothing"
_LARGEST_MU = 100.0
_LEARNING_SHARE = 4
"""One run in so many finds the statistic and the threshold; the others count."""


@dataclass(frozen=True)
class Bound:
    """What an attack proves.

    Attributes:
        claimed: epsilon that the head states. found: epsilon below which it cannot be, at the same
        delta, except with probability 1 − confidence. runs: fits in each of the two cases.
    """

    claimed: float
    found: float
    delta: float
    confidence: float
    runs: int
    note: str = NO_REASSURANCE

    @property
    def is_broken(self) -> bool:
        """Whether the claim is refuted."""
        return self.found > self.claimed


def mechanism_problem(
    norm_bound: float, classes: int = 3
) -> tuple[Array, npt.NDArray[np.int64], Array]:
    """Thirty rows in the first two directions, and a canary alone in the third.

    Returns features (30, 4), class indices (30,), and the canary's features (4,), whose norm is ten
    times the bound: it will be clipped, or else it will be seen.
    """
    angles = 2 * math.pi * np.arange(30) / 30
    features = np.zeros((30, 4))
    features[:, 0], features[:, 1] = np.cos(angles) * norm_bound, np.sin(angles) * norm_bound
    canary = np.zeros(4)
    canary[2] = 10 * norm_bound
    return features, (np.arange(30) % classes).astype(np.int64), canary


def audit_mechanism(
    fit: Fit,
    norm_bound: float,
    runs: int = 1000,
    confidence: float = 0.999,
    classes: int = 3,
    progress: Callable[[int], None] = lambda _done: None,
) -> Bound:
    """A lower bound on epsilon from `runs` fits with the canary and as many without.

    fit: must accept 30 or 31 rows of 4 features, `classes` classes. norm_bound: its feature norm.

    The statistic, a linear one of the weights in the canary's direction, is fixed by the first
    quarter of the runs, and the threshold too;
    the others, which are independent, count.
    """
    if not (4 <= runs <= 10**6 and 0.5 < confidence < 1):
        raise OptionError(f"{runs} runs at confidence {confidence}: expected 4 to 10^6, 0.5 to 1")
    features, labels, canary = mechanism_problem(norm_bound, classes)
    with_it, label = np.vstack([features, canary]), np.append(labels, 0)
    there, absent = np.empty((runs, classes)), np.empty((runs, classes))
    statement = None
    for run in range(runs):
        there[run] = (head := fit(with_it, label)).weights[:, 2]
        absent[run] = fit(features, labels).weights[:, 2]
        statement = head.statement
        progress(run + 1)
    if statement is None:
        raise OptionError("no run was made")
    mu = max(_separation(s, confidence) for s in _statistics(there, absent))
    found = gaussian_epsilon(min(mu, _LARGEST_MU), statement.delta)
    return Bound(statement.epsilon, found, statement.delta, confidence, runs)


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


def _separation(statistic: tuple[Array, Array], confidence: float) -> float:
    """A lower bound on μ that holds with `confidence` for both statistics together.

    The threshold comes from the first quarter: the one that would prove most if the others came out
    like it. On the others, true and false positive rates are bounded by Clopper and Pearson, and
    μ ≥ Φ⁻¹(TPR) − Φ⁻¹(FPR) (Dong, Roth & Su 2022, definition 2.6).
    """
    there, absent = statistic
    first = len(there) // _LEARNING_SHARE
    count, risk = len(there) - first, (1 - confidence) / 4  # two statistics, two rates each
    pooled = np.concatenate([there[:first], absent[:first]])
    thresholds = np.quantile(pooled, np.linspace(0.02, 0.98, 49))

    def proved(rows: slice, threshold: float) -> float:
        hits, alarms = (float((side[rows] > threshold).mean()) for side in statistic)
        return _proved_mu(round(hits * count), round(alarms * count), count, risk)

    best = max(thresholds, key=lambda threshold: proved(slice(0, first), float(threshold)))
    return proved(slice(first, None), float(best))


def _proved_mu(hits: int, alarms: int, count: int, risk: float) -> float:
    """The μ below which counts like these are less likely than twice `risk`, or 0."""
    if not hits or alarms >= count:
        return 0.0
    low = float(beta.ppf(risk, hits, count - hits + 1))
    high = float(beta.isf(risk, alarms + 1, count - alarms))
    return max(0.0, float(norm.ppf(low) - norm.ppf(high)))


# ---------------------------------------------------------------------------- membership


@dataclass(frozen=True)
class Membership:
    """How well members are told from others.

    Attributes:
        false_positive, true_positive: the ROC curve, ascending arrays (points,).
        members, others: how many of each were judged.
    """

    false_positive: Array
    true_positive: Array
    members: int
    others: int
    note: str = NO_REASSURANCE

    def true_positive_at(self, false_positive: float) -> float:
        """The largest true positive rate at no more than this false positive rate."""
        allowed = self.false_positive <= false_positive
        return float(self.true_positive[allowed].max(initial=0.0))

    @property
    def area(self) -> float:
        """Under the ROC curve; 0.5 for guessing."""
        return float(np.trapezoid(self.true_positive, self.false_positive))

    def epsilon(self, delta: float, confidence: float = 0.999) -> float:
        """What the curve's best point would prove of ε, had it been chosen before looking.

        Rows share heads and the point is chosen after the fact, so this is an indication, not a
        bound with that confidence.
        """
        check_delta(delta)
        risk = (1 - confidence) / 2
        found = 0.0
        for fp, tp in zip(self.false_positive, self.true_positive, strict=True):
            alarms, hits = round(fp * self.others), round(tp * self.members)
            high = float(beta.isf(risk, alarms + 1, max(self.others - alarms, 1e-9)))
            low = float(beta.ppf(risk, hits, self.members - hits + 1)) if hits else 0.0
            if low > delta and high > 0:
                found = max(found, math.log(max((low - delta) / high, 1e-300)))
        return found


def membership(
    fit: Fit,
    features: Array,
    labels: npt.NDArray[np.int64],
    shadows: int = 32,
    progress: Callable[[int], None] = lambda _done: None,
) -> Membership:
    """LiRA with `shadows` heads on random halves, judged on one more head and its own half.

    features (rows, d), labels (rows,) as class indices.
    """
    if len(features) != len(labels) or len(labels) < 20:
        raise InputError(
            f"{len(features)} rows and {len(labels)} labels: expected 20 pairs at least"
        )
    if not 8 <= shadows <= 10_000:
        raise OptionError(f"{shadows} shadow heads: expected 8 to 10,000")
    bits = RandomBits()
    inside = np.stack([bernoulli_rows(bits, 0.5, len(labels)) for _ in range(shadows + 1)])
    confidence = np.empty((shadows + 1, len(labels)))
    for number, chosen in enumerate(inside):
        head = fit(features[chosen], labels[chosen])
        confidence[number] = _logit_confidence(head, features, labels)
        progress(number + 1)
    scores = _likelihood_ratio(confidence[:-1], inside[:-1], confidence[-1])
    return _curve(scores, inside[-1])


def _logit_confidence(head: PrivateHead, features: Array, labels: Any) -> Array:
    """log p/(1 − p) of the true class, as LiRA takes it; (rows,)."""
    logs = log_softmax(head.scores(features), axis=1)
    true = logs[np.arange(len(labels)), labels]
    return np.asarray(true - np.log(-np.expm1(np.minimum(true, -1e-12))))


def _likelihood_ratio(shadow: Array, inside: npt.NDArray[np.bool_], target: Array) -> Array:
    """log N(target; in) − log N(target; out) by row, with one variance for all rows."""
    members, others = np.where(inside, shadow, np.nan), np.where(inside, np.nan, shadow)
    mean_in, mean_out = _mean(members), _mean(others)
    spread = math.sqrt(float(np.nanmean(np.square(members - mean_in))) + 1e-300)
    spread_out = math.sqrt(float(np.nanmean(np.square(others - mean_out))) + 1e-300)
    return np.asarray(
        norm.logpdf(target, mean_in, spread) - norm.logpdf(target, mean_out, spread_out)
    )


def _mean(values: Array) -> Array:
    """Column means without NaN; 0 for a row that was always, or never, inside."""
    counts = np.isfinite(values).sum(axis=0)
    return np.asarray(np.nansum(values, axis=0) / np.maximum(counts, 1))


def _curve(scores: Array, inside: npt.NDArray[np.bool_]) -> Membership:
    order = np.argsort(-scores, kind="stable")
    hits, alarms = np.cumsum(inside[order]), np.cumsum(~inside[order])
    members, others = int(inside.sum()), int((~inside).sum())
    last = np.append(np.diff(scores[order]) != 0, True)  # ties stand or fall together
    return Membership(
        np.append(0.0, (alarms / max(others, 1))[last]),
        np.append(0.0, (hits / max(members, 1))[last]),
        members,
        others,
    )
