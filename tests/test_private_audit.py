"""`private_models.audit`: right heads pass; three planted faults are caught."""

import math
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest

from private_models import features as features_module
from private_models import noise, releases
from private_models.accounting import Budget
from private_models.audit import (
    Fit,
    Membership,
    _curve,
    _separation,
    audit_mechanism,
    membership,
)
from private_models.errors import InputError, OptionError
from private_models.features import ArrayRows
from private_models.head import PrivateHead
from private_models.noise import Array, RandomBits
from private_models.solvers.gradient import FeatureCovariance
from private_models.solvers.least_squares import LeastSquares
from private_models.solvers.newton import Newton
from private_models.training import SOLVERS, Options, Settings, train

RUNS = 1200
SETTINGS: dict[str, Settings] = {
    "fc": FeatureCovariance(2, 1.0, covariance_share=0.2),
    "least_squares": LeastSquares(),
    "newton": Newton(1),
}


def fit_with(solver: str, epsilon: float = 1.0) -> Fit:
    def fit(rows: Array, labels: np.ndarray) -> PrivateHead:
        options = Options(
            Budget(epsilon, 1e-5), np.arange(3), solver, SETTINGS[solver],  # type: ignore[arg-type]
            rows=30, bias=0.0,
        )  # fmt: skip
        return train(ArrayRows(rows, labels), options)

    return fit


def one_shot(rows: Array, labels: np.ndarray) -> PrivateHead:
    """A single gradient, clipped where the canary reaches it: an audit can be tight."""
    options = Options(
        Budget(4.0, 1e-5), np.arange(3), "fc",
        FeatureCovariance(1, 1.0, clip_norm=0.8, covariance_share=0.0),
        rows=30, bias=0.0,
    )  # fmt: skip
    return train(ArrayRows(rows, labels), options)


@pytest.mark.parametrize("solver", SETTINGS)
def test_no_estimator_is_refuted(solver: str) -> None:
    bound = audit_mechanism(fit_with(solver), 1.0, runs=600)
    assert not bound.is_broken
    assert "proves nothing" in bound.note
    assert set(SETTINGS) | {"sgd"} == set(SOLVERS)


def test_the_bound_is_near_the_claim_where_it_can_be() -> None:
    """Else the faults below might go unseen: half of ε is found in a thousand fits."""
    bound = audit_mechanism(one_shot, 1.0, runs=RUNS)
    assert 1.6 < bound.found <= bound.claimed == 4.0


original = noise.add_noise


def half(bits: RandomBits, exact: Array, deviation: float) -> Array:
    return original(bits, exact, deviation / 2)


def shared(bits: RandomBits, exact: Array, deviation: float) -> Array:
    """One vector for all classes, as in the published code."""
    if exact.ndim != 2:
        return original(bits, exact, deviation)
    column = original(bits, np.zeros((len(exact), 1)), deviation)
    return exact + column


def unclipped(rows: Array, norm: float) -> Array:
    return rows


FAULTS: dict[str, tuple[object, str, Callable[..., Array]]] = {
    "half the noise": (releases, "add_noise", half),
    "one noise vector for all classes": (releases, "add_noise", shared),
    "clipping forgotten": (features_module, "clip_rows", unclipped),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str) -> None:
    module, name, replacement = FAULTS[fault]

    def fit(rows: Array, labels: np.ndarray) -> PrivateHead:
        if name != "clip_rows":
            return one_shot(rows, labels)
        options = Options(
            Budget(4.0, 1e-5), np.arange(3), "fc",
            FeatureCovariance(1, 1.0, covariance_share=0.0, clip_norm=1e9), rows=30, bias=0.0,
        )  # fmt: skip
        # The gradient clip is a second line of defence: forgotten as well.
        with patch("private_models.arithmetic._clip_factors", lambda z, e, c: np.ones(len(z))):
            return train(ArrayRows(rows, labels), options)

    with patch.object(module, name, replacement):
        bound = audit_mechanism(fit, 1.0, runs=RUNS)
    assert bound.is_broken, bound


def test_the_counting_is_sound() -> None:
    """On normal samples μ apart the bound is below μ, and not far; also where there is nothing.

    At the median, 3,000 counts bound each rate to within 3.5·√(1/12000), which is 0.08 of μ; in the
    tails, where the best threshold of 1,000 others may lie, to within four times that.
    """
    rng = np.random.default_rng(1)
    for mu in (0.0, 0.5, 2.0):
        for _ in range(20):
            pair = rng.normal(mu, 1, 4000), rng.normal(0, 1, 4000)
            assert max(0.0, mu - 8 * 0.08) <= _separation(pair, 0.999) <= mu


# ---------------------------------------------------------------------------- membership


def rows_and_labels(count: int, seed: int) -> tuple[Array, np.ndarray]:
    """Random labels: only memory can tell them, so members of an unprivate head stand out."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 60))
    return features / np.linalg.norm(features, axis=1, keepdims=True), rng.integers(0, 3, count)


def attacked(epsilon: float) -> Membership:
    def fit(rows: Array, labels: np.ndarray) -> PrivateHead:
        settings = FeatureCovariance(30, 3.0, covariance_share=0.0)
        options = Options(Budget(epsilon, 1e-5), np.arange(3), "fc", settings, rows=len(rows))
        return train(ArrayRows(rows, labels), options)

    return membership(fit, *rows_and_labels(300, 1), shadows=24)


def test_membership_shows_where_there_is_no_privacy_to_speak_of() -> None:
    leaky, private = attacked(15.0), attacked(0.5)
    assert leaky.area > 0.6
    # Guessing has a standard deviation of √(1/12·(1/m + 1/o)) = 0.033 in area.
    assert abs(private.area - 0.5) < 6 * 0.034
    assert private.epsilon(1e-5) <= 0.5
    assert leaky.members + leaky.others == 300


def test_curves() -> None:
    scores = np.array([3.0, 2.0, 1.0, 0.0])
    curve = _curve(scores, np.array([True, True, False, False]))
    assert curve.area == 1
    assert curve.true_positive_at(0.0) == 1
    backwards = _curve(-scores, np.array([True, True, False, False]))
    assert (backwards.area, backwards.true_positive_at(0.1)) == (0, 0)
    tied = _curve(np.zeros(4), np.array([True, True, False, False]))
    assert tied.area == pytest.approx(0.5)
    assert math.isfinite(curve.epsilon(1e-5))


def test_refusals() -> None:
    features, labels = rows_and_labels(30, 2)
    for runs, confidence in ((1, 0.99), (10, 1.0), (10**7, 0.9)):
        with pytest.raises(OptionError, match="expected"):
            audit_mechanism(one_shot, 1.0, runs, confidence)
    with pytest.raises(InputError, match="pairs"):
        membership(one_shot, features, labels[1:])
    with pytest.raises(OptionError, match="shadow"):
        membership(one_shot, features, labels, shadows=2)
