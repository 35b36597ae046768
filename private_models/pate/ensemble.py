"""From private rows and public ones to a student: part, teach, vote, learn from the answers.

    rows ─parts─▸ teachers ─▸ counts ─Confident-GNMax─▸ answers ─▸ student
                                └─▸ (on demand) what these very votes cost, published with noise

The promise of the statement's `epsilon` rests on numbers of queries, answers and noise alone. What
these teachers' votes cost is less where they agree, and is itself private: with
`Options.data_dependent` it is published through its smooth sensitivity, and what that costs is part
of the promise too.
"""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from private_models.accounting import Budget, delta_is_large, gaussian_epsilon, gaussian_mu
from private_models.errors import BudgetError, InputError, OptionError
from private_models.features import ArrayRows, check_matrix, check_values
from private_models.head import PrivateHead
from private_models.noise import Array, Integers, RandomBits
from private_models.pate.renyi import epsilon_of_divergence
from private_models.pate.sensitivity import Votes, smooth_sensitivity
from private_models.pate.teachers import count_votes, parts, ridge_regression
from private_models.pate.voting import UNANSWERED, Ballot, vote
from private_models.releases import Mechanism, Release, sampler_delta, total_mu
from private_models.solvers.task import Progress, check_positive, silent
from private_models.statement import Statement
from private_models.training import LargeDelta

SMOOTH = "logarithm of the smooth sensitivity of the votes' cost"
COST = "Rényi divergence of the votes at their own data"
COST_SHARE = 0.06
"""Of μ², for publishing what the votes cost; half for either number."""
_FAILURE_SHARE = 0.05
"""Of δ, for each of two published numbers to be lower than the true one after its margin."""
_AGREEMENT = 0.5
_MARGIN = 2.0
"""Of ln S, from which the smoothness β follows: less β makes S larger, more its margin."""
_VOTES_PER_DEVIATION = 6.0
"""Teachers over the noise of a vote, where the number of answers is chosen here."""
_LARGEST_DELTA_SHARE = 0.5
_LARGEST_NOISE = 0.5
"""Of a vote, over the teachers: two classes then change places in one answer of four, or so, where
half the teachers lie between them."""


class FewRows(UserWarning):
    """More teachers than rows: some have nothing to learn from, and vote all the same."""


class NoisyVotes(UserWarning):
    """A vote's noise is so large against the teachers that answers are drawn almost by lot."""


class NoAnswers(UserWarning):
    """Teachers agreed on no query: the student has learnt nothing."""


@dataclass(frozen=True)
class PateOptions:
    """What the user decides; all of it public.

    Attributes:
        budget: epsilon, delta, relation. Both relations cost the same (see `voting`).
        classes: every label that may occur, ascending.
        teachers: parts that the private rows are dealt to.
        answers: at most; None for as many as leave the noise of a vote at a sixth of the teachers.
        threshold: share of the teachers that must agree, with noise, for an answer.
        ridge: of teachers and student (see `teachers.ridge_regression`); the default did well on
            MNIST's pixels.
        data_dependent: publish what these votes cost as well.
        order: Rényi order of that, or None for one chosen from the budget.
    """

    budget: Budget
    classes: npt.NDArray[Any]
    teachers: int = 100
    answers: int | None = None
    threshold: float = _AGREEMENT
    ridge: float = 0.3
    data_dependent: bool = False
    order: float | None = None
    tuning: str = "none on these rows, as far as this library was told"
    public: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `OptionError`."""
        check_positive("ridge", self.ridge)
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold {self.threshold}: expected a share of teachers, 0 to 1")
        if self.answers is not None and self.answers < 1:
            raise OptionError(f"{self.answers} answers: expected at least 1")
        if self.order is not None and not self.order > 1:
            raise OptionError(f"order {self.order}: expected more than 1")


def train_student(
    rows: ArrayRows,
    public: npt.ArrayLike,
    options: PateOptions,
    bits: RandomBits | None = None,
    progress: Progress = silent,
) -> PrivateHead:
    """A head that has learnt from noisy answers of teachers on public rows.

    rows: private features (n, d) and class indices. public: (m, d) unlabelled features of public
    data, of which the first ones are asked about, twice as many as there are answers.

    Guarantee: see `Statement`. Raises `InputError` for rows that cannot be used, `OptionError` and
    `BudgetError` for options that cannot be carried out; nothing is published then. Warns with
    `FewRows` and `NoisyVotes` where little can be learnt, and with `NoAnswers`, and gives a head of
    zeros, when teachers agree on nothing.
    """
    bits = RandomBits() if bits is None else bits
    known = check_values(check_matrix(public, "public features"), name="public features")
    if known.shape[1] != rows.width:
        raise InputError(
            f"public features have {known.shape[1]} columns, the private ones {rows.width}: both "
            "must come from one backbone"
        )
    budget = _Purse.of(options, len(known))
    centre = _Centre.of(known)
    private = np.concatenate([centre(chunk) for chunk, _ in rows.chunks()])
    asked = centre(known[: budget.ballot.queries])
    places = parts(bits, len(private), options.teachers)
    _warn(options, len(private), budget.plan[1].standard_deviation)
    counts = count_votes(
        private, rows.labels, places, asked, len(options.classes), options.ridge, progress
    )
    answers = vote(counts, budget.ballot, budget.plan, bits)
    price = _price_of_votes(counts, budget, bits) if options.data_dependent else None
    given = answers != UNANSWERED
    if not given.any():
        warnings.warn("teachers agreed on no query: use more of them, or a lower threshold, or a "
                      "larger epsilon", NoAnswers, stacklevel=2)  # fmt: skip
    weights = ridge_regression(asked[given], answers[given], len(options.classes), options.ridge)
    statement = budget.statement(centre, int(given.sum()), price, bits.is_secret)
    return PrivateHead(*centre.fold(weights), options.classes, statement)


def _warn(options: PateOptions, rows: int, deviation: float) -> None:
    """Of what can be carried out and teaches little; all that it looks at is public but `rows`."""
    if delta_is_large(options.budget.delta, rows):
        warnings.warn(f"delta {options.budget.delta:g} is at least 1 / rows", LargeDelta, 3)
    if options.teachers > rows:
        warnings.warn(
            f"{options.teachers} teachers are more than the rows: those without any vote for "
            "nothing they have seen; use fewer teachers",
            FewRows,
            stacklevel=3,
        )
    if deviation > _LARGEST_NOISE * options.teachers:
        warnings.warn(
            f"the noise of a vote has deviation {deviation:.3g}, with {options.teachers} teachers: "
            "answers are almost drawn by lot; use more teachers, fewer answers or a larger epsilon",
            NoisyVotes,
            stacklevel=3,
        )


@dataclass(frozen=True)
class _Centre:
    """Public preparation: less the mean, and a constant column of a typical row's size."""

    mean: Array
    constant: float
    rows: int

    @classmethod
    def of(cls, public: Array) -> "_Centre":
        centred = public - public.mean(axis=0)
        size = math.sqrt(float(np.einsum("ij,ij->", centred, centred)) / len(public))
        return cls(public.mean(axis=0), size, len(public))

    def __call__(self, features: Array) -> Array:
        column = np.full((len(features), 1), self.constant)
        return np.concatenate([features - self.mean, column], axis=1)

    def fold(self, weights: Array) -> tuple[Array, Array]:
        """(K, d) and (K,) for features as they come."""
        outer = weights[:-1].T.copy()
        return outer, self.constant * weights[-1] - outer @ self.mean


@dataclass(frozen=True)
class _Purse:
    """A budget, and what it buys."""

    options: PateOptions
    ballot: Ballot
    mu: float
    plan: tuple[Release, Release]

    @classmethod
    def of(cls, options: PateOptions, public_rows: int) -> "_Purse":
        """Raises `OptionError` and `BudgetError` for what cannot be."""
        budget, classes = options.budget, len(options.classes)
        whole = gaussian_mu(budget.epsilon, budget.delta)
        answers = options.answers or _affordable(whole, options.teachers, classes)
        answers = min(answers, public_rows)
        ballot = Ballot(
            min(public_rows, 2 * answers), answers, classes, options.threshold * options.teachers
        )
        drawn = ballot.queries + classes * answers + 2
        spare = sampler_delta(budget.epsilon, drawn)
        if spare > _LARGEST_DELTA_SHARE * budget.delta:
            raise BudgetError(
                f"delta {budget.delta:g}: integer noise for {drawn} numbers needs {spare:.1e} of "
                "it; use a larger delta, fewer answers or a smaller epsilon"
            )
        failure = _FAILURE_SHARE * budget.delta if options.data_dependent else 0.0
        mu = gaussian_mu(budget.epsilon, budget.delta - spare - failure)
        left = mu * math.sqrt(1 - COST_SHARE) if options.data_dependent else mu
        return cls(options, ballot, mu, ballot.plan(left))

    @property
    def delta(self) -> float:
        """What the sampler, and a sensitivity published too low, leave of it."""
        budget = self.options.budget
        spare = sampler_delta(budget.epsilon, sum(release.drawn for release in self.plan) + 2)
        failure = _FAILURE_SHARE if self.options.data_dependent else 0.0
        return budget.delta * (1 - failure) - spare

    @property
    def order(self) -> float:
        """Where ε is least for a fifth of the divergence that is possible, if not the user's."""
        likely = 0.2 * self.mu**2 / 2
        return self.options.order or 1 + math.sqrt(-math.log(self.options.budget.delta) / likely)

    def statement(
        self, centre: _Centre, given: int, price: "_Price | None", is_private: bool
    ) -> Statement:
        options, budget = self.options, self.options.budget
        releases = (*self.plan, *(() if price is None else price.releases))
        public = {
            "classes": f"{len(options.classes)} labels, given by the user",
            "features": f"{len(centre.mean)} columns, centred by {centre.rows} public rows",
            "teachers": f"{options.teachers}, a part drawn for every row independently",
            "threshold": f"{self.ballot.threshold:g} votes, for an answer",
            "answers": f"{given} of at most {self.ballot.answers}, to {self.ballot.queries} public "
            "queries",
            **options.public,
        }
        spent = gaussian_epsilon(total_mu(releases), self.delta)
        here = None if price is None else min(spent, price.epsilon)
        return Statement(
            budget.epsilon, budget.delta, budget.relation, spent, "the exact Gaussian closed form",
            releases, public, options.tuning, is_private, here,
        )  # fmt: skip


def _affordable(mu: float, teachers: int, classes: int) -> int:
    deviation = teachers / _VOTES_PER_DEVIATION
    return max(classes, int((deviation * mu) ** 2 * 0.75 / 2))


@dataclass(frozen=True)
class _Price:
    """What these votes cost: ε, and how it was published."""

    epsilon: float
    releases: tuple[Release, Release]


def _price_of_votes(counts: Integers, purse: _Purse, bits: RandomBits) -> _Price:
    """Two numbers: ln S for the smooth sensitivity S, which moves by β, then the cost Σ f.

    S with its margin bounds the sensitivity of Σ f but for a share of δ, and so the second release
    has a width that is public. (The paper adds noise of width S·σ to Σ f at once, so that the width
    is as private as S, can be stated to nobody, and fits no lattice.)
    """
    order, delta = purse.order, purse.options.budget.delta
    votes = _votes_of(counts, purse)
    multiplier = math.sqrt(2 / COST_SHARE) / purse.mu
    tail = -float(ndtri(_FAILURE_SHARE * delta))
    smoothness = _MARGIN / (multiplier * tail)
    smooth = Release(SMOOTH, smoothness, multiplier, 1)
    exact = math.log(smooth_sensitivity(votes, order, smoothness))
    found = float(Mechanism(bits, [smooth]).publish(SMOOTH, np.array([exact]))[0])
    sensitivity = math.exp(found + tail * smooth.standard_deviation)
    cost = Release(COST, sensitivity, multiplier, 1)
    total = np.array([float(votes.divergences(order).sum())])
    published = float(Mechanism(bits, [cost]).publish(COST, total)[0])
    most = max(0.0, published + tail * cost.standard_deviation)
    own = order * total_mu([smooth, cost]) ** 2 / 2
    left = purse.delta - _FAILURE_SHARE * delta
    return _Price(epsilon_of_divergence(most + own, order, left), (smooth, cost))


def _votes_of(counts: Integers, purse: _Purse) -> Votes:
    tests, votes = purse.plan
    ballot = purse.ballot
    each = tests.noise_multiplier**-2 / ballot.queries + votes.noise_multiplier**-2 / ballot.answers
    return Votes(
        counts,
        ballot.threshold,
        tests.standard_deviation,
        votes.standard_deviation,
        each / 2,
    )
