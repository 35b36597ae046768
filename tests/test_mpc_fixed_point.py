"""Real numbers as ring elements: half an ulp, and an error beyond the interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_training.errors import RangeError
from mpc_training.fixed_point import bound_of, decode, encode


@given(st.floats(-1000, 1000), st.sampled_from([0, 16, 20, 24, 40]))
def test_encoding_is_off_by_half_an_ulp(value: float, bits: int) -> None:
    there = decode(encode([value], bits, 2000.0), bits)[0]
    assert abs(there - value) <= 2.0 ** -(bits + 1)


@given(st.integers(-(2**52), 2**52))
def test_whole_ulps_are_exact(ulps: int) -> None:
    value = np.ldexp(float(ulps), -24)
    assert decode(encode([value], 24, 2.0**40), 24)[0] == value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 64.0, -64.0, 1e300])
def test_what_does_not_fit_is_refused_with_its_size_and_a_remedy(value: float) -> None:
    with pytest.raises(RangeError, match=r"scale data|clean the data"):
        encode([0.0, value], 16, 64.0)


def test_the_ring_has_a_limit_of_its_own() -> None:
    """Below any bound that was asked for: beyond it numbers would wrap around."""
    assert decode(encode([2.0**22], 40, 2.0**40), 40)[0] == 2.0**22
    for value in (2.0**23, -(2.0**23), 2.0**39):
        with pytest.raises(RangeError, match="expected less than 8\\.38861e\\+06"):
            encode([value], 40, 2.0**40)


def test_nothing_is_an_array_too() -> None:
    assert decode(encode(np.zeros((0, 3)), 16, 1.0), 16).shape == (0, 3)


def test_the_interval_of_comparisons() -> None:
    assert bound_of(16) == 2.0**15 and bound_of(20) == 2.0**11
