"""What every solver is given: the public shape of the problem, and the rows, prepared."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from private_models.accounting import Relation
from private_models.arithmetic import Arithmetic, Fold, FoldedChunk
from private_models.errors import OptionError
from private_models.features import Chunk, Rows, Transform
from private_models.noise import Array, RandomBits
from private_models.releases import LARGEST_LOGIT, Mechanism, Release

CACHE_BYTES = 3 << 27
"""Prepared rows up to this size, 400 MB, are kept between passes."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many steps are done, and how many there are."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Shape:
    """Public facts.

    Attributes:
        width: columns of a prepared row.
        classes: K.
        rows: how many rows there are, as given by the user, or published with noise.
        bound: L2 norm of a prepared row, at most.
        curvature: largest eigenvalue of E z·zᵀ, as far as public data tells; else bound².
        relation: between neighbours.
    """

    width: int
    classes: int
    rows: float
    bound: float
    curvature: float
    relation: Relation

    @property
    def parameters(self) -> int:
        return self.width * self.classes

    def sensitivity(self, one_row: float, orthogonal: bool = False) -> float:
        """Of a sum to which one row adds at most `one_row` in L2 norm.

        A replaced row takes one part away and adds another: twice as much, or √2 times as much
        where the two parts are never more than orthogonal (`orthogonal`): outer products z·zᵀ.
        """
        if self.relation == "add-remove":
            return one_row
        return one_row * (math.sqrt(2) if orthogonal else 2)


@dataclass(frozen=True)
class _Factors:
    """Of a chunk's rows: before (m,) and after (m,) they are centred; lengths (m,) of prepared
    rows."""

    before: Array
    after: Array
    lengths: Array


@dataclass
class Prepared:
    """The private rows through the transform; the only thing of them that solvers see.

    Prepared rows are kept between passes where they fit in memory. Of more rows only a few numbers
    each are kept, by which a gradient is made of the rows as they come (`FoldedChunk`), so that a
    pass costs two thin products a row and time is linear in their number.

    inner: a further transform by a number, made of what was published, after the first.
    """

    rows: Rows
    transform: Transform
    inner: Transform | None = None
    cache_bytes: int = CACHE_BYTES
    _kept: list[Chunk] | None = field(default=None, init=False)
    _factors: list[_Factors] | None = field(default=None, init=False)

    def chunks(self) -> Iterator[Chunk]:
        """Prepared rows (m, width) float64 and class indices (m,)."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Chunk] = []
        factors: list[_Factors] = []
        room = self.cache_bytes
        for rows, labels in self.rows.chunks():
            prepared, found = self._through_all(rows)
            room -= prepared.nbytes
            factors.append(found)
            if room >= 0:
                kept.append((prepared, labels))
            else:
                kept.clear()
            yield prepared, labels
        if room >= 0:
            self._kept = kept
        elif self._is_foldable:
            self._factors = factors

    def gradient(self, arithmetic: Arithmetic, weights: Array, clip_norm: float) -> Array:
        """Σ clip(∂ cross-entropy/∂W, clip_norm) over all rows: (width, K)."""
        if self._factors is None:
            return arithmetic.gradient(self.chunks(), weights, clip_norm)
        last = self.inner or self.transform
        fold = Fold(last.matrix, last.bias)
        return arithmetic.folded_gradient(self._folded(last.mean), fold, weights, clip_norm)

    def _folded(self, mean: Array) -> Iterator[FoldedChunk]:
        for (rows, labels), found in zip(self.rows.chunks(), self._factors or [], strict=True):
            if (found.before < 1).any():
                rows = rows * found.before[:, None]
            if mean.any():
                rows -= mean
            yield FoldedChunk(rows, labels, found.after, found.lengths)

    @property
    def _is_foldable(self) -> bool:
        """Whether one centring is all there is: none, or one by a number, before the inner one."""
        outer = self.transform
        return self.inner is None or (outer.matrix == 1.0 and not outer.mean.any())

    def _through_all(self, rows: Array) -> tuple[Array, _Factors]:
        prepared, before, after = self.transform.scaled(rows)
        last = self.transform
        if self.inner is not None:
            last = self.inner
            prepared, first, second = last.scaled(prepared)
            before, after = before * after * first, second
        whole = last.with_bias(prepared)
        return whole, _Factors(before, after, np.sqrt(np.vecdot(whole, whole)))

    def through(self, inner: Transform) -> "Prepared":
        """The same rows less the bias column through another transform, which appends its own.

        inner: its matrix is a number. What was kept of these is let go: they are not needed any
        more.
        """
        self._kept = self._factors = None
        return Prepared(self.rows, self.transform, inner, self.cache_bytes)


@dataclass(frozen=True)
class Task:
    """A problem in the hands of a solver."""

    shape: Shape
    prepared: Prepared
    arithmetic: Arithmetic
    mechanism: Mechanism
    bits: RandomBits
    progress: Progress = silent


class Solver(Protocol):
    """Public numbers that make a plan and carry it out."""

    def plan(self, shape: Shape, mu: float) -> tuple[Release, ...]:
        """All that `fit` will publish, with a total of at most `mu`."""

    def fit(self, task: Task) -> Array:
        """Weights (width, K) from what the mechanism publishes."""


def shares(mu: float, weights: list[float]) -> list[float]:
    """Noise multipliers of releases that have these shares of μ²."""
    total = math.fsum(weights)
    return [math.sqrt(total / weight) / mu for weight in weights]


def within_logit_bound(weights: Array, bound: float) -> Array:
    """Weights scaled back to ‖W‖·bound ≤ LARGEST_LOGIT, on which the rounding bound rests."""
    size = float(np.linalg.norm(weights)) * bound
    return weights if size <= LARGEST_LOGIT else weights * (LARGEST_LOGIT / size)


def check_count(name: str, value: int, most: int) -> None:
    """Raise `OptionError` for a count that is not from 1 to `most`."""
    if not 1 <= value <= most:
        raise OptionError(f"{name} {value}: expected 1 to {most}")


def check_positive(name: str, value: float) -> None:
    """Raise `OptionError` for what is not finite and over 0."""
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name} {value}: expected a number over 0")
