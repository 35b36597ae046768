"""Rows prepared by public means, so that every one has a bounded norm.

    Rows ─Transform─▸ chunks (m, width) float64, every row's norm ≤ norm bound

A `Transform` is public: it is made from options and public features alone, never from the private
rows. It is linear but for one thing, the clipping of rows that are too long.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from private_models.errors import InputError
from private_models.features import check_matrix, check_values
from private_models.noise import Array
from private_models.releases import UNIT_ROUNDOFF

SAMPLE = 2048
"""Public rows, at most, by which a typical length is judged."""


@dataclass(frozen=True)
class Transform:
    """z = clip((clip(x, raw_norm) − mean)·matrix, norm), then a constant column `bias`.

    Attributes:
        mean: (d,) float64.
        matrix: (d, r) float64, or one number for that multiple of the identity.
        gain: spectral norm of the matrix, at most.
        norm: rows are scaled down to this L2 norm, before the bias is appended.
        bias: value of the last column, 0 for none.
        raw_norm: rows are scaled down to this one before anything else.
        curvature: largest eigenvalue of E z·zᵀ over prepared public rows; bound² without any.
        scale: by which a typical row is scaled by `norm`, from public features; 1 without.
        origin: in words for a statement.
        given: error (L2) of a row as it comes, at most: what a public layer before this one rounds.
        block: terms of a product that are summed before they are added to the others: the fewer,
            the less is rounded, and the longer it takes. None for all at once.
    """

    mean: Array
    matrix: Array | float
    gain: float
    norm: float
    bias: float
    raw_norm: float
    curvature: float
    scale: float
    origin: str
    given: float = 0.0
    block: int | None = None

    @property
    def width(self) -> int:
        """Columns of a prepared row, the bias included."""
        inner = len(self.mean) if isinstance(self.matrix, float) else self.matrix.shape[1]
        return int(inner) + (self.bias != 0)

    @property
    def bound(self) -> float:
        """L2 norm of a prepared row, at most."""
        return math.hypot(self.norm, self.bias)

    @property
    def rounding(self) -> float:
        """Error of a prepared row relative to `bound`, at most (see `releases`).

        Products are sums of d terms, or of d/block sums of `block`, squared lengths of d, added in
        an order that may depend on where a row stands among others. A clip factor is off by half as
        much as the squared length; centring is off by a few units of what is centred, and so is
        turning by a number. What rows are off already grows with the gain: clipping brings no two
        rows further apart.
        """
        spread = self.gain * (self.raw_norm + float(np.linalg.norm(self.mean))) / self.bound
        turning = 8 if isinstance(self.matrix, float) else self._depth + 8
        lengths = (len(self.mean) + self.width) / 2 + 16
        return UNIT_ROUNDOFF * (turning * spread + lengths) + self.gain * self.given / self.bound

    def linear(self, features: Array) -> Array:
        """Prepared without clipping, (m, d) → (m, width): what prediction sees."""
        return self._with_bias(self._turned(features - self.mean) * self.scale)

    @property
    def _depth(self) -> int:
        """Additions on the way of a term through a product, at most."""
        terms = len(self.mean)
        return terms if self.block is None else min(terms, self.block) + -(-terms // self.block)

    def __call__(self, features: Array) -> Array:
        """Prepared, (m, d) → (m, width) float64, every norm at most `bound`."""
        factors = clip_factors(features, self.raw_norm)
        if (factors < 1).any():  # first of all, so that no product leaves the range of floats
            features = features * factors[:, None]
        inner = self._turned(features)
        if self.mean.any():
            inner -= self._turned_mean
        inner *= clip_factors(inner, self.norm)[:, None]
        return self._with_bias(inner)

    def centre(self, rows: Array) -> Array:
        """For a matrix that is a number: centres rows (m, d), at most `raw_norm` long, in place,
        and returns the factors (m,) that make prepared ones of them, less the bias column."""
        gain = float(self._turned(np.ones(1))[0])
        rows -= self.mean
        return gain * clip_factors(rows, self.norm / gain)

    @cached_property
    def _turned_mean(self) -> Array:
        return self._turned(self.mean)

    def _turned(self, rows: Array) -> Array:
        if isinstance(self.matrix, float):
            return rows * self.matrix
        if self.block is None or rows.ndim == 1:
            return rows @ self.matrix
        total = np.zeros((len(rows), self.matrix.shape[1]))
        for start in range(0, len(self.mean), self.block):
            part = slice(start, start + self.block)
            total += rows[:, part] @ self.matrix[part]
        return total

    def _with_bias(self, inner: Array) -> Array:
        if not self.bias:
            return inner
        return np.concatenate([inner, np.full((len(inner), 1), self.bias)], axis=1)

    def fold(self, weights: Array) -> tuple[Array, Array]:
        """Weights (width, K) for prepared rows → (d, K) and (K,) for rows as they come."""
        constant = self.bias * weights[-1] if self.bias else np.zeros(weights.shape[1])
        inner = (weights[:-1] if self.bias else weights) * self.scale
        outer = inner * self.matrix if isinstance(self.matrix, float) else self.matrix @ inner
        return outer, constant - self.mean @ outer


def clip_factors(rows: Array, norm: float) -> Array:
    """(m,) factors, at most 1, that scale rows down to an L2 norm of at most `norm`."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.minimum(1.0, norm / np.sqrt(np.vecdot(rows, rows))))


def clip_rows(rows: Array, norm: float) -> Array:
    """Rows scaled down to an L2 norm of at most `norm`; shorter ones are left alone."""
    return np.asarray(rows * clip_factors(rows, norm)[:, None])


def clipping(width: int, norm: float, bias: float) -> Transform:
    """The identity but for clipping at `norm`; nothing is learnt from anything."""
    origin = f"clipped to norm {norm:g}"
    square = norm**2 + bias**2
    return Transform(np.zeros(width), 1.0, 1.0, norm, bias, norm, square, 1.0, origin)


@dataclass(frozen=True)
class PublicMoments:
    """Mean and principal directions of public features, (m, d), largest variance first.

    Attributes:
        mean: (d,). variances: (d,). axes: (d, d), a direction a column. sample: (≤ SAMPLE, d),
        evenly spaced rows, centred. longest: the largest norm of a row. rows: m.
    """

    mean: Array
    variances: Array
    axes: Array
    sample: Array
    longest: float
    rows: int


def public_moments(public: npt.ArrayLike) -> PublicMoments:
    """Of at least two rows that are not all equal. Raises `InputError`."""
    checked = check_values(check_matrix(public, "public features"), name="public features")
    if len(checked) < 2:
        raise InputError("public features: 1 row, expected at least 2 to have a covariance")
    mean = checked.mean(axis=0)
    centred = checked - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    if not variances[-1] > 0:
        raise InputError("public features: all rows are equal, and have no directions")
    axes = axes[:, ::-1]
    longest = float(np.sqrt(np.vecdot(checked, checked)).max())
    sample = centred[:: -(-len(centred) // SAMPLE)]
    return PublicMoments(mean, variances[::-1].clip(0), axes, sample, longest, len(checked))


def whitening(
    moments: PublicMoments, norm: float, directions: int, ridge: float, given: float = 0.0,
    block: int | None = None,
) -> Transform:  # fmt: skip
    """Public mean and covariance; costs no budget.

    Rows are centred, turned to the principal directions, of which the largest are kept, divided by
    √(variance + ridge·mean variance), and scaled so that the median of sampled public rows has norm
    `norm`; longer ones are clipped. The bias column is as large as a typical entry in the largest
    direction.

    directions: how many are kept, at most all. ridge: relative to the mean variance, over 0.
    given, block: as of `Transform`. Raises `InputError` for public rows most of which are equal.
    """
    kept = min(directions, len(moments.mean))
    variances = moments.variances[:kept]
    scales = 1 / np.sqrt(variances + ridge * float(moments.variances.mean()))
    turned = (moments.sample @ moments.axes[:, :kept]) * scales
    lengths = np.sqrt(np.vecdot(turned, turned))
    usual = float(np.median(lengths))
    if not usual > 1e-9 * float(lengths.max()):
        raise InputError(
            "public features: over half of the rows are equal, or nearly, beside the others: they "
            "do not show how long a row is"
        )
    unit = norm / usual
    curvature = float((variances * scales**2).max()) * unit**2
    return Transform(
        moments.mean,
        moments.axes[:, :kept] * (scales * unit),
        float(scales.max()) * unit * (1 + 1e-6),  # axes are orthonormal up to rounding
        norm,
        math.sqrt(curvature),
        2 * moments.longest,
        curvature,
        float(np.minimum(1.0, norm / np.maximum(lengths * unit, 1e-150)).mean()),
        f"whitened by {moments.rows} public rows, {kept} directions, ridge {ridge:.4g}, "
        f"clipped to norm {norm:g}",
        given,
        block,
    )
