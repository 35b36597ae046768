"""A network as products and affine maps between them.

Everything between two activations is affine, so it merges into one sparse matrix per source:
convolution, pooling, batch normalisation, flattening, residual addition, dense layers. What is
left is a list of `AffineStage`s, each a sum over powers of earlier stages:

    v_n = Σ_(m, k) M_{n,m,k} · v_m^k + b_n         (v_0 is the query, k = 1 for it)

A quadratic activation a·x² + b·x + c is a·(x + d)² + e with d = b/2a: d joins this stage's offset,
a and e the next stage's matrix, so it costs one square and no multiplication by a constant. Where
that would lose precision (some a is zero or tiny) the powers are kept apart instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from he_inference.network import Network
from he_inference.nodes import (
    AFFINE,
    Activation,
    Add,
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Node,
    Pad2d,
    ScaleShift,
    Shape,
)

Matrix = sp.csr_array
Source = tuple[int, int]
"""(stage, power): the elementwise power of an earlier stage's value; stage 0 is the query."""

MAX_CENTRE = 8.0
"""A square is completed only where |d| stays below this many times the value's largest size."""


@dataclass(frozen=True, eq=False)
class AffineStage:
    """One v_n of the module's formula.

    terms: matrix of shape (size, size of the source) for every source.
    offset: b_n, shape (size,).
    shape: (channels, height, width) or (features,), for layouts that follow the geometry.
    """

    terms: Mapping[Source, Matrix]
    offset: Array
    shape: Shape

    @property
    def size(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, eq=False)
class _Form:
    """Affine in the sources: what a node's value is before it reaches an activation."""

    terms: dict[Source, Matrix]
    offset: Array

    def mapped(self, matrix: Matrix, offset: Array) -> "_Form":
        terms = {source: sp.csr_array(matrix @ term) for source, term in self.terms.items()}
        return _Form(terms, matrix @ self.offset + offset)

    def plus(self, other: "_Form") -> "_Form":
        terms = dict(self.terms)
        for source, term in other.terms.items():
            terms[source] = sp.csr_array(terms[source] + term) if source in terms else term
        return _Form(terms, self.offset + other.offset)


def affine_stages(network: Network, magnitudes: list[float]) -> list[AffineStage]:
    """Merge a network; the last stage is its output. Stage n of the list is v_{n+1}.

    magnitudes: the largest absolute value of every node on typical inputs, by which it is decided
        where completing the square is harmless.
    """
    stages: list[AffineStage] = []
    forms: list[_Form] = []
    for index, node in enumerate(network.nodes):
        match node:
            case Input():
                size = int(np.prod(network.input_shape))
                forms.append(_Form({(0, 1): _identity(size)}, np.zeros(size)))
            case Activation() if node.coefficients.shape[1] > 2:
                before = node.sources[0]
                shape = network.shapes[index]
                forms.append(_activate(node, forms[before], shape, magnitudes[before], stages))
            case Add():
                forms.append(forms[node.sources[0]].plus(forms[node.sources[1]]))
            case _:
                source = node.sources[0]
                matrix, offset = _matrix(node, network.shapes[source], network.shapes[index])
                forms.append(forms[source].mapped(matrix, offset))
    last = forms[-1]
    stages.append(AffineStage(last.terms, last.offset, network.shapes[-1]))
    return stages


def _activate(
    node: Activation, form: _Form, shape: Shape, magnitude: float, stages: list[AffineStage]
) -> _Form:
    """Close a stage at a nonlinear activation; return the form of what comes out of it."""
    columns = [_per_element(column, shape) for column in node.coefficients.T]
    centre = _centre(columns, magnitude)
    stage = len(stages) + 1
    if centre is not None:
        stages.append(AffineStage(form.terms, form.offset + centre, shape))
        return _Form({(stage, 2): _diagonal(columns[2])}, columns[0] - columns[2] * centre**2)
    stages.append(AffineStage(form.terms, form.offset, shape))
    terms = {(stage, k): _diagonal(c) for k, c in enumerate(columns) if k and c.any()}
    return _Form(terms, columns[0])


def _centre(columns: list[Array], magnitude: float) -> Array | None:
    """d of a·(x + d)² + e, or None where it cannot be had without losing precision."""
    if len(columns) != 3 or not np.abs(columns[2]).min() > 0:
        return None
    centre = columns[1] / (2 * columns[2])
    return centre if np.abs(centre).max() <= MAX_CENTRE * magnitude else None


def _per_element(vector: Array, shape: Shape) -> Array:
    """One value a channel → one value an element, channels slowest."""
    column = np.broadcast_to(vector.reshape(-1, *(1,) * (len(shape) - 1)), shape)
    return np.ascontiguousarray(column).reshape(-1)


def _identity(size: int) -> Matrix:
    return sp.csr_array(sp.eye_array(size))


def _diagonal(values: Array) -> Matrix:
    return sp.csr_array(sp.diags_array(values))


def _matrix(node: Node, source: Shape, target: Shape) -> tuple[Matrix, Array]:
    """Matrix (target size, source size) and offset of one affine node."""
    size = int(np.prod(target))
    match node:
        case Linear():
            return sp.csr_array(node.weight), node.bias
        case Conv2d():
            return _conv_matrix(node, source, target), _per_element(node.bias, target)
        case AvgPool2d():
            channels = source[0]
            area = node.kernel[0] * node.kernel[1]
            weight = np.zeros((channels, channels, *node.kernel))
            weight[np.arange(channels), np.arange(channels)] = 1 / area
            pool = Conv2d(node.sources, weight, np.zeros(channels), node.stride, node.padding)
            return _conv_matrix(pool, source, target), np.zeros(size)
        case ScaleShift():
            return _diagonal(_per_element(node.scale, target)), _per_element(node.shift, target)
        case Activation():
            slope, constant = node.coefficients[:, 1], node.coefficients[:, 0]
            return _diagonal(_per_element(slope, target)), _per_element(constant, target)
        case Pad2d():
            return _pad_matrix(node, source, target), np.zeros(size)
        case Flatten():
            return _identity(size), np.zeros(size)
    raise TypeError(f"{type(node).__name__} is not one of {[kind.__name__ for kind in AFFINE]}")


def _conv_matrix(node: Conv2d, source: Shape, target: Shape) -> Matrix:
    """The Toeplitz matrix of a convolution, kernel offset by kernel offset."""
    maps, channels, height, width = node.weight.shape
    y, x = np.meshgrid(np.arange(target[1]), np.arange(target[2]), indexing="ij")
    rows, columns, values = [], [], []
    for i in range(height):
        for j in range(width):
            sy, sx = (
                y * node.stride[0] + i - node.padding[0],
                x * node.stride[1] + j - node.padding[1],
            )
            inside = (sy >= 0) & (sy < source[1]) & (sx >= 0) & (sx < source[2])
            to = (y * target[2] + x)[inside]
            frm = (sy * source[2] + sx)[inside]
            kernel = node.weight[:, :, i, j]
            out, into = np.nonzero(kernel)
            rows.append((out[:, None] * target[1] * target[2] + to).ravel())
            columns.append((into[:, None] * source[1] * source[2] + frm).ravel())
            values.append(np.repeat(kernel[out, into], len(to)))
    shape = (maps * target[1] * target[2], channels * source[1] * source[2])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_array(sp.coo_array(entries, shape=shape))


def _pad_matrix(node: Pad2d, source: Shape, target: Shape) -> Matrix:
    left, _, top, _ = node.amounts
    c, y, x = np.meshgrid(*map(np.arange, target), indexing="ij")
    sy, sx = y - top, x - left
    inside = (sy >= 0) & (sy < source[1]) & (sx >= 0) & (sx < source[2])
    rows = np.flatnonzero(inside)
    columns = ((c * source[1] + sy) * source[2] + sx)[inside]
    shape = (int(np.prod(target)), int(np.prod(source)))
    return sp.csr_array(sp.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape))
