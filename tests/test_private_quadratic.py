"""`private_models.quadratic`: products of whitened rows, what they cost, and heads made on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from private_models import PrivateClassifier, load_head
from private_models.arithmetic import CpuArithmetic
from private_models.errors import HeadFileError, InputError, OptionError
from private_models.features import ArrayRows
from private_models.noise import Array
from private_models.preparation import public_moments, whitening
from private_models.quadratic import (
    MAX_DIRECTIONS,
    LayeredRows,
    QuadraticLayer,
    quadratic_layer,
    read_layer,
)
from private_models.solvers.task import Prepared

WIDTH, DIRECTIONS = 7, 4
seeds = st.integers(0, 2**32 - 1)
LAYER = quadratic_layer(np.random.default_rng(0).normal(size=(200, WIDTH)) + 0.5, DIRECTIONS)


def rows(seed: int, count: int = 20) -> Array:
    """Of all lengths, up to far beyond what the layer clips at."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, WIDTH)) * 10 ** rng.uniform(-3, 6, (count, 1))


def quadrants(count: int, seed: int) -> tuple[Array, Any]:
    """Two classes that no hyperplane tells apart: the sign of a product. Bayes' rule gets 0.94."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (count, 2))
    features = rng.normal(size=(count, 5)) * 0.4
    features[:, :2] += signs * [0.9, 0.8]
    return features, (signs.prod(axis=1) > 0).astype(int)


X, Y = quadrants(8000, 1)
TEST_X, TEST_Y = quadrants(4000, 2)
PUBLIC = quadrants(1000, 3)[0]


def head(**options: Any) -> PrivateClassifier:
    usual = {"rows": len(X), "public_features": PUBLIC, "hidden_directions": 5}
    return PrivateClassifier(**{**usual, **options})


# ---------------------------------------------------------------------------- the layer


@given(seeds)
def test_inner_products_are_the_polynomial_kernel(seed: int) -> None:
    """(z·z')², less the square of what is constant."""
    given = rows(seed)
    inner = LAYER.transform(given)
    expected = (inner @ inner.T) ** 2 - LAYER.transform.bias**4
    made = LAYER(given)
    assert made.shape == (len(given), LAYER.width) == (len(given), 14)
    assert np.allclose(made @ made.T, expected, rtol=0, atol=1e-12)


@given(seeds)
def test_no_row_is_longer_than_the_bound(seed: int) -> None:
    lengths = np.linalg.norm(
        LAYER(np.concatenate([rows(seed), np.full((1, WIDTH), 1e149)])), axis=1
    )
    assert (lengths <= LAYER.transform.bound**2 + LAYER.rounding).all()


@given(seeds)
def test_rounding_is_within_what_is_stated(seed: int) -> None:
    """Against 64 bits of mantissa; float32 would not be."""
    given, whitened = rows(seed), LAYER.transform
    wide = given.astype(np.longdouble)
    wide *= np.minimum(1, whitened.raw_norm / np.sqrt((wide * wide).sum(1, keepdims=True)))
    matrix = np.asarray(whitened.matrix, np.longdouble)
    inner = (wide - whitened.mean.astype(np.longdouble)) @ matrix
    inner *= np.minimum(1, whitened.norm / np.sqrt((inner * inner).sum(1, keepdims=True)))
    inner = np.concatenate([inner, np.full((len(inner), 1), whitened.bias, np.longdouble)], axis=1)
    i, j = np.triu_indices(DIRECTIONS + 1)
    weight = np.where(i == j, np.longdouble(1), np.sqrt(np.longdouble(2)))
    exact = (inner[:, i] * inner[:, j] * weight)[:, :-1]
    off = np.sqrt(((LAYER(given) - exact) ** 2).sum(1))
    assert (off <= LAYER.rounding).all()
    coarse = np.sqrt(((LAYER(given).astype(np.float32) - exact) ** 2).sum(1))
    assert coarse.max() > LAYER.rounding


@given(seeds)
def test_a_head_on_products_is_squares_and_sums(seed: int) -> None:
    """Of rows that nothing clips: then the two are equal."""
    layer = QuadraticLayer(replace(LAYER.transform, scale=1.0))
    rng = np.random.default_rng(seed)
    short = layer.transform.mean + rng.normal(size=(20, WIDTH)) * 1e-2
    weights, bias = rng.normal(size=(3, layer.width)), rng.normal(size=3)
    inner, shift, outer, constant = layer.squares(weights, bias)
    assert inner.shape == (3 * (DIRECTIONS + 1), WIDTH)
    found = (short @ inner.T + shift) ** 2 @ outer.T + constant
    assert np.allclose(found, layer(short) @ weights.T + bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("fault", [None, "rows are not clipped"])
def test_one_row_changes_a_gradient_by_its_clip_norm(fault: str | None) -> None:
    """However far off it is; and a layer that forgot to clip would show."""
    layer = LAYER
    if fault:
        layer = QuadraticLayer(replace(LAYER.transform, norm=1e9, raw_norm=1e9))
    transform = whitening(public_moments(LAYER(rows(3, 400))), 1.0, 14, 0.1, LAYER.rounding)
    weights = np.random.default_rng(4).normal(size=(transform.width, 3))
    given, labels = rows(5), np.arange(20) % 3
    longest = 0.0
    sums = [
        Prepared(LayeredRows(ArrayRows(part, labels[: len(part)]), layer), transform)
        for part in (given, given[:-1])
    ]
    for prepared in sums:
        for chunk, _ in prepared.chunks():
            longest = max(longest, float(np.linalg.norm(chunk, axis=1).max()))
    there, absent = (one.gradient(CpuArithmetic(), weights, 0.7) for one in sums)
    assert np.linalg.norm(there - absent) <= 0.7 * (1 + 1e-12)
    inside = LAYER.transform.bound**2 * (1 + 1e-12)
    beyond = bool(np.linalg.norm(layer(given), axis=1).max() > inside)
    assert beyond is (fault is not None)
    assert longest <= transform.bound * (1 + 1e-12)


def test_what_the_layer_rounds_is_part_of_what_is_checked() -> None:
    moments = public_moments(LAYER(rows(3, 400)))
    exact, rounded = (whitening(moments, 1.0, 14, 0.1, e) for e in (0.0, LAYER.rounding))
    more = rounded.rounding - exact.rounding
    assert more == pytest.approx(exact.gain * LAYER.rounding / exact.bound)


# ---------------------------------------------------------------------------- heads


def test_it_learns_what_no_linear_head_can() -> None:
    """A linear head on one of two classes at random: 0.5, and 0.03 is four deviations of 4,000."""
    quadratic = head().fit(X, Y, classes=range(2))
    assert quadratic.score(TEST_X, TEST_Y) > 0.88
    linear = head(hidden_directions=None).fit(X, Y, classes=range(2))
    assert abs(linear.score(TEST_X, TEST_Y) - 0.5) < 0.1
    assert quadratic.coef_.shape == (2, 20) and quadratic.n_features_in_ == 5
    said = str(quadratic.statement_)
    assert "hidden layer: products of directions, whitened by 1000 public rows, 5 dir" in said
    assert "products: 20 columns, whitened by" in said
    assert 0.99 < quadratic.statement_.epsilon_spent <= 1.0


@pytest.mark.parametrize("solver", ["least_squares", "newton"])
def test_other_solvers_take_it(solver: Any) -> None:
    made = head(solver=solver, epsilon=4.0).fit(X, Y, classes=range(2))
    assert made.score(TEST_X, TEST_Y) > 0.85


def test_streams_are_as_rows_in_memory() -> None:
    def source() -> Any:
        yield X[:3000], Y[:3000]
        yield X[3000:], Y[3000:]

    whole = head(unsafe_seed=5).fit(X, Y, classes=range(2))
    parts = head(unsafe_seed=5).fit_stream(source, 5, classes=range(2))
    assert np.array_equal(whole.coef_, parts.coef_)


def test_as_a_module() -> None:
    made = head(epsilon=8.0).fit(X, Y, classes=range(2))
    with pytest.raises(OptionError, match="square"):
        made.to_torch()
    module = made.to_torch(_Squared)
    with torch.inference_mode():
        scores = module(torch.from_numpy(TEST_X).float()).numpy()
    # Long rows are clipped in the one and not in the other.
    assert (scores.argmax(1) == made.predict(TEST_X)).mean() > 0.97


class _Squared(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * values


def test_many_classes_are_no_module() -> None:
    """K squares of a matrix for each class are K² weights; refused before any is made."""
    with pytest.raises(OptionError, match="at most"):
        LAYER.squares(np.zeros((4096, LAYER.width)), np.zeros(4096))


def test_pixels_do_where_the_number_of_rows_is_private() -> None:
    """Rounding has to be bounded for two million rows then: products are summed in blocks."""
    small, labels = load_digits(return_X_y=True)
    pixels = small.reshape(-1, 8, 8).repeat(4, axis=1).repeat(4, axis=2).reshape(-1, 1024) / 16
    made = head(
        rows=None, public_features=pixels[:1000], hidden_directions=20, epsilon=2.0, delta=1e-4
    ).fit(pixels[1000:], labels[1000:], classes=range(10))
    assert made.coef_.shape == (10, 230)
    whole = replace(made.head_.hidden.transform, block=None)  # type: ignore[union-attr]
    assert QuadraticLayer(whole).rounding > 3 * made.head_.hidden.rounding  # type: ignore[union-attr]


def test_a_row_beyond_all_bounds_is_clipped_and_says_nothing() -> None:
    """It must not end a fit, whose end would tell that it is there."""
    far = X[:500].copy()
    far[0] = 6e149
    scaled = PUBLIC * 1e-30
    made = head(public_features=scaled, rows=500).fit(far, Y[:500], classes=range(2))
    assert np.isfinite(made.coef_).all() and np.isfinite(made.decision_function(far)).all()


def test_public_rows_that_are_nearly_all_equal() -> None:
    equal = np.zeros((20, 5))
    equal[0, 0], equal[1, 0] = 1.0, -1.0
    with pytest.raises(InputError, match="over half of the rows are equal"):
        head(public_features=equal).fit(X, Y, classes=range(2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"public_features": None}, r"public_features \(--public\), and there are none"),
        ({"hidden_directions": 0}, "hidden_directions 0: expected a whole number, 1 to 89"),
        ({"hidden_directions": MAX_DIRECTIONS + 1}, "1 to 89"),
        ({"hidden_directions": 2.0}, "whole number"),
        ({"hidden_directions": True}, "whole number"),
        ({"hidden_directions": "4"}, "whole number"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        head(**options).fit(X, Y, classes=range(2))


def test_rows_of_another_width() -> None:
    with pytest.raises(InputError, match="public features have 4 columns, the private ones 5"):
        head(public_features=PUBLIC[:, :4]).fit(X, Y, classes=range(2))
    made = head().fit(X, Y, classes=range(2))
    with pytest.raises(InputError, match="expecting 5 features"):
        made.head_.scores(np.zeros((2, 4)))
    with pytest.raises(InputError, match="the hidden layer takes 7"):
        LAYER(np.zeros((2, 5)))


# ---------------------------------------------------------------------------- files


def test_a_head_is_saved_with_its_layer(tmp_path: Path) -> None:
    made = head().fit(X, Y, classes=range(2))
    made.head_.save(tmp_path / "head.safetensors")
    again = load_head(tmp_path / "head.safetensors")
    assert np.array_equal(again.scores(TEST_X), made.head_.scores(TEST_X))
    assert again.n_features == 5 and again.statement == made.statement_


@pytest.mark.parametrize(
    "broken",
    [
        {"hidden.mean": np.zeros(4)},
        {"hidden.matrix": np.zeros((5, 90))},
        {"hidden.matrix": np.full((5, 5), np.nan)},
        {"hidden.matrix": np.zeros((5, 3))},
        {"hidden.numbers": np.zeros(6)},
        {"hidden.numbers": np.ones(5)},
        {"hidden.numbers": np.ones(6, np.float32)},
        {"hidden.mean": None},
        {"hidden.matrix": np.full((5, 5), 1e150)},
        {"hidden.numbers": np.array([1, 1e60, 1, 1, 1, 1])},
        {"weights": np.full((2, 20), 1e300)},
    ],
)
def test_files_of_layers_that_are_not(tmp_path: Path, broken: dict[str, Any]) -> None:
    path = tmp_path / "head.safetensors"
    head().fit(X, Y, classes=range(2)).head_.save(path)
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: array for name, array in (tensors | broken).items() if array is not None}
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(HeadFileError, match=r"head\.safetensors"):
        load_head(path)


def test_layers_travel_as_tensors() -> None:
    again = read_layer(LAYER.tensors())
    assert np.array_equal(again(rows(1)), LAYER(rows(1)))
    assert again.rounding == LAYER.rounding
