"""From rows and public options to a head: plan, price, publish, solve.

    options ─▸ (count) ─▸ shape ─▸ plan ─▸ noise for the budget ─▸ Mechanism ─▸ weights ─▸ head

Everything that can be refused is refused before the first sum is published; from then on only what
was planned is.
"""

import math
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from private_models import choices
from private_models.accounting import (
    Budget,
    PoissonSteps,
    delta_is_large,
    gaussian_epsilon,
    gaussian_mu,
    poisson_epsilon,
)
from private_models.arithmetic import largest_gradient
from private_models.devices import choose_arithmetic
from private_models.errors import BudgetError, InputError, OptionError
from private_models.features import Rows, check_matrix
from private_models.head import PrivateHead
from private_models.noise import RandomBits
from private_models.preparation import (
    PublicMoments,
    Transform,
    clipping,
    public_moments,
    whitening,
)
from private_models.quadratic import (
    LayeredRows,
    QuadraticLayer,
    check_directions,
    quadratic_layer,
)
from private_models.releases import (
    MAX_ROWS,
    Mechanism,
    Release,
    check_rounding,
    sampler_delta,
    total_mu,
)
from private_models.solvers import SOLVERS, SolverName
from private_models.solvers.gradient import FeatureCovariance
from private_models.solvers.least_squares import LeastSquares
from private_models.solvers.newton import Newton
from private_models.solvers.sgd import PoissonGradient
from private_models.solvers.task import Prepared, Progress, Shape, Task, silent
from private_models.statement import Statement

Settings = FeatureCovariance | LeastSquares | Newton | PoissonGradient

COUNT = "number of rows"
COUNT_SHARE = 0.01
"""Of μ², for a count that the user did not give."""
_LARGEST_DELTA_SHARE = 0.5


class LargeDelta(UserWarning):
    """δ is at least 1/n: it would allow a whole row to be published."""


@dataclass(frozen=True)
class Options:
    """What the user decides; all of it public.

    Attributes:
        budget: epsilon, delta and the relation.
        classes: every label that may occur, ascending.
        solver: one of SOLVERS.
        settings: of the solver, or None for those of `choices`.
        feature_norm: rows are clipped to this L2 norm (after whitening, where there is any).
        public_features: (m, d) of public data, or None.
        rows: the number of private rows as public knowledge, or None. Under `add-remove` it is then
            published with noise; under `replace` it is public anyway.
        bias: value of the constant column, 0 for none; by whitening where that is done.
        device: "cpu", or one that torch knows.
        hidden_directions: of public features, whose products a hidden layer makes; None for none.
        tuning: what the caller says of how settings were found.
    """

    budget: Budget
    classes: npt.NDArray[Any]
    solver: SolverName = "fc"
    settings: Settings | None = None
    feature_norm: float = 1.0
    public_features: npt.ArrayLike | None = None
    rows: int | None = None
    bias: float = 0.3
    device: str = "cpu"
    hidden_directions: int | None = None
    tuning: str = "none on these rows, as far as this library was told"
    public: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `OptionError` listing what cannot be."""
        faults = []
        if self.solver not in SOLVERS:
            faults.append(f"solver {self.solver!r}: expected one of {', '.join(SOLVERS)}")
        if not (math.isfinite(self.feature_norm) and self.feature_norm > 0):
            faults.append(f"feature_norm {self.feature_norm}: expected a number over 0")
        if not (math.isfinite(self.bias) and self.bias >= 0):
            faults.append(f"bias {self.bias}: expected 0 or more")
        if self.rows is not None and not 1 <= self.rows <= MAX_ROWS:
            faults.append(f"rows {self.rows}: expected 1 to {MAX_ROWS}")
        if self.hidden_directions is not None:
            check_directions(self.hidden_directions)
            if self.public_features is None:
                faults.append(
                    f"hidden_directions {self.hidden_directions}: the hidden layer is made from "
                    "public_features (--public), and there are none"
                )
        if faults:
            raise OptionError("; ".join(faults))


def train(
    rows: Rows, options: Options, bits: RandomBits | None = None, progress: Progress = silent
) -> PrivateHead:
    """A head with the privacy of `options.budget` for the rows.

    rows: checked in full before anything is published, by one pass over them.
    bits: None for a new stream from the operating system.

    Guarantee: see `Statement`. Raises `InputError` for rows that cannot be used, `OptionError` and
    `BudgetError` for options that cannot be carried out; nothing is published then.
    """
    bits = RandomBits() if bits is None else bits
    arithmetic = choose_arithmetic(options.device)
    true_count = rows.checked_count()
    if not true_count:
        raise InputError("0 rows: expected at least 1")
    if options.rows is not None and true_count > 2 * options.rows:
        raise InputError(
            f"over twice as many rows as rows={options.rows} says there are: say how many"
        )
    # Under `replace` neighbours have equally many rows: their number is public.
    known = true_count if options.budget.relation == "replace" else options.rows
    hidden, moments = _from_public(options, rows.width)
    if hidden is not None:
        rows = LayeredRows(rows, hidden)
    outline = _Outline(options, rows.width, known, moments, hidden)
    rehearsed = outline.rehearse()
    count, counted = outline.public_count(bits, true_count)
    if delta_is_large(options.budget.delta, int(count)):
        warnings.warn(
            f"delta {options.budget.delta:g} is at least 1/{count:.0f}, one over the rows: it "
            "would allow a whole row to be published; use a smaller one",
            LargeDelta,
            stacklevel=3,
        )
    part = rehearsed if known is not None else outline.part(count, counted)
    mechanism = Mechanism(bits, part.plan)
    prepared = Prepared(rows, part.transform)
    task = Task(part.shape, prepared, arithmetic, mechanism, bits, progress)
    weights, bias = part.transform.fold(part.solver.fit(task))
    if not mechanism.is_spent:
        raise BudgetError("a solver published less than it planned: this is a fault of the solver")
    statement = outline.statement((*counted, *part.plan), part.transform, count, bits.is_secret)
    return PrivateHead(weights.T.copy(), bias, options.classes, statement, hidden)


def _from_public(
    options: Options, features: int
) -> tuple[QuadraticLayer | None, PublicMoments | None]:
    """The hidden layer, and the moments of what goes into the head. Raises `InputError`."""
    public = options.public_features
    if public is None:
        return None, None
    width = check_matrix(public, "public features").shape[1]
    if width != features:
        raise InputError(
            f"public features have {width} columns, the private ones {features}: both must come "
            "from one backbone"
        )
    if options.hidden_directions is None:
        return None, public_moments(public)
    hidden = quadratic_layer(public, options.hidden_directions)
    return hidden, public_moments(hidden(public))


@dataclass(frozen=True)
class _Part:
    """What is done once a count is known."""

    shape: Shape
    transform: Transform
    solver: Settings
    plan: tuple[Release, ...]


@dataclass(frozen=True)
class _Outline:
    """How a budget becomes a plan."""

    options: Options
    features: int
    known_rows: int | None
    moments: PublicMoments | None
    hidden: QuadraticLayer | None = None

    def rehearse(self) -> "_Part":
        """Make plans for the smallest and the largest count: what must be refused is, now.

        Returns the last of them, which is the one to carry out where the count is known.
        """
        if isinstance(self._solver(1.0, 1.0), PoissonGradient) and self.known_rows is None:
            raise OptionError(
                "rows: Poisson batches need it, for their probability is batch_rows / rows; give "
                "the number of rows where it is public, or use solver='fc'"
            )
        counted = self._count_release()
        part = self.part(float(MAX_ROWS if self.known_rows is None else self.known_rows), counted)
        if self.known_rows is None:
            self.part(1.0, counted)
        return part

    def public_count(self, bits: RandomBits, true_count: int) -> tuple[float, tuple[Release, ...]]:
        """The count to work with, and what its publication is."""
        counted = self._count_release()
        if self.known_rows is not None:
            return float(self.known_rows), ()
        published = Mechanism(bits, counted).publish(COUNT, np.array([float(true_count)]))
        return min(float(MAX_ROWS), max(1.0, float(published[0]))), counted

    def _count_release(self) -> tuple[Release, ...]:
        if self.known_rows is not None:
            return ()
        mu = gaussian_mu(self.options.budget.epsilon, self.options.budget.delta)
        return (Release(COUNT, 1.0, 1 / (mu * math.sqrt(COUNT_SHARE)), 1),)

    def _mu(self, coordinates: int) -> float:
        """The whole μ, with δ left for the integer sampler of so many numbers."""
        budget = self.options.budget
        spare = sampler_delta(budget.epsilon, coordinates)
        if spare > _LARGEST_DELTA_SHARE * budget.delta:
            raise BudgetError(
                f"delta {budget.delta:g}: integer noise for {coordinates} numbers needs "
                f"{spare:.1e} of it; use a larger delta or a smaller epsilon"
            )
        return gaussian_mu(budget.epsilon, budget.delta - spare)

    def part(self, count: float, counted: tuple[Release, ...]) -> _Part:
        """Shape, preparation, solver and releases for a public count."""
        whole = gaussian_mu(self.options.budget.epsilon, self.options.budget.delta)  # to choose by
        transform = self._transform(whole, count)
        options = self.options
        shape = Shape(
            transform.width, len(options.classes), count, transform.bound, transform.curvature,
            options.budget.relation,
        )  # fmt: skip
        solver = self._solver(choices.signal(whole, count, self.features), transform.bound)
        clip = largest_gradient(transform.bound, getattr(solver, "clip_norm", None))
        own = transform.rounding
        if isinstance(solver, FeatureCovariance):
            own = solver.rounding(transform)
        rows = MAX_ROWS if self.known_rows is None else min(MAX_ROWS, 2 * self.known_rows)
        check_rounding(transform.width, own, transform.bound / clip, rows)
        return _Part(shape, transform, solver, self._plan(solver, shape, counted))

    def _plan(
        self, solver: Settings, shape: Shape, counted: tuple[Release, ...]
    ) -> tuple[Release, ...]:
        budget, spent = self.options.budget, total_mu(counted)
        if isinstance(solver, PoissonGradient):
            drawn = 1 + shape.parameters * solver.steps(shape.rows)
            spare = sampler_delta(budget.epsilon, drawn)
            tight = Budget(budget.epsilon, budget.delta - spare, budget.relation)
            return solver.plan_within(shape, tight, spent)
        drawn = 1 + sum(release.drawn for release in solver.plan(shape, 1.0))
        left = self._mu(drawn) ** 2 - spent**2
        return solver.plan(shape, math.sqrt(left))

    def _transform(self, mu: float, count: float) -> Transform:
        norm = self.options.feature_norm
        if self.moments is None:
            return clipping(self.features, norm, self.options.bias * norm)
        ridge = choices.whitening_ridge(choices.signal(mu, count, self.features))
        directions = choices.whitening_directions(mu, count)
        given = 0.0 if self.hidden is None else self.hidden.rounding
        return whitening(self.moments, norm, directions, ridge, given)

    def _solver(self, strength: float, bound: float) -> Settings:
        options = self.options
        if options.settings is not None:
            return options.settings
        if options.solver == "fc":
            return choices.descent(
                strength, self.features, options.public_features is not None, bound
            )
        if options.solver == "least_squares":
            return choices.least_squares(strength, True)
        return Newton() if options.solver == "newton" else PoissonGradient()

    def _features(self, transform: Transform) -> dict[str, str]:
        if self.hidden is None:
            return {"features": f"{self.features} columns, {transform.origin}"}
        return {
            "features": f"{self.hidden.width_in} columns",
            "hidden layer": self.hidden.origin,
            "products": f"{self.features} columns, {transform.origin}",
        }

    def statement(
        self, plan: tuple[Release, ...], transform: Transform, count: float, is_private: bool
    ) -> Statement:
        """What was done and what it cost."""
        options, budget = self.options, self.options.budget
        spare = sampler_delta(budget.epsilon, sum(release.drawn for release in plan))
        origin = "published with noise" if self.known_rows is None else "public"
        public = {
            "classes": f"{len(options.classes)} labels, given by the user",
            "rows": f"{count:.0f}, {origin}",
            **self._features(transform),
            "bias column": f"{transform.bias:g}",
            **options.public,
        }
        spent, how = _price(plan, budget, spare)
        return Statement(
            budget.epsilon, budget.delta, budget.relation, spent, how, plan, public,
            options.tuning, is_private,
        )  # fmt: skip


@lru_cache(maxsize=256)
def _price(plan: tuple[Release, ...], budget: Budget, spare: float) -> tuple[float, str]:
    """ε at the δ that the sampler leaves, and by which calculation."""
    delta, sampled = budget.delta - spare, [r for r in plan if r.sampled is not None]
    if not sampled:
        return gaussian_epsilon(total_mu(plan), delta), "the exact Gaussian closed form"
    (batches,) = sampled
    steps = PoissonSteps(batches.noise_multiplier, batches.sampled or 1.0, batches.count)
    cost = poisson_epsilon(steps, delta, budget.relation, total_mu(plan))
    return cost, "privacy loss distributions of Poisson batches (dp-accounting)"
