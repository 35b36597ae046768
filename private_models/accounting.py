"""What releases cost: from noise to epsilon, and from epsilon to noise.

*Full batch.* Gaussian releases of the same data compose exactly: k releases with sensitivities Δᵢ
and standard deviations σᵢ, chosen adaptively, are together one Gaussian mechanism with
μ = √Σ(Δᵢ/σᵢ)² (Dong, Roth & Su 2022, "Gaussian differential privacy", corollary 3.3), and that is
(ε, δ)-private for exactly

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ)          (Balle & Wang 2018, theorem 8)

*Poisson batches* have no closed form: they are priced by `dp_accounting`'s privacy loss
distributions (Koskela et al. 2020; Doroshenko et al. 2022), which round pessimistically. The
central-limit formula that some libraries offer ("GDP") is not used: it underestimates.

The relation between neighbours is the caller's to name, and every result holds for it alone:
`add-remove` (one row more or less; n is private) or `replace` (one row changed; n is public).
"""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr

from private_models.errors import BudgetError, OptionError

Relation = Literal["add-remove", "replace"]
INTERVAL, COARSE_INTERVAL = 1e-4, 2e-3
"""Of the grid of privacy losses; the first is `dp_accounting`'s own."""
SMALLEST_MULTIPLIER, LARGEST_MULTIPLIER = 0.05, 1e7
_HOPELESS = 30.0
"""In place of an infinite ln(ε / budget), so that a search can go on from it."""
RELATIONS: tuple[Relation, ...] = get_args(Relation)

SMALLEST_EPSILON, LARGEST_EPSILON = 1e-3, 100.0
SMALLEST_DELTA = 1e-30
_TOLERANCE = 1e-12
"""Relative, of roots; results are moved to the safe side by it."""
_SPARE = 1e-8
"""By which μ for a wanted ε is lowered, so that pricing what was planned never exceeds ε."""
_MARGIN = 1e-9
"""By which a δ in float64 is raised: its relative error is below (tests compare with 50 digits)."""


@dataclass(frozen=True)
class Budget:
    """An (epsilon, delta) and the relation that it is meant for.

    Raises `BudgetError` for an epsilon outside 0.001 to 100 or a delta outside 10⁻³⁰ to 1, both
    excluded at 0 and 1, and `OptionError` for an unknown relation.
    """

    epsilon: float
    delta: float
    relation: Relation = "add-remove"

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise OptionError(f"relation {self.relation!r}: expected one of {', '.join(RELATIONS)}")
        check_epsilon(self.epsilon)
        check_delta(self.delta)


def check_epsilon(epsilon: float) -> None:
    """Raise `BudgetError` for what is no useful epsilon."""
    if not SMALLEST_EPSILON <= epsilon <= LARGEST_EPSILON:
        raise BudgetError(
            f"epsilon {epsilon}: expected {SMALLEST_EPSILON:g} to {LARGEST_EPSILON:g}; below, no "
            "answer is left, above, no privacy"
        )


def check_delta(delta: float) -> None:
    """Raise `BudgetError` for what is no delta."""
    if not SMALLEST_DELTA <= delta < 1:
        raise BudgetError(
            f"delta {delta}: expected more than 0 (from {SMALLEST_DELTA:g} on) and less than 1; "
            "well below 1 / rows is customary"
        )


# ---------------------------------------------------------------------------- full batch


def gaussian_delta(mu: float, epsilon: float) -> float:
    """δ of Gaussian releases with total μ at ε ≥ 0, rounded up; 0 for μ = 0.

    In logarithms, so that neither e^ε nor a small Φ is lost.
    """
    if mu == 0:
        return 0.0
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    if second >= first:  # equal but for rounding: δ is below what float64 resolves
        return math.exp(first) * _MARGIN
    return min(1.0, math.exp(first) * (-math.expm1(second - first) + _MARGIN))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least ε for which Gaussian releases with total μ are (ε, δ)-private, rounded up.

    Raises `BudgetError` for a μ that is negative, not finite or over 1000.
    """
    check_delta(delta)
    if not 0 <= mu <= 1000:
        raise BudgetError(f"μ {mu}: expected 0 to 1000; the noise is too small to account for")
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    root = float(brentq(lambda e: gaussian_delta(mu, e) - delta, 0.0, high, xtol=_TOLERANCE))
    return root * (1 + _TOLERANCE) + 2 * _TOLERANCE


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest total μ that Gaussian releases may have at (ε, δ), rounded down."""
    check_epsilon(epsilon)
    check_delta(delta)
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) < delta:
        low, high = high, 2 * high
    root = float(brentq(lambda m: gaussian_delta(m, epsilon) - delta, low, high, xtol=1e-14))
    return root * (1 - _SPARE)


def composed_mu(multipliers: list[float]) -> float:
    """μ of releases with these noise multipliers, standard deviation / sensitivity, each > 0."""
    if not all(math.isfinite(z) and z > 0 for z in multipliers):
        raise OptionError(f"noise multipliers {multipliers}: expected positive numbers")
    return math.sqrt(math.fsum(z**-2 for z in multipliers))


# ---------------------------------------------------------------------------- Poisson batches


@dataclass(frozen=True)
class PoissonSteps:
    """`steps` Gaussian releases, each of a Poisson batch.

    Attributes:
        noise_multiplier: standard deviation / clip norm of one example's part. For `replace` the
            norm that counts is still that of one example: the accountant knows that two differ.
        probability: with which each row is in a batch, independently.
        steps: how many batches.
    """

    noise_multiplier: float
    probability: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise OptionError(f"noise multiplier {self.noise_multiplier}: expected more than 0")
        if not 0 < self.probability <= 1:
            raise OptionError(f"sampling probability {self.probability}: expected over 0, up to 1")
        if not 1 <= self.steps <= 10**7:
            raise OptionError(f"{self.steps} steps: expected 1 to 10,000,000")


def poisson_epsilon(
    steps: PoissonSteps,
    delta: float,
    relation: Relation,
    also_mu: float = 0.0,
    interval: float = INTERVAL,
) -> float:
    """ε of Poisson steps together with full-batch releases of total `also_mu`, by PLD.

    `also_mu` is μ under the same relation. interval: of the grid that losses are rounded up to; a
    coarser one is quicker and never gives less than the truth either. Raises `BudgetError` when the
    noise is too small for an answer.
    """
    check_delta(delta)
    accountant = _accountant(relation, interval)
    gaussian = dp_accounting.GaussianDpEvent(steps.noise_multiplier)
    batch = dp_accounting.PoissonSampledDpEvent(steps.probability, gaussian)
    accountant.compose(dp_accounting.SelfComposedDpEvent(batch, steps.steps))
    if also_mu:
        # Under `replace` the accountant takes a multiplier per example and doubles the distance.
        doubling = 2.0 if relation == "replace" else 1.0
        accountant.compose(dp_accounting.GaussianDpEvent(doubling / also_mu))
    epsilon = float(accountant.get_epsilon(delta))
    if not math.isfinite(epsilon):
        raise BudgetError(
            f"noise multiplier {steps.noise_multiplier:g} for {steps.steps} steps has no finite "
            f"epsilon at delta {delta:g}: use more noise"
        )
    return epsilon


@cache
def poisson_noise_multiplier(
    budget: Budget, probability: float, steps: int, also_mu: float = 0.0
) -> float:
    """The least noise multiplier, to a part in 10⁴, that keeps the budget, by PLD; at least
    `SMALLEST_MULTIPLIER`, below which prices take minutes and gigabytes to find.

    A row that is sampled at all with probability δ or less is private without noise. Else sought
    from where the central limit would have it, on a coarse grid and then on the fine one;
    what is returned was priced on that. Raises `BudgetError` where no noise is enough.
    """
    mu = gaussian_mu(budget.epsilon, budget.delta)
    impossible = BudgetError(
        f"epsilon {budget.epsilon:g} cannot be kept by {steps} steps: take fewer, or spend less on "
        "other releases"
    )
    if also_mu >= mu:
        raise impossible
    if probability < 1 and not also_mu:
        sampled = -math.expm1(steps * math.log1p(-probability))
        if sampled <= budget.delta:
            return SMALLEST_MULTIPLIER
    left = math.sqrt((mu - also_mu) * (mu + also_mu))
    # The limit has μ = p·√(T·(exp(1/z²) − 1)).
    inverse = np.logaddexp(0.0, 2 * math.log(left) - 2 * math.log(probability) - math.log(steps))
    begin = 1 / math.sqrt(max(float(inverse), LARGEST_MULTIPLIER**-2))
    begin = min(max(begin, SMALLEST_MULTIPLIER), LARGEST_MULTIPLIER)
    search = _Search(budget, probability, steps, also_mu)
    near = search.root(begin, 1.1, 1e-3, COARSE_INTERVAL)  # none: its grid is too coarse for this
    if search.root(begin if near is None else near, 1.002, 2e-5, INTERVAL) is None:
        raise impossible
    return search.kept


@dataclass
class _Search:
    """For the noise multiplier at which the budget is spent, on the scale of logarithms.

    kept: the least that was seen to keep the budget on the fine grid. prices: ln(ε / budget) by
    logarithm and grid, so that none is found twice.
    """

    budget: Budget
    probability: float
    steps: int
    also_mu: float
    kept: float = math.inf
    prices: dict[tuple[float, float], float] = field(default_factory=dict)

    def root(self, begin: float, step: float, tolerance: float, interval: float) -> float | None:
        """To a relative tolerance, on the side of more noise; None if the largest is not enough,
        the smallest if that is. From `begin` by factors of `step`, larger each time up to 2, until
        the budget lies between two."""
        at, width = math.log(begin), math.log(step)
        more = self._over(at, interval) > 0
        limit = math.log(LARGEST_MULTIPLIER if more else SMALLEST_MULTIPLIER)
        while True:
            if at == limit:
                return None if more else SMALLEST_MULTIPLIER
            then = min(at + width, limit) if more else max(at - width, limit)
            if (self._over(then, interval) > 0) != more:
                break
            at, width = then, min(2 * width, math.log(2))
        low, high = sorted((at, then))
        found = tolerance + brentq(
            lambda between: self._over(float(between), interval), low, high, xtol=tolerance
        )
        if interval == INTERVAL and math.exp(found) < self.kept:
            self._over(found, interval)
        return math.exp(found)

    def _over(self, at: float, interval: float) -> float:
        """ln(ε / budget) at the logarithm of a multiplier, large where there is no finite ε."""
        if (at, interval) not in self.prices:
            self.prices[at, interval] = self._price(math.exp(at), interval)
        return self.prices[at, interval]

    def _price(self, multiplier: float, interval: float) -> float:
        found = PoissonSteps(multiplier, self.probability, self.steps)
        budget = self.budget
        try:
            spent = poisson_epsilon(
                found, budget.delta, budget.relation, self.also_mu, interval=interval
            )
        except BudgetError:
            return _HOPELESS
        if interval == INTERVAL and spent <= budget.epsilon:
            self.kept = min(self.kept, multiplier)
        return math.log(spent / budget.epsilon) if spent else -_HOPELESS


def pld_epsilon(multipliers: list[float], delta: float) -> float:
    """ε of full-batch Gaussian releases by PLD, relation `add-remove`: the cross-check.

    Independent of the closed form above; never below it by more than rounding, and above by the
    pessimism of the discretisation.
    """
    accountant = _accountant("add-remove", INTERVAL)
    for multiplier in multipliers:
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
    return float(accountant.get_epsilon(delta))


def _accountant(relation: Relation, interval: float) -> PLDAccountant:
    relations = dp_accounting.NeighboringRelation
    chosen = {"add-remove": relations.ADD_OR_REMOVE_ONE, "replace": relations.REPLACE_ONE}
    return PLDAccountant(chosen[relation], value_discretization_interval=interval)


def delta_is_large(delta: float, rows: int) -> bool:
    """Whether δ ≥ 1/n: a mechanism that publishes a whole random row would qualify."""
    return delta >= 1 / max(1, rows)
