"""Every estimator in a form that is small and easily seen through: what `mechanism` is run on.

Settings spend the budget where the canary shows: a single step, little on covariances. What is
tested is the same code as everywhere, from clipping to noise.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from private_models.accounting import Budget
from private_models.audit import ESTIMATORS
from private_models.audit.findings import Fit
from private_models.audit.mechanism import Problem, canary_against, canary_alone
from private_models.errors import OptionError
from private_models.features import ArrayRows
from private_models.head import PrivateHead
from private_models.noise import Array
from private_models.pate.ensemble import PateOptions, train_student
from private_models.solvers.gradient import FeatureCovariance
from private_models.solvers.least_squares import LeastSquares
from private_models.solvers.newton import Newton
from private_models.solvers.sgd import PoissonGradient
from private_models.training import Options, Settings, train

_SETTINGS: dict[str, Settings] = {
    "fc": FeatureCovariance(1, 1.0, clip_norm=0.8, covariance_share=0.0),
    "sgd": PoissonGradient(1 << 10, 9, learning_rate=0.1, clip_norm=0.8, momentum=0.0),
    "least_squares": LeastSquares(ridge=100.0, gram_share=0.02),
    "newton": Newton(1, ridge=0.01, hessian_share=0.45),
}
_ANSWERS = 100


@dataclass(frozen=True)
class Subject:
    """An estimator, and the problem on which it shows most."""

    fit: Fit
    problem: Problem


def subject(estimator: str, budget: Budget, settings: Settings | None = None) -> Subject:
    """One of ESTIMATORS. settings: others than the usual ones. Raises `OptionError`."""
    if estimator not in ESTIMATORS:
        raise OptionError(f"estimator {estimator!r}: expected one of {', '.join(ESTIMATORS)}")
    if estimator == "pate":
        return _pate(budget)
    problem = canary_against(1.0) if estimator == "newton" else canary_alone(1.0)
    chosen = settings or _SETTINGS[estimator]

    def fit(rows: Array, labels: Any) -> PrivateHead:
        options = Options(
            budget, np.arange(problem.classes), cast(Any, estimator), chosen,
            rows=len(problem.labels), bias=0.0,
        )  # fmt: skip
        return train(ArrayRows(rows, labels), options)

    return Subject(fit, problem)


def _pate(budget: Budget) -> Subject:
    """Two teachers that say 1 to the canary's direction, unless one of them has the canary.

    Asked again and again about it, they come as near to a tie as they can, where a vote counts
    most. The second half of the public rows only centres them.
    """
    alone = canary_alone(1.0, classes=2)
    problem = Problem(alone.features, np.ones_like(alone.labels), alone.canary, 0, 2)
    public = np.zeros((4 * _ANSWERS, 4))
    public[: 2 * _ANSWERS], public[2 * _ANSWERS :] = alone.canary, -alone.canary
    options = PateOptions(budget, np.arange(2), 2, _ANSWERS, threshold=0.0, ridge=1e-3)

    def fit(rows: Array, labels: Any) -> PrivateHead:
        return train_student(ArrayRows(rows, labels), public, options)

    return Subject(fit, problem)
