"""The polynomials that SEAL draws from a seed, drawn without SEAL: public data, bit for bit.

A seeded ciphertext carries 64 bytes in place of its second polynomial. SEAL 4 draws that from the
concatenated 4096-byte outputs of BLAKE2Xb (Aumasson et al., "BLAKE2X", 2016) over the counters
0, 1, 2 … as 8-byte little-endian messages, keyed with the seed (randomgen.cpp), read as uint64 and
reduced modulo each prime in turn (`sample_poly_uniform`, rlwe.cpp). A word within one multiple of
2⁶⁴ modulo the prime is not used: in its place comes the next word of the stream that no polynomial
has had.

One BLAKE2Xb output is a root digest h of the counter, then 64 digests of h that differ in their
parameters alone, so that they are computed side by side, as many at once as a vector holds.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from he_inference.cost import SEED_BYTES
from he_inference.machine_code import njit

Words = npt.NDArray[np.uint64]
Residues = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]

WORDS = 512
"""Of one output of BLAKE2Xb: 4096 bytes."""
SMALLEST_PRIME = 1 << 13
LARGEST_PRIME = 1 << 61
"""Between these the quotient of `_reduce` is off by one at most."""

_LEAVES = 64
_ROOTS = 16
_HEAD = 8 * _ROOTS
_U = np.uint64
_ZERO, _ONE, _ALL = _U(0), _U(1), _U(2**64 - 1)
_16, _24, _32, _40, _48, _63 = (_U(n) for n in (16, 24, 32, 40, 48, 63))
_IV0, _IV1, _IV2, _IV3, _IV4, _IV5, _IV6, _IV7 = (
    _U(0x6A09E667F3BCC908), _U(0xBB67AE8584CAA73B), _U(0x3C6EF372FE94F82B), _U(0xA54FF53A5F1D36F1),
    _U(0x510E527FADE682D1), _U(0x9B05688C2B3E6C1F), _U(0x1F83D9ABFB41BD6B), _U(0x5BE0CD19137E2179),
)  # fmt: skip
# Parameter blocks (BLAKE2X, section 2): lengths of digest and key, fanout and depth, leaf length;
# node offset, output length; node depth, inner length.
_ROOT0, _ROOT1 = _IV0 ^ _U(0x01_01_40_40), _IV1 ^ _U(4096 << 32)
_LEAF0, _LEAF1, _LEAF2 = _IV0 ^ _U(64 << 32 | 64), _IV1 ^ _U(4096 << 32), _IV2 ^ _U(64 << 8)
_KEY_BYTES, _ROOT_BYTES, _LEAF_BYTES = _U(128), _U(136), _U(64)


@njit(forceinline=True)
def _mix(a, b, c, d, x, y):  # type: ignore[no-untyped-def]
    """G of BLAKE2b (RFC 7693, section 3.1)."""
    a = a + b + x
    d = d ^ a
    d = (d >> _32) | (d << _32)
    c = c + d
    b = b ^ c
    b = (b >> _24) | (b << _40)
    a = a + b + y
    d = d ^ a
    d = (d >> _16) | (d << _48)
    c = c + d
    b = b ^ c
    b = (b >> _63) | (b << _ONE)
    return a, b, c, d


@njit(forceinline=True)
def _round(v, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, ma, mb, mc, md, me, mf):  # type: ignore[no-untyped-def]
    v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, va, vb, vc, vd, ve, vf = v
    v0, v4, v8, vc = _mix(v0, v4, v8, vc, m0, m1)
    v1, v5, v9, vd = _mix(v1, v5, v9, vd, m2, m3)
    v2, v6, va, ve = _mix(v2, v6, va, ve, m4, m5)
    v3, v7, vb, vf = _mix(v3, v7, vb, vf, m6, m7)
    v0, v5, va, vf = _mix(v0, v5, va, vf, m8, m9)
    v1, v6, vb, vc = _mix(v1, v6, vb, vc, ma, mb)
    v2, v7, v8, vd = _mix(v2, v7, v8, vd, mc, md)
    v3, v4, v9, ve = _mix(v3, v4, v9, ve, me, mf)
    return v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, va, vb, vc, vd, ve, vf


@njit(forceinline=True)
def _compress(h, m, length, last):  # type: ignore[no-untyped-def]
    """F of BLAKE2b (RFC 7693, section 3.2) on a block whose upper half is zero.

    h, m: 8 words each. length: bytes hashed so far. last: all ones in a last block, else zero.
    """
    a, b, c, d, e, f, g, i = m
    z = _ZERO
    v = (
        h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7],
        _IV0, _IV1, _IV2, _IV3, _IV4 ^ length, _IV5, _IV6 ^ last, _IV7,
    )  # fmt: skip
    v = _round(v, a, b, c, d, e, f, g, i, z, z, z, z, z, z, z, z)
    v = _round(v, z, z, e, z, z, z, z, g, b, z, a, c, z, i, f, d)
    v = _round(v, z, z, z, a, f, c, z, z, z, z, d, g, i, b, z, e)
    v = _round(v, i, z, d, b, z, z, z, z, c, g, f, z, e, a, z, z)
    v = _round(v, z, a, f, i, c, e, z, z, z, b, z, z, g, z, d, z)
    v = _round(v, c, z, g, z, a, z, z, d, e, z, i, f, z, z, b, z)
    v = _round(v, z, f, b, z, z, z, e, z, a, i, g, d, z, c, z, z)
    v = _round(v, z, z, i, z, z, b, d, z, f, a, z, e, z, g, c, z)
    v = _round(v, g, z, z, z, z, d, a, z, z, c, z, i, b, e, z, f)
    v = _round(v, z, c, z, e, i, g, b, f, z, z, z, z, d, z, z, a)
    v = _round(v, a, b, c, d, e, f, g, i, z, z, z, z, z, z, z, z)
    v = _round(v, z, z, e, z, z, z, z, g, b, z, a, c, z, i, f, d)
    return (
        h[0] ^ v[0] ^ v[8], h[1] ^ v[1] ^ v[9], h[2] ^ v[2] ^ v[10], h[3] ^ v[3] ^ v[11],
        h[4] ^ v[4] ^ v[12], h[5] ^ v[5] ^ v[13], h[6] ^ v[6] ^ v[14], h[7] ^ v[7] ^ v[15],
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _roots(keyed, first, digests):  # type: ignore[no-untyped-def]
    """Root digests of 16 counters from `first` on; digests: (8 · 16,), word-major."""
    h = (keyed[0], keyed[1], keyed[2], keyed[3], keyed[4], keyed[5], keyed[6], keyed[7])
    z = _ZERO
    for lane in range(_ROOTS):
        m = (first + _U(lane), z, z, z, z, z, z, z)
        d = _compress(h, m, _ROOT_BYTES, _ALL)
        for word in range(8):
            digests[word * _ROOTS + lane] = d[word]


@njit(nogil=True, cache=True)
def _leaves(digests, lane, words):  # type: ignore[no-untyped-def]
    """The output that grows from one root digest; words: (8 · 64,), word-major."""
    m = (
        digests[lane], digests[_ROOTS + lane], digests[2 * _ROOTS + lane],
        digests[3 * _ROOTS + lane], digests[4 * _ROOTS + lane], digests[5 * _ROOTS + lane],
        digests[6 * _ROOTS + lane], digests[7 * _ROOTS + lane],
    )  # fmt: skip
    for leaf in range(_LEAVES):
        h = (_LEAF0, _LEAF1 ^ _U(leaf), _LEAF2, _IV3, _IV4, _IV5, _IV6, _IV7)
        d = _compress(h, m, _LEAF_BYTES, _ALL)
        for word in range(8):
            words[word * _LEAVES + leaf] = d[word]


@njit(forceinline=True)
def _reduced(word, prime, inverse):  # type: ignore[no-untyped-def]
    """word mod prime.

    The float64 quotient is off by less than 2⁶⁴ / prime · 3 · 2⁻⁵³ before it is rounded down, so by
    at most one after, for primes from `SMALLEST_PRIME` on.
    """
    quotient = np.uint64(np.int64(np.float64(word) * inverse))
    rest = np.int64(word - quotient * np.uint64(prime))
    rest += prime if rest < 0 else 0
    rest -= prime if rest >= prime else 0
    return rest


@njit(forceinline=True)
def _limit(prime):  # type: ignore[no-untyped-def]
    """Words from this on are not used: SEAL's `max_multiple`."""
    return _ALL - _ALL % prime - _ONE


@njit(nogil=True, cache=True)
def _key_block(seed):  # type: ignore[no-untyped-def]
    """The state after the block that holds the key, the same for every counter."""
    h = (_ROOT0, _ROOT1, _IV2, _IV3, _IV4, _IV5, _IV6, _IV7)
    m = (seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], seed[7])
    return _compress(h, m, _KEY_BYTES, _ZERO)


@njit(nogil=True, cache=True)
def _reduce_chunk(words, prime, chunk):  # type: ignore[no-untyped-def]
    """Word-major words into a chunk of residues in order; whether all could be used."""
    signed, inverse, limit = np.int64(prime), 1.0 / np.float64(prime), _limit(prime)
    refused = 0
    for at in range(WORDS):
        refused += words[at] >= limit
        words[at] = _reduced(words[at], signed, inverse)
    for leaf in range(_LEAVES):
        for word in range(8):
            chunk[8 * leaf + word] = words[word * _LEAVES + leaf]
    return refused == 0


@njit(nogil=True, cache=True)
def _draw(seed, primes, residues):  # type: ignore[no-untyped-def]
    """All words by their first draw; whether all could be used."""
    keyed = _key_block(seed)
    digests, words = np.empty(8 * _ROOTS, np.uint64), np.empty(WORDS, np.uint64)
    chunks = residues.shape[1] // WORDS
    usable = True
    for counter in range(chunks * len(primes)):
        if counter % _ROOTS == 0:
            _roots(keyed, np.uint64(counter), digests)
        _leaves(digests, counter % _ROOTS, words)
        row, chunk = divmod(counter, chunks)
        target = residues[row, chunk * WORDS : (chunk + 1) * WORDS]
        usable &= _reduce_chunk(words, primes[row], target)
    return usable


@njit(nogil=True, cache=True)
def _stream(keyed, counter, words):  # type: ignore[no-untyped-def]
    """One output of BLAKE2Xb, its words in order."""
    digests, grown = np.empty(8 * _ROOTS, np.uint64), np.empty(WORDS, np.uint64)
    _roots(keyed, np.uint64(counter), digests)
    _leaves(digests, 0, grown)
    for at in range(WORDS):
        words[at] = grown[at % 8 * _LEAVES + at // 8]


@njit(nogil=True, cache=True)
def _redraw(seed, primes, residues):  # type: ignore[no-untyped-def]
    """As SEAL does it, word by word: replacements come from behind the last polynomial."""
    keyed = _key_block(seed)
    words, spare = np.empty(WORDS, np.uint64), np.empty(WORDS, np.uint64)
    chunks = residues.shape[1] // WORDS
    following, used = chunks * len(primes), WORDS
    for counter in range(chunks * len(primes)):
        _stream(keyed, counter, words)
        row, chunk = divmod(counter, chunks)
        for at in range(WORDS):
            word = words[at]
            while word >= _limit(primes[row]):
                if used == WORDS:
                    _stream(keyed, following, spare)
                    following, used = following + 1, 0
                word, used = spare[used], used + 1
            residues[row, chunk * WORDS + at] = word % primes[row]


def expand(seed: bytes | memoryview, primes: Sequence[int], residues: Residues) -> None:
    """Fill `residues` with what SEAL draws from a seed; Python's lock is free meanwhile.

    seed: 64 bytes. primes: each from 2¹³ to 2⁶¹, and below the range of the array's type.
    residues: (primes, N) uint32 or uint64, each row contiguous, N a multiple of 512; overwritten.
    Nothing here is checked: `batch_wire` has measured all of it.
    """
    words = np.frombuffer(seed, "<u8", SEED_BYTES // 8)
    moduli = np.array(primes, np.uint64)
    if not _draw(words, moduli, residues):
        _redraw(words, moduli, residues)
