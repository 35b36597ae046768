"""`private_models.noise`: the sampler against exact probabilities, and what must never happen.

Every statistical check accepts the right distribution and rejects planted wrong ones; p-values are
so small that a right sampler fails once in a billion runs.
"""

import copy
import math
import os
import pickle
import threading
from collections.abc import Callable
from fractions import Fraction
from unittest.mock import patch

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from private_models import noise
from private_models.errors import OptionError
from private_models.noise import (
    LARGEST_INTEGER,
    TOTAL_VARIATION,
    WIDTH,
    Array,
    RandomBits,
    add_noise,
    bernoulli_rows,
    discrete_gaussian,
    shuffled,
)

P_VALUE = 1e-9
COUNT = 400_000
CELLS = norm.ppf(np.linspace(0, 1, 65)[1:-1])


def chi_squared(sample: Array, width: float) -> bool:
    """Whether 64 equally likely cells of N(0, width²) hold as many as they should.

    Cells are some 2²⁷ lattice points wide at least, so that lattice and line are alike to 10⁻⁸.
    """
    found = np.histogram(sample, np.concatenate([[-np.inf], CELLS * width, [np.inf]]))[0]
    expected = len(sample) / 64
    statistic = float((np.square(found - expected) / expected).sum())
    return bool(statistic < chi2.isf(P_VALUE, 63))


def sample() -> Array:
    return discrete_gaussian(RandomBits(), COUNT).astype(np.float64)


def test_the_sampler_has_its_distribution_and_no_other() -> None:
    drawn = sample()
    assert chi_squared(drawn, WIDTH)
    for wrong in (0.97, 1.03):
        assert not chi_squared(drawn, WIDTH * wrong)
    assert not chi_squared(np.abs(drawn), WIDTH)
    assert not chi_squared(np.random.default_rng(1).laplace(0, WIDTH / math.sqrt(2), COUNT), WIDTH)


def test_the_variance_is_exact_to_what_a_sample_can_tell() -> None:
    total = float(np.square(sample() / WIDTH).sum())
    low, high = chi2.ppf(P_VALUE, COUNT), chi2.isf(P_VALUE, COUNT)
    assert low < total < high
    assert not low < total * 1.03 < high


def test_low_bits_are_uniform() -> None:
    """What floating-point samplers get wrong: here every residue modulo 256 is as likely."""
    found = np.bincount(discrete_gaussian(RandomBits(), COUNT) % 256, minlength=256)
    statistic = float((np.square(found - COUNT / 256) / (COUNT / 256)).sum())
    assert chi2.ppf(P_VALUE, 255) < statistic < chi2.isf(P_VALUE, 255)


def broken(name: str, replacement: Callable[..., object]) -> Array:
    with patch.object(noise, name, replacement):
        return sample()


def test_a_sampler_without_rejection_is_noticed() -> None:
    everything = broken("_accept", lambda bits, words, part, offset: np.ones(len(words), bool))
    assert not chi_squared(everything, WIDTH)


def test_a_wrong_table_is_noticed() -> None:
    shifted = broken("_HIGH_WORDS", np.roll(noise._HIGH_WORDS, 1))  # type: ignore[arg-type]
    assert not chi_squared(shifted, WIDTH)


def test_the_table_is_that_of_its_definition() -> None:
    """Independent sums in 400 bits."""
    with mpmath.workprec(400):
        total = mpmath.nsum(lambda j: mpmath.exp(-(j**2) / 2), [0, mpmath.inf])
        running = mpmath.mpf(0)
        for j, threshold in enumerate(noise._THRESHOLDS):
            running += mpmath.exp(-(mpmath.mpf(j) ** 2) / 2)
            assert abs(mpmath.mpf(threshold) / (1 << 128) - running / total) < mpmath.mpf(2) ** -127
    assert sorted(noise._THRESHOLDS) == noise._THRESHOLDS
    assert noise._THRESHOLDS[-1] < 1 << 128


def test_total_variation_is_bounded_by_what_is_claimed() -> None:
    """Summed exactly for narrow lattices: the bound 0.042/width² holds, and is no gift."""
    for width in (1, 2, 4):
        with mpmath.workdps(40):
            xs = range(-12 * width, 12 * width + 1)
            weights = [mpmath.exp(-mpmath.mpf(x * x) / (2 * width**2)) for x in xs]
            total = mpmath.fsum(weights)
            cells = [
                mpmath.ncdf((x + mpmath.mpf(1) / 2) / width)
                - mpmath.ncdf((x - mpmath.mpf(1) / 2) / width)
                for x in xs
            ]
            pairs = zip(weights, cells, strict=True)
            distance = mpmath.fsum(abs(w / total - c) for w, c in pairs) / 2
        assert 0.015 / width**2 < distance < TOTAL_VARIATION * WIDTH**2 / width**2


# ---------------------------------------------------------------------------- exact comparisons


class Scripted(RandomBits):
    """Words that a test has written."""

    def __init__(self, *words: int) -> None:
        super().__init__()
        self.left = list(words)

    def words(self, count: int) -> noise.Words:
        taken, self.left = self.left[:count], self.left[count:]
        assert len(taken) == count
        return np.array(taken, np.uint64)


@given(st.integers(0, 13), st.integers(0, WIDTH - 1), st.integers(0, 2**64 - 1))
def test_acceptance_is_that_of_the_exact_probability(part: int, offset: int, word: int) -> None:
    bits = Scripted(*[2**63] * 4)
    arrays = (np.array([word], np.uint64), np.array([part]), np.array([offset]))
    found = bool(noise._accept(bits, *arrays)[0])
    with mpmath.workdps(60):
        t = mpmath.mpf(offset) / WIDTH
        probability = mpmath.exp(-t * (2 * part + t) / 2)
        assert found == bool(mpmath.mpf(word) / 2**64 < probability)


def test_words_near_the_probability_are_decided_by_further_bits() -> None:
    exponent = Fraction(1, 2)
    with mpmath.workdps(60):
        exact = mpmath.exp(-mpmath.mpf(1) / 2) * 2**128
        whole = int(mpmath.floor(exact))
    word, rest = divmod(whole, 1 << 64)
    assert noise._below_exp(Scripted(rest - 2), word, exponent)
    assert not noise._below_exp(Scripted(rest + 2), word, exponent)
    assert noise._below_exp(Scripted(rest, 0), word, exponent) is True
    assert noise._below_exp(Scripted(rest, 2**64 - 1), word, exponent) is False
    assert noise._below_exp(Scripted(), 2**64 - 1, Fraction(0))


def test_the_slow_way_gives_the_same_answers() -> None:
    """All comparisons made exactly, from the same words: float64 never decided wrongly."""
    quick = discrete_gaussian(RandomBits.unsafe_from_seed(5), 300)
    with patch.object(noise, "_FLOAT_ERROR", 2.0):
        assert np.array_equal(discrete_gaussian(RandomBits.unsafe_from_seed(5), 300), quick)


def test_a_tie_with_a_threshold_takes_a_second_word() -> None:
    high, low = divmod(noise._THRESHOLDS[0], 1 << 64)
    word = np.array([high], np.uint64)
    assert noise._integer_part(Scripted(low - 1), word)[0] == 0
    assert noise._integer_part(Scripted(low), word)[0] == 1
    assert noise._integer_part(Scripted(), word - np.uint64(1))[0] == 0
    assert noise._integer_part(Scripted(), word + np.uint64(1))[0] == 1


# ---------------------------------------------------------------------------- the stream


def test_streams_are_keyed_by_the_operating_system() -> None:
    with patch.object(os, "urandom", return_value=bytes(32)) as asked:
        same = RandomBits().words(4), RandomBits().words(4)
    assert [call.args for call in asked.call_args_list] == [(32,)] * 2
    assert np.array_equal(*same)  # the key is all there is
    assert not np.array_equal(RandomBits().words(4), RandomBits().words(4))
    assert RandomBits().is_secret


def test_words_are_those_of_aes_256_in_counter_mode() -> None:
    """NIST SP 800-38A has no all-zero vector; this is AES-256 of zeros (FIPS 197)."""
    with patch.object(os, "urandom", return_value=bytes(32)):
        first = RandomBits().words(2)
    assert first.astype("<u8").tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_a_stream_never_repeats() -> None:
    bits = RandomBits()
    words = np.concatenate([bits.words(5000), bits.words(5000)])
    assert len(np.unique(words)) == 10_000


def test_copies_are_refused() -> None:
    for twice in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(OptionError, match="cannot be copied"):
            twice(RandomBits())


def test_threads_that_share_a_stream_get_different_words() -> None:
    """All together they get what one alone would: every word of the stream once."""
    shared = RandomBits.unsafe_from_seed(9)
    found: list[np.ndarray] = []

    def draw() -> None:
        for _ in range(200):
            found.append(shared.words(64))

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = RandomBits.unsafe_from_seed(9).words(8 * 200 * 64)
    assert np.array_equal(np.sort(np.concatenate(found)), np.sort(alone))


def test_a_process_number_that_is_used_again_is_not_taken_for_the_old_process() -> None:
    """A grandchild may get its grandparent's number, and must not go on with its stream."""
    with patch.object(os, "urandom", wraps=os.urandom) as source:
        stream = RandomBits()
        stream.words(1)
        assert source.call_count == 1
        with patch.object(noise, "_forks", noise._forks + 2):  # same number, two forks on
            stream.words(1)
        assert source.call_count == 2


def test_a_forked_process_draws_its_own() -> None:
    bits = RandomBits()
    with patch.object(os, "getpid", return_value=-1):  # as a child would see it
        first = bits.words(4)
        assert not np.array_equal(first, bits.words(4))
    seeded = RandomBits.unsafe_from_seed(3)
    with patch.object(os, "getpid", return_value=-1), pytest.raises(OptionError, match="fork"):
        seeded.words(1)
    read, write = os.pipe()
    bits = RandomBits()
    child = os.fork()
    if not child:
        os.write(write, bits.words(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 32) != bits.words(4).tobytes()


def test_a_seed_is_unsafe_by_name_and_checked() -> None:
    one, two = (RandomBits.unsafe_from_seed(9) for _ in range(2))
    assert np.array_equal(one.words(9), two.words(9))
    assert not one.is_secret
    for seed in (-1, 1 << 256):
        with pytest.raises(OptionError, match="expected 0"):
            RandomBits.unsafe_from_seed(seed)


# ---------------------------------------------------------------------------- adding it


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e3))
def test_what_is_published_lies_on_the_lattice(value: float, deviation: float) -> None:
    """Of values whose integers float64 holds exactly: below 2⁵³ in units of the spacing."""
    spacing = deviation / WIDTH
    published = float(add_noise(RandomBits(), np.array([value * deviation]), deviation)[0])
    whole = round(Fraction(published) / Fraction(spacing))
    assert published == float(whole) * spacing  # a function of an integer and nothing else


def test_noise_is_independent_in_every_entry_and_call() -> None:
    """Correlations of 2 × 50 columns: each is normal with variance 1/n under independence."""
    bits, zeros = RandomBits(), np.zeros((4000, 50))
    drawn = np.concatenate([add_noise(bits, zeros, 1.0), add_noise(bits, zeros, 1.0)], axis=1)

    def independent(columns: Array) -> bool:
        correlation = np.corrcoef(columns.T)[np.triu_indices(100, 1)]
        tail = norm.isf(P_VALUE / len(correlation))
        return bool(np.abs(correlation).max() * math.sqrt(4000) < tail)

    assert independent(drawn)
    assert not independent(np.concatenate([drawn[:, :50]] * 2, axis=1))  # the published fault


def test_standard_deviations_and_sums_are_checked() -> None:
    for deviation in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match="positive"):
            add_noise(RandomBits(), np.zeros(1), deviation)
    largest = LARGEST_INTEGER / WIDTH
    for total in (math.nan, math.inf, largest, -largest):
        with pytest.raises(OptionError, match="can hide"):
            add_noise(RandomBits(), np.array([total]), 1.0)


@pytest.mark.parametrize("probability", [0.0, 1e-3, 0.5, 1.0])
def test_poisson_samples(probability: float) -> None:
    count = 200_000
    chosen = int(bernoulli_rows(RandomBits(), probability, count).sum())
    deviation = math.sqrt(count * probability * (1 - probability))
    assert abs(chosen - count * probability) <= norm.isf(P_VALUE) * deviation


def test_probabilities_are_checked() -> None:
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(OptionError, match="from 0 to 1"):
            bernoulli_rows(RandomBits(), probability, 3)


def test_shuffles_are_permutations_and_differ() -> None:
    first, second = (shuffled(RandomBits(), 1000) for _ in range(2))
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert not np.array_equal(first, second)
