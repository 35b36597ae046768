"""Three parties, honest majority: replicated shares over Z/2^64 (Araki et al. 2016; ABY3).

Components, keys and the helper are those of `party`; F denotes words from a key, fresh for each
operation. With a third party that holds data this needs no dealer; with one that holds none, the
third party *is* the dealer of two-party training.

**Products** (Araki et al. 2016, section 2). zᵢ = xᵢ(yᵢ + yᵢ₊₁) + xᵢ₊₁yᵢ is computed without a
message, the zᵢ sum up to xy, and a share of zero, F(kᵢ) − F(kᵢ₊₁), re-randomises them before any
leaves a party. What is linear in products, such as sums over windows, is done to them before they
are truncated, so that as little as possible crosses.

**Truncation** is in `truncation`, **signs, selection and conjunctions** are in `booleans`.

Adversary: semi-honest, one party, no collusion. All that party 0 or 1 receives is uniform to it
given what it holds, except what `sharing.reveal` opens; the helper receives nothing at all. Not
detected: a party that deviates. It can change results, and it can learn what it likes by that if
something that depends on it is opened.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mpc_training import booleans
from mpc_training.arithmetic import Arithmetic, Bits, Choice, join_bits
from mpc_training.fixed_point import COMPARED_BITS, encode
from mpc_training.party import PARTIES, Party, Rounds, side_by_side
from mpc_training.ring import Ring, matmul
from mpc_training.tensor import Kind, Product, Tensor
from mpc_training.truncation import corrected, shortened, truncated

_PUBLIC_BOUND = 2.0**40
_FAN_IN = 4
Parts = tuple[Ring, Ring]


class Replicated(Arithmetic):
    """One party's side of the protocol. Every party calls the same methods in the same order."""

    def __init__(self, party: Party) -> None:
        self.party = party

    # ------------------------------------------------------------------ without a message

    def public(self, values: npt.ArrayLike, bits: int) -> Tensor:
        value = encode(values, bits, _PUBLIC_BOUND)
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
        z = self._re_randomised(product)
        return Tensor(self.party.run(truncated(self.party, z, product.bits - bits)), bits)

    def settle_low(self, product: Product, bits: int) -> Tensor:
        z = self._re_randomised(product)
        short = self.party.run(shortened(self.party, z, product.bits - bits, final=True))
        return Tensor(short.parts, bits)

    def settle_and_compare(
        self, product: Product, bits: int, difference: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Bits]:
        return self.party.run(self._settled_and_compared(product, bits, difference))

    def _settled_and_compared(
        self, product: Product, bits: int, difference: Callable[[Tensor], Tensor]
    ) -> Rounds[tuple[Tensor, Bits]]:
        """Signs are read from shares that lack the correction, which is made beside them."""
        z, m = self._re_randomised(product), product.bits - bits
        if not 0 < m <= 64 - COMPARED_BITS:
            settled = Tensor((yield from truncated(self.party, z, m)), bits)
            x = difference(settled)
            return settled, Bits((yield from booleans.signs(self.party, _pair(x))), x.size)
        short = yield from shortened(self.party, z, m, final=False)
        x = difference(Tensor(short.parts, bits))
        parts, halves = yield from side_by_side(
            corrected(self.party, short), booleans.signs(self.party, _pair(x))
        )
        return Tensor(parts, bits), Bits(halves, x.size)

    def _re_randomised(self, product: Product) -> Ring:
        """Plus a share of zero that only this party knows whole."""
        party, number, shape = self.party, self.party.begin(), product.shape
        z: Ring = product.parts[0] + party.words(party.index, number, 0, shape)
        z -= party.words((party.index + 1) % PARTIES, number, 0, shape)
        return z

    # ------------------------------------------------------------------ bits

    def negative(self, x: Tensor) -> Bits:
        return Bits(self.party.run(booleans.signs(self.party, _pair(x))), x.size)

    def invert(self, x: Bits) -> Bits:
        """Component 0 alone is inverted."""
        x0, x1 = x.parts
        parts = ((~x0, x1), (x0, x1), (x0, ~x1))[self.party.index]
        return Bits(parts, x.count)

    def rows(self, x: Bits, count: int) -> Bits:
        return Bits(tuple(part.reshape(-1, count // 8) for part in x.parts), count)

    def every(self, x: Bits, leave: int = 1) -> Bits:
        while x.rows > leave:
            factors = min(_FAN_IN, x.rows)
            groups = x.rows // factors
            tables = [x[k : factors * groups : factors] for k in range(factors)]
            halves = [(table.parts[0], table.parts[1]) for table in tables]
            product = [[tuple(range(factors))]]
            (met,) = self.party.run(booleans.combined(self.party, halves, product))
            x = join_bits([Bits(met, x.count), x[factors * groups :]])
        return x

    def choice(self, x: Bits) -> Choice:
        halves = x.parts[0], x.parts[1]
        return Choice(x, booleans.dealt_bits(self.party, halves, x.count))

    def choose(self, choice: Choice, x: Tensor) -> Tensor:
        bits = choice.bits.parts
        operation = booleans.chosen(self.party, (bits[0], bits[1]), choice.dealt, _pair(x))
        return Tensor(self.party.run(operation), x.bits)

    def number(self, choice: Choice) -> Tensor:
        bits = choice.bits.parts
        operation = booleans.as_numbers(self.party, (bits[0], bits[1]), choice.dealt)
        return Tensor(self.party.run(operation), 0)


def _pair(x: Tensor) -> Parts:
    return x.parts[0], x.parts[1]
