"""The random numbers that hide what an answer must not show: the only ones the engine draws.

AES-256 in counter mode, from `cryptography`, with a key and a counter's start from the operating
system for every source. Nothing is drawn twice: a source goes on where it stopped, and every answer
has its own. How long a draw takes does not depend on what is drawn, but for the one in 256 bytes
that a ternary draw leaves out, which says nothing of the others.
"""

import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

BINOMIAL_BITS = 21
"""An error is a sum of so many bits less a sum of as many others, as SEAL's: variance 21/2."""
_PAIR = np.uint64((1 << BINOMIAL_BITS) - 1)
_SMALLEST_TAKEN = 255
"""Bytes from here on would make one of three values more probable."""


class NoiseSource:
    """An endless stream of random numbers; used by one thread.

    key, start: 32 and 16 bytes from the operating system, unless a test gives others.
    """

    def __init__(self, key: bytes | None = None, start: bytes | None = None) -> None:
        cipher = Cipher(AES256(key or os.urandom(32)), CTR(start or os.urandom(16)))
        self._stream = cipher.encryptor()

    def _bytes(self, count: int) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self._stream.update(bytes(count)), np.uint8)

    def words(self, *shape: int) -> Words:
        """Uniform uint64 of this shape."""
        return self._bytes(8 * int(np.prod(shape))).view("<u8").reshape(shape)

    def ternary(self, count: int) -> Integers:
        """(count,) of −1, 0 and 1, equally probable."""
        taken = np.empty(0, np.uint8)
        while len(taken) < count:
            drawn = self._bytes(count - len(taken) + 64)
            taken = np.concatenate([taken, drawn[drawn < _SMALLEST_TAKEN]])
        return taken[:count].astype(np.int64) % 3 - 1

    def binomial(self, count: int) -> Integers:
        """(count,) centred binomial errors, at most 21 in size."""
        drawn = self.words(count)
        plus, minus = drawn & _PAIR, drawn >> np.uint64(BINOMIAL_BITS) & _PAIR
        return _ones(plus) - _ones(minus)


def _ones(words: Words) -> Integers:
    """How many bits are set."""
    return np.asarray(np.bitwise_count(words).astype(np.int64))
