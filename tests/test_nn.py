"""`he_inference.nn`: the activations equal their formulas."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

from he_inference.nn import Polynomial, Square

numbers = st.floats(-4, 4, width=32)
per_channel = st.tuples(st.integers(1, 5), st.integers(2, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=numbers)
)


def powers_summed(coefficients: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Σ coefficients[c, k]·values[:, c]^k, term by term."""
    shape = (-1, *[1] * (values.ndim - 2))
    total = np.zeros_like(values)
    for power, column in enumerate(coefficients.T):
        total += column.reshape(shape) * values**power
    return total


@given(coefficients=per_channel, data=st.data())
def test_one_polynomial_per_channel(coefficients: np.ndarray, data: st.DataObject) -> None:
    channels, terms = coefficients.shape
    trailing = data.draw(st.sampled_from([(), (3,), (2, 3)]))
    values = data.draw(arrays(np.float64, (2, channels, *trailing), elements=numbers))
    found = Polynomial(torch.from_numpy(coefficients))(torch.from_numpy(values)).detach().numpy()
    # Either sum rounds less than 2·terms + powers times, each relative to Σ|c·x^k| at most.
    size = powers_summed(np.abs(coefficients), np.abs(values))
    error = np.abs(found - powers_summed(coefficients, values))
    assert (error <= 4 * terms * np.finfo(np.float64).eps * size).all()


def test_shared_polynomial_takes_any_shape() -> None:
    shared = Polynomial([1.0, 2.0, 3.0])
    assert shared.channels is None and shared.degree == 2
    for shape in [(), (4,), (2, 3), (2, 3, 4, 5)]:
        assert torch.equal(shared(torch.full(shape, 2.0)), torch.full(shape, 17.0))


def test_coefficients_are_learnable_float32() -> None:
    module = Polynomial([[0, 1], [1, 0]])
    assert isinstance(module.coefficients, torch.nn.Parameter)
    assert module.coefficients.dtype == torch.float32
    assert list(module.state_dict()) == ["coefficients"]
    module(torch.ones(1, 2)).sum().backward()
    assert module.coefficients.grad is not None
    assert torch.equal(module.coefficients.grad, torch.ones(2, 2))


def test_coefficients_are_a_copy() -> None:
    given_tensor = torch.ones(3)
    module = Polynomial(given_tensor)
    given_tensor.zero_()
    assert module.coefficients.detach().sum() == 3


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (2, 1), (2, 2, 2)])
def test_other_shapes_of_coefficients_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="degree of at least 1"):
        Polynomial(np.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_coefficients_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Polynomial([0.0, value])


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 1, 3, 3)])
def test_other_numbers_of_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 3, \.\.\.\)"):
        Polynomial.quadratic(3)(torch.zeros(shape))


def test_quadratic_starts_as_the_projection_of_relu() -> None:
    """The error of a projection is orthogonal to 1, x and x² under the standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    quadratic = Polynomial.quadratic(1).coefficients.detach().numpy()[0].astype(np.float64)
    inner = [(weights * nodes**k * np.polyval(quadratic[::-1], nodes)).sum() for k in range(3)]
    # ∫ x^k·max(x, 0)·exp(-x²/2) dx = 1, √(π/2), 2; the coefficients are float32.
    expected = [1.0, math.sqrt(math.pi / 2), 2.0]
    assert np.allclose(inner, expected, rtol=4 * np.finfo(np.float32).eps)


def test_quadratic_refuses_no_channels() -> None:
    with pytest.raises(ValueError, match="channels=0 >= 1"):
        Polynomial.quadratic(0)


@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 3)), elements=numbers))
def test_square(values: np.ndarray) -> None:
    assert np.array_equal(Square()(torch.from_numpy(values)).numpy(), values * values)
