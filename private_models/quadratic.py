"""A public hidden layer: all products of two entries of a whitened row.

    x ─Transform─▸ z = (u, b) ─▸ (z_i·z_j·w_ij, i ≤ j), without b², which says nothing

u are the largest directions of *public* features, scaled so that a typical row is as long as the
norm bound, and b is a constant. A linear head on the products is a quadratic one on the features:
with w_ij = √2 off the diagonal their inner product is (z·z')², the polynomial kernel of degree two.

Privacy: the layer is made from public features alone and is a function of one row, so what is
promised of a head on its outputs is promised of one on the features. Under encryption clients make
the products themselves, before they encrypt: a query costs as many bytes as one of a linear head on
as many features, and no product of ciphertexts.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from private_models.errors import InputError, OptionError
from private_models.features import MAX_FEATURES, Chunk, Rows, check_matrix, check_values
from private_models.noise import Array
from private_models.preparation import Transform, public_moments, whitening
from private_models.releases import CHUNK_ROWS, UNIT_ROUNDOFF

MAX_DIRECTIONS = 89
"""(89 + 1)·(89 + 2)/2 − 1 = 4,094 products: more are more than `MAX_FEATURES`."""
RIDGE = 16.0
"""Relative to the mean variance: directions of small variance take a small part in products. Found
on Fashion-MNIST (`benchmarks.tune_heads`), where 64 does as well."""
MAX_SQUARES = 1 << 26
"""Numbers in the layers that `squares` makes, K·h and h·d: 270 MB in float32."""
_BLOCK = 64
"""Terms of a product summed at a time: whitening makes larger what the layer rounds."""
_LARGEST, _LONGEST = 1e100, 1e50
"""Of a number in a layer, and of a norm: within them no row that is taken leaves float64."""
_TENSORS = ("mean", "matrix", "numbers")
_NUMBERS = ("gain", "norm", "bias", "raw_norm", "curvature", "scale")


@dataclass(frozen=True, eq=False)
class QuadraticLayer:
    """Attributes:
    transform: from rows (m, d) to (m, r + 1), the last column constant.

    Raises `InputError` for a transform that could leave the range of floats.
    """

    transform: Transform

    def __post_init__(self) -> None:
        numbers = np.array([getattr(self.transform, name) for name in _NUMBERS])
        matrix, mean = np.asarray(self.transform.matrix), self.transform.mean
        sizes = [float(np.abs(array).max()) for array in (matrix, mean, numbers)]
        if not max(sizes) <= _LARGEST or not max(numbers[[1, 2, 3]]) <= _LONGEST:
            raise InputError(
                f"a hidden layer of numbers up to {max(sizes):.0e}: expected at most "
                f"{_LARGEST:.0e}, and norms of at most {_LONGEST:.0e}; scale the features"
            )

    @property
    def width_in(self) -> int:
        """d, columns of the rows that are given."""
        return len(self.transform.mean)

    @property
    def directions(self) -> int:
        """r, of which products are made."""
        return self.transform.width - 1

    @property
    def width(self) -> int:
        """Columns of what comes out."""
        return products(self.directions)

    @property
    def rounding(self) -> float:
        """Error (L2) of a row that comes out, at most: see `releases` for why it is known.

        A product is off by what either factor is off, and by three roundings; rows that come out
        are no longer than the square of the bound of those that go in.
        """
        square = self.transform.bound**2
        return square * (2 * self.transform.rounding + 4 * UNIT_ROUNDOFF)

    @property
    def origin(self) -> str:
        """In words for a statement."""
        return f"products of directions, {self.transform.origin}"

    def __call__(self, features: npt.ArrayLike) -> Array:
        """(m, d) → (m, width) float64. Raises `InputError` for another width, or infinities."""
        rows = check_matrix(features)
        if rows.shape[1] != self.width_in:
            raise InputError(f"{rows.shape[1]} features, the hidden layer takes {self.width_in}")
        found = np.empty((len(rows), self.width))
        for start in range(0, len(rows), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            self._products(self.transform(check_values(rows[part], start)), found[part])
        return found

    def _products(self, rows: Array, found: Array) -> None:
        """Those of rows (m, r + 1) into `found` (m, width), a first factor at a time."""
        doubled, start = rows * math.sqrt(2), 0
        for i in range(self.directions):
            more = rows.shape[1] - i
            np.multiply(rows[:, i : i + 1], doubled[:, i:], out=found[:, start : start + more])
            found[:, start] = rows[:, i] ** 2
            start += more

    def squares(self, weights: Array, bias: Array) -> tuple[Array, Array, Array, Array]:
        """A head on the products as one hidden layer of squares: s ↦ outer·(inner·x + shift)² + c.

        weights: (K, width), bias: (K,) of the head. Scores are xᵀ·Q_k·x of the row with its
        constant, and Q_k is a sum of r + 1 squares, its eigenvectors. No polynomial clips: rows are
        scaled by the mean of the clip factors of public ones, all alike (`Transform.linear`).

        Returns inner (K·(r + 1), d), shift (K·(r + 1),), outer (K, K·(r + 1)), c (K,). Raises
        `OptionError` for more than `MAX_SQUARES` numbers.
        """
        size, classes = self.transform.width, len(weights)
        if (made := classes * size * (classes + self.width_in)) > MAX_SQUARES:
            raise OptionError(
                f"{classes} classes are {classes * size} squares, {made} weights: at most "
                f"{MAX_SQUARES}; hybrid.build takes the head as it is"
            )
        i, j = (index[:-1] for index in np.triu_indices(size))
        forms = np.zeros((classes, size, size))
        forms[:, i, j] = weights * np.where(i == j, 1.0, math.sqrt(2) / 2)
        forms[:, j, i] = forms[:, i, j]
        values, vectors = np.linalg.eigh(forms)
        turned = np.moveaxis(vectors, 1, 2).reshape(classes * size, size)
        matrix = np.asarray(self.transform.matrix) * self.transform.scale
        inner = turned[:, :-1] @ matrix.T
        shift = turned[:, -1] * self.transform.bias - inner @ self.transform.mean
        outer = np.kron(np.eye(classes), np.ones((1, size))) * values.reshape(1, -1)
        return inner, shift, outer, bias

    def tensors(self) -> dict[str, Array]:
        """For a file; `read_layer` takes them."""
        numbers = [float(getattr(self.transform, name)) for name in _NUMBERS]
        matrix = np.ascontiguousarray(self.transform.matrix)
        return dict(zip(_TENSORS, (self.transform.mean, matrix, np.array(numbers)), strict=True))


def quadratic_layer(public_features: npt.ArrayLike, directions: int) -> QuadraticLayer:
    """Of the largest `directions` of public features (m, d), or of all d where that is fewer.

    Raises `OptionError` for directions that cannot be, `InputError` for features.
    """
    check_directions(directions)
    moments = public_moments(public_features)
    return QuadraticLayer(whitening(moments, 1.0, directions, RIDGE, block=_BLOCK))


def products(directions: int) -> int:
    """How many a layer makes of so many directions r: (r + 1)·(r + 2)/2 − 1."""
    return (directions + 1) * (directions + 2) // 2 - 1


def check_directions(directions: object) -> None:
    """Raise `OptionError` for what is no count that a layer can have."""
    if type(directions) is not int or not 1 <= directions <= MAX_DIRECTIONS:
        raise OptionError(
            f"hidden_directions {directions!r:.20}: expected a whole number, 1 to {MAX_DIRECTIONS}"
        )


def read_layer(tensors: Mapping[str, Any]) -> QuadraticLayer:
    """What `tensors` gave. Raises ValueError or LookupError for anything else."""
    mean, matrix, numbers = (tensors[name] for name in _TENSORS)
    if any(a.dtype != np.float64 or not np.isfinite(a).all() for a in (mean, matrix, numbers)):
        raise ValueError("a hidden layer of numbers that are not finite float64")
    if mean.ndim != 1 or matrix.ndim != 2 or len(matrix) != len(mean):
        raise ValueError(f"a hidden layer of shapes {mean.shape} and {matrix.shape}")
    if not (1 <= len(mean) <= MAX_FEATURES and 1 <= matrix.shape[1] <= MAX_DIRECTIONS):
        raise ValueError(f"a hidden layer from {len(mean)} to {matrix.shape[1]} directions")
    if numbers.shape != (len(_NUMBERS),) or not (numbers > 0).all():
        raise ValueError("a hidden layer whose bounds are not over 0")
    named = dict(zip(_NUMBERS, map(float, numbers), strict=True))
    try:
        return QuadraticLayer(
            Transform(mean, matrix, origin="read from a file", block=_BLOCK, **named)
        )
    except InputError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True)
class LayeredRows:
    """Private rows through a public layer, made anew in every pass."""

    rows: Rows
    layer: QuadraticLayer

    @property
    def width(self) -> int:
        return self.layer.width

    def chunks(self) -> Iterator[Chunk]:
        for features, labels in self.rows.chunks():
            yield self.layer(features), labels

    def checked_count(self) -> int:
        return self.rows.checked_count()
