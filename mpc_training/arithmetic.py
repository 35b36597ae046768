"""What training asks of an arithmetic. `clear` is the definition, the other holds shares.

    x · y          product, matmul          → Product      exact
    Product        settle(bits)             → Tensor       rounds to `bits`, one ulp
    x < 0          negative                 → Bits
    Bits           every, invert            → Bits
    Bits           choice ─▸ choose(x)      → Tensor       x where the bit is 1, else 0
    public values  public, lift, times      → Tensor       without a message

The same training loop runs on each, so the one on floating-point numbers is its own oracle.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mpc_training.tensor import Kind, Part, Product, Tensor


@dataclass(frozen=True, eq=False)
class Bits:
    """Shared truth values: `count` of them packed into the last axis, eight to a byte.

    parts: uint8 of equal shape (…, ⌈count/8⌉) on shares; one boolean array (…, count) in the clear.
    """

    parts: tuple[Part, ...]
    count: int

    def __getitem__(self, index: Any) -> "Bits":
        """Along the axes before the last."""
        return Bits(tuple(part[index] for part in self.parts), self.count)

    @property
    def rows(self) -> int:
        """The length of the first axis."""
        return int(self.parts[0].shape[0])


@dataclass(frozen=True, eq=False)
class Choice:
    """Bits to choose by, as often as one likes. dealt: what prepares that, of shape (…, count)."""

    bits: Bits
    dealt: Part


class Arithmetic(ABC):
    """Operations on tensors; every party calls the same ones in the same order."""

    @abstractmethod
    def public(self, values: npt.ArrayLike, bits: int) -> Tensor:
        """A value that all know, rounded to `bits` fraction bits."""

    @abstractmethod
    def lift(self, x: Kind, bits: int) -> Kind:
        """The same value with more fraction bits; exact."""

    @abstractmethod
    def shrink(self, x: Kind, doublings: int) -> Kind:
        """x / 2^doublings, with as many fraction bits more; exact."""

    @abstractmethod
    def times(self, x: Kind, factor: npt.ArrayLike, factor_bits: int) -> Kind:
        """x times public numbers rounded to `factor_bits`; bits add up; exact after that."""

    @abstractmethod
    def product(self, x: Tensor, y: Tensor) -> Product:
        """Elementwise, with broadcasting; bits add up."""

    @abstractmethod
    def matmul(self, x: Tensor, y: Tensor) -> Product:
        """(m, k) × (k, n); bits add up."""

    @abstractmethod
    def plus(self, product: Product, x: Tensor) -> Product:
        """A product plus a value of the same bits, with broadcasting of the latter."""

    @abstractmethod
    def as_product(self, x: Tensor) -> Product:
        """A value as something that can be settled to fewer bits."""

    @abstractmethod
    def settle(self, product: Product, bits: int) -> Tensor:
        """A product with `bits` fraction bits, no more than it has; off by less than one ulp."""

    @abstractmethod
    def settle_low(self, product: Product, bits: int) -> Tensor:
        """As `settle`, in half the rounds, but right only modulo 2^(64 − dropped) ulp, where so
        many bits are dropped: a product with it must be lifted by as many before it is settled."""

    @abstractmethod
    def settle_and_compare(
        self, product: Product, bits: int, difference: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Bits]:
        """x, settled, and `difference`(x) < 0, in fewer rounds than one after the other.

        difference: linear, with integers.
        """

    @abstractmethod
    def negative(self, x: Tensor) -> Bits:
        """x < 0, elementwise over the flattened x; one row of bits of shape (⌈size/8⌉,)."""

    @abstractmethod
    def invert(self, x: Bits) -> Bits:
        """not x, elementwise."""

    @abstractmethod
    def rows(self, x: Bits, count: int) -> Bits:
        """One row of bits as a table of rows with `count` bits each, a multiple of 8."""

    @abstractmethod
    def every(self, x: Bits, leave: int = 1) -> Bits:
        """The conjunction of the rows of x, until at most `leave` rows are left."""

    @abstractmethod
    def choice(self, x: Bits) -> Choice:
        """Bits made ready to choose by; no round."""

    @abstractmethod
    def choose(self, choice: Choice, x: Tensor) -> Tensor:
        """x where the bit is 1, else 0; x has as many elements as there are bits. One round."""

    @abstractmethod
    def number(self, choice: Choice) -> Tensor:
        """Ones and zeros with 0 fraction bits, of shape (…, count)."""

    def multiply(self, x: Tensor, y: Tensor, bits: int) -> Tensor:
        """Elementwise, settled."""
        return self.settle(self.product(x, y), bits)

    def relu(self, x: Tensor | Product, bits: int) -> tuple[Tensor, Choice]:
        """max(x, 0), and where x ≥ 0. A product is settled to `bits` on the way."""
        if isinstance(x, Product):
            x, below = self.settle_and_compare(x, bits, lambda settled: settled)
        else:
            below = self.negative(x)
        choice = self.choice(self.invert(below))
        return self.choose(choice, x), choice


def join_bits(pieces: list[Bits]) -> Bits:
    """Rows below each other."""
    columns = zip(*(piece.parts for piece in pieces), strict=True)
    return Bits(tuple(np.concatenate(column) for column in columns), pieces[0].count)
