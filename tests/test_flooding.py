"""`he_inference.flooding`: its numbers, against noise that is drawn and programs that are compiled.

Where something is drawn the keys are fixed; bounds are met with all but a probability of 1e-9, and
half and twice a deviation are outside of them.
"""

from __future__ import annotations

from itertools import product
from math import floor, log2

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from he_inference import flooding, wire
from he_inference.backend.residues.sampling import NoiseSource
from he_inference.batch_compiler import CompiledBatch
from he_inference.compiler import compile
from he_inference.flooding import STATISTICAL_BITS, largest_noise, statistical_bits
from he_inference.nn import Square
from he_inference.nodes import Array
from he_inference.noise import NoiseModel, slot_exponents
from he_inference.parameters import ParametersLiteral
from he_inference.torch_modules import from_torch

P_VALUE = 1e-9
KEY, START = bytes(range(32)), bytes(16)
WRONG = (1 / 2, 2)
"""Of a deviation."""


def slots(coefficients: Array) -> Array:
    """(count, N) → real parts of the slots (count, N/2)."""
    count, degree = coefficients.shape
    whole = np.zeros((count, 2 * degree))
    whole[:, :degree] = coefficients
    values = np.fft.ifft(whole)[:, slot_exponents(degree)]
    return np.asarray(values.real * 2 * degree)


def accepts(errors: Array, deviation: float) -> bool:
    """The slots of independent coefficients are nearly normal, and their real parts independent."""
    total = float(np.square(errors / deviation).sum())
    return bool(chi2.ppf(P_VALUE, errors.size) < total < chi2.isf(P_VALUE, errors.size))


def check(errors: Array, deviation: float) -> None:
    assert accepts(errors, deviation)
    for factor in WRONG:
        assert not accepts(errors, factor * deviation)


def drawn(source: NoiseSource, bits: int, count: int, degree: int) -> Array:
    """Uniform integers from −2^(bits − 1) on, (count, N)."""
    words = source.words(count, degree) >> np.uint64(64 - bits)
    return words.astype(np.float64) - 2.0 ** (bits - 1)


# ------------------------------------------------------------------------------ deviations


@pytest.mark.parametrize(("degree", "bits"), [(4096, 12), (4096, 50), (8192, 30), (16384, 45)])
def test_slot_deviation(degree: int, bits: int) -> None:
    errors = slots(drawn(NoiseSource(KEY, START), bits, 10, degree))
    check(errors, flooding.slot_deviation(degree, bits))


@pytest.mark.parametrize("degree", [4096, 8192, 16384])
@pytest.mark.parametrize("deviation", [2.0**20, 3.7e25, 1e60])
def test_flooding_bits_are_the_most_that_fit(degree: int, deviation: float) -> None:
    bits = flooding.flooding_bits(degree, deviation)
    assert flooding.slot_deviation(degree, bits) <= deviation
    assert flooding.slot_deviation(degree, bits + 1) > deviation


def decrypted(c0: Array, c1: Array, secret: Array) -> Array:
    """Slots of c0 + c1·s for a ternary s; (count, N) each, s (N,). The product is negacyclic."""
    degree = len(secret)
    twist = np.exp(1j * np.pi * np.arange(degree) / degree)
    turned = np.fft.ifft(np.fft.fft(c1 * twist) * np.fft.fft(secret * twist)) / twist
    return slots(c0 + turned.real)


def mean_square_is(errors: Array, deviation: float) -> bool:
    """Of noise r0 + r1·s with one secret for every row: in slot j its variance goes with |s(ζ_j)|².

    That is exponential, so the square over its mean has variance at most 5, of which 1 stays the
    slot's own (`tests/test_noise.py`). Seven standard deviations.
    """
    mean = float(np.square(errors / deviation).mean())
    half = errors.shape[1]
    return bool(abs(mean - 1) < 7 * np.sqrt(1 / half + 5 / errors.size + 1 / (4 * half)))


def test_rounding_deviation() -> None:
    """c0 and c1 divided by two primes in turn; what one rounding adds is uniform."""
    degree, source = 4096, NoiseSource(KEY, START)
    primes = (1032193, 974849)
    secret = source.ternary(degree).astype(float)
    parts = []
    for _ in range(2):
        left = drawn(source, 62, 20, degree).astype(np.int64)
        error = np.zeros(left.shape)
        for prime in primes:
            rest = (left + prime // 2) % prime - prime // 2
            left = (left - rest) // prime
            error = (error - rest) / prime
        parts.append(error)
    errors = decrypted(*parts, secret)
    deviation = flooding.rounding_deviation(degree)
    assert mean_square_is(errors, deviation)
    assert not any(mean_square_is(errors, factor * deviation) for factor in WRONG)
    assert deviation**2 == pytest.approx(NoiseModel(PARAMETERS).rounding)


PARAMETERS = ParametersLiteral(4096, (42, 42), 16).resolve()


@pytest.mark.parametrize("deviation", [0.5, 2.0**14, 2.0**20, 2.0**33])
def test_response_bits_are_the_fewest(deviation: float) -> None:
    """One more cut from either would take more than its half of the variance."""
    model, whole = NoiseModel(PARAMETERS), 42
    kept = flooding.response_bits(PARAMETERS, deviation)
    cuts = whole - kept[0], whole - kept[1]
    assert min(cuts) >= 0
    assert model.cut((cuts[0], 0)) <= deviation**2 / 2 < model.cut((cuts[0] + 1, 0))
    assert model.cut((0, cuts[1])) <= deviation**2 / 2 < model.cut((0, cuts[1] + 1))


def test_cutting_costs_what_response_bits_allow() -> None:
    deviation, prime = 2.0**25, PARAMETERS.data_primes[0]
    kept = flooding.response_bits(PARAMETERS, deviation)
    degree, source = 4096, NoiseSource(KEY, START)
    secret, parts = source.ternary(degree).astype(float), []
    for bits in kept:
        row: npt.NDArray[np.uint64] = source.words(20, degree) % np.uint64(prime - (1 << 33))
        cut = 42 - bits
        after = wire.shift_down(row, cut, bits) << np.uint64(cut)
        parts.append(after.astype(np.float64) - row)
    errors = decrypted(*parts, secret)
    expected = float(np.sqrt(NoiseModel(PARAMETERS).cut((42 - kept[0], 42 - kept[1]))))
    assert deviation / 4 < expected <= deviation
    assert mean_square_is(errors, expected)
    assert not any(mean_square_is(errors, factor * expected) for factor in WRONG)


# ------------------------------------------------------------------------------ the statement


@pytest.mark.parametrize("components", [2, 3, 5, 9])
def test_the_largest_noise_is_reached_and_not_passed(components: int) -> None:
    """N = 8 in place of 4096, all signs at their worst: the bound counts every product."""
    degree, error = 8, flooding.MAX_ERROR
    primes = (113, 97)

    def negacyclic(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.int64]:
        full = np.convolve(a, b)
        full = np.append(full, np.zeros(2 * degree - len(full), np.int64))
        return np.asarray(full[:degree] - full[degree:])

    signs = np.array([1] + [-1] * (degree - 1))  # the constant coefficient of all products is +
    ones = np.ones(degree, np.int64)
    turned = signs[[0, *range(degree - 1, 0, -1)]]
    worst = sum(
        negacyclic((p - 1) * ones, error * turned)[0] for p in primes for _ in range(components - 2)
    )
    worst += 2 * negacyclic(ones, error * turned)[0] + error
    bound = (components - 2) * sum(primes) * degree * error + (2 * degree + 1) * error
    assert worst == bound - (components - 2) * len(primes) * degree * error
    scaled = largest_noise(PARAMETERS.ring_degree, PARAMETERS.data_primes, components)
    assert scaled == ((components - 2) * sum(PARAMETERS.data_primes) * 4096 + 8193) * 21


def test_the_distance_of_shifted_flooding_is_what_the_statement_says() -> None:
    """|κ|/F for one coefficient, exactly, by counting; and the sum bounds that of several.

    Two models whose κ have opposite signs are twice as far from each other as from E alone.
    """
    width, shifts = 64, (3, 5)
    whole = range(-10, width + 10)

    def probability(value: int, shift: int) -> float:
        return float(0 <= value - shift < width) / width

    for shift in (0, 1, 7, 10):
        found = sum(abs(probability(v, 0) - probability(v, shift)) for v in whole) / 2
        assert found == pytest.approx(shift / width)
        found = sum(abs(probability(v, -shift) - probability(v, shift)) for v in whole) / 2
        assert found == pytest.approx(2 * shift / width)
    both = sum(
        abs(
            probability(a, 0) * probability(b, 0)
            - probability(a, shifts[0]) * probability(b, shifts[1])
        )
        for a, b in product(whole, whole)
    ) / 2  # fmt: skip
    assert 0.9 * sum(shifts) / width < both <= sum(shifts) / width


def test_statistical_bits() -> None:
    """From the definition, in whole numbers: each factor costs what it should."""
    bits = statistical_bits(PARAMETERS, 3, 10, 120)
    distance = (
        10 * 4096 * largest_noise(PARAMETERS.ring_degree, PARAMETERS.data_primes, 3) / (1 << 120)
    )
    assert bits == pytest.approx(-log2(distance))
    assert statistical_bits(PARAMETERS, 3, 10, 121) == pytest.approx(bits + 1)
    assert statistical_bits(PARAMETERS, 3, 20, 120) == pytest.approx(bits - 1)
    assert statistical_bits(PARAMETERS, 2, 10, 120) > bits + 40


def network(squares: int) -> nn.Module:
    torch.manual_seed(squares)
    layers: list[nn.Module] = [nn.Linear(8, 6)]
    for _ in range(squares):
        layers += [Square(), nn.Linear(6, 6)]
    return nn.Sequential(*layers, nn.Linear(6, 3)).eval()


@pytest.mark.parametrize(
    ("squares", "precision"),
    [
        (0, 8),
        (0, 10),
        (1, 8),
        (1, 10),
        (2, 8),
        (2, 10),
    ],
)
def test_compiled_programs_flood_enough_and_not_too_much(squares: int, precision: int) -> None:
    examples = NoiseSource(KEY, START).words(40, 8) / 2.0**64
    compiled = compile(
        from_torch(network(squares), examples),
        layout="batched",
        precision=precision,
        examples=examples,
    )
    assert isinstance(compiled, CompiledBatch)
    plan, signature = compiled.program.plan, compiled.signature
    assert plan.components == 2**squares + 1
    bits = statistical_bits(plan.parameters, plan.components, plan.outputs, plan.flooding_bits)
    assert STATISTICAL_BITS <= signature.statistical_bits == bits
    # Half of the error that is allowed, and no more than the next power of two below it.
    allowed = 2.0**-precision * plan.largest_answer * plan.output_scale / 2
    deviation = flooding.slot_deviation(plan.parameters.ring_degree, plan.flooding_bits)
    assert allowed / 2 < deviation <= allowed
    assert plan.flooding_bits == floor(log2(allowed / flooding.slot_deviation(
        plan.parameters.ring_degree, 0)))  # fmt: skip
    # The modulus has room for answers eight times as large, and all noise.
    modulus = plan.parameters.log_modulus(len(plan.parameters.data_primes))
    assert 8 * plan.largest_answer * plan.output_scale < 2.0 ** (modulus - 1)
