"""What a party holds of an array: one or more parts of equal shape, and their fraction bits.

Everything linear and public is done to each part alone, so it needs no message: additions, integer
factors, reshaping, gathering, summing. A `Tensor` is a shared value (or, in the clear, the value);
a `Product` is what a multiplication leaves, which must be settled by its arithmetic before it can
be multiplied again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

Part = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Linear:
    """Parts of equal shape, and the fraction bits of the number that they make up."""

    parts: tuple[Part, ...]
    bits: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    @property
    def size(self) -> int:
        return self.parts[0].size

    def map(self, change: Callable[[Part], Part]) -> Self:
        """Apply a linear map without rounding to each part."""
        return type(self)(tuple(change(part) for part in self.parts), self.bits)

    def reshape(self, *shape: int) -> Self:
        return self.map(lambda part: part.reshape(shape))

    def __getitem__(self, index: Any) -> Self:
        return self.map(lambda part: part[index])

    @property
    def T(self) -> Self:
        return self.map(lambda part: part.T)

    def sum(self, axis: int | tuple[int, ...], keepdims: bool = False) -> Self:
        return self.map(lambda part: part.sum(axis=axis, keepdims=keepdims))

    def __add__(self, other: Self) -> Self:
        pairs = zip(self.parts, self._same(other).parts, strict=True)
        return type(self)(tuple(mine + theirs for mine, theirs in pairs), self.bits)

    def __sub__(self, other: Self) -> Self:
        pairs = zip(self.parts, self._same(other).parts, strict=True)
        return type(self)(tuple(mine - theirs for mine, theirs in pairs), self.bits)

    def _same(self, other: Self) -> Self:
        if other.bits != self.bits:
            raise ValueError(f"{self.bits} fraction bits and {other.bits}: lift one of them")
        return other


class Tensor(Linear):
    """A shared value."""


class Product(Linear):
    """What a multiplication leaves, to be settled."""


Kind = TypeVar("Kind", bound=Linear)


def join(pieces: Sequence[Kind], axis: int = 0) -> Kind:
    """Pieces of equal bits, one after the other along an axis."""
    first = pieces[0]
    for piece in pieces[1:]:
        first._same(piece)
    columns = zip(*(piece.parts for piece in pieces), strict=True)
    return type(first)(tuple(np.concatenate(column, axis) for column in columns), first.bits)
