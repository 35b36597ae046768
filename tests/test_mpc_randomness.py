"""Ring elements are AES-256-CTR of the operating system's keys, and a test fails when they are
not."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mpc_training import randomness
from mpc_training.errors import SettingsError
from mpc_training.randomness import Generator, agreed_key, derive, new_key

KEY = bytes(range(32))


def block(key: bytes, content: bytes) -> bytes:
    """One block of AES, by its definition."""
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(content)


def test_the_cipher_is_aes_256() -> None:
    """FIPS 197, appendix C.3."""
    answer = block(KEY, bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert answer.hex() == "8ea2b7ca516745bfeafc49904b496089"


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**16 - 1), st.integers(0, 70))
def test_words_are_the_blocks_of_their_address(operation: int, lane: int, count: int) -> None:
    """SP 800-38A, 6.5, with counters as the module says: nothing else would pass this."""
    head = operation.to_bytes(8, "big") + lane.to_bytes(2, "big")
    stream = b"".join(block(KEY, head + k.to_bytes(6, "big")) for k in range(count // 2 + 1))
    expected = np.frombuffer(stream, "<u8")[:count]
    assert np.array_equal(Generator(KEY).words(operation, lane, (count,)), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_words_of_every_width_are_uniform(dtype: type) -> None:
    """Chi-square of bytes at each place of a word, and it rejects a bias of one bit in 16."""
    words = Generator(KEY).words(1, 0, (2**18,), dtype)
    places = words.view(np.uint8).reshape(len(words), -1).T
    p = [stats.chisquare(np.bincount(place, minlength=256)).pvalue for place in places]
    assert min(p) > 1e-4 / len(p)
    biased = places[0] & np.where(np.arange(len(words)) % 16, 255, 254).astype(np.uint8)
    assert stats.chisquare(np.bincount(biased, minlength=256)).pvalue < 1e-12


def test_addresses_and_keys_give_unrelated_words() -> None:
    made = {
        Generator(key).words(operation, lane, (4,)).tobytes()
        for key in (KEY, derive(KEY, "a"), derive(KEY, "b"))
        for operation in (0, 1, 2**63)
        for lane in (0, 1, 65535)
    }
    assert len(made) == 27
    again = Generator(KEY).words(5, 0, (4,))
    assert np.array_equal(again, Generator(KEY).words(5, 0, (4,)))


def test_keys_come_from_the_operating_system_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    real = os.urandom

    def recorded(count: int) -> bytes:
        asked.append(count)
        return real(count)

    monkeypatch.setattr(randomness.os, "urandom", recorded)
    assert new_key() != new_key()
    assert asked == [32, 32]

    def broken(count: int) -> bytes:
        raise NotImplementedError

    monkeypatch.setattr(randomness.os, "urandom", broken)
    with pytest.raises(NotImplementedError):
        new_key()


def test_an_agreed_key_depends_on_everyone() -> None:
    a, b = new_key(), new_key()
    keys = {agreed_key(pair, label) for pair in ([a, b], [b, a], [a, a]) for label in ("x", "y")}
    assert len(keys) == 6


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_weaker_keys_are_refused(length: int) -> None:
    with pytest.raises(SettingsError, match="expected 32"):
        Generator(bytes(length))
    with pytest.raises(SettingsError, match="expected 32"):
        agreed_key([bytes(32), bytes(length)], "x")


@pytest.mark.parametrize(
    ("operation", "lane", "shape", "dtype"),
    [
        (-1, 0, (1,), np.uint64),
        (2**64, 0, (1,), np.uint64),
        (0, 2**16, (1,), np.uint64),
        (0, 0, (2**32,), np.uint64),
        (0, 0, (1,), np.int64),
        (0, 0, (1,), np.float64),
    ],
)
def test_addresses_and_types_out_of_range_are_refused(
    operation: int, lane: int, shape: tuple[int, ...], dtype: type
) -> None:
    with pytest.raises(SettingsError):
        Generator(KEY).words(operation, lane, shape, dtype)
