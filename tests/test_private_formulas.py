"""Every solver against its formula, written out over all rows at once, with the noise left away."""

import math
from typing import Any

import numpy as np
import pytest

from private_models.arithmetic import CpuArithmetic
from private_models.features import ArrayRows
from private_models.noise import Array, RandomBits
from private_models.preparation import clipping
from private_models.releases import Release
from private_models.solvers.gradient import LARGEST_GAIN, FeatureCovariance
from private_models.solvers.least_squares import LeastSquares
from private_models.solvers.newton import Newton
from private_models.solvers.sgd import PoissonGradient
from private_models.solvers.task import Prepared, Shape, Task
from tests.test_private_solvers import Recorder

ROWS, WIDTH, CLASSES, BIAS, MU = 300, 5, 3, 0.3, 10.0
"""μ is large, and the deviation of the noise small, for what depends on it, such as edges."""
rng = np.random.default_rng(8)
LABELS = rng.integers(0, CLASSES, ROWS)
FEATURES = rng.normal(size=(ROWS, WIDTH)) * 0.2 + np.eye(CLASSES, WIDTH)[LABELS] * 0.3 + 0.2
FEATURES[0] *= 100  # one that is clipped
ONEHOT = np.eye(CLASSES)[LABELS]
SHAPE = Shape(WIDTH + 1, CLASSES, float(ROWS), math.hypot(1.0, BIAS), 0.4, "add-remove")


def clipped(rows: Array, norm: float) -> Array:
    return rows * np.minimum(1, norm / np.linalg.norm(rows, axis=1, keepdims=True))


def with_bias(rows: Array) -> Array:
    return np.column_stack([rows, np.full(len(rows), BIAS)])


Z = with_bias(clipped(FEATURES, 1.0))


def solved(solver: Any, plan: tuple[Release, ...] | None = None) -> tuple[Array, list[Release]]:
    """Weights from exact sums, and the releases in order."""
    recorder = Recorder(solver.plan(SHAPE, MU) if plan is None else plan)
    prepared = Prepared(ArrayRows(FEATURES, LABELS), clipping(WIDTH, 1.0, BIAS))
    weights = solver.fit(Task(SHAPE, prepared, CpuArithmetic(), recorder, RandomBits()))
    return weights, [release for release, _ in recorder.seen]


def gradient(rows: Array, weights: Array, clip: float) -> Array:
    """Row by row."""
    total = np.zeros_like(weights)
    for row, truth in zip(rows, ONEHOT, strict=True):
        powers = np.exp(row @ weights)
        one = np.outer(row, powers / powers.sum() - truth)
        total += one * min(1.0, clip / np.linalg.norm(one))
    return total


def close(found: Array, expected: Array) -> None:
    assert np.allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_whitened_descent() -> None:
    solver = FeatureCovariance(4, 2.0, momentum=0.5, clip_norm=0.6, covariance_share=0.0)
    weights, velocity = np.zeros((WIDTH + 1, CLASSES)), np.zeros((WIDTH + 1, CLASSES))
    for _ in range(4):
        velocity = 0.5 * velocity + gradient(Z, weights, 0.6) / ROWS
        weights = weights - 2.0 / SHAPE.curvature * velocity
    close(solved(solver)[0], weights)


def test_feature_covariance() -> None:
    """Centred by F's column of the constant, scaled by its trace, preconditioned by the rest."""
    solver = FeatureCovariance(3, 1.5, clip_norm=0.6, ridge=0.2)
    found, releases = solved(solver)
    deviation = releases[0].standard_deviation / ROWS
    moment = Z.T @ Z / ROWS
    mean = moment[:-1, -1] / BIAS
    mean = mean * (1 - WIDTH * deviation**2 / 2 / BIAS**2 / (mean @ mean))
    gain = 1 / math.sqrt(np.trace(moment[:-1, :-1]) - mean @ mean)
    assert 1 < gain < LARGEST_GAIN
    rows = with_bias(clipped((Z[:, :-1] - mean) * gain, 1.0))
    covariance = np.zeros((WIDTH + 1, WIDTH + 1))
    covariance[:-1, :-1] = (moment[:-1, :-1] - np.outer(mean, mean)) * gain**2
    covariance[-1, -1] = BIAS**2
    edge = deviation * gain**2 * math.sqrt(2 * (WIDTH + 1))
    floor = 0.2 * np.trace(covariance) / (WIDTH + 1) + edge
    inverse = np.linalg.inv(covariance + floor * np.eye(WIDTH + 1))
    weights = np.zeros((WIDTH + 1, CLASSES))
    for _ in range(3):
        weights = weights - 1.5 * inverse @ gradient(rows, weights, 0.6) / ROWS
    outer = gain * weights[:-1]
    close(found, np.vstack([outer, weights[-1] - mean @ outer / BIAS]))


@pytest.mark.parametrize("shared", [True, False])
def test_least_squares(shared: bool) -> None:
    solver = LeastSquares(shared_gram=shared, ridge=0.05, gram_weight=0.3)
    found, releases = solved(solver)
    gram, sums = Z.T @ Z, Z.T @ ONEHOT
    edge = releases[0].standard_deviation * math.sqrt(2 * (WIDTH + 1))
    reg = (0.05 * np.trace(gram) / (WIDTH + 1) + edge) * np.eye(WIDTH + 1)
    for k in range(CLASSES):
        own = Z[k == LABELS].T @ Z[k == LABELS]
        system, right = own + 0.3 * gram + reg, sums[:, k]
        if shared:
            system, right = gram + reg, sums[:, k] - sums.mean(1)
        close(found[:, k], np.linalg.solve(system, right))


def test_newton() -> None:
    solver = Newton(2, ridge=0.1, damping=0.8)
    found, releases = solved(solver)
    edge = releases[1].standard_deviation * math.sqrt(2 * (WIDTH + 1))
    floor = 0.1 * ROWS * SHAPE.bound**2 / 4 / (WIDTH + 1) + edge
    weights = np.zeros((WIDTH + 1, CLASSES))
    for _ in range(2):
        probability = 1 / (1 + np.exp(-Z @ weights))
        for k in range(CLASSES):
            p = probability[:, k]
            hessian = (Z * (p * (1 - p))[:, None]).T @ Z + floor * np.eye(WIDTH + 1)
            step = np.linalg.solve(hessian, Z.T @ (p - ONEHOT[:, k]))
            weights[:, k] -= 0.8 * step
    close(found, weights)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_full_batches_of_sgd_and_adam(optimiser: Any) -> None:
    """With probability 1 a Poisson batch is every row."""
    solver = PoissonGradient(ROWS, 3.0, 0.1, clip_norm=0.7, optimiser=optimiser, momentum=0.9)
    plan = (Release("gradient of the loss on a Poisson batch", 0.7, 0.01, 18, 3, 1.0),)
    found, _ = solved(solver, plan)
    weights, first, second = (np.zeros((WIDTH + 1, CLASSES)) for _ in range(3))
    for step in range(1, 4):
        mean = gradient(Z, weights, 0.7) / ROWS
        if optimiser == "sgd":
            first = 0.9 * first + mean
            weights = weights - 0.1 / SHAPE.curvature * first
        else:
            first, second = 0.9 * first + 0.1 * mean, 0.999 * second + 0.001 * mean**2
            corrected = first / (1 - 0.9**step)
            weights = weights - 0.1 * corrected / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    close(found, weights)
