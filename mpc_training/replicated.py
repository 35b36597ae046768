"""Three parties, honest majority, no dealer: replicated shares over Z/2^64.

Components and keys are those of `party`. F denotes words from a key, fresh for each operation.

**Products** (Araki et al. 2016, section 2). zᵢ = xᵢ(yᵢ + yᵢ₊₁) + xᵢ₊₁yᵢ is computed without a
message, the zᵢ sum up to xy, and a share of zero, F(kᵢ) − F(kᵢ₊₁), re-randomises them before any
leaves a party.

**Truncation** (`settle`) never fails; compare the local truncation of ABY3, section 5.1, which
wraps with probability |v|·2⁻⁶³ or so an element. With v + 2⁶² = c + z₂, where c = z₀ + z₁ is known
to parties 0 and 1, who send each other their re-randomised zᵢ, and r = −z₂ is known to party 2:

    (v + 2⁶²) >> m  =  (c >> m) − (r >> m) + u·2^(64−m),     u = r₆₃ (1 − c₆₃),     to within +1

u is whether c + … wrapped: for |v| < 2⁶² the sum v + 2⁶² + r passes 2⁶⁴ exactly if the top bit of r
is set and that of c is not. (The idea is that of Escudero et al. 2020, section 3.2 (edaBits), with
party 2 in the place of the preprocessing.) Only u·2^(64−m) is needed, so r₆₃ is shared modulo 2^m:
m ≤ 16 takes two bytes. Bytes an element, all parties: 16 + 8 + 3·2 (m ≤ 16) or + 3·4 (m ≤ 32); two
rounds. The result is ⌊v/2^m⌋ or that + 1, and v/2^m on average over the randomness.
**Failure probability: zero** for |v| < 2⁶²; beyond that the result means nothing (see `training`).

**Signs** (`negative`) read the low 32 bits: x = a + b with a = s₀ + s₁ known to party 0 and b = s₂
known to parties 1 and 2. Party 0 shares thermometers Tᵥ = [a′ ≥ v], v = 1…15, of each four bits a′
of 2a, additively between 1 and 2, who know b′ and so merely *pick* the shares of carry G = T₁₆₋b′
and carry-in-to-carry G ∨ P = T₁₅₋b′. These are re-shared, and a tree of three levels of AND gives
the carry into the sign bit: 24 bytes and 5 rounds, against 32 words in a Kogge-Stone adder on 64
bits.

**Bits to numbers** (`number`): t = b₀ ⊕ b₁ is known to party 0, who shares it additively between 1
and 2; they know b₂ and so compute t ⊕ b₂ = t + b₂ − 2tb₂ without a message, and re-share it: 24
bytes, 2 rounds.

Adversary: semi-honest, one party, no collusion. All that a party receives is uniform to it given
what it holds, except what `sharing.reveal` opens. Not detected: a party that deviates. It can
change results, and it can learn what it likes by that if something that depends on it is opened.
"""

import numpy as np
import numpy.typing as npt

from mpc_training.arithmetic import Arithmetic, Bits
from mpc_training.fixed_point import COMPARED_BITS, PRODUCT_BITS, encode
from mpc_training.party import Party
from mpc_training.randomness import Generator
from mpc_training.ring import Ring, matmul
from mpc_training.tensor import Kind, Part, Product, Tensor

_PUBLIC_BOUND = 2.0**40
_NIBBLES = COMPARED_BITS // 4
_ONE = np.uint64(1)
_TOP = np.uint64(63)
_BYTES = np.arange(256, dtype=np.uint32)
_THERMOMETERS = (
    (np.uint32(2) << (_BYTES & np.uint32(15))) - np.uint32(1)
    | ((np.uint32(2) << (_BYTES >> np.uint32(4))) - np.uint32(1)) << np.uint32(16)
).astype(np.uint32)
"""For each byte two words of 16 bits: bit v of a word is [nibble ≥ v]."""

Packed = npt.NDArray[np.uint8]


class Replicated(Arithmetic):
    """One party's side of the protocol. Every party calls the same methods in the same order."""

    def __init__(self, party: Party) -> None:
        self.party = party

    # ------------------------------------------------------------------ without a message

    def public(self, values: npt.ArrayLike, bits: int) -> Tensor:
        return self._in_component_zero(encode(values, bits, _PUBLIC_BOUND), bits)

    def _in_component_zero(self, value: Ring, bits: int) -> Tensor:
        zero = np.zeros_like(value)
        parts = ((value, zero), (zero, zero), (zero, value))[self.party.index]
        return Tensor(parts, bits)

    def lift(self, x: Kind, bits: int) -> Kind:
        shift = np.uint64(bits - x.bits)
        return type(x)(tuple(part << shift for part in x.parts), bits)

    def shrink(self, x: Kind, doublings: int) -> Kind:
        return type(x)(x.parts, x.bits + doublings)

    def times(self, x: Kind, factor: npt.ArrayLike, factor_bits: int) -> Kind:
        whole = encode(factor, factor_bits, _PUBLIC_BOUND)
        return type(x)(tuple(part * whole for part in x.parts), x.bits + factor_bits)

    def product(self, x: Tensor, y: Tensor) -> Product:
        (x0, x1), (y0, y1) = x.parts, y.parts
        return Product((x0 * (y0 + y1) + x1 * y0,), x.bits + y.bits)

    def matmul(self, x: Tensor, y: Tensor) -> Product:
        (x0, x1), (y0, y1) = x.parts, y.parts
        return Product((matmul(x0, y0 + y1) + matmul(x1, y0),), x.bits + y.bits)

    def plus(self, product: Product, x: Tensor) -> Product:
        return product + self.as_product(x)

    def as_product(self, x: Tensor) -> Product:
        return Product(x.parts[:1], x.bits)

    # ------------------------------------------------------------------ products

    def settle(self, product: Product, bits: int) -> Tensor:
        number = self.party.begin()
        z = np.ascontiguousarray(product.parts[0] + self._zero(number, product.shape))
        shift = product.bits - bits
        parts = self._truncate(number, z, shift) if shift else self._reshare(z)
        return Tensor(parts, bits)

    def _zero(self, number: int, shape: tuple[int, ...]) -> Ring:
        """A share of zero that only this party knows whole."""
        party = self.party
        zero: Ring = party.first.words(number, 0, shape) - party.second.words(number, 0, shape)
        return zero

    def _reshare(self, z: Part) -> tuple[Part, Part]:
        """Re-randomised additive shares → replicated ones: 8 bytes to the party before."""
        lacking = np.empty(z.shape, z.dtype)
        self.party.transport.exchange({self.party.previous: [z]}, {self.party.next: [lacking]})
        return z, lacking

    def _truncate(self, number: int, z: Ring, m: int) -> tuple[Ring, Ring]:
        """Additive shares of v → replicated shares of v >> m, as in the module's docstring.

        s₀ = F(k₀), s₂ = −(r >> m) − s₀ − (g₀ + g₁ + 2^(m−2))·2^(64−m), s₁ = (c >> m) + (u + g₀ +
        g₁)·2^(64−m) where r₆₃ = ρ₀ + ρ₁ and g₀, g₁ are modulo 2^m: g₀, ρ₀ from k₀, g₁ from k₂; ρ₁
        and s₂ are sent by 2 to 1; then 0 and 1 send each other (1 − c₆₃)ρ + g, which are their
        summands of u + g₀ + g₁.
        """
        party, shape = self.party, z.shape
        narrow = np.uint16 if m <= 16 else np.uint32 if m <= 32 else np.uint64
        up, down = np.uint64(64 - m), np.uint64(m)
        offset = np.uint64(1 << PRODUCT_BITS)
        exchange = party.transport.exchange
        if party.index == 2:
            s0, rho0, g0 = self._hidden(party.second, number, shape, narrow)
            g1 = party.first.words(number, 4, shape, narrow)
            r = np.uint64(0) - z
            rho1 = (r >> _TOP).astype(narrow) - rho0
            s2 = np.uint64(0) - (r >> down) - s0 - ((g0 + g1).astype(np.uint64) << up)
            s2 -= offset >> down
            exchange({1: [s2, rho1]}, {})
            exchange({}, {})
            return s2, s0
        other: Ring = np.empty(shape, np.uint64)
        if party.index == 0:
            s0, rho, g = self._hidden(party.first, number, shape, narrow)
            exchange({1: [z]}, {1: [other]})
        else:
            g = party.second.words(number, 4, shape, narrow)
            s2, rho = np.empty(shape, np.uint64), np.empty(shape, narrow)
            exchange({0: [z]}, {0: [other], 2: [s2, rho]})
        c = z + other
        c += offset
        ours = rho * ((c >> _TOP) ^ _ONE).astype(narrow) + g
        theirs = np.empty(shape, narrow)
        exchange({1 - party.index: [ours]}, {1 - party.index: [theirs]})
        s1 = (c >> down) + ((ours + theirs).astype(np.uint64) << up)
        return (s0, s1) if party.index == 0 else (s1, s2)

    @staticmethod
    def _hidden(
        key: Generator, number: int, shape: tuple[int, ...], narrow: type[np.unsignedinteger]
    ) -> tuple[Part, Part, Part]:
        """s₀, ρ₀, g₀ from k₀."""
        return (
            key.words(number, 1, shape),
            key.words(number, 2, shape, narrow),
            key.words(number, 3, shape, narrow),
        )

    # ------------------------------------------------------------------ bits

    def both(self, x: Bits, y: Bits) -> Bits:
        number = self.party.begin()
        (x0, x1), (y0, y1) = x.parts, y.parts
        z = np.ascontiguousarray((x0 & (y0 ^ y1)) ^ (x1 & y0))
        z ^= self.party.first.words(number, 0, z.shape, np.uint8)
        z ^= self.party.second.words(number, 0, z.shape, np.uint8)
        return Bits(self._reshare(z), x.count)

    def invert(self, x: Bits) -> Bits:
        """Component 0 alone is inverted."""
        x0, x1 = x.parts
        parts = ((~x0, x1), (x0, x1), (x0, ~x1))[self.party.index]
        return Bits(parts, x.count)

    def rows(self, x: Bits, count: int) -> Bits:
        return Bits(tuple(part.reshape(-1, count // 8) for part in x.parts), count)

    def negative(self, x: Tensor) -> Bits:
        party, number, count = self.party, self.party.begin(), x.size
        width = -(-count // 8)
        table, top = (4, count), (width,)
        if party.index == 0:
            a = (x.parts[0] + x.parts[1]).astype(np.uint32).reshape(-1)
            words = _THERMOMETERS[_byte_planes(a << np.uint32(1))]
            sign = np.packbits(a >> np.uint32(31) != 0)
            pad = party.first.words(number, 1, top, np.uint8)
            sign ^= pad
            words ^= party.first.words(number, 0, table, np.uint32)
            party.transport.exchange({1: [words, sign]}, {})
            signs = (pad, sign)
            picked = None
        else:
            b = x.parts[1 if party.index == 1 else 0].astype(np.uint32).reshape(-1)
            own = np.packbits(b >> np.uint32(31) != 0)
            if party.index == 1:
                words, sign = np.empty(table, np.uint32), np.empty(top, np.uint8)
                party.transport.exchange({}, {0: [words, sign]})
                signs = (sign, own)
            else:
                words = party.second.words(number, 0, table, np.uint32)
                party.transport.exchange({}, {})
                signs = (own, party.second.words(number, 1, top, np.uint8))
            picked = _picked(words, _byte_planes(b << np.uint32(1)))
        planes = self._reshare_pair(number, 2, picked, (2 * _NIBBLES, width), np.uint8)
        carry = self._carry(Bits(planes, count))
        return Bits(
            tuple(part ^ sign for part, sign in zip(carry.parts, signs, strict=True)), count
        )

    def _reshare_pair(
        self,
        number: int,
        lane: int,
        value: Part | None,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
    ) -> tuple[Part, Part]:
        """Values shared between parties 1 and 2, by ⊕ (bytes) or + (words) → replicated shares.

        s₁ = v₁ ∓ f′ and s₀ = v₂ ∓ f go to party 0, s₂ = f + f′ with f, f′ from k₂.
        """
        party = self.party
        if value is None:
            s0, s1 = np.empty(shape, dtype), np.empty(shape, dtype)
            party.transport.exchange({}, {1: [s1], 2: [s0]})
            return s0, s1
        key = party.second if party.index == 1 else party.first
        f, f_ = key.words(number, lane, shape, dtype), key.words(number, lane + 1, shape, dtype)
        pad = f_ if party.index == 1 else f
        binary = np.dtype(dtype) == np.uint8
        masked = value ^ pad if binary else value - pad
        party.transport.exchange({0: [masked]}, {})
        s2 = f ^ f_ if binary else f + f_
        return (masked, s2) if party.index == 1 else (s2, masked)

    def _carry(self, table: Bits) -> Bits:
        """Rows G₀ … G₇, then G ∨ P of the same blocks → the carry out of the highest block."""
        g, either = table[:_NIBBLES], table[_NIBBLES:]
        p = Bits(tuple(a ^ b for a, b in zip(g.parts, either.parts, strict=True)), table.count)
        while g.rows > 1:
            low, high = slice(0, None, 2), slice(1, None, 2)
            pairs = g.rows // 2
            left = Bits(tuple(np.concatenate((q[high], q[3::2])) for q in p.parts), g.count)
            parts = zip(g.parts, p.parts, strict=True)
            right = Bits(tuple(np.concatenate((q[low], r[2::2])) for q, r in parts), g.count)
            met = self.both(left, right)
            g = Bits(
                tuple(q[high] ^ w[:pairs] for q, w in zip(g.parts, met.parts, strict=True)), g.count
            )
            # The lowest block needs no P: nothing is carried into it.
            lowest = (np.zeros_like(part[:1]) for part in met.parts)
            p = Bits(
                tuple(
                    np.concatenate((none, w[pairs:]))
                    for none, w in zip(lowest, met.parts, strict=True)
                ),
                g.count,
            )
        return g[0]

    def number(self, x: Bits) -> Tensor:
        party, number = self.party, self.party.begin()
        shape = (*x.parts[0].shape[:-1], x.count)
        value: Ring | None = None
        if party.index == 0:
            known = np.bitwise_xor(*x.parts)
            t = _unpacked(known, x.count)
            party.transport.exchange({1: [t - party.first.words(number, 0, shape)]}, {})
        elif party.index == 1:
            t1: Ring = np.empty(shape, np.uint64)
            party.transport.exchange({}, {0: [t1]})
            value = _flipped(t1, _unpacked(x.parts[1], x.count)) + _unpacked(x.parts[1], x.count)
        else:
            party.transport.exchange({}, {})
            t2 = party.second.words(number, 0, shape)
            value = _flipped(t2, _unpacked(x.parts[0], x.count))
        return Tensor(self._reshare_pair(number, 1, value, shape, np.uint64), 0)


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


def _unpacked(x: Packed, count: int) -> Ring:
    return np.unpackbits(x, axis=-1, count=count).astype(np.uint64)


def _flipped(share: Ring, flip: Ring) -> Ring:
    """−share where flip is 1, else share."""
    return share * (_ONE - (flip << _ONE))
