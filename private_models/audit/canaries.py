"""Marked rows in one fit: Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846).

Each of m canaries is put in or left out by a coin of its own; from the one head the attacker says
which were in, for those that it is surest of. If the head is (ε, δ)-private, v right answers of r
have a probability of at most (theorem 5.2)

    β + 2mδ·max_i (P[V ≥ v − i] − P[V ≥ v])/i,    V ~ Binomial(r, e^ε/(1 + e^ε)),   β = P[V ≥ v]

so an ε for which that is below 1 − confidence is refuted. Two things make it see anything at all:
canaries lie in directions that are orthogonal to each other and in which the known rows vary least,
and what the *known* rows do to the head, found from heads that are fitted without any canary, is
subtracted: the attacker knows them.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from private_models.audit.findings import Bound, Fit, Flags, Steps, ignore
from private_models.errors import InputError, OptionError
from private_models.noise import Array, RandomBits, bernoulli_rows

_GUESSED = 0.5
"""Of the canaries, half of them as in and half as out; fixed before anything is seen."""
_LARGEST_EPSILON = 50.0


@dataclass(frozen=True)
class CanaryAudit:
    """A bound, and how it came about: `right` of `guessed` canaries of `bound.runs`."""

    bound: Bound
    guessed: int
    right: int


def audit_canaries(
    fit: Fit,
    features: Array,
    labels: npt.NDArray[np.int64],
    classes: int,
    norm_bound: float,
    count: int | None = None,
    known_fits: int = 8,
    confidence: float = 0.99,
    progress: Steps = ignore,
) -> CanaryAudit:
    """A lower bound on epsilon from one fit on the rows and about half of `count` canaries.

    features (rows, d), labels (rows,) as class indices; norm_bound: of rows, as the fit clips them.
    count: at most d, and all directions but the strongest half without it. known_fits: heads
    without canaries, whose mean is subtracted. Raises `InputError` and `OptionError`.
    """
    width = features.shape[1]
    count = max(1, width // 2) if count is None else count
    if not 4 <= count <= width:
        raise OptionError(f"{count} canaries: expected 4 to {width}, for they are orthogonal")
    if not 0.5 < confidence < 1 or known_fits < 1:
        raise OptionError(f"confidence {confidence} with {known_fits} fits: expected 0.5 to 1, "
                          "and a fit at least")  # fmt: skip
    if len(features) != len(labels):
        raise InputError(f"{len(features)} rows and {len(labels)} labels: expected as many")
    _, _, axes = np.linalg.svd(features, full_matrices=True)
    directions = axes[width - count :]
    classes_of = (np.arange(count) % classes).astype(np.int64)
    inside = bernoulli_rows(RandomBits(), 0.5, count)
    rows = np.vstack([features, norm_bound * directions[inside]])
    head = fit(rows, np.append(labels, classes_of[inside]))
    if head.hidden is not None:
        raise OptionError("canaries lie along features: a head with a hidden layer has products")
    progress(1)
    known = np.zeros_like(head.weights)
    for number in range(known_fits):
        known += fit(features, labels).weights / known_fits
        progress(number + 2)
    moved = (head.weights - known) @ directions.T
    scores = moved[classes_of, np.arange(count)] - moved.mean(axis=0)
    guessed, right = _guesses(scores, inside)
    statement = head.statement
    found = refuted_below(count, guessed, right, statement.delta, 1 - confidence)
    bound = Bound(
        statement.epsilon, found, statement.delta, confidence, count, "canaries in one fit"
    )
    return CanaryAudit(bound, guessed, right)


def _guesses(scores: Array, inside: Flags) -> tuple[int, int]:
    """The highest are said to be in, the lowest out; how many were said, and how many rightly."""
    each = max(1, round(_GUESSED * len(scores) / 2))
    order = np.argsort(-scores, kind="stable")
    right = int(inside[order[:each]].sum()) + int((~inside[order[-each:]]).sum())
    return 2 * each, right


def probability_of(count: int, guessed: int, right: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2: at most this probability of so many right guesses, were (ε, δ) kept."""
    share = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guessed, share))
    masses = binom.pmf(np.arange(right - 1, -1, -1), guessed, share)
    steps = np.cumsum(masses) / np.arange(1, right + 1) if right else np.zeros(1)
    return min(1.0, tail + 2 * count * delta * float(steps.max(initial=0.0)))


def refuted_below(count: int, guessed: int, right: int, delta: float, risk: float) -> float:
    """The largest ε, to 10⁻⁶, at which such guesses have a probability of at most `risk`, or 0."""
    low, high = 0.0, _LARGEST_EPSILON
    if probability_of(count, guessed, right, low, delta) > risk:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        fits = probability_of(count, guessed, right, middle, delta) > risk
        low, high = (low, middle) if fits else (middle, high)
    return low
