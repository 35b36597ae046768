"""The two questions of accounting: what epsilon is this noise, and what noise is this epsilon?

For `steps` Gaussian releases, of all rows or of Poisson batches, beside other full-batch releases
of the same rows.
"""

import math
from dataclasses import dataclass

from private_models import accounting
from private_models.accounting import Budget, PoissonSteps, Relation
from private_models.errors import BudgetError, OptionError

EXACT, PLD = "exact closed form", "PLD"


@dataclass(frozen=True)
class Releases:
    """What is made, but for the noise that is asked about or given.

    Attributes:
        steps: how many times each of the releases is made.
        probability: of a row to be in a Poisson batch; None for all rows each time.
        beside: noise multipliers of full-batch releases that are made once each, and stay.
    """

    steps: int = 1
    probability: float | None = None
    beside: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises `OptionError`."""
        PoissonSteps(1.0, 1.0 if self.probability is None else self.probability, self.steps)
        accounting.composed_mu(list(self.beside))

    @property
    def beside_mu(self) -> float:
        """μ of the releases beside."""
        return accounting.composed_mu(list(self.beside))


def epsilon_of(
    releases: Releases, multipliers: list[float], delta: float, relation: Relation
) -> tuple[float, str]:
    """ε, and by which calculation, for `steps` releases with each of these noise multipliers.

    A noise multiplier is standard deviation / sensitivity, the latter under the relation; of
    Poisson batches it is standard deviation / clip norm of one example. Raises `OptionError` and
    `BudgetError`.
    """
    accounting.check_delta(delta)
    if not multipliers:
        raise OptionError("no noise multiplier: expected one at least")
    if releases.probability is None:
        mu = math.hypot(
            accounting.composed_mu(multipliers) * math.sqrt(releases.steps), releases.beside_mu
        )
        return accounting.gaussian_epsilon(mu, delta), EXACT
    if len(multipliers) > 1:
        raise OptionError(
            "Poisson batches take one noise multiplier: full-batch releases go beside them"
        )
    steps = PoissonSteps(multipliers[0], releases.probability, releases.steps)
    return accounting.poisson_epsilon(steps, delta, relation, releases.beside_mu), PLD


def noise_for(releases: Releases, budget: Budget) -> tuple[float, str]:
    """The least noise multiplier that keeps the budget, and by which calculation.

    Raises `BudgetError` if the releases beside spend it already.
    """
    if releases.probability is not None:
        found = accounting.poisson_noise_multiplier(
            budget, releases.probability, releases.steps, releases.beside_mu
        )
        return found, PLD
    left = accounting.gaussian_mu(budget.epsilon, budget.delta) ** 2 - releases.beside_mu**2
    if left <= 0:
        raise BudgetError(
            f"epsilon {budget.epsilon:g} is spent by the releases beside: give them more noise"
        )
    return math.sqrt(releases.steps / left), EXACT
