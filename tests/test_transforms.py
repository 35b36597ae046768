"""`he_inference.backend.residues.transforms` against SEAL, bit for bit, and against integers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings

from he_inference.backend import seal as backend
from he_inference.backend import seal_format
from he_inference.backend.residues.transforms import Residues, Transform, _powers
from he_inference.errors import CompileError, InputError, ParameterError
from he_inference.parameters import Parameters, ParametersLiteral

SETS = [
    ParametersLiteral(4096, (48, 40), 18),
    ParametersLiteral(4096, (37, 30, 20), 18),
    ParametersLiteral(8192, (48, 42, 37, 30, 20), 24),
    ParametersLiteral(16384, (48, 42, 37, 30, 20), 24),
    ParametersLiteral(32768, (48, 37), 24),
]
"""Every degree, and so every way in which stages are cut into passes."""


@cache
def resolved(literal: ParametersLiteral) -> Parameters:
    return literal.resolve()


@cache
def transform(degree: int, *primes: int) -> Transform:
    return Transform(degree, primes)


def polynomials(degree: int, prime: int, seed: int = 0) -> Residues:
    """(7, N) residues: uniform, extremes of either sign mixed, all p − 1, p/2, zero, two deltas."""
    rng = np.random.default_rng(seed)
    extremes = np.array([0, 1, prime // 2, prime // 2 + 1, prime - 1], np.uint64)
    rows = np.zeros((7, degree), np.uint64)
    rows[0] = rng.integers(0, prime, degree, dtype=np.uint64)
    rows[1] = rng.choice(extremes, degree)
    rows[2], rows[3] = prime - 1, prime // 2
    rows[5, 1], rows[6, -1] = 1, prime - 1
    return rows


def by_seal(parameters: Parameters, rows: Residues, *, forward: bool) -> Residues:
    """(polynomials, primes, N) through SEAL's own transform."""
    context = backend._context(parameters, len(parameters.data_primes))
    name = backend._parms_ids(parameters)[-1]
    data = seal_format.ciphertext(name, rows, 1.0, ntt=not forward)
    cipher, evaluator = backend._loaded(seal.Ciphertext(), context, data), seal.Evaluator(context)
    if forward:
        evaluator.transform_to_ntt_inplace(cipher)
    else:
        evaluator.transform_from_ntt_inplace(cipher)
    return seal_format.read_ciphertext(backend._saved(cipher))


def planned(parameters: Parameters) -> Transform:
    return transform(parameters.ring_degree, *parameters.data_primes)


# ------------------------------------------------------------------------------ SEAL


@pytest.mark.parametrize("literal", SETS, ids=lambda s: f"{s.ring_degree}-{s.data_bits[0]}")
@pytest.mark.parametrize("forward", [True, False])
def test_every_bit_is_seals(literal: ParametersLiteral, forward: bool) -> None:
    parameters = resolved(literal)
    made, degree, primes = planned(parameters), parameters.ring_degree, parameters.data_primes
    rows = np.stack([polynomials(degree, prime) for prime in primes], axis=1)
    expected = by_seal(parameters, rows, forward=forward)
    for index in range(len(primes)):
        found = np.ascontiguousarray(rows[:, index])
        (made.forward if forward else made.inverse)(found, index)
        assert np.array_equal(found, expected[:, index])


@settings(max_examples=30)
@given(st.sampled_from(SETS), st.integers(0, 2**32), st.booleans())
def test_one_undoes_the_other(literal: ParametersLiteral, seed: int, forward: bool) -> None:
    made = planned(resolved(literal))
    for index, prime in enumerate(made.primes):
        rows = polynomials(made.degree, prime, seed)
        found = rows.copy()
        for step in (made.forward, made.inverse) if forward else (made.inverse, made.forward):
            step(found, index)
            assert (found < prime).all()
        assert np.array_equal(found, rows)


@pytest.mark.parametrize("forward", [True, False])
def test_a_wrong_root_is_noticed(monkeypatch: pytest.MonkeyPatch, forward: bool) -> None:
    """Off by one, anywhere in the table: borders of its parts, and fifty other places."""
    parameters = resolved(SETS[0])
    made = Transform(parameters.ring_degree, parameters.data_primes)
    name, run = ("tables", made.forward) if forward else ("inverse_tables", made.inverse)
    rows = np.stack([polynomials(4096, prime)[:2] for prime in made.primes], axis=1)
    expected = by_seal(parameters, rows, forward=forward)[:, 0]
    places = np.random.default_rng(5).integers(1, 4096, 50)
    right = getattr(made, name)
    for place in [1, 7, 8, 511, 512, 567, 568, 4095, *places]:
        wrong = right.copy()
        wrong[0, place] += 1
        wrong.flags.writeable = False
        monkeypatch.setattr(made, name, wrong)
        found = np.ascontiguousarray(rows[:, 0])
        run(found, 0)
        assert not np.array_equal(found, expected)


# ------------------------------------------------------------------------------ integers

SPARSE = st.dictionaries(st.integers(0, 4095), st.integers(-(2**50), 2**50), max_size=6)


@settings(max_examples=30)
@given(SPARSE, SPARSE)
def test_products_are_negacyclic_convolutions(a: dict[int, int], b: dict[int, int]) -> None:
    parameters = resolved(SETS[0])
    made, prime = planned(parameters), parameters.data_primes[0]
    product = [0] * 4096
    for i, x in a.items():
        for j, y in b.items():
            product[(i + j) % 4096] += x * y * (-1 if i + j >= 4096 else 1)
    rows = np.zeros((2, 4096), np.uint64)
    for row, sparse in zip(rows, (a, b), strict=True):
        for i, value in sparse.items():
            row[i] = value % prime
    made.forward(rows, 0)
    values = rows.astype(object)
    found = np.array(values[0] * values[1] % prime, np.uint64)
    made.inverse(found, 0)
    assert found.tolist() == [value % prime for value in product]


def test_values_are_those_at_odd_powers_of_the_smallest_root() -> None:
    made = planned(resolved(SETS[0]))
    prime = made.primes[0]
    powers = _powers(4096, prime)
    root = powers[1]
    assert root == min(pow(root, 2 * k + 1, prime) for k in range(4096))
    row = np.zeros(4096, np.uint64)
    row[1] = 1
    made.forward(row, 0)
    for i in (0, 1, 2, 3, 1000, 4095):
        assert row[i] == pow(root, 2 * int(f"{i:012b}"[::-1], 2) + 1, prime)


LARGEST = 22
"""The largest factor of a product in units of the prime: what eight rows add up to."""


@given(st.sampled_from([20, 30, 40, 46, 48]), st.data())
def test_remainders_stay_below_their_bound(bits: int, data: st.DataObject) -> None:
    """That of the module's formula, for factors as large as they become, in Python's float64."""
    p = resolved(ParametersLiteral(4096, (bits,), 18)).data_primes[0]
    most = LARGEST * p
    b = data.draw(st.one_of(st.integers(-most, most), st.sampled_from([most, -most])))
    w = data.draw(st.one_of(st.integers(-(p // 2), p // 2), st.sampled_from([p // 2, -(p // 2)])))
    high = float(b) * float(w)
    quotient = round(high * (1.0 / p))
    assert abs(b * w - quotient * p) <= p / 2 + 2.0**-53 * abs(b) * p + 1
    assert abs(int(high) - quotient * p) < 2**53
    assert abs(b * w - int(high)) < 2**53


def test_the_bounds_of_a_whole_transform_hold() -> None:
    """The module's recurrences at 48 bits, as it has them, for the longest transform."""
    u = 2.0**-53 * 2.0**48
    forward = 4.0  # what another prime's residues may be
    for _ in range(15):
        forward += 0.5 + u * forward
    assert forward < 16 and forward * 2.0**48 < 2**53
    inverse = 1.0
    for _ in range(10):
        remainder = 0.5 + u * 8 * inverse  # of a difference of two sums of four
        assert 8 * inverse < LARGEST and 8 * inverse * 2.0**48 < 2**53
        inverse = max(4 * (0.5 + u * 2 * inverse), 2 * (0.5 + u * 4 * inverse), remainder)


# ------------------------------------------------------------------------------ threads


def test_threads_share_a_transform() -> None:
    made = planned(resolved(SETS[2]))
    rows = [polynomials(8192, made.primes[0], seed) for seed in range(16)]
    alone = [row.copy() for row in rows]
    for row in alone:
        made.forward(row, 0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: made.forward(row, 0), rows))
    assert all(np.array_equal(a, b) for a, b in zip(rows, alone, strict=True))


def test_leading_axes_and_places_in_memory_do_not_matter() -> None:
    made = planned(resolved(SETS[0]))
    rows = polynomials(4096, made.primes[1])[:6]
    expected = rows.copy()
    made.forward(expected, 1)
    space = np.zeros(rows.size + 3, np.uint64)
    shifted = space[1:-2].reshape(2, 3, 4096)
    shifted[:] = rows.reshape(2, 3, 4096)
    made.forward(shifted, 1)
    assert np.array_equal(shifted.reshape(6, 4096), expected)
    assert not space[0] and not space[-2:].any()
    made.forward(rows[:0], 1)


# ------------------------------------------------------------------------------ refusals


def test_tables_cannot_be_written() -> None:
    made = planned(resolved(SETS[0]))
    for table in (made.tables, made.inverse_tables):
        assert table.shape == (2, 4096)
        with pytest.raises(ValueError, match="read-only"):
            table[0, 0] = 1.0


def test_wide_primes_are_refused() -> None:
    primes = resolved(ParametersLiteral(4096, (38, 49), 18)).data_primes
    with pytest.raises(CompileError, match=f"{primes[1]} has 49 bits: .* exact up to 48"):
        Transform(4096, primes)


@pytest.mark.parametrize(
    ("degree", "prime", "message"),
    [
        (2048, 40961, "ring degree 2048 is not supported"),
        (6000, 40961, "ring degree 6000 is not supported"),
        (4096, 40963, "40963 is not a prime congruent to 1 modulo 8192"),
        (8192, 12289, "12289 is not a prime congruent to 1 modulo 16384"),
        (4096, 8193, "8193 is not a prime"),
        (4096, 1, "1 is not a prime"),
        (4096, 0, "0 is not a prime"),
        (4096, -8191, "-8191 is not a prime"),
    ],
)
def test_other_rings_are_refused(degree: int, prime: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Transform(degree, (prime,))


def frozen(rows: Residues) -> Residues:
    rows.flags.writeable = False
    return rows


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (np.zeros((2, 4096), np.int64), r"found int64 \(2, 4096\)"),
        (np.zeros((2, 4096), ">u8"), r"found >u8 \(2, 4096\)"),
        (np.zeros((2, 4096)), r"found float64 \(2, 4096\)"),
        (np.zeros((2, 8192), np.uint64), r"found uint64 \(2, 8192\)"),
        (np.zeros(4095, np.uint64), r"found uint64 \(4095,\)"),
        (np.zeros((), np.uint64), r"found uint64 \(\)"),
        (np.zeros((4, 4096), np.uint64)[::2], r"found uint64 \(2, 4096\), strides \(65536, 8\)"),
        (np.zeros((4096, 2), np.uint64).T, r"found uint64 \(2, 4096\), strides \(8, 16\)"),
        (frozen(np.zeros(4096, np.uint64)), "writeable False"),
        (np.zeros(8 * 4096 + 1, np.uint8)[1:].view(np.uint64), "aligned False"),
    ],
)
def test_other_arrays_are_refused(rows: Residues, found: str) -> None:
    """Before anything is read or written out of bounds."""
    made = planned(resolved(SETS[0]))
    for run in (made.forward, made.inverse):
        with pytest.raises(
            InputError, match=rf"expected residues uint64 \(\.\.\., 4096\).*{found}"
        ):
            run(rows, 0)


@pytest.mark.parametrize("prime", [-1, 2])
def test_primes_that_are_not_there_are_refused(prime: int) -> None:
    made = planned(resolved(SETS[0]))
    rows = np.zeros(4096, np.uint64)
    for run in (made.forward, made.inverse):
        with pytest.raises(InputError, match=f"expected a prime from 0 to 1, found {prime}"):
            run(rows, prime)
