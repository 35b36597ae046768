"""Noise for differential privacy: the only place where it is drawn.

**Source.** AES-256 in counter mode, keyed from the operating system (`os.urandom`), by the
`cryptography` package. A stream is never copied, pickled or continued in a forked process: two
copies would give the same noise, and the difference of two releases would then have none.

**Sampler.** The discrete Gaussian on the integers with standard deviation exactly `WIDTH` = 2³²,
P(x) ∝ exp(−x²/(2·WIDTH²)), by rejection (Karney, "Sampling exactly from the normal distribution",
ACM TOMS 2016, Algorithm D). Comparisons with exp(−a) are made in float64 when the two sides
differ by more than the error of float64, and else with as many digits as it takes: the accepted
values have exactly this distribution, given uniform bits. The table of the integer part is cut to
128 bits, which is 2⁻¹²⁴ in total variation.

**Floating-point attacks** (Mironov 2012; Haney et al. 2022) read data from which floats a noisy
sum can be, or from the sampler's rounding. Here no noise is a float: a sum is first rounded to the
lattice of spacing γ = standard deviation / WIDTH, integer noise is added to an integer, and only
that sum becomes a float again. What is left is accounted for instead of ignored:

- Rounding D coordinates moves each of two sums by at most γ/2 a coordinate: γ·√D in sensitivity.
- Integer q + discrete Gaussian is within `TOTAL_VARIATION` a coordinate of q + round(N(0, WIDTH²)),
  which is a rounding, hence post-processing, of the continuous Gaussian mechanism. So the exact
  continuous accounting holds after δ is raised by (1 + e^ε)·D·TOTAL_VARIATION.
  (Midpoint rule: Σ|∫φ − φ(x)|/2 ≤ ∫|φ″|/48 = 4φ(1)/(48·WIDTH²) < 0.021/WIDTH²; twice that is kept,
  and covers the cut table.)
- Rounding of the float64 *sum* itself is the business of `releases`, which bounds it.

**Assumptions.** AES-256-CTR is indistinguishable from random bits (so all guarantees are against
computationally bounded adversaries), `os.urandom` is sound, and the adversary sees releases, not
memory or running time: rejection takes a random time that depends on the noise alone, never on the
data.
"""

import math
import os
import threading
from fractions import Fraction
from typing import NoReturn, Self

import mpmath
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from private_models.errors import OptionError

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

WIDTH = 1 << 32
"""Standard deviation of the integer noise, in lattice units."""
TOTAL_VARIATION = 0.042 / WIDTH**2
"""How far a coordinate is from a rounded continuous Gaussian, at most."""
LARGEST_INTEGER = 1 << 62
"""A rounded sum is smaller than this, so that adding noise cannot overflow."""

_KEY_BYTES = 32
_COUNTER_BYTES = 16
_PARTS = 14
"""Multiples of WIDTH in the table of the integer part: beyond, exp(−14²/2) < 2⁻¹⁴¹."""
_FLOAT_ERROR = 2.0**-49
"""The float64 value of exp(−a), 0 ≤ a < 16, is off by less than 2⁻⁵⁰, and so is a word / 2⁶⁴."""
_ACCEPTANCE = 0.70
_BATCH = 1 << 16
"""Candidates drawn at one time: 1.5 MB of words."""


_forks = 0
"""How often this process and those that it was forked from were forked from others."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # not where there is no fork
    os.register_at_fork(after_in_child=_count_fork)


class RandomBits:
    """A stream of uniform 64-bit words from AES-256-CTR.

    A process that was forked gets a key of its own, from the operating system; it is known by its
    number *and* by how many forks led to it, for numbers are used again. Threads may share a
    stream: no two of them get the same words. Copying and pickling are refused.
    """

    def __init__(self) -> None:
        self._unsafe_seed: int | None = None
        self._start(os.urandom(_KEY_BYTES))

    @classmethod
    def unsafe_from_seed(cls, seed: int) -> Self:
        """The same words for the same seed: **no privacy at all**, for tests alone.

        seed: 0 to 2²⁵⁶ − 1. Raises `OptionError` for others.
        """
        if not 0 <= seed < 1 << 8 * _KEY_BYTES:
            raise OptionError(f"unsafe seed {seed}: expected 0 to 2^256 - 1")
        stream = cls()
        stream._unsafe_seed = seed
        stream._start(seed.to_bytes(_KEY_BYTES, "little"))
        return stream

    @property
    def is_secret(self) -> bool:
        """Whether the key came from the operating system."""
        return self._unsafe_seed is None

    def _start(self, key: bytes) -> None:
        cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(_COUNTER_BYTES)))
        # A lock of its own with every key: one that was held when the process was forked stays so.
        self._stream = threading.Lock(), cipher.encryptor()
        self._process = os.getpid(), _forks

    def words(self, count: int) -> Words:
        """`count` independent uniform words, uint64 (count,)."""
        if (os.getpid(), _forks) != self._process:
            if not self.is_secret:
                raise OptionError("an unsafe seed does not survive a fork: seed the child anew")
            self._start(os.urandom(_KEY_BYTES))
        lock, encryptor = self._stream
        with lock:
            block = encryptor.update(bytes(8 * count))
        return np.frombuffer(block, "<u8").astype(np.uint64)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise OptionError("a noise stream cannot be copied or pickled: make another RandomBits()")

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)


def discrete_gaussian(bits: RandomBits, count: int) -> Integers:
    """Independent integers with P(x) ∝ exp(−x²/(2·WIDTH²)), int64 (count,).

    |x| = WIDTH·(j + t): j has weights exp(−j²/2), t is uniform on the multiples of 1/WIDTH in
    [0, 1), and the pair is accepted with probability exp(−t(2j + t)/2) (Karney 2016, Algorithm D).
    """
    found: list[Integers] = [np.empty(0, np.int64)]
    left = count
    while left > 0:
        accepted = _candidates(bits, min(_BATCH, math.ceil(left / _ACCEPTANCE) + 16))[:left]
        found.append(accepted)
        left -= len(accepted)
    return np.concatenate(found)


def _candidates(bits: RandomBits, count: int) -> Integers:
    choosing, comparing, placing = bits.words(3 * count).reshape(3, count)
    part = _integer_part(bits, choosing)
    offset = (placing >> np.uint64(32)).astype(np.int64)
    positive = (placing & np.uint64(1)).astype(bool)
    accepted = _accept(bits, comparing, part, offset)
    accepted &= positive | (part != 0) | (offset != 0)  # zero has one sign
    size = part * WIDTH + offset
    return np.where(positive, size, -size)[accepted]


def _thresholds() -> list[int]:
    """Cumulative weights of j = 0, 1, …, scaled to 2¹²⁸, without the last, which is 2¹²⁸."""
    with mpmath.workprec(256):
        weights = [mpmath.exp(-mpmath.mpf(j * j) / 2) for j in range(_PARTS)]
        total, running, scaled = mpmath.fsum(weights), mpmath.mpf(0), []
        for weight in weights[:-1]:
            running += weight
            scaled.append(int(mpmath.nint(running / total * (1 << 128))))
    return scaled


_THRESHOLDS = _thresholds()
_HIGH_WORDS = np.array([t >> 64 for t in _THRESHOLDS], np.uint64)
_LOW_MASK = (1 << 64) - 1


def _integer_part(bits: RandomBits, words: Words) -> Integers:
    """j for every word: the number of thresholds at or below a 128-bit uniform number.

    A word that equals the upper half of a threshold, once in 2⁶⁰, is extended by a second one.
    """
    part = np.searchsorted(_HIGH_WORDS, words, side="left").astype(np.int64)
    tied = _HIGH_WORDS[np.minimum(part, len(_HIGH_WORDS) - 1)] == words
    for at in np.flatnonzero(tied):
        whole = (int(words[at]) << 64) | int(bits.words(1)[0])
        part[at] = sum(threshold <= whole for threshold in _THRESHOLDS)
    return part


def _accept(
    bits: RandomBits, words: Words, part: Integers, offset: Integers
) -> npt.NDArray[np.bool_]:
    """True with probability exp(−t(2j + t)/2), where t = offset / WIDTH, for uniform words."""
    t = offset / WIDTH
    probability = np.exp(-t * (2 * part + t) / 2)
    uniform = words / 2.0**64
    accepted = uniform < probability
    for at in np.flatnonzero(np.abs(uniform - probability) <= _FLOAT_ERROR):
        exponent = Fraction(int(offset[at]) * (2 * int(part[at]) * WIDTH + int(offset[at])))
        accepted[at] = _below_exp(bits, int(words[at]), exponent / (2 * WIDTH**2))
    return accepted


def _below_exp(bits: RandomBits, word: int, exponent: Fraction) -> bool:
    """Whether the uniform number 0.word… is below exp(−exponent), drawing bits until that is clear.

    For exponent 0 the answer is yes: a uniform number is below 1.
    """
    if exponent == 0:
        return True
    drawn, length = word, 64
    while True:
        with mpmath.workprec(length + 64):
            value = mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator)
            bound = int(mpmath.floor(mpmath.ldexp(value, length)))
        if abs(drawn - bound) > 1:  # neither the digits to come nor rounding can change it
            return drawn < bound
        drawn, length = (drawn << 64) | int(bits.words(1)[0]), length + 64


def add_noise(bits: RandomBits, exact: Array, standard_deviation: float) -> Array:
    """`exact` rounded to the lattice, plus discrete Gaussian noise: float64 of the same shape.

    The noise has the given standard deviation, is independent for every entry and every call, and
    what is returned is a function of integers alone (see the module's account of what remains).

    Args:
        bits: where randomness comes from.
        exact: finite float64 array of any shape; entries below `LARGEST_INTEGER` in units of
            standard_deviation / WIDTH, which `releases` makes sure of from public bounds.
        standard_deviation: positive and finite, in the unit of `exact`.

    Raises:
        OptionError: a standard deviation or entries that are not as described.
    """
    if not (math.isfinite(standard_deviation) and standard_deviation > 0):
        raise OptionError(
            f"noise of standard deviation {standard_deviation}: expected a positive number"
        )
    spacing = standard_deviation / WIDTH
    lattice = np.rint(np.asarray(exact, np.float64) / spacing)
    if not (np.abs(lattice) < LARGEST_INTEGER).all():
        raise OptionError(
            f"a sum is not finite or exceeds {LARGEST_INTEGER * spacing:.3g}, the most that noise "
            f"of standard deviation {standard_deviation:.3g} can hide: check the clip norms"
        )
    noise = discrete_gaussian(bits, lattice.size).reshape(lattice.shape)
    return (lattice.astype(np.int64) + noise).astype(np.float64) * spacing


def bernoulli_rows(bits: RandomBits, probability: float, count: int) -> npt.NDArray[np.bool_]:
    """A Poisson sample: each of `count` rows is in it with `probability`, independently.

    probability: from 0 to 1; what is not a multiple of 2⁻⁶⁴ is rounded down to one, which is the
    safe side: privacy loss grows with the probability. Raises `OptionError` for others.
    """
    if not 0 <= probability <= 1:
        raise OptionError(f"sampling probability {probability}: expected a number from 0 to 1")
    threshold = math.floor(Fraction(probability) * (1 << 64))
    if threshold >= 1 << 64:
        return np.ones(count, np.bool_)
    return bits.words(count) < np.uint64(threshold)


def shuffled(bits: RandomBits, count: int) -> Integers:
    """A uniform permutation of 0 … count − 1, for public partitions and splits; int64 (count,).

    Rows are sorted by 128 random bits each, so that a tie has probability below count²·2⁻¹²⁸.
    """
    high, low = bits.words(2 * count).reshape(2, count)
    return np.lexsort((low, high)).astype(np.int64)
