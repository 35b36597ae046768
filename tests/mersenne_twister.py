"""The published attack: 624 outputs of MT19937 give its state, and all outputs to come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STATE, _MIDDLE = 624, 397
_MASK = 0xFFFFFFFF


def _untempered(y: int) -> int:
    """The state word that an output was made of (Matsumoto and Nishimura 1998, inverted)."""
    y ^= y >> 18
    y ^= (y << 15) & 0xEFC60000
    x = y
    for _ in range(5):
        x = y ^ ((x << 7) & 0x9D2C5680)
    y = x & _MASK
    x = y
    for _ in range(3):
        x = y ^ (x >> 11)
    return x & _MASK


def _tempered(x: int) -> int:
    x ^= x >> 11
    x ^= (x << 7) & 0x9D2C5680
    x ^= (x << 15) & 0xEFC60000
    return x ^ (x >> 18)


def predicted(words: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """From 312 consecutive 64-bit words of torch's generator, high half first: those that
    follow."""
    halves = [int(half) for word in words for half in divmod(int(word), 2**32)]
    assert len(halves) == _STATE
    state = [_untempered(half) for half in halves]
    for n in range(2 * count):
        y = (state[n] & 0x80000000) | (state[n + 1] & 0x7FFFFFFF)
        state.append(state[n + _MIDDLE] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0))
    outputs = [_tempered(x) for x in state[_STATE:]]
    return np.array([outputs[k] << 32 | outputs[k + 1] for k in range(0, 2 * count, 2)], np.uint64)
