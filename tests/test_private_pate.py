"""`private_models.pate`: bounds against what they bound, by enumeration if possible."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import norm

from private_models.accounting import RELATIONS, Budget, pld_epsilon
from private_models.errors import BudgetError, InputError, OptionError
from private_models.features import ArrayRows
from private_models.head import PrivateHead, load_head
from private_models.noise import WIDTH, RandomBits
from private_models.pate import ensemble
from private_models.pate.ensemble import FewRows, NoAnswers, NoisyVotes, PateOptions, train_student
from private_models.pate.renyi import epsilon_of_divergence, likely_outcome_divergence
from private_models.pate.sensitivity import Votes, local_sensitivities, smooth_sensitivity
from private_models.pate.teachers import count_votes, parts, ridge_regression
from private_models.pate.voting import UNANSWERED, Ballot, vote
from private_models.releases import ROUNDING_MARGIN, total_mu
from private_models.training import LargeDelta

TEACHERS, CLASSES = 9, 3
ALL_COUNTS = np.array(
    [c for c in itertools.product(range(TEACHERS + 1), repeat=CLASSES) if sum(c) == TEACHERS]
)


def votes_of(counts: np.ndarray, threshold: float = 6.0, test: float = 1.5, each: float = 1.2
             ) -> Votes:  # fmt: skip
    return Votes(np.atleast_2d(counts), threshold, test, each, 1 / (2 * test**2) + 1 / each**2)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    """Votes that differ."""
    return int(np.abs(one - other).sum()) // 2


# ---------------------------------------------------------------------------- the bound


@cache
def outcomes(counts: tuple[int, ...], threshold: float, test: float, each: float) -> np.ndarray:
    """Pr[not answered], Pr[class 0], …, by the trapezoidal rule: exact to rounding here."""
    fails = norm.cdf((threshold - max(counts)) / test)
    x = np.linspace(min(counts) - 9 * each, max(counts) + 9 * each, 4001)
    below = norm.cdf((x[:, None] - np.array(counts)) / each)
    density = norm.pdf((x[:, None] - np.array(counts)) / each) / each
    leads = [
        np.trapezoid(density[:, k] * np.delete(below, k, axis=1).prod(axis=1), x)
        for k in range(len(counts))
    ]
    return np.array([fails, *((1 - fails) * lead for lead in leads)])


def renyi(one: np.ndarray, other: np.ndarray, order: float) -> float:
    return float(np.log(np.sum(one**order * other ** (1 - order))) / (order - 1))


@pytest.mark.parametrize("order", [1.5, 3.0, 8.0])
@pytest.mark.parametrize("noise", [(6.0, 1.5, 1.2), (5.0, 0.7, 0.8), (9.0, 3.0, 4.0)])
def test_the_cost_is_never_below_the_exact_divergence(
    noise: tuple[float, float, float], order: float
) -> None:
    """For every count of nine votes in three classes and all its neighbours, exactly."""
    found = votes_of(ALL_COUNTS, *noise).divergences(order)
    nearest = math.inf
    for counts, bound in zip(ALL_COUNTS, found, strict=True):
        mine = outcomes(tuple(counts), *noise)
        exact = max(
            renyi(mine, outcomes(tuple(other), *noise), order)
            for other in ALL_COUNTS
            if distance(counts, other) == 1
        )
        assert exact <= bound * (1 + 1e-6) + 1e-9, (counts, exact, bound)
        nearest = min(nearest, bound / max(exact, 1e-12))
    assert nearest < 40  # and the bound is one of these, not of anything


def test_agreement_is_cheap_and_disagreement_is_not() -> None:
    clear = votes_of(np.array([250, 0, 0]), 100, 20, 20)
    torn = votes_of(np.array([126, 124, 0]), 100, 20, 20)
    nobody = votes_of(np.array([84, 83, 83]), 200, 20, 20)
    most = clear.rho * 4
    assert clear.divergences(4.0)[0] < 1e-6 * most
    assert torn.divergences(4.0)[0] == most
    assert nobody.divergences(4.0)[0] < 1e-3 * most  # almost surely unanswered, and so almost free


@given(st.floats(-300, 0), st.floats(0, 50), st.floats(1e-4, 3), st.floats(1.1, 60))
def test_the_bound_increases_with_q(low: float, more: float, rho: float, order: float) -> None:
    pair = np.array([low, min(0.0, low + more)])
    first, second = likely_outcome_divergence(pair, rho, order)
    assert 0 <= first <= second * (1 + 1e-9) + 1e-12
    assert second <= rho * order


@given(st.floats(0.001, 30), st.floats(1.05, 200), st.floats(-12, -1))
def test_conversion_is_that_of_dp_accounting(
    divergence: float, order: float, exponent: float
) -> None:
    delta = 10.0**exponent
    ours = epsilon_of_divergence(divergence, order, delta)
    theirs, _ = rdp_privacy_accountant.compute_epsilon([order], [divergence], delta)
    assume(divergence > -math.log1p(-delta))  # below, it knows better: total variation
    assert theirs == pytest.approx(ours, rel=1e-9, abs=1e-9) or theirs < ours


# ---------------------------------------------------------------------------- sensitivity


def brute_local(values: np.ndarray, rows: int, centre: int) -> float:
    """max |f(D′) − f(D″)| over neighbours, D′ up to `rows` rows from counts `centre`."""
    near = [i for i, c in enumerate(ALL_COUNTS) if distance(ALL_COUNTS[centre], c) <= rows]
    return max(
        abs(values[i] - values[j])
        for i in near
        for j, other in enumerate(ALL_COUNTS)
        if distance(ALL_COUNTS[i], other) == 1
    )


@pytest.mark.parametrize("noise", [(6.0, 1.5, 1.2), (5.0, 0.7, 0.8), (4.0, 0.4, 0.5)])
def test_local_sensitivity_covers_every_neighbour(noise: tuple[float, float, float]) -> None:
    order = 2.5
    values = votes_of(ALL_COUNTS, *noise).divergences(order)
    for centre in range(0, len(ALL_COUNTS), 3):
        found = local_sensitivities(votes_of(ALL_COUNTS[centre], *noise), order, TEACHERS)
        for rows in range(4):
            assert brute_local(values, rows, centre) <= found[rows] * (1 + 1e-9)
        assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("smoothness", [0.05, 0.3, 1.0])
def test_smooth_sensitivity_is_smooth_and_covers(smoothness: float) -> None:
    order, noise = 2.5, (6.0, 1.5, 1.2)
    values = votes_of(ALL_COUNTS, *noise).divergences(order)
    found = [smooth_sensitivity(votes_of(c, *noise), order, smoothness) for c in ALL_COUNTS]
    for i, j in itertools.combinations(range(len(ALL_COUNTS)), 2):
        if distance(ALL_COUNTS[i], ALL_COUNTS[j]) == 1:
            assert abs(math.log(found[i] / found[j])) <= smoothness * (1 + 1e-9)
            assert abs(values[i] - values[j]) <= min(found[i], found[j])
    assert max(found) <= votes_of(ALL_COUNTS[0], *noise).rho * order * (1 + 1e-12)


def test_sensitivity_falls_where_teachers_agree() -> None:
    """And adds up over queries, which one row can all change at once."""
    clear = votes_of(np.array([400, 0, 0]), 150, 20, 20)
    most = clear.rho * 4
    local = local_sensitivities(clear, 4.0, 400)
    assert local[0] < 1e-9 * most < local[390]
    twice = votes_of(np.array([[400, 0, 0]] * 2), 150, 20, 20)
    assert np.allclose(local_sensitivities(twice, 4.0, 400), 2 * local)


# ---------------------------------------------------------------------------- voting


@given(st.integers(1, 300), st.floats(0.05, 5), st.floats(0.1, 0.9), st.data())
def test_a_plan_costs_what_it_should(queries: int, mu: float, share: float, data: st.DataObject
                                     ) -> None:  # fmt: skip
    ballot = Ballot(queries, data.draw(st.integers(1, queries)), 5, 10.0, share)
    assert total_mu(ballot.plan(mu)) == pytest.approx(mu, rel=1e-12)


def test_the_price_is_that_of_privacy_loss_distributions() -> None:
    """Q tests of sensitivity 1 and A votes of sensitivity √2, composed by dp-accounting."""
    head = student(Budget(2.0, 1e-5), teachers=40, answers=5)
    tests, votes = head.statement.releases
    assert (tests.coordinates, votes.coordinates) == (10, 5 * 4)
    single = [tests.standard_deviation] * 10 + [votes.standard_deviation / math.sqrt(2)] * 5
    price = pld_epsilon(single, 1e-5)
    assert price == pytest.approx(2.0, rel=2e-3 + 1.2 * ROUNDING_MARGIN)


def test_votes_are_noisy_as_planned() -> None:
    """Test and vote at a tie come out as the normal distribution says; p-values at 10⁻⁶."""
    ballot = Ballot(4000, 4000, 2, 11.0, 0.5)
    plan = ballot.plan(math.sqrt(4000 / 0.5 / 4) * 1.0)  # σ₁ about 2, σ₂ about 2
    counts = np.tile(np.array([[11, 9]]), (4000, 1))
    found = vote(counts, ballot, plan, RandomBits.unsafe_from_seed(5))
    answered = int((found != UNANSWERED).sum())
    assert abs(answered - 2000) < 4.9 * math.sqrt(1000)
    first = norm.cdf(2 / (math.sqrt(2) * plan[1].standard_deviation))
    share = float((found == 0).sum() / answered)
    assert abs(share - first) < 4.9 * math.sqrt(0.25 / answered)
    # Half or twice the noise would be seen.
    for factor in (0.5, 2):
        other = norm.cdf(2 / (math.sqrt(2) * factor * plan[1].standard_deviation))
        assert abs(share - other) > 4.9 * math.sqrt(0.25 / answered)


def test_no_more_answers_than_planned() -> None:
    ballot = Ballot(30, 4, 2, 0.0)
    found = vote(np.tile([[90, 10]], (30, 1)), ballot, ballot.plan(1e2), RandomBits())
    assert found[:4].tolist() == [0] * 4 and (found[4:] == UNANSWERED).all()
    with pytest.raises(OptionError, match="one vote"):
        vote(np.array([[3, 1]] * 29 + [[2, 1]]), ballot, ballot.plan(1.0), RandomBits())
    for wrong in ((3, 4, 2, 1.0), (3, 0, 2, 1.0), (3, 1, 2, math.nan), (3, 1, 2, 1.0, 1.0)):
        with pytest.raises(OptionError, match="expected"):
            Ballot(*wrong)


# ---------------------------------------------------------------------------- teachers


@given(st.integers(1, 200), st.integers(2, 40))
def test_a_row_more_moves_no_other_row(rows: int, teachers: int) -> None:
    """What makes the sensitivity 1 vote; a row replaced changes nobody's part at all."""
    before = parts(RandomBits.unsafe_from_seed(rows), rows, teachers)
    after = parts(RandomBits.unsafe_from_seed(rows), rows + 1, teachers)
    assert sorted(np.concatenate(before)) == list(range(rows))
    changed = [a for a, b in zip(after, before, strict=True) if not np.array_equal(a, b)]
    assert len(changed) == 1 and changed[0][-1] == rows


def test_one_row_moves_one_vote_a_query() -> None:
    rng = np.random.default_rng(3)
    rows, labels = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    queries = rng.normal(size=(40, 5))
    places = parts(RandomBits.unsafe_from_seed(1), 60, 7)
    before = count_votes(rows, labels, places, queries, 3, 0.1)
    rows[11], labels[11] = 1e3, (labels[11] + 1) % 3
    after = count_votes(rows, labels, places, queries, 3, 0.1)
    assert 0 < np.abs(after - before).sum(axis=1).max() <= 2
    assert (before.sum(axis=1) == 7).all()


def test_ridge_is_the_same_in_either_dimension() -> None:
    rng = np.random.default_rng(4)
    for shape in ((6, 20), (20, 6)):
        rows, labels = rng.normal(size=shape), rng.integers(0, 3, shape[0])
        weights = ridge_regression(rows, labels, 3, 0.5)
        penalty = 0.5 * float((rows**2).sum()) / len(rows)
        targets = np.eye(3)[labels] - 1 / 3
        gradient = rows.T @ (rows @ weights - targets) + penalty * weights
        assert np.abs(gradient).max() < 1e-10
    assert not ridge_regression(np.zeros((0, 4)), np.zeros(0, np.int64), 3, 1.0).any()


# ---------------------------------------------------------------------------- the whole


CENTRES = np.random.default_rng(0).normal(size=(4, 12))


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    return CENTRES[labels] + 0.5 * rng.normal(size=(count, 12)), labels


def student(budget: Budget, count: int = 4000, **options: object) -> PrivateHead:
    rows, labels = drawn(count, 1)
    chosen = PateOptions(budget, np.arange(4), **options)  # type: ignore[arg-type]
    return train_student(ArrayRows(rows, labels), drawn(600, 2)[0], chosen)


def test_more_teachers_than_rows_are_warned_of() -> None:
    with pytest.warns(FewRows, match="60 teachers are more than the rows"):
        student(Budget(2.0, 1e-5), count=50, teachers=60, answers=5, threshold=0.0)


def test_votes_that_drown_in_noise_are_warned_of() -> None:
    with pytest.warns(NoisyVotes, match="10 teachers: answers are almost drawn by lot"):
        student(Budget(0.2, 1e-5), count=500, teachers=10, threshold=0.0)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_student_learns_and_says_what_it_promises(relation: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    head = student(Budget(2.0, 1e-5, relation), teachers=150)  # type: ignore[arg-type]
    queries, truth = drawn(1000, 3)
    assert (head.predict(queries) == truth).mean() > 0.95
    statement = head.statement
    assert statement.epsilon_spent <= 2.0 and statement.epsilon_here is None
    assert statement.is_private and "part drawn" in statement.public["teachers"]
    # One row touches one teacher under either relation: both cost the same.
    assert statement.releases[0].sensitivity == math.sqrt(statement.releases[0].coordinates)
    head.save(tmp_path / "student")
    assert load_head(tmp_path / "student").statement == statement


def test_what_agreement_saves_is_published_and_covers_the_truth() -> None:
    """The published figure is never below the exact one of these votes (but for 2·5 % of δ)."""
    seen: list[tuple[Votes, float]] = []
    original = ensemble._votes_of

    def watched(counts, purse):  # type: ignore[no-untyped-def]
        seen.append((original(counts, purse), purse.order))
        return seen[-1][0]

    ensemble._votes_of = watched
    try:
        options = {"teachers": 400, "answers": 100, "data_dependent": True}
        heads = [student(Budget(12.0, 1e-5), **options) for _ in range(4)]
    finally:
        ensemble._votes_of = original
    for head, (votes, order) in zip(heads, seen, strict=True):
        exact = epsilon_of_divergence(float(votes.divergences(order).sum()), order, 1e-5)
        here = head.statement.epsilon_here
        assert here is not None and exact <= here <= head.statement.epsilon_spent <= 12.0
        assert here < 8.0  # what it is for
        assert "at this data" in str(head.statement)
        assert total_mu(head.statement.releases) > total_mu(head.statement.releases[:2])


def test_teachers_that_know_nothing_agree_on_nothing() -> None:
    rng = np.random.default_rng(6)
    rows, labels = rng.normal(size=(500, 12)), rng.integers(0, 4, 500)
    options = PateOptions(Budget(8.0, 1e-5), np.arange(4), teachers=100, threshold=1.0)
    with pytest.warns(NoAnswers, match="agreed on no query"):
        head = train_student(ArrayRows(rows, labels), rng.normal(size=(50, 12)), options)
    assert not head.weights.any()


def test_refusals() -> None:
    rows, labels = drawn(50, 1)
    data, public, budget = ArrayRows(rows, labels), drawn(20, 2)[0], Budget(1.0, 1e-5)
    with pytest.raises(InputError, match="one backbone"):
        train_student(data, public[:, :5], PateOptions(budget, np.arange(4)))
    with pytest.raises(OptionError, match="teachers"):
        train_student(data, public, PateOptions(budget, np.arange(4), teachers=1))
    with pytest.raises(BudgetError, match="integer noise"):
        train_student(data, public, PateOptions(Budget(1.0, 1e-20), np.arange(4)))
    with pytest.warns(LargeDelta):
        large = PateOptions(Budget(1.0, 0.05), np.arange(4), teachers=40, threshold=0)
        train_student(data, public, large)
    for wrong in ({"ridge": 0}, {"threshold": 1.2}, {"answers": 0}, {"order": 1.0}):
        with pytest.raises(OptionError):
            PateOptions(budget, np.arange(4), **wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="order"):
        likely_outcome_divergence(np.zeros(1), 1.0, 1.0)
    with pytest.raises(OptionError, match="rho"):
        likely_outcome_divergence(np.zeros(1), 0.0, 2.0)
    assert WIDTH == 1 << 32  # which `sensitivity` counts on
