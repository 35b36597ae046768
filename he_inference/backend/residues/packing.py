"""Residues with as many bits as their prime has, packed to the bit: `wire.pack`, compiled.

64 values of b bits become b little-endian 64-bit words, the first value in the lowest bits. The
loops run without the interpreter's lock.
"""

import numpy as np
import numpy.typing as npt

from he_inference.machine_code import njit

Words = npt.NDArray[np.uint64]
Residues = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]

_ZERO, _ONE, _WORD = np.uint64(0), np.uint64(1), np.uint64(64)


@njit(nogil=True, cache=True)
def _pack(values, bits, words):  # type: ignore[no-untyped-def]
    at, held, filled = 0, _ZERO, _ZERO
    for value in values:
        word = np.uint64(value)
        held |= word << filled
        filled += bits
        if filled >= _WORD:
            words[at], at = held, at + 1
            filled -= _WORD
            held = word >> (bits - filled) if filled else _ZERO


@njit(nogil=True, cache=True)
def _unpack(words, bits, values):  # type: ignore[no-untyped-def]
    """The largest value."""
    mask = (_ONE << bits) - _ONE
    largest, filled, at, held = _ZERO, _ZERO, 0, _ZERO
    for i in range(len(values)):
        value = held
        if filled < bits:
            following = words[at]
            at += 1
            value |= following << filled
            held = following >> (bits - filled)
            filled += _WORD - bits
        else:
            held >>= bits
            filled -= bits
        value &= mask
        largest = max(largest, value)
        values[i] = value
    return largest


def pack(values: Residues, bits: int) -> Words:
    """values: (n,) below 2^bits, n a multiple of 64 → (n / 64 · bits,) words."""
    words = np.empty(len(values) // 64 * bits, np.uint64)
    _pack(values, np.uint64(bits), words)
    return words


def unpack(data: bytes | memoryview, bits: int, values: Residues) -> int:
    """Fill `values`, as many as a multiple of 64, from bits/8 bytes each; returns the largest.

    1 ≤ bits < 64; data as long as its values take; the values' type holds so many bits.
    """
    words = np.frombuffer(data, "<u8", len(values) // 64 * bits)
    return int(_unpack(words, np.uint64(bits), values))
