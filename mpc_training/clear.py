"""The arithmetic on floating-point numbers: the definition that shared arithmetic is held
against."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mpc_training.arithmetic import Arithmetic, Bits, Choice
from mpc_training.tensor import Kind, Part, Product, Tensor


class Clear(Arithmetic):
    """float64, one part, no rounding. Fraction bits are carried along and mean nothing here."""

    def public(self, values: npt.ArrayLike, bits: int) -> Tensor:
        return Tensor((np.asarray(values, np.float64),), bits)

    def lift(self, x: Kind, bits: int) -> Kind:
        return type(x)(x.parts, bits)

    def shrink(self, x: Kind, doublings: int) -> Kind:
        return type(x)((np.ldexp(x.parts[0], -doublings),), x.bits + doublings)

    def times(self, x: Kind, factor: npt.ArrayLike, factor_bits: int) -> Kind:
        return type(x)((x.parts[0] * np.asarray(factor, np.float64),), x.bits + factor_bits)

    def product(self, x: Tensor, y: Tensor) -> Product:
        return Product((x.parts[0] * y.parts[0],), x.bits + y.bits)

    def matmul(self, x: Tensor, y: Tensor) -> Product:
        return Product((x.parts[0] @ y.parts[0],), x.bits + y.bits)

    def plus(self, product: Product, x: Tensor) -> Product:
        return product + self.as_product(x)

    def as_product(self, x: Tensor) -> Product:
        return Product(x.parts, x.bits)

    def settle(self, product: Product, bits: int) -> Tensor:
        return Tensor(product.parts, bits)

    def settle_low(self, product: Product, bits: int) -> Tensor:
        return self.settle(product, bits)

    def settle_and_compare(
        self, product: Product, bits: int, difference: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Bits]:
        x = self.settle(product, bits)
        return x, self.negative(difference(x))

    def negative(self, x: Tensor) -> Bits:
        return Bits(((x.parts[0] < 0).reshape(-1),), x.size)

    def invert(self, x: Bits) -> Bits:
        return Bits((~x.parts[0],), x.count)

    def rows(self, x: Bits, count: int) -> Bits:
        return Bits((x.parts[0].reshape(-1, count),), count)

    def every(self, x: Bits, leave: int = 1) -> Bits:
        table: Part = x.parts[0]
        if x.rows <= leave:
            return x
        rest: Part = np.logical_and.reduce(table[leave - 1 :], keepdims=True)
        return Bits((np.concatenate((table[: leave - 1], rest)),), x.count)

    def choice(self, x: Bits) -> Choice:
        return Choice(x, x.parts[0].astype(np.float64))

    def choose(self, choice: Choice, x: Tensor) -> Tensor:
        return Tensor((choice.dealt.reshape(x.shape) * x.parts[0],), x.bits)

    def number(self, choice: Choice) -> Tensor:
        return Tensor((choice.dealt,), 0)
