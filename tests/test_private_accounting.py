"""`private_models.accounting`: the closed form against 60 digits, against PLD, against itself."""

import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from private_models.accounting import (
    RELATIONS,
    SMALLEST_MULTIPLIER,
    Budget,
    PoissonSteps,
    composed_mu,
    delta_is_large,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    pld_epsilon,
    poisson_epsilon,
    poisson_noise_multiplier,
)
from private_models.errors import BudgetError, OptionError

epsilons = st.floats(1e-3, 100)
deltas = st.floats(-30, -1).map(lambda exponent: 10.0**exponent)
mus = st.floats(-3, 1.5).map(lambda exponent: 10.0**exponent)


def exact_delta(mu: float, epsilon: float) -> mpmath.mpf:
    """Balle & Wang 2018, theorem 8, with 60 digits and more."""
    with mpmath.workdps(120):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        half = mpmath.mpf(1) / 2

        def phi(x: mpmath.mpf) -> mpmath.mpf:
            return half * mpmath.erfc(-x / mpmath.sqrt(2))

        return phi(m / 2 - e / m) - mpmath.exp(e) * phi(-m / 2 - e / m)


@given(mus, epsilons)
def test_delta_is_never_below_the_exact_one(mu: float, epsilon: float) -> None:
    """And above by 10⁻⁸ of the first term at most, which is what cancellation can cost."""
    found, exact = gaussian_delta(mu, epsilon), exact_delta(mu, epsilon)
    tiny = mpmath.mpf(10) ** -300  # where float64 ends
    assert found >= exact or exact < tiny
    with mpmath.workdps(120):
        first = mpmath.erfc(-(mpmath.mpf(mu) / 2 - mpmath.mpf(epsilon) / mu) / mpmath.sqrt(2)) / 2
    assert found - exact <= max(first * mpmath.mpf(10) ** -8, tiny)


@settings(max_examples=40)
@given(epsilons, deltas)
def test_noise_for_an_epsilon_keeps_it_and_wastes_nothing(epsilon: float, delta: float) -> None:
    """μ within 10⁻⁴: 10⁻⁸ is kept in reserve, the rest is what cancellation at tiny δ/Φ costs."""
    mu = gaussian_mu(epsilon, delta)
    assert exact_delta(mu, epsilon) <= delta
    assert exact_delta(mu * (1 + 1e-4), epsilon) > delta
    assert gaussian_epsilon(mu, delta) <= epsilon


@given(st.lists(st.floats(0.5, 50), min_size=1, max_size=8))
def test_composition_is_that_of_the_squares(multipliers: list[float]) -> None:
    expected = math.sqrt(sum(1 / z**2 for z in multipliers))
    assert composed_mu(multipliers) == pytest.approx(expected, rel=1e-14)
    assert composed_mu([*multipliers, 1.0]) > composed_mu(multipliers)


@pytest.mark.parametrize("multipliers", [[4.0], [1.5, 3.0], [8.0] * 12, [0.6]])
@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_the_closed_form_and_pld_agree(multipliers: list[float], delta: float) -> None:
    """PLD is pessimistic by its discretisation, 10⁻⁴ of value; 10⁻⁸ below is its FFT's rounding."""
    ours, theirs = (
        gaussian_epsilon(composed_mu(multipliers), delta),
        pld_epsilon(multipliers, delta),
    )
    assert ours * (1 - 1e-7) <= theirs <= ours * (1 + 1e-3) + 1e-3
    assert not ours * 1.01 <= theirs


def test_the_textbook_formula_is_wasteful() -> None:
    """σ = √(2 ln(1.25/δ))/ε asks for more noise than is needed (Dwork & Roth 2014)."""
    assert 1 / gaussian_mu(1.0, 1e-5) < 0.8 * math.sqrt(2 * math.log(1.25e5))


# ---------------------------------------------------------------------------- Poisson


def test_the_known_value() -> None:
    """60,000 rows, batches of 4096, 10 epochs, (1, 1e-5): 3.28–3.30, between PLD and PRV."""
    found = poisson_noise_multiplier(Budget(1.0, 1e-5), 4096 / 60000, 147)
    assert 3.27 < found < 3.31
    assert poisson_epsilon(PoissonSteps(found, 4096 / 60000, 147), 1e-5, "add-remove") <= 1.0
    # What a central-limit formula would take is over budget, and is seen to be.
    assert poisson_epsilon(PoissonSteps(3.156, 4096 / 60000, 147), 1e-5, "add-remove") > 1.04


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(
    ("epsilon", "probability", "steps", "also_mu"),
    [
        (1.0, 0.02, 1000, 0.0),
        (1.0, 2 / 3, 30, 0.05),
        (0.1, 0.05, 200, 0.0),
        # Here the coarse grid, on which the search begins, has no answer at all.
        (0.005, 0.01, 100_000, 0.0),
        # Almost all is spent beside: the limit that the search begins at is far off.
        (1.0, 0.01, 100, 0.268),
    ],
)
def test_the_least_noise_keeps_the_budget_and_a_part_in_a_thousand_less_does_not(
    epsilon: float, probability: float, steps: int, also_mu: float, relation: str
) -> None:
    budget = Budget(epsilon, 1e-5, relation)  # type: ignore[arg-type]
    found = poisson_noise_multiplier(budget, probability, steps, also_mu)
    spent, less = (
        poisson_epsilon(PoissonSteps(z, probability, steps), 1e-5, budget.relation, also_mu)
        for z in (found, found * (1 - 1e-3))
    )
    assert spent <= epsilon < less


def test_a_row_that_is_hardly_ever_sampled_needs_no_noise() -> None:
    """With probability δ or less; and the least multiplier is one that can be used."""
    assert poisson_noise_multiplier(Budget(1.0, 1e-2), 1e-3, 1) == SMALLEST_MULTIPLIER
    assert poisson_noise_multiplier(Budget(1.0, 1e-5), 1e-160, 1) == SMALLEST_MULTIPLIER


def test_a_batch_of_everything_is_a_full_batch() -> None:
    steps = PoissonSteps(4.0, 1.0, 3)
    full = gaussian_epsilon(math.sqrt(3) / 4, 1e-5)
    assert poisson_epsilon(steps, 1e-5, "add-remove") == pytest.approx(full, rel=1e-3)
    # Replacing a row takes one away and adds one: twice the distance.
    doubled = gaussian_epsilon(2 * math.sqrt(3) / 4, 1e-5)
    assert poisson_epsilon(steps, 1e-5, "replace") == pytest.approx(doubled, rel=1e-3)


@pytest.mark.parametrize("relation", RELATIONS)
def test_poisson_beside_full_batch_releases(relation: str) -> None:
    """μ is given under the same relation, so a share of it costs the same under both."""
    steps = PoissonSteps(1e4, 0.01, 1)
    found = poisson_epsilon(steps, 1e-5, relation, also_mu=0.3)  # type: ignore[arg-type]
    assert found == pytest.approx(gaussian_epsilon(0.3, 1e-5), rel=1e-2)


def test_sampling_helps_and_steps_cost() -> None:
    def cost(z: float, q: float, steps: int) -> float:
        return poisson_epsilon(PoissonSteps(z, q, steps), 1e-5, "add-remove")

    middle = cost(2.0, 0.1, 20)
    assert cost(2.0, 0.05, 20) < middle < cost(2.0, 0.2, 20)
    assert cost(2.0, 0.1, 10) < middle < cost(2.0, 0.1, 40)
    assert cost(2.5, 0.1, 20) < middle < cost(1.5, 0.1, 20)


# ---------------------------------------------------------------------------- refusals


@settings(max_examples=20)
@given(st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-4, 101.0]))
def test_no_useful_epsilon(epsilon: float) -> None:
    with pytest.raises(BudgetError, match="epsilon"):
        Budget(epsilon, 1e-5)
    with pytest.raises(BudgetError, match="epsilon"):
        gaussian_mu(epsilon, 1e-5)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, math.nan, 1e-31])
def test_no_delta(delta: float) -> None:
    for use in (lambda: Budget(1.0, delta), lambda: gaussian_epsilon(1.0, delta)):
        with pytest.raises(BudgetError, match="delta"):
            use()


def test_other_refusals() -> None:
    with pytest.raises(OptionError, match="add-remove, replace"):
        Budget(1.0, 1e-5, "swap")  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="μ"):
        gaussian_epsilon(-1.0, 1e-5)
    with pytest.raises(OptionError, match="multipliers"):
        composed_mu([1.0, 0.0])
    for arguments in ((0.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 0.1, 0)):
        with pytest.raises(OptionError, match="expected"):
            PoissonSteps(*arguments)
    with pytest.raises(BudgetError, match="cannot be kept"):
        poisson_noise_multiplier(Budget(0.1, 1e-5), 0.5, 2, also_mu=5.0)
    whole = gaussian_mu(1.0, 1e-5)
    for also_mu in (whole, whole * (1 + 5e-9)):  # on the edge of the margin that μ carries
        with pytest.raises(BudgetError, match="cannot be kept"):
            poisson_noise_multiplier(Budget(1.0, 1e-5), 0.01, 100, also_mu)


def test_nothing_published_costs_nothing() -> None:
    assert gaussian_delta(0.0, 1.0) == 0
    assert gaussian_epsilon(0.0, 1e-5) == 0
    assert gaussian_epsilon(1e-7, 1e-5) == 0  # δ alone pays for it


def test_a_delta_of_one_row() -> None:
    assert delta_is_large(1e-3, 1000)
    assert not delta_is_large(1e-5, 1000)
