"""`he_inference.parameters`: the security bound, the primes, and values from strangers."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from he_inference.errors import ParameterError
from he_inference.parameters import (
    MAX_LOG_MODULUS,
    MAX_PRIMES,
    Parameters,
    ParametersLiteral,
    is_prime,
)

RINGS = sorted(MAX_LOG_MODULUS)


def split(total: int, most: int = 60) -> list[int]:
    """Sizes of at most `most` bits that add up to `total`, none of them small."""
    count = -(-total // most)
    return [total // count + (i < total % count) for i in range(count)]


STANDARD = {4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Homomorphic Encryption Standard 2018, Table 1: ternary secret, classical, 128 bits."""
NEWER = {4096: 106, 8192: 214, 16384: 430, 32768: 868}
"""Bossuat et al., ePrint 2024/463, the same secret and security."""


def test_the_bound_is_the_stricter_table() -> None:
    assert {n: min(STANDARD[n], NEWER[n]) for n in STANDARD} == MAX_LOG_MODULUS


def test_the_number_of_primes_is_bounded_before_any_is_tested() -> None:
    """A list of a million numbers, none of them prime, is refused by its length."""
    with pytest.raises(ParameterError, match=f"{10**6 + 1} primes: at most {MAX_PRIMES}"):
        Parameters(32768, tuple(range(10**6)), 1)


@pytest.mark.parametrize("degree", RINGS)
def test_the_whole_modulus_may_reach_the_bound_and_no_further(degree: int) -> None:
    bound = MAX_LOG_MODULUS[degree]
    *data, special = split(bound)
    parameters = ParametersLiteral(degree, tuple(data), special).resolve()
    assert parameters.total_bits == bound == math.prod(parameters.primes).bit_length()
    *data, special = split(bound + 1)
    with pytest.raises(ParameterError, match=rf"{bound + 1}, over the {bound} bits .* {degree}"):
        ParametersLiteral(degree, tuple(data), special).resolve()


@pytest.mark.parametrize("degree", RINGS)
def test_the_special_prime_counts(degree: int) -> None:
    """Evaluation keys are made modulo all primes, so the special one weakens them too."""
    bound = MAX_LOG_MODULUS[degree]
    data = tuple(split(bound - 20))
    ParametersLiteral(degree, data, 20).resolve()
    with pytest.raises(ParameterError, match="over the"):
        ParametersLiteral(degree, data, 25).resolve()


@given(st.sampled_from(RINGS), st.lists(st.integers(25, 60), min_size=2, max_size=5))
def test_primes_are_what_they_should_be(degree: int, bits: list[int]) -> None:
    literal = ParametersLiteral(degree, tuple(bits[:-1]), bits[-1])
    if sum(bits) > MAX_LOG_MODULUS[degree]:
        with pytest.raises(ParameterError, match="over the"):
            literal.resolve()
        return
    parameters = literal.resolve()
    assert [p.bit_length() for p in parameters.primes] == bits
    assert len(set(parameters.primes)) == len(bits)
    assert all(p % (2 * degree) == 1 and is_prime(p) for p in parameters.primes)
    assert parameters.slots == degree // 2
    for level in range(1, len(bits)):
        exact = math.log2(math.prod(parameters.data_primes[:level]))
        assert math.isclose(parameters.log_modulus(level), exact, rel_tol=1e-14)


def test_is_prime_agrees_with_a_sieve() -> None:
    limit = 20_000
    sieve = [False, False] + [True] * (limit - 2)
    for n in range(2, math.isqrt(limit) + 1):
        if sieve[n]:
            sieve[n * n :: n] = [False] * len(sieve[n * n :: n])
    assert [is_prime(n) for n in range(limit)] == sieve


@pytest.mark.parametrize(
    ("n", "prime"),
    [
        (3_215_031_751, False),  # strong pseudoprime to 2, 3, 5 and 7
        (3_825_123_056_546_413_051, False),  # … to the first nine primes
        (318_665_857_834_031_151_167_461, False),  # … to the first twelve
        (561, False),
        (2**61 - 1, True),
        ((2**31 - 1) ** 2, False),
        (-7, False),
    ],
)
def test_is_prime_on_numbers_that_fool_weaker_tests(n: int, prime: bool) -> None:
    assert is_prime(n) is prime


@pytest.mark.parametrize(
    ("literal", "message"),
    [
        (ParametersLiteral(2048, (20,), 20), "2048 is not supported: use one of 4096"),
        (ParametersLiteral(5000, (20,), 20), "5000 is not supported"),
        (ParametersLiteral(0, (20,), 20), "0 is not supported"),
        (ParametersLiteral(4096, (), 30), "no data primes"),
        (ParametersLiteral(4096, (61,), 30), "61|more than 60 bits"),
        (ParametersLiteral(4096, (13,), 30), "no unused prime of 13 bits"),
        (ParametersLiteral(4096, (0,), 30), "0 bits"),
        (ParametersLiteral(4096, (-1,), 30), "-1 bits"),
        (ParametersLiteral(4096, (100_000,), 30), "bits"),
    ],
)
def test_impossible_wishes(literal: ParametersLiteral, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        literal.resolve()


@pytest.fixture
def sound() -> Parameters:
    return ParametersLiteral(4096, (35, 35), 36).resolve()


def test_parameters_are_checked_however_they_are_made(sound: Parameters) -> None:
    first, second = sound.data_primes
    with pytest.raises(ParameterError, match="repeat"):
        Parameters(4096, (first, first), sound.special_prime)
    with pytest.raises(ParameterError, match="repeat"):
        Parameters(4096, (first,), first)
    with pytest.raises(ParameterError, match=f"{first + 2} is not a prime congruent to 1"):
        Parameters(4096, (first + 2, second), sound.special_prime)
    composite = 8193**2  # 1 modulo 8192 as well
    with pytest.raises(ParameterError, match="is not a prime"):
        Parameters(4096, (composite,), sound.special_prime)
    inert = 2**31 - 1  # a prime, but −1 modulo 8192: the ring does not split
    with pytest.raises(ParameterError, match="congruent to 1 modulo 8192"):
        Parameters(4096, (inert,), sound.special_prime)


def test_json_returns_what_it_was_given(sound: Parameters) -> None:
    assert Parameters.from_json(sound.to_json()) == sound
    assert Parameters.from_json(sound.to_json()).digest == sound.digest


def test_the_digest_names_every_prime_and_its_place(sound: Parameters) -> None:
    first, second = sound.data_primes
    others = [
        Parameters(4096, (second, first), sound.special_prime),
        Parameters(4096, (first, sound.special_prime), second),
        Parameters(4096, (first,), second),
    ]
    assert len({p.digest for p in (sound, *others)}) == 4


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)
FIELDS = ["ring_degree", "data_primes", "special_prime"]


@given(value=JUNK | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JUNK)))
def test_json_from_strangers(value: Any) -> None:
    with pytest.raises(ParameterError):
        Parameters.from_json(value)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("change", [float, str, lambda v: v + 0.5, lambda v: math.inf, bool])
def test_json_numbers_are_not_converted(sound: Parameters, field: str, change: Any) -> None:
    """4096.5 is no ring degree, and neither is "4096"."""
    value = sound.to_json()
    value[field] = (
        [change(p) for p in value[field]] if field == "data_primes" else change(value[field])
    )
    with pytest.raises(ParameterError):
        Parameters.from_json(value)


def test_weak_json_is_refused_with_the_numbers(sound: Parameters) -> None:
    extra = ParametersLiteral(8192, (34,), 33).resolve()
    value = sound.to_json()
    value["data_primes"].append(extra.data_primes[0])
    with pytest.raises(ParameterError, match="log2 of the whole modulus is 140, over the 106 bits"):
        Parameters.from_json(value)
