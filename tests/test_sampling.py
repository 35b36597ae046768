"""`he_inference.backend.residues.sampling`: every distribution, and others that are told from it.

Keys are fixed, so a run draws what every other run draws. Where a check rests on chance all the
same, right numbers fail it with a probability of 1e-9 over all keys, and those that are wrong in a
way that could happen fail it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from math import comb
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chi2

from he_inference import batch_engine
from he_inference.backend.residues import sampling, sanitiser
from he_inference.backend.residues.sampling import BINOMIAL_BITS, NoiseSource
from he_inference.nodes import Array

Integers = npt.NDArray[np.int64]

P_VALUE = 1e-9
KEY = bytes(range(32))
START = bytes(range(100, 116))
COUNT = 1 << 18


@pytest.fixture
def source() -> NoiseSource:
    return NoiseSource(KEY, START)


def fits(counts: npt.ArrayLike, probabilities: npt.ArrayLike) -> bool:
    """Pearson's chi-square, neither too large nor too small; rare classes go together."""
    found, expected = np.asarray(counts, float), np.asarray(probabilities) * np.sum(counts)
    rare = expected < 50
    if rare.any():
        found = np.append(found[~rare], found[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    if found[~kept].any():
        return False
    statistic = float((np.square(found - expected)[kept] / expected[kept]).sum())
    freedom = int(kept.sum()) - 1
    return bool(chi2.ppf(P_VALUE, freedom) < statistic < chi2.isf(P_VALUE, freedom))


# ------------------------------------------------------------------------------ the stream


def test_the_stream_is_aes_256_in_counter_mode() -> None:
    """NIST SP 800-38A, F.5.5: the output blocks."""
    key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
    start = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
    blocks = (
        "0bdf7df1591716335e9a8b15c860c502"
        "5a6e699d536119065433863c8f657b94"
        "1bc12c9c01610d5d0d8bd6a3378eca62"
        "2956e1c8693536b1bee99c73a31576b6"
    )
    drawn = NoiseSource(bytes.fromhex(key), bytes.fromhex(start)).words(8)
    assert drawn.astype("<u8").tobytes().hex() == blocks


def test_a_source_goes_on_where_it_stopped() -> None:
    """Whatever shapes are asked for, nothing is drawn twice."""
    whole = NoiseSource(KEY, START).words(60)
    source = NoiseSource(KEY, START)
    pieces = [source.words(3, 4), source.words(1), source.words(47)]
    assert np.array_equal(np.concatenate([piece.ravel() for piece in pieces]), whole)


def test_every_source_has_a_key_of_its_own() -> None:
    """Two of 256 bits and more are the same with a probability of 2^-256."""
    assert not np.array_equal(NoiseSource().words(4), NoiseSource().words(4))
    assert not np.array_equal(NoiseSource(KEY).words(4), NoiseSource(KEY).words(4))


@pytest.mark.parametrize("module", [sampling, sanitiser, batch_engine])
def test_there_is_no_other_source(module: ModuleType) -> None:
    """Neither numpy's generators nor Python's; and outside of tests nobody gives a key."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            assert not {"random", "secrets", "numpy.random"} & {
                *names,
                getattr(node, "module", None),
            }
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("random", "default_rng", "RandomState")
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "NoiseSource":
            assert not node.args and not node.keywords


# ------------------------------------------------------------------------------ distributions


def bits_fit(words: npt.NDArray[np.uint64]) -> bool:
    """Every byte of the words is uniform, and so is every bit."""
    pieces = words.astype("<u8").view(np.uint8).reshape(-1, 8)
    columns = all(fits(np.bincount(column, minlength=256), np.full(256, 1 / 256))
                  for column in pieces.T)  # fmt: skip
    ones = np.unpackbits(pieces, axis=1).sum(0, dtype=np.int64)
    return columns and all(fits([n, len(words) - n], [0.5, 0.5]) or 2 * n == len(words)
                           for n in ones)  # fmt: skip


def test_words(source: NoiseSource) -> None:
    words = source.words(COUNT // 8, 8)
    assert words.dtype == np.uint64 and words.shape == (COUNT // 8, 8)
    assert bits_fit(words.ravel())
    assert not bits_fit(words.ravel() & ~np.uint64(1 << 63))
    assert not bits_fit(words.ravel() % np.uint64(3 << 62))


TERNARY = np.full(3, 1 / 3)


def ternary_of(values: Integers) -> list[int]:
    assert set(values.tolist()) <= {-1, 0, 1}
    return [int((values == v).sum()) for v in (-1, 0, 1)]


def test_ternary(source: NoiseSource) -> None:
    drawn = source.ternary(COUNT)
    assert drawn.dtype == np.int64 and len(drawn) == COUNT
    assert fits(ternary_of(drawn), TERNARY)
    pairs = np.bincount(3 * drawn[::2] + drawn[1::2] + 4, minlength=9)
    assert fits(pairs, np.full(9, 1 / 9))


def test_ternary_without_leaving_bytes_out_is_found() -> None:
    """256 = 3·85 + 1: a bias of one in 256, which 2^23 draws show with certainty."""
    count = 1 << 23
    drawn = NoiseSource(KEY, START).words(count // 8).view(np.uint8)
    assert not fits(np.bincount(drawn % 3, minlength=3), TERNARY)
    assert fits(ternary_of(NoiseSource(KEY, START).ternary(count)), TERNARY)


@pytest.mark.parametrize("count", [1, 63, 4096, 16384, 100_000])
def test_as_many_as_were_asked_for(count: int, source: NoiseSource) -> None:
    assert len(source.ternary(count)) == count
    assert len(source.binomial(count)) == count


def binomial_probabilities(bits: int) -> Array:
    """Of −bits … bits: a sum of `bits` bits less another is one of twice as many, shifted."""
    return np.array([comb(2 * bits, k) / 4**bits for k in range(2 * bits + 1)])


def binomial_counts(values: Integers, bits: int = BINOMIAL_BITS) -> Integers:
    return np.bincount(values + bits, minlength=2 * bits + 1)


def test_binomial(source: NoiseSource) -> None:
    drawn = source.binomial(COUNT)
    assert drawn.dtype == np.int64 and np.abs(drawn).max() <= BINOMIAL_BITS
    probabilities = binomial_probabilities(BINOMIAL_BITS)
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert np.arange(-21, 22) ** 2 @ probabilities == pytest.approx(21 / 2, abs=1e-12)
    assert fits(binomial_counts(drawn), probabilities)


BIASED: dict[str, Callable[[npt.NDArray[np.uint64]], Integers]] = {
    "both sums from the same bits but one": lambda words: (
        sampling._ones(words & sampling._PAIR)
        - sampling._ones(words >> np.uint64(1) & sampling._PAIR)
    ),
    "one bit less": lambda words: (
        sampling._ones(words & np.uint64((1 << 20) - 1))
        - sampling._ones(words >> np.uint64(21) & sampling._PAIR)
    ),
    "20 bits each": lambda words: (
        sampling._ones(words & np.uint64((1 << 20) - 1))
        - sampling._ones(words >> np.uint64(21) & np.uint64((1 << 20) - 1))
    ),
    "not centred": lambda words: sampling._ones(words & sampling._PAIR) - 10,
}


@pytest.mark.parametrize("kind", list(BIASED))
def test_other_errors_are_found(kind: str, source: NoiseSource) -> None:
    drawn = BIASED[kind](source.words(COUNT))
    assert not fits(binomial_counts(drawn), binomial_probabilities(BINOMIAL_BITS))


def test_the_largest_errors() -> None:
    """Words of which one sum takes all bits and the other none."""
    assert sampling._ones(np.array([sampling._PAIR, 0, 2**64 - 1], np.uint64)).tolist() == [
        BINOMIAL_BITS,
        0,
        64,
    ]


def test_neighbours_do_not_depend_on_each_other(source: NoiseSource) -> None:
    """The correlation of COUNT pairs has a deviation of 1/√COUNT: six of them."""
    drawn = source.binomial(COUNT).astype(float)
    for lag in (1, 2, 64, 512):
        assert abs(np.mean(drawn[:-lag] * drawn[lag:])) < 6 * 10.5 / np.sqrt(COUNT - lag)
