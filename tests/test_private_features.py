"""`private_models.features` and `releases`: bounds on rows, refusals, plans that cannot be left."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_models.errors import BudgetError, InputError, OptionError
from private_models.features import (
    ArrayRows,
    StreamRows,
    check_classes,
    check_matrix,
    check_values,
    class_indices,
)
from private_models.noise import Array, RandomBits
from private_models.preparation import clip_rows, clipping, public_moments, whitening
from private_models.releases import (
    CHUNK_ROWS,
    MAX_ROWS,
    ROUNDING_MARGIN,
    Mechanism,
    Release,
    check_rounding,
    total_mu,
)
from tests.conftest import EPS

seeds = st.integers(0, 2**32 - 1)


def random_rows(seed: int, rows: int = 50, width: int = 6) -> Array:
    """Of very different lengths, a zero row among them, and directions of different sizes."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(rows, width)) * 10.0 ** rng.uniform(-3, 3, (rows, 1))
    drawn[0] = 0
    return drawn * 10.0 ** rng.uniform(-2, 2, width)


@given(seeds, st.floats(1e-3, 1e3))
def test_clipped_rows_keep_their_direction_and_are_never_longer(seed: int, norm: float) -> None:
    rows = random_rows(seed)
    clipped = clip_rows(rows, norm)
    lengths = np.linalg.norm(clipped, axis=1)
    assert (lengths <= norm * (1 + 8 * EPS)).all()
    short = np.linalg.norm(rows, axis=1) < norm * (1 - 8 * EPS)
    assert np.array_equal(clipped[short], rows[short])
    cosine = np.einsum("ij,ij->i", rows, clipped)[1:]
    product = (np.linalg.norm(rows, axis=1) * lengths)[1:]
    assert np.allclose(cosine, product, rtol=32 * EPS, atol=0)


@given(seeds, st.floats(0.1, 10), st.integers(1, 6), st.floats(0.01, 100))
def test_prepared_rows_are_within_their_bound(
    seed: int, norm: float, directions: int, ridge: float
) -> None:
    transform = whitening(public_moments(random_rows(seed + 1)), norm, directions, ridge)
    prepared = transform(random_rows(seed))
    assert prepared.shape == (50, transform.width) == (50, directions + 1)
    assert (np.linalg.norm(prepared, axis=1) <= transform.bound * (1 + 8 * EPS)).all()
    assert transform.bound == pytest.approx(math.hypot(norm, transform.bias))


@given(seeds)
def test_folded_weights_say_what_prepared_rows_would(seed: int) -> None:
    """The head that is published is linear in the features as they come."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(20, 5))
    for transform in (
        clipping(5, 2.0, 0.3), clipping(5, 2.0, 0.0), whitening(public_moments(rows), 1, 3, 0.1)
    ):  # fmt: skip
        weights = rng.normal(size=(transform.width, 4))
        outer, constant = transform.fold(weights)
        expected = transform.linear(rows) @ weights
        scale = np.abs(expected).max()
        assert np.allclose(rows @ outer + constant, expected, rtol=0, atol=1e4 * EPS * scale)


def test_whitened_public_rows_are_white() -> None:
    rng = np.random.default_rng(1)
    public = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + 7
    transform = whitening(public_moments(public), 1.0, 4, 1e-9)
    inner = transform.linear(public)[:, :-1]
    covariance = np.cov(inner.T)
    assert np.allclose(covariance, np.eye(4) * covariance[0, 0], atol=1e-6 * covariance[0, 0])
    lengths = np.linalg.norm((public - transform.mean) @ transform.matrix, axis=1)
    assert np.median(lengths) == pytest.approx(1.0)


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((0, 3)), "minimum of 1"),
        (np.zeros((3, 0)), "minimum of 1"),
        (np.zeros((2, 5000)), "at most"),
        (np.zeros((2, 2), complex), "Complex"),
        ([["a", "b"]], "real numbers"),
        (np.array([[1, {}]], object), "expected numbers"),
        ([[1, 2], [3]], "array of numbers"),
    ],
)
def test_what_is_no_matrix(bad: npt.ArrayLike, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_matrix(bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_values_that_are_not_finite_are_named_by_row(bad: float) -> None:
    rows = np.ones((9, 3))
    rows[4, 1] = bad
    with pytest.raises(InputError, match=r"row 104 .* nothing was released"):
        check_values(rows, first=100)


def test_labels() -> None:
    classes = check_classes([3, 1, 2])
    assert class_indices([1, 3, 3], classes).tolist() == [0, 2, 2]
    assert class_indices(["b", "a"], check_classes(["a", "b"])).tolist() == [1, 0]
    for strange in ([1, 4], [0, 1], [1.5, 2], ["1"]):
        with pytest.raises(InputError, match="labels"):
            class_indices(strange, classes)
    with pytest.raises(InputError) as said:
        class_indices([1, 12345], classes)
    assert "12345" not in str(said.value)  # a private label stays private
    for bad in ([1], [], [1, 1], [[1, 2]], [object(), object()], range(5000)):
        with pytest.raises((OptionError, TypeError)):
            check_classes(bad)  # type: ignore[arg-type]


def test_rows_in_memory() -> None:
    with pytest.raises(InputError, match="inconsistent"):
        ArrayRows(np.zeros((3, 2)), np.zeros(2, np.int64))
    many = np.lib.stride_tricks.as_strided(np.zeros(1), (MAX_ROWS + 1, 1), (0, 0))
    with pytest.raises(InputError, match="at most"):
        ArrayRows(many, np.zeros(MAX_ROWS + 1, np.int64))
    rows = np.arange(2 * CHUNK_ROWS + 5, dtype=np.float32)[:, None]
    chunks = list(ArrayRows(rows, np.zeros(len(rows), np.int64)).chunks())
    assert [len(labels) for _, labels in chunks] == [CHUNK_ROWS, CHUNK_ROWS, 5]
    assert np.array_equal(np.concatenate([c for c, _ in chunks]), rows)
    assert chunks[0][0].dtype == np.float64


@given(st.lists(st.integers(1, 3 * CHUNK_ROWS), min_size=1, max_size=5))
def test_a_stream_is_cut_anew(sizes: list[int]) -> None:
    values = np.arange(sum(sizes), dtype=np.float64)[:, None]
    cuts = np.split(values, np.cumsum(sizes)[:-1])

    def source() -> Iterator[tuple[Array, Array]]:
        yield from ((cut, np.where(cut[:, 0] % 2 == 0, 5, 7)) for cut in cuts)

    stream = StreamRows(source, check_classes([5, 7]), 1)
    for _ in range(2):
        chunks = list(stream.chunks())
        assert all(len(c) == CHUNK_ROWS for c, _ in chunks[:-1])
        assert np.array_equal(np.concatenate([c for c, _ in chunks]), values)
        assert np.array_equal(np.concatenate([k for _, k in chunks]), values[:, 0] % 2)


def test_a_stream_that_changes_is_refused() -> None:
    sizes = iter([4, 3])
    stream = StreamRows(lambda: [(np.ones((next(sizes), 2)), [0] * 4)], check_classes([0, 1]), 2)
    list(stream.chunks())
    with pytest.raises(InputError):
        list(stream.chunks())
    sizes = iter([4, 3])

    def shorter() -> list[tuple[Array, list[int]]]:
        size = next(sizes)
        return [(np.ones((size, 2)), [0] * size)]

    stream = StreamRows(shorter, check_classes([0, 1]), 2)
    list(stream.chunks())
    with pytest.raises(InputError, match="make it repeat"):
        list(stream.chunks())
    with pytest.raises(InputError, match="expected 3 features"):
        list(StreamRows(lambda: [(np.ones((1, 2)), [0])], check_classes([0, 1]), 3).chunks())


@pytest.mark.parametrize("public", [np.ones((1, 3)), np.ones((5, 3)), np.full((4, 3), np.nan)])
def test_public_features_that_tell_nothing(public: Array) -> None:
    with pytest.raises(InputError, match="public features"):
        public_moments(public)


# ---------------------------------------------------------------------------- releases


def release(what: str = "a", **changes: object) -> Release:
    values = {"sensitivity": 1.0, "noise_multiplier": 2.0, "coordinates": 3, **changes}
    return Release(what, **values)  # type: ignore[arg-type]


def test_only_what_is_planned_is_published_and_only_once() -> None:
    mechanism = Mechanism(RandomBits(), [release("a", count=2), release("b")])
    mechanism.publish("a", np.zeros(3))
    for name, size in (("b", 3), ("a", 4)):
        with pytest.raises(BudgetError, match="expected 'a' with 3 numbers next"):
            mechanism.publish(name, np.zeros(size))
    mechanism.publish("a", np.zeros(3))
    assert not mechanism.is_spent
    mechanism.publish("b", np.zeros(3))
    assert mechanism.is_spent
    with pytest.raises(BudgetError, match="spent"):
        mechanism.publish("b", np.zeros(3))


def test_total_mu_is_of_all_full_batch_releases() -> None:
    plan = [release(noise_multiplier=2.0, count=3), release(noise_multiplier=4.0)]
    assert total_mu(plan) == pytest.approx(math.sqrt(3 / 4 + 1 / 16))
    assert total_mu([release(sampled=0.1)]) == 0


def test_a_symmetric_matrix_has_one_noise_a_pair_and_frobenius_sensitivity() -> None:
    """Off the diagonal the deviation is 1/√2 of that on it, since entries stand there twice."""
    width, runs = 40, 60
    triangle = width * (width + 1) // 2
    one = release("m", coordinates=triangle, count=runs)
    mechanism = Mechanism(RandomBits(), [one])
    drawn = np.stack(
        [mechanism.publish_symmetric("m", np.zeros((width,) * 2)) for _ in range(runs)]
    )
    assert np.array_equal(drawn, drawn.transpose(0, 2, 1))
    diagonal = np.square(drawn[:, np.arange(width), np.arange(width)]).mean()
    upper = np.triu_indices(width, 1)
    outside = np.square(drawn[:, upper[0], upper[1]]).mean()
    variance = one.standard_deviation**2
    assert one.standard_deviation == 2.0 * (1 + ROUNDING_MARGIN)
    # Means of 2,400 and 46,800 squares: six standard errors of √(2/n).
    assert abs(diagonal / variance - 1) < 6 * math.sqrt(2 / (width * runs))
    assert abs(2 * outside / variance - 1) < 6 * math.sqrt(2 / (len(upper[0]) * runs))


@pytest.mark.parametrize(
    "changes",
    [{"sensitivity": 0.0}, {"sensitivity": math.nan}, {"noise_multiplier": -1.0},
     {"coordinates": 0}, {"count": 0}],
)  # fmt: skip
def test_no_release(changes: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        release(**changes)


def test_noise_that_integers_cannot_carry() -> None:
    with pytest.raises(BudgetError, match="too small"):
        release(noise_multiplier=1e-4)
    with pytest.raises(BudgetError, match="larger epsilon"):
        release(noise_multiplier=1e5, coordinates=1 << 24)


def test_rounding_bounds() -> None:
    check_rounding(4097)
    with pytest.raises(OptionError, match="margin"):
        check_rounding(100_000)
    with pytest.raises(OptionError, match="better conditioned"):
        check_rounding(100, prepared=1e-9)
    with pytest.raises(OptionError, match="larger clip"):
        check_rounding(2049, ratio=1e3)


@given(seeds)
def test_sums_in_another_order_differ_by_less_than_the_margin(seed: int) -> None:
    """What the margin is for: the float64 sum of the same rows, shifted by one in the chunks."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(3 * CHUNK_ROWS, 4))
    parts /= np.linalg.norm(parts, axis=1, keepdims=True)

    def total(rows: Array) -> Array:
        starts = range(0, len(rows), CHUNK_ROWS)
        chunks = [rows[s : s + CHUNK_ROWS] for s in starts]
        return np.sum([chunk.T @ np.ones(len(chunk)) for chunk in chunks], axis=0)

    whole, shifted = total(parts), total(np.concatenate([parts[1:], parts[:1]]))
    bound = 2 * len(parts) * (CHUNK_ROWS + 3 + 8) * EPS / 2
    assert np.linalg.norm(whole - shifted) <= bound < ROUNDING_MARGIN
