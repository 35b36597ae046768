"""`private_models.arithmetic` and `solvers`: sums against torch's autograd, sensitivities against
neighbouring data sets, planned against published."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from private_models.accounting import (
    RELATIONS,
    Budget,
    PoissonSteps,
    Relation,
    poisson_epsilon,
)
from private_models.arithmetic import Arithmetic, CpuArithmetic, largest_gradient
from private_models.devices import choose_arithmetic
from private_models.errors import OptionError
from private_models.features import ArrayRows, Chunk, StreamRows
from private_models.noise import Array, RandomBits
from private_models.preparation import Transform, clipping, public_moments, whitening
from private_models.releases import LARGEST_LOGIT, Mechanism, Release, part_error, total_mu
from private_models.solvers import gradient
from private_models.solvers.gradient import FeatureCovariance
from private_models.solvers.least_squares import LeastSquares, positive
from private_models.solvers.newton import Newton
from private_models.solvers.sgd import PoissonGradient, sampled
from private_models.solvers.task import Prepared, Shape, Task, shares, within_logit_bound
from private_models.torch_arithmetic import TorchArithmetic
from tests.conftest import EPS

seeds = st.integers(0, 2**32 - 1)
WIDTH, CLASSES, ROWS = 4, 3, 40
ARITHMETICS: Sequence[Arithmetic] = (CpuArithmetic(), TorchArithmetic(torch.device("cpu")))


def problem(seed: int, rows: int = ROWS) -> tuple[Array, np.ndarray, Array]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, WIDTH)) * rng.uniform(0, 3, (rows, 1))
    return features, rng.integers(0, CLASSES, rows), rng.normal(size=(WIDTH, CLASSES)) * 2


def halves(features: Array, labels: np.ndarray) -> list[Chunk]:
    return [(features[:17], labels[:17]), (features[17:], labels[17:])]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@given(seeds, st.floats(0.1, 10))
def test_clipped_gradients_are_autograds(arithmetic: Arithmetic, seed: int, clip: float) -> None:
    """Example by example, without the norm trick."""
    features, labels, weights = problem(seed)
    expected = np.zeros_like(weights)
    for row, label in zip(features, labels, strict=True):
        w = torch.tensor(weights, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(
            torch.from_numpy(row)[None] @ w, torch.tensor([label])
        )
        (gradient,) = torch.autograd.grad(loss, w)
        norm = float(gradient.norm())
        assert norm <= largest_gradient(float(np.linalg.norm(row)), None) * (1 + 100 * EPS)
        expected += gradient.numpy() * min(1.0, clip / norm if norm else 1.0)
    found = arithmetic.gradient(halves(features, labels), weights, clip)
    assert np.allclose(found, expected, rtol=0, atol=ROWS * 1000 * EPS * clip)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@given(seeds)
def test_other_sums(arithmetic: Arithmetic, seed: int) -> None:
    features, labels, weights = problem(seed)
    chunks, scale = halves(features, labels), np.square(features).sum() * 100 * EPS
    gram = arithmetic.gram(chunks, WIDTH)
    assert np.allclose(gram, sum(np.outer(z, z) for z in features), rtol=0, atol=scale)
    sums = arithmetic.class_sums(chunks, WIDTH, CLASSES)
    for k in range(CLASSES):
        assert np.allclose(sums[:, k], features[labels == k].sum(0), rtol=0, atol=scale)
    gradient, hessian = arithmetic.logistic(chunks, weights)

    def loss(w: torch.Tensor, k: int) -> torch.Tensor:
        target = torch.from_numpy((labels == k).astype(float))
        logits = torch.from_numpy(features) @ w
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")

    for k in range(CLASSES):
        w = torch.tensor(weights[:, k].copy())
        first = torch.autograd.functional.jacobian(lambda v, k=k: loss(v, k), w).numpy()
        second = torch.autograd.functional.hessian(lambda v, k=k: loss(v, k), w).numpy()
        assert np.allclose(gradient[:, k], first, rtol=0, atol=scale)
        assert np.allclose(hessian[k], second, rtol=0, atol=scale)


def test_devices() -> None:
    assert isinstance(choose_arithmetic("cpu"), CpuArithmetic)
    for device in ("abacus", "cuda:99"):
        with pytest.raises(OptionError, match="cannot be used"):
            choose_arithmetic(device)


# ---------------------------------------------------------------------------- sensitivities


@dataclass
class Recorder(Mechanism):
    """Remembers exact sums, in the order of the plan, and publishes them or `answers` instead."""

    plan: tuple[Release, ...]
    answers: list[Array] | None = None
    seen: list[tuple[Release, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(RandomBits(), self.plan)

    def publish(self, what: str, total: Array) -> Array:
        release = self.next_release
        super().publish(what, total)
        self.seen.append((release, total.copy()))
        return total if self.answers is None else self.answers[len(self.seen) - 1]


SOLVERS = {
    "fc": FeatureCovariance(4, 2.0),
    "fc, clipped": FeatureCovariance(3, 1.0, clip_norm=0.4),
    "whitened": FeatureCovariance(3, 1.0, covariance_share=0.0, momentum=0.5),
    "shared": LeastSquares(),
    "published": LeastSquares(shared_gram=False),
    "newton": Newton(2),
}


def shape_of(relation: Relation) -> Shape:
    return Shape(WIDTH + 1, CLASSES, float(ROWS), math.hypot(1.0, 0.3), 0.5, relation)


def published(
    solver: object, features: Array, labels: np.ndarray, relation: Relation,
    answers: list[Array] | None = None,
) -> Recorder:  # fmt: skip
    shape = shape_of(relation)
    recorder = Recorder(solver.plan(shape, 1.0), answers)  # type: ignore[attr-defined]
    prepared = Prepared(ArrayRows(features, labels), clipping(WIDTH, 1.0, 0.3))
    task = Task(shape, prepared, CpuArithmetic(), recorder, RandomBits())
    solver.fit(task)  # type: ignore[attr-defined]
    assert recorder.is_spent
    return recorder


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("relation", RELATIONS)
@settings(max_examples=25)
@given(seeds)
def test_no_row_changes_a_sum_by_more_than_its_sensitivity(
    name: str, relation: Relation, seed: int
) -> None:
    """All sums, given the same earlier answers, as in composition; extreme rows among them."""
    solver = SOLVERS[name]
    features, labels, _ = problem(seed)
    rng = np.random.default_rng(seed)
    other = rng.normal(size=WIDTH) * 1e3
    if relation == "replace":
        neighbour, names = features.copy(), labels.copy()
        neighbour[0], names[0] = (
            (-features[0] * 1e3, labels[0]) if seed % 2 else (other, (labels[0] + 1) % CLASSES)
        )
    else:
        neighbour, names = np.vstack([features, other]), np.append(labels, rng.integers(CLASSES))
    one = published(solver, features, labels, relation)
    two = published(solver, neighbour, names, relation, [answer for _, answer in one.seen])
    for (release, first), (_, second) in zip(one.seen, two.seen, strict=True):
        assert np.linalg.norm(first - second) <= release.sensitivity * (1 + 1e-12)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("mu", [0.01, 1.0])
def test_plans_spend_exactly_what_they_may(name: str, mu: float) -> None:
    for relation in RELATIONS:
        plan = SOLVERS[name].plan(shape_of(relation), mu)
        assert total_mu(plan) == pytest.approx(mu, rel=1e-12)


def test_shares() -> None:
    multipliers = shares(0.5, [1.0, 3.0])
    assert [1 / z**2 for z in multipliers] == pytest.approx([0.25 / 4, 0.25 * 3 / 4])


def test_weights_are_kept_where_rounding_is_bounded() -> None:
    weights = np.ones((3, 3))
    assert within_logit_bound(weights, 1.0) is weights
    kept = within_logit_bound(weights * 1e6, 2.0)
    assert np.linalg.norm(kept) * 2 == pytest.approx(LARGEST_LOGIT)


def test_the_nearest_positive_matrix() -> None:
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(6, 6))
    matrix += matrix.T
    found = positive(matrix)
    assert np.linalg.eigvalsh(found).min() > -1e3 * EPS
    assert np.allclose(positive(found), found)


# ---------------------------------------------------------------------------- Poisson batches


def test_poisson_batches_keep_the_budget_and_may_be_empty() -> None:
    solver = PoissonGradient(batch_rows=2, epochs=8.0, learning_rate=0.1)
    shape, budget = shape_of("add-remove"), Budget(0.5, 1e-3)
    (release,) = plan = solver.plan_within(shape, budget, 0.0)
    assert (release.count, release.sampled) == (4 * ROWS, 2 / ROWS)
    steps = PoissonSteps(release.noise_multiplier, 2 / ROWS, 4 * ROWS)
    cost = poisson_epsilon(steps, 1e-3, "add-remove")
    assert 0.495 < cost <= 0.5
    features, labels, _ = problem(1)
    recorder = Recorder(plan)
    prepared = Prepared(ArrayRows(features, labels), clipping(WIDTH, 1.0, 0.3))
    solver.fit(Task(shape, prepared, CpuArithmetic(), recorder, RandomBits()))
    # A batch is empty with probability 0.95⁴⁰ = 0.13: of 160 none is with probability 10⁻⁹·⁵.
    empty = sum(not total.any() for _, total in recorder.seen)
    assert 0 < empty < 4 * ROWS


def test_sampling_is_independent_by_row() -> None:
    features, labels, _ = problem(2)
    sizes = [
        sum(len(kept) for _, kept in sampled(iter(halves(features, labels)), RandomBits(), 0.5))
        for _ in range(400)
    ]
    variance = ROWS / 4  # of a binomial; a sample of fixed size has none
    assert abs(np.mean(sizes) - ROWS / 2) < 6 * math.sqrt(variance / 400)
    assert 0.6 < np.var(sizes) / variance < 1.6


def test_settings_are_checked() -> None:
    for make in (
        lambda: FeatureCovariance(0, 1.0), lambda: FeatureCovariance(3, -1.0),
        lambda: LeastSquares(ridge=0.0), lambda: Newton(0), lambda: PoissonGradient(0),
        lambda: PoissonGradient(epochs=math.nan), lambda: PoissonGradient(optimiser="lion"),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(OptionError, match="expected"):
            make()
    wide = Shape(2048, 1000, 1e6, 1.0, 1.0, "add-remove")
    for solver in (LeastSquares(shared_gram=False), Newton()):
        with pytest.raises(OptionError, match="GB"):
            solver.plan(wide, 1.0)
    with pytest.raises(OptionError, match="plan_within"):
        PoissonGradient().plan(wide, 1.0)


def test_adam_learns() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, 3000)
    features = np.eye(WIDTH)[labels] + rng.normal(size=(3000, WIDTH)) * 0.1
    shape = Shape(WIDTH, CLASSES, 3000.0, 1.0, 1.0, "add-remove")
    solver = PoissonGradient(600, 2.0, 0.1, optimiser="adam")
    plan = solver.plan_within(shape, Budget(2.0, 1e-5), 0.0)
    prepared = Prepared(ArrayRows(features, labels), clipping(WIDTH, 1.0, 0.0))
    mechanism = Mechanism(RandomBits(), plan)
    weights = solver.fit(Task(shape, prepared, CpuArithmetic(), mechanism, RandomBits()))
    assert ((features @ weights).argmax(1) == labels).mean() > 0.95


def test_rows_that_do_not_fit_are_prepared_anew() -> None:
    features, labels, _ = problem(5)
    for room in (0, 1 << 20):
        rows = ArrayRows(features, labels)
        prepared = Prepared(rows, clipping(WIDTH, 1.0, 0.3), cache_bytes=room)
        first, second = (list(prepared.chunks()) for _ in range(2))
        assert np.array_equal(first[0][0], second[0][0])
        assert (first[0][0] is second[0][0]) is bool(room)


def prepared_kinds(rng: np.random.Generator) -> dict[str, tuple[Transform, Transform | None]]:
    """Ways to prepare rows, and whether there is a second one."""
    noise = rng.normal(size=(WIDTH + 1, WIDTH + 1)) * 0.1
    clipped = clipping(WIDTH, 1.0, 0.3)
    inner, _ = gradient._recentring(np.eye(WIDTH + 1) * 0.2 + noise + noise.T, 0.1, clipped)
    moments = public_moments(rng.normal(size=(50, WIDTH)))
    return {
        "clipped": (clipped, None),
        "recentred": (clipped, inner),
        "whitened": (whitening(moments, 1.0, WIDTH - 1, 0.1), None),
    }


@given(seeds, st.sampled_from(["clipped", "recentred", "whitened"]), st.booleans())
def test_gradients_of_rows_that_do_not_fit(seed: int, kind: str, by_torch: bool) -> None:
    """Equal to those of kept rows, up to what `rounding` allows one row and sums allow all."""
    rng = np.random.default_rng(seed)
    features, labels, _ = problem(seed)
    features = features + rng.normal(size=WIDTH) * 0.3
    outer, inner = prepared_kinds(rng)[kind]
    arithmetic = TorchArithmetic(torch.device("cpu")) if by_torch else CpuArithmetic()
    last = inner or outer
    weights = rng.normal(size=(last.width, CLASSES))
    found = []
    for room in (0, 1 << 20):
        prepared = Prepared(ArrayRows(features, labels), outer, inner, cache_bytes=room)
        prepared.gradient(arithmetic, weights, 0.7)
        found.append(prepared.gradient(arithmetic, weights, 0.7))
    allowed = part_error(last.width, last.bound / 0.7, 8 * (outer.rounding + 64 * EPS))
    assert np.linalg.norm(found[0] - found[1]) <= len(features) * 0.7 * allowed
    assert np.linalg.norm(found[1]) > 1e6 * len(features) * 0.7 * allowed


@given(seeds, st.sampled_from(["clipped", "recentred", "whitened"]))
def test_sums_are_bounded_though_a_source_does_not_repeat_itself(seed: int, kind: str) -> None:
    """What is clipped is the row of this pass, however long, not that of an earlier one."""
    rng = np.random.default_rng(seed)
    lengths = iter([0.1, 0.1, 1e3, 1e6, 1e-3])
    outer, inner = prepared_kinds(rng)[kind]

    def source() -> list[tuple[Array, list[int]]]:
        return [(rng.normal(size=(1, WIDTH)) * next(lengths), [0])]

    rows = StreamRows(source, np.arange(CLASSES), WIDTH)
    prepared = Prepared(rows, outer, inner, cache_bytes=0)
    weights = rng.normal(size=((inner or outer).width, CLASSES))
    for _ in range(5):
        exact = prepared.gradient(CpuArithmetic(), weights, 0.7)
        assert np.linalg.norm(exact) <= 0.7 * (1 + 1e-9)


@given(seeds, st.floats(1e-3, 1e3))
def test_centring_is_bounded_whatever_the_noise(seed: int, deviation: float) -> None:
    """A covariance of nothing but noise: the mean is no longer than rows, rows at most 8 times."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(WIDTH + 1, WIDTH + 1)) * deviation
    outer = clipping(WIDTH, 1.0, 0.3)
    inner, covariance = gradient._recentring(noise + noise.T, deviation, outer)
    assert np.linalg.norm(inner.mean) <= 1 + 8 * EPS
    assert 0 < inner.gain <= gradient.LARGEST_GAIN
    assert inner.bound == outer.bound
    assert np.isfinite(covariance).all()
    assert inner.rounding <= FeatureCovariance(1, 1.0).rounding(outer)
