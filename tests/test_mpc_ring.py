"""Matrix products modulo 2^64 through float64 are exact, at the limits too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_training import ring

sides = st.integers(1, 40)


@given(sides, st.integers(1, 90), sides, st.integers(0, 2**32))
def test_products_are_those_of_integers(m: int, k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2**64, (m, k), np.uint64)
    b = rng.integers(0, 2**64, (k, n), np.uint64)
    assert np.array_equal(ring.matmul(a, b), a @ b)
    digits = np.empty((3, k, n))  # also below the size from which they are used
    ring._digits(b, digits[::-1])
    assert np.array_equal(ring._piece(a, digits).view(np.uint64), a @ b)


# Each digit at its largest in size, of either sign, all at once.
WORST = [
    sum(sign * 2 ** (22 * place + 21 - 2 * (place == 2)) for place in range(3)) % 2**64
    for sign in (1, -1)
] + [2**63, 2**64 - 1, 2**21 | 2**43 | 2**63]


@pytest.mark.parametrize("a", WORST)
@pytest.mark.parametrize("b", WORST)
@pytest.mark.parametrize("k", [ring.MAX_INNER, ring.MAX_INNER + 1, 3000])
def test_the_largest_digits_lose_nothing(a: int, b: int, k: int) -> None:
    left, right = np.full((17, k), a, np.uint64), np.full((k, 9), b, np.uint64)
    assert (ring.matmul(left, right) == np.uint64(a * b * k % 2**64)).all()


def test_the_limit_on_the_inner_side_is_where_exactness_ends() -> None:
    """K·2^43 ≤ 2^53: the bound that the module derives, and none larger by a factor of two."""
    assert ring.MAX_INNER * 2 ** (2 * ring.BASE_BITS - 1) == 2**53


def test_transposed_and_strided_factors() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**64, (200, 64), np.uint64)[::2].T
    b = rng.integers(0, 2**64, (50, 100), np.uint64).T
    assert np.array_equal(ring.matmul(a, b), a @ b)
    tall = rng.integers(0, 2**64, (9001, 25), np.uint64)
    wide = rng.integers(0, 2**64, (25, 12), np.uint64)
    assert np.array_equal(ring.matmul(tall, wide), tall @ wide)
    assert np.array_equal(ring.matmul(tall.T, tall[:, :12]), tall.T @ tall[:, :12])
