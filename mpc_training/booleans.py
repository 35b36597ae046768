"""Truth values in replicated ⊕ shares, eight to a byte: sums of products, signs, selection.

A bit b is Δ ⊕ λ, where Δ = s₁ is known to parties 0 and 1 and λ = s₂ ⊕ s₀ to the helper, half of
it to 0 and half to 1.

**Sums of products** (`combined`). A product of several bits is

    Π (Δᵢ ⊕ λᵢ)  =  ⊕ over subsets S of  Π_{i∉S} Δᵢ · Π_{i∈S} λᵢ

so with ⊕ shares of the products of λ, which the helper deals, parties 0 and 1 have it locally, and
send each other their halves behind fresh λ: one round for any number of factors, three bits for a
product of two, as in Araki et al. 2016, and six for one of three. (Multi-fan-in gates: Ohata and
Nuida 2020, section 3; Patra et al. 2021 (ABY2.0).)

**Signs** (`signs`) read the low 32 bits of x = a + b, where a = s₂ + s₀ is known to the helper and
b = s₁ to 0 and 1. The helper deals thermometers Tᵥ = [a′ ≥ v], v = 1…15, of each four bits a′ of 2a
to 0 and 1, who know b′ and so merely *pick* the shares of carry G = T₁₆₋b′ and carry-in-to-carry
G ∨ P = T₁₅₋b′. From these a tree of two levels, of three blocks each, gives the carry into the sign
bit: 24 bytes and 3 rounds, against 5 rounds and 32 words in an adder of Kogge and Stone.

**Selection** (`chosen`). b·x for a shared x = a + s, s = s₁, and b = β ⊕ t, β = Δ, t = λ:

    b·x  =  (1 − 2β)(ta + t·s) + β(a + s)

is linear in [t], which the helper deals once, and [ta]; a is shared already. One round, 24 bytes
and once 8: no bit is turned into a number first.
"""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from mpc_training.fixed_point import COMPARED_BITS
from mpc_training.party import Party, Rounds, side_by_side
from mpc_training.ring import Ring
from mpc_training.tensor import Part

Packed = npt.NDArray[np.uint8]
Halves = tuple[Packed, Packed]
Monomial = tuple[int, ...]
_NIBBLES = COMPARED_BITS // 4
_ONE = np.uint64(1)
_BYTES = np.arange(256, dtype=np.uint32)
_THERMOMETERS = (
    (np.uint32(2) << (_BYTES & np.uint32(15))) - np.uint32(1)
    | ((np.uint32(2) << (_BYTES >> np.uint32(4))) - np.uint32(1)) << np.uint32(16)
).astype(np.uint32)
"""For each byte two words of 16 bits: bit v of a word is [nibble ≥ v]."""


# ---------------------------------------------------------------------------- sums of products


def combined(
    party: Party, inputs: Sequence[Halves], outputs: Sequence[Sequence[Monomial]]
) -> Rounds[list[Halves]]:
    """For each output the ⊕ of its monomials, each a product of inputs by their places. All inputs
    have one shape, and so have the outputs."""
    number, shape = party.begin(), inputs[0][0].shape
    dealt = _dealt(outputs)
    table = (len(dealt), *shape)
    fresh = (len(outputs), *shape)
    if party.helps:
        products = np.empty(table, np.uint8)
        for place, subset in enumerate(dealt):
            products[place] = _product([inputs[i][0] ^ inputs[i][1] for i in subset])
        if dealt:
            party.give(products ^ party.words(0, number, 0, table, "u1"))
        s0, s2 = (party.words(k, number, 1, fresh, "u1") for k in (0, 2))
        yield []
        return list(zip(s2, s0, strict=True))
    key = 0 if party.index == 0 else 2
    if party.index == 0:
        shares = party.words(0, number, 0, table, "u1")
    else:
        shares = np.empty(table, np.uint8)
        if dealt:
            party.take(shares)
    delta = [pair[1 if party.index == 0 else 0] for pair in inputs]
    known: dict[Monomial, Packed] = dict(zip(dealt, shares, strict=True))
    known |= {(i,): pair[party.index] for i, pair in enumerate(inputs)}
    mask = party.words(key, number, 1, fresh, "u1")
    ours = np.array([_evaluated(party, output, delta, known) for output in outputs]) ^ mask
    (theirs,) = yield [ours]
    s1 = ours ^ theirs
    pairs = zip(mask, s1, strict=True) if party.index == 0 else zip(s1, mask, strict=True)
    return list(pairs)


def _dealt(outputs: Sequence[Sequence[Monomial]]) -> list[Monomial]:
    """Products of λ that monomials need and nobody but the helper can form."""
    monomials = chain.from_iterable(outputs)
    return sorted({s for m in monomials for s in _subsets(m) if len(s) > 1})


def _subsets(monomial: Monomial) -> list[Monomial]:
    places = sorted(monomial)
    return [s for size in range(len(places) + 1) for s in combinations(places, size)]


def _evaluated(
    party: Party,
    output: Sequence[Monomial],
    delta: Sequence[Packed],
    known: dict[Monomial, Packed],
) -> Packed:
    """This party's half of one output."""
    total: Packed = np.zeros_like(delta[0])
    for monomial in output:
        for subset in _subsets(monomial):
            factors = [delta[i] for i in monomial if i not in subset]
            if subset:
                factors.append(known[subset])
            elif party.index != 0:
                continue  # ΠΔ is known to both, and one of them adds it
            total ^= _product(factors)
    return total


def _product(factors: Sequence[Packed]) -> Packed:
    product = factors[0]
    for factor in factors[1:]:
        product = product & factor
    return product


# ---------------------------------------------------------------------------- signs


def signs(party: Party, x: tuple[Ring, Ring]) -> Rounds[Halves]:
    """The bits 31 of a shared array of any shape, as one packed row."""
    number, count = party.begin(), x[0].size
    width = -(-count // 8)
    table, top, planes = (4, count), (width,), (2 * _NIBBLES, width)
    if party.helps:
        a = (x[0] + x[1]).astype(np.uint32).reshape(-1)
        words = _THERMOMETERS[_byte_planes(a << np.uint32(1))]
        words ^= party.words(0, number, 0, table, "u4")
        pad = party.words(0, number, 1, top, "u1")
        sign = np.packbits(a >> np.uint32(31) != 0) ^ pad
        party.give(words, sign)
        high = (sign, pad)
        s0, s2 = (party.words(k, number, 2, planes, "u1") for k in (0, 2))
        yield []
        rows: Halves = (s2, s0)
    else:
        b = x[1 - party.index].astype(np.uint32).reshape(-1)
        own = np.packbits(b >> np.uint32(31) != 0)
        if party.index == 0:
            words = party.words(0, number, 0, table, "u4")
            high = (party.words(0, number, 1, top, "u1"), own)
        else:
            words, sign = np.empty(table, np.uint32), np.empty(top, np.uint8)
            party.take(words, sign)
            high = (own, sign)
        mask = party.words(2 * party.index, number, 2, planes, "u1")
        ours = _picked(words, _byte_planes(b << np.uint32(1))) ^ mask
        (theirs,) = yield [ours]
        s1 = ours ^ theirs
        rows = (mask, s1) if party.index == 0 else (s1, mask)
    carry = yield from _carry(party, rows)
    return carry[0] ^ high[0], carry[1] ^ high[1]


def _carry(party: Party, table: Halves) -> Rounds[Halves]:
    """Rows G₀ … G₇, then G ∨ P of the same blocks → the carry out of the highest block.

    Blocks 0 and 1, 2 to 4, and 5 to 7 first, then these three.
    """
    g = tuple(part[:_NIBBLES] for part in table)
    p = tuple(part[:_NIBBLES] ^ part[_NIBBLES:] for part in table)

    def rows(of: tuple[Packed, ...], index: int | slice) -> Halves:
        return of[0][index], of[1][index]

    upper = [rows(of, slice(start, None, 3)) for of in (g, p) for start in (2, 3, 4)]
    lower = [rows(g, 0), rows(g, 1), rows(p, 1)]
    (carries, passes), (low,) = yield from side_by_side(
        combined(party, upper, [[(2,), (5, 1), (5, 4, 0)], [(5, 4, 3)]]),
        combined(party, lower, [[(1,), (2, 0)]]),
    )
    last = [low, rows(carries, 0), rows(carries, 1), rows(passes, 0), rows(passes, 1)]
    (carry,) = yield from combined(party, last, [[(2,), (4, 1), (4, 3, 0)]])
    return carry


def _byte_planes(x: npt.NDArray[np.uint32]) -> Packed:
    """(n,) words → (4, n) bytes, the lowest first."""
    return np.ascontiguousarray(x.astype("<u4").view(np.uint8).reshape(-1, 4).T)


def _picked(words: npt.NDArray[np.uint32], at: Packed) -> Packed:
    """Shares of thermometers (4, n) and the nibbles b′ of bytes (4, n) → packed rows (16, ⌈n/8⌉).

    Rows: [a′ + b′ ≥ 16] for the eight nibbles, lowest first, then [a′ + b′ ≥ 15].
    """
    reach, carry = [], []
    for half in (0, 1):
        nibble = (at >> np.uint8(4) if half else at & np.uint8(15)).astype(np.uint16)
        word = (words >> np.uint32(16) if half else words).astype(np.uint16)
        word >>= np.uint16(15) - nibble
        reach.append(np.packbits((word & np.uint16(1)).astype(np.bool_), axis=-1))
        carry.append(np.packbits((word & np.uint16(2)).astype(np.bool_), axis=-1))
    rows = [np.stack(pair, axis=1).reshape(_NIBBLES, -1) for pair in (carry, reach)]
    return np.concatenate(rows)


# ---------------------------------------------------------------------------- selection


def dealt_bits(party: Party, bits: Halves, count: int) -> Part:
    """[t] for `chosen`: t itself at the helper, additive shares of it at 0 and 1; no round."""
    number = party.begin()
    shape = (*bits[0].shape[:-1], count)
    if party.helps:
        t = _unpacked(bits[0] ^ bits[1], count)
        party.give(t - party.words(0, number, 0, shape))
        return t
    if party.index == 0:
        return party.words(0, number, 0, shape)
    share = np.empty(shape, np.uint64)
    party.take(share)
    return share


def chosen(party: Party, bits: Halves, t: Part, x: tuple[Ring, Ring]) -> Rounds[tuple[Ring, Ring]]:
    """b·x elementwise. t: of `dealt_bits`; bits and t have as many elements as x, in its order."""
    number, shape, count = party.begin(), x[0].shape, t.shape[-1]
    t = t.reshape(shape)
    if party.helps:
        party.give(t * (x[0] + x[1]) - party.words(0, number, 0, shape))
        yield []
        return party.words(2, number, 1, shape), party.words(0, number, 1, shape)
    first = party.index == 0
    s, own = (x[1], x[0]) if first else (x[0], x[1])
    beta = _unpacked(bits[1 if first else 0], count).reshape(shape)
    if first:
        ta = party.words(0, number, 0, shape)
    else:
        ta = np.empty(shape, np.uint64)
        party.take(ta)
    ours = t * s
    ours += ta
    ours *= _ONE - (beta << _ONE)
    ours += beta * (own + s if first else own)
    mask = party.words(2 * party.index, number, 1, shape)
    ours -= mask
    (theirs,) = yield [ours]
    s1 = ours + theirs
    return (mask, s1) if first else (s1, mask)


def as_numbers(party: Party, bits: Halves, t: Part) -> Rounds[tuple[Ring, Ring]]:
    """Zeros and ones: b = (1 − 2β)t + β, behind fresh masks; one round, 16 bytes."""
    number, shape = party.begin(), t.shape
    if party.helps:
        yield []
        return party.words(2, number, 0, shape), party.words(0, number, 0, shape)
    first = party.index == 0
    beta = _unpacked(bits[1 if first else 0], shape[-1])
    mask = party.words(2 * party.index, number, 0, shape)
    ours = t * (_ONE - (beta << _ONE)) - mask
    if first:
        ours += beta
    (theirs,) = yield [ours]
    s1 = ours + theirs
    return (mask, s1) if first else (s1, mask)


def _unpacked(x: Packed, count: int) -> Ring:
    return np.unpackbits(x, axis=-1, count=count).astype(np.uint64)
