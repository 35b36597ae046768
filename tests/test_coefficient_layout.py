"""`layouts.coefficients` and `embedding`: products of polynomials are matrix products."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_inference.embedding import CoefficientReader, constant_of, slots_of
from he_inference.layouts.coefficients import CoefficientLayout, layouts
from he_inference.noise import slot_exponents

DEGREE = 64


def multiplied(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Modulo X^N + 1, exactly."""
    full = [0] * (2 * DEGREE)
    for i, x in enumerate(a.tolist()):
        for j, y in enumerate(b.tolist()):
            full[i + j] += int(x) * int(y)
    return np.array([full[k] - full[k + DEGREE] for k in range(DEGREE)])


@given(
    features=st.integers(1, 150),
    outputs=st.integers(1, 9),
    group=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_outputs_are_coefficients(features: int, outputs: int, group: int, seed: int) -> None:
    layout = CoefficientLayout(DEGREE, features, outputs, min(group, outputs))
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-9, 10, (outputs, features))
    x = rng.integers(-9, 10, features).astype(float)
    query, weights = layout.query(x), layout.weights(matrix)
    assert query.shape == (layout.queries, DEGREE)
    assert weights.shape == (layout.answers, layout.queries, DEGREE)
    found = []
    for answer in range(layout.answers):
        total = sum(multiplied(q, w) for q, w in zip(query, weights[answer], strict=True))
        found.extend(np.asarray(total)[layout.positions(answer)].tolist())
    assert found == (matrix @ x).tolist()


@given(features=st.integers(1, 3000), outputs=st.integers(1, 300))
def test_choices_trade_queries_for_answers(features: int, outputs: int) -> None:
    found = list(layouts(4096, features, outputs))
    assert found[-1].group == 1
    for fewer, more in pairwise(found):
        assert fewer.answers < more.answers and fewer.queries >= more.queries
    assert found[0].answers == 1 and all(layout.group * layout.block <= 4096 for layout in found)


@pytest.mark.parametrize("group", [1, 2, 7, 10])
def test_values_summed_over_those_that_share_a_ciphertext(group: int) -> None:
    layout, values = CoefficientLayout(DEGREE, 5, 10, group), np.arange(10.0)
    expected = [
        sum(v for o, v in enumerate(values) if o // group == output // group)
        for output in range(10)
    ]
    assert layout.together(values).tolist() == expected


def test_slots_are_values_at_the_roots() -> None:
    coefficients = np.random.default_rng(0).integers(-99, 99, (3, DEGREE)).astype(float)
    roots = np.exp(1j * np.pi * slot_exponents(DEGREE) / DEGREE)
    expected = coefficients @ roots[None, :] ** np.arange(DEGREE)[:, None]
    # A transform of 64 adds 6 levels of rounding to sums of 64 terms below 99.
    assert np.allclose(slots_of(coefficients), expected, rtol=0, atol=64 * 99 * 64 * 2**-52)


def test_coefficients_are_read_from_slots() -> None:
    coefficients = np.random.default_rng(1).integers(-99, 99, DEGREE).astype(float)
    slots = slots_of(coefficients)
    tolerance = 64 * 99 * 64 * 2**-52
    positions = np.array([0, 1, 17, DEGREE - 1])
    found = CoefficientReader(DEGREE, positions).read(slots)
    assert np.allclose(found, coefficients[positions], rtol=0, atol=tolerance)
    assert abs(constant_of(slots.real) - coefficients[0]) <= tolerance
