"""What every solver is given: the public shape of the problem, and the rows, prepared."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from private_models.accounting import Relation
from private_models.arithmetic import Arithmetic, ScaledChunk
from private_models.errors import OptionError
from private_models.features import Chunk, Rows
from private_models.noise import Array, RandomBits
from private_models.preparation import Transform, clip_factors
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


@dataclass
class Prepared:
    """The private rows through the transform; the only thing of them that solvers see.

    Prepared rows are kept between passes where they fit in memory. More are prepared anew in every
    pass, or, where that takes no more than centring and scaling, never formed for a gradient: it is
    made of the centred rows, by two thin products. Nothing of a row is remembered then, so that a
    sum is as sensitive as it should be even where a source does not repeat itself.

    inner: a further transform by a number, made of what was published, after the first.
    """

    rows: Rows
    transform: Transform
    inner: Transform | None = None
    cache_bytes: int = CACHE_BYTES
    _kept: list[Chunk] | None = field(default=None, init=False)
    _overflows: bool = field(default=False, init=False)

    def chunks(self) -> Iterator[Chunk]:
        """Prepared rows (m, width) float64 and class indices (m,)."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Chunk] = []
        room = self.cache_bytes
        for rows, labels in self.rows.chunks():
            prepared = self._through_all(rows)
            room -= prepared.nbytes
            if room >= 0:
                kept.append((prepared, labels))
            else:
                kept.clear()
            yield prepared, labels
        if room >= 0:
            self._kept = kept
        self._overflows = room < 0

    def gradient(self, arithmetic: Arithmetic, weights: Array, clip_norm: float) -> Array:
        """Σ clip(∂ cross-entropy/∂W, clip_norm) over all rows: (width, K)."""
        if self._overflows and self._is_scaling:
            last = self.inner or self.transform
            return arithmetic.scaled_gradient(self._scaled(), last.bias, weights, clip_norm)
        return arithmetic.gradient(self.chunks(), weights, clip_norm)

    @property
    def _is_scaling(self) -> bool:
        """Whether nothing but clipping comes before one centring, and rows are not turned."""
        outer = self.transform
        untouched = isinstance(outer.matrix, float) and outer.matrix == 1.0
        return untouched and not outer.mean.any() and outer.raw_norm == outer.norm

    def _scaled(self) -> Iterator[ScaledChunk]:
        for rows, labels in self.rows.chunks():
            factors = clip_factors(rows, self.transform.norm)
            if (factors < 1).any():
                rows *= factors[:, None]
            if self.inner is None:
                yield ScaledChunk(rows, labels, np.ones(len(labels)))
            else:
                yield ScaledChunk(rows, labels, self.inner.centre(rows))

    def _through_all(self, rows: Array) -> Array:
        prepared = self.transform(rows)
        if self.inner is None:
            return prepared
        return self.inner(prepared[:, :-1] if self.transform.bias else prepared)

    def through(self, inner: Transform) -> "Prepared":
        """The same rows less the bias column through another transform, which appends its own.

        inner: its matrix is a number. What was kept of these is let go: they are not needed any
        more.
        """
        self._kept = None
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
