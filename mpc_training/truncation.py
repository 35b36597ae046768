"""Additive shares z₀ + z₁ + z₂ = v of three parties → replicated shares of v >> m, never failing.

With v + 2⁶² = c + z₂, where c = z₀ + z₁ + 2⁶² is opened to parties 0 and 1, who send each other
their re-randomised zᵢ, and r = −z₂ is known to the helper:

    (v + 2⁶²) >> m  =  (c >> m) − (r >> m) + u·2^(64−m),     u = r₆₃ (1 − c₆₃),     to within +1

u is whether c wrapped: for |v| < 2⁶² the sum v + 2⁶² + r passes 2⁶⁴ exactly if the top bit of r is
set and that of c is not. (The idea is that of Escudero et al. 2020, section 3.2 (edaBits), with the
helper in the place of the preprocessing; compare the local truncation of ABY3, section 5.1, which
wraps with probability |v|·2⁻⁶³ or so an element.) Only u·2^(64−m) is needed, so r₆₃ is shared
modulo 2^m: m ≤ 16 takes two bytes.

    component   what it is                                                     known to
    s₀          F(k₀)                                                          2, 0
    s₂          −(r >> m) − s₀ − (g₀ + g₁)·2^(64−m) − 2^(62−m)                 2, and sent to 1
    s₁          (c >> m) + (u + g₀ + g₁)·2^(64−m)                              0, 1

with g₀ from k₀ and g₁ from k₂, modulo 2^m. The second term of s₁ is the *correction*: r₆₃ = ρ₀ + ρ₁
with ρ₀ from k₀ and ρ₁ sent to 1, and parties 0 and 1 send each other (1 − c₆₃)ρ + g. Without it,
after one round, the shares are right modulo 2^(64−m): enough to read low bits from, and to multiply
further where the product is then shifted left by m.

Bytes an element, all parties: 24 for the first round, 3·2 (m ≤ 16) or 3·4 (m ≤ 32) for the second.
The result is ⌊v/2^m⌋ or that + 1, and v/2^m on average over the randomness.
**Failure probability: zero** for |v| < 2⁶²; beyond that the result means nothing (see `training`).
"""

from dataclasses import dataclass

import numpy as np

from mpc_training.fixed_point import PRODUCT_BITS
from mpc_training.party import Party, Rounds
from mpc_training.ring import Ring
from mpc_training.tensor import Part

Parts = tuple[Ring, Ring]
_ONE = np.uint64(1)
_TOP = np.uint64(63)
_OFFSET = np.uint64(1 << PRODUCT_BITS)


@dataclass(frozen=True, eq=False)
class Shortened:
    """Shares that are right modulo 2^(64−m), and what the correction takes: c, ρ and g."""

    parts: Parts
    m: int
    c: Ring | None = None
    rho: Part | None = None
    g: Part | None = None


def truncated(party: Party, z: Ring, m: int) -> Rounds[Parts]:
    """v >> m, in two rounds; one for m = 0. z: this party's summand, re-randomised."""
    if m == 0:
        return (yield from opened(party, z))
    short = yield from shortened(party, z, m, final=False)
    return (yield from corrected(party, short))


def opened(party: Party, z: Ring) -> Rounds[Parts]:
    """Additive → replicated shares: s₀ = F(k₀), s₂ = z₂ − s₀, s₁ = z₀ + z₁; 24 bytes."""
    number = party.begin()
    s1: Ring
    if party.helps:
        s0 = party.words(0, number, 0, z.shape)
        s2 = z - s0
        party.give(s2)
        yield []
        return s2, s0
    (other,) = yield [z]
    s1 = z + other
    if party.index == 0:
        return party.words(0, number, 0, z.shape), s1
    s2 = np.empty(z.shape, np.uint64)
    party.take(s2)
    return s1, s2


def shortened(party: Party, z: Ring, m: int, *, final: bool) -> Rounds[Shortened]:
    """The first round. final: no correction will follow, so none is prepared."""
    number, shape, kind = party.begin(), z.shape, _narrow(m)
    up, down = np.uint64(64 - m), np.uint64(m)
    if party.helps:
        s0 = party.words(0, number, 0, shape)
        r = np.uint64(0) - z
        s2: Ring = np.uint64(0) - (r >> down) - s0 - (_OFFSET >> down)
        if final:
            party.give(s2)
        else:
            g = party.words(0, number, 2, shape, kind) + party.words(2, number, 0, shape, kind)
            s2 -= g.astype(np.uint64) << up
            party.give(s2, (r >> _TOP).astype(kind) - party.words(0, number, 1, shape, kind))
        yield []
        return Shortened((s2, s0), m)
    (other,) = yield [z]
    c = z + other
    c += _OFFSET
    s1 = c >> down
    rho: Part = np.empty((0 if final else shape), kind)
    if party.index == 0:
        parts = (party.words(0, number, 0, shape), s1)
        rho = rho if final else party.words(0, number, 1, shape, kind)
        g = rho if final else party.words(0, number, 2, shape, kind)
    else:
        s2 = np.empty(shape, np.uint64)
        party.take(*([s2] if final else [s2, rho]))
        parts = (s1, s2)
        g = rho if final else party.words(2, number, 0, shape, kind)
    return Shortened(parts, m, c, rho, g)


def corrected(party: Party, short: Shortened) -> Rounds[Parts]:
    """The second round."""
    if short.c is None or short.rho is None or short.g is None:
        yield []
        return short.parts
    ours = short.rho * ((short.c >> _TOP) ^ _ONE).astype(short.rho.dtype) + short.g
    (theirs,) = yield [ours]
    correction = (ours + theirs).astype(np.uint64) << np.uint64(64 - short.m)
    a, b = short.parts
    return (a, b + correction) if party.index == 0 else (a + correction, b)


def _narrow(m: int) -> type[np.unsignedinteger]:
    return np.uint16 if m <= 16 else np.uint32 if m <= 32 else np.uint64
