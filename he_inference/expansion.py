"""A network with at most one layer of products, as a linear form in monomials of its query.

Whoever asks knows the query x, and can multiply its entries before encrypting them. With

    z_o = Σ_m W_om · f_m(x) + b_o,        f_m a product of at most two entries of x

nothing is left for the server but sums: no ciphertext is ever multiplied by another, none is
rotated, and the width of the network does not matter at all. A layer of squares over the rows w_r
of a matrix,

    Σ_r v_or (w_r·x + d_r)² = Σ_ij (Σ_r v_or w_ri w_rj) x_i x_j + 2 Σ_i (Σ_r v_or d_r w_ri) x_i + …,

needs the products of those pairs alone that stand in some row together. For a convolution these
are pairs within one window: some forty for every pixel where the kernel is 5 × 5.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from he_inference.affine import AffineStage, Matrix
from he_inference.errors import CompileError
from he_inference.nodes import Array

Indices = npt.NDArray[np.int32]

NONE = -1
"""In a monomial: no factor."""
MAX_MONOMIALS = 1 << 18
"""64 ciphertexts of 4096: a query of a few MB."""
_MAX_PAIRS = 1 << 22
"""Before equal ones are merged."""
_BLOCK = 1 << 20
"""Numbers at a time, of rows times pairs: all of them would take gigabytes."""


@dataclass(frozen=True, eq=False)
class Expansion:
    """z = W f(x) + b.

    monomials: (M, 2), indices of a flat query's entries in ascending order, `NONE` for one that is
        not there; the rows are distinct. weights: W, float64 (outputs, M). offset: b, (outputs,).
    """

    monomials: Indices
    weights: Array
    offset: Array

    def evaluate(self, flat: Array) -> Array:
        """Queries (batch, size) → (batch, outputs), as the network they came from."""
        return features(self.monomials, flat) @ self.weights.T + self.offset


def features(monomials: Indices, flat: Array) -> Array:
    """f(x): queries (batch, size) → (batch, M)."""
    extended = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)  # NONE finds the one
    found: Array = extended[:, monomials[:, 0]]
    found *= extended[:, monomials[:, 1]]
    return found


def expand(stages: list[AffineStage]) -> Expansion:
    """Multiply a network out. Raises `CompileError` where it has more than one layer of products,
    one of a higher degree, or too many pairs."""
    if len(stages) == 1:
        linear = _dense(stages[0].terms[0, 1])
        return _expansion(np.zeros(0, np.int64), linear[:, :0], linear, stages[0].offset)
    if len(stages) > 2:
        raise CompileError(
            f"the network has {len(stages) - 1} activations one after the other, and queries can "
            "be expanded for one: use layout='packed', which answers plainly"
        )
    first, last = stages
    powers = {power for _, power in last.terms}
    if max(powers) > 2 or set(first.terms) != {(0, 1)}:
        raise CompileError(
            f"activations of degree {max(powers)}: queries can be expanded for quadratic ones; use "
            "layout='packed'"
        )
    return _multiplied_out(first, last)


def _multiplied_out(first: AffineStage, last: AffineStage) -> Expansion:
    rows, size = first.terms[0, 1], first.terms[0, 1].shape[1]
    nothing = np.zeros((last.size, first.size))
    squares = _dense(last.terms[1, 2]) if (1, 2) in last.terms else nothing
    straight = _dense(last.terms[1, 1]) if (1, 1) in last.terms else nothing
    linear = (2 * squares * first.offset + straight) @ rows
    if (0, 1) in last.terms:
        linear += _dense(last.terms[0, 1])
    offset = squares @ first.offset**2 + straight @ first.offset + last.offset
    codes, quadratic = _pairs(rows, squares, size)
    return _expansion(codes, quadratic, np.asarray(linear), offset)


def _expansion(codes: npt.NDArray[np.int64], quadratic: Array, linear: Array, offset: Array
               ) -> Expansion:  # fmt: skip
    """codes: i · size + j for every column of `quadratic`. Columns of zeros are left out."""
    size = linear.shape[1]
    alone = np.flatnonzero(linear.any(axis=0))
    pairs = np.stack(np.divmod(codes, size), axis=1)
    singles = np.stack([np.full(len(alone), NONE), alone], axis=1)
    monomials = np.concatenate([singles, pairs]).astype(np.int32)
    weights = np.concatenate([linear[:, alone], quadratic], axis=1)
    used = weights.any(axis=0)
    monomials, weights = monomials[used], np.ascontiguousarray(weights[:, used])
    if not len(monomials):
        raise CompileError("the network's answers do not depend on the query")
    _check_count(len(monomials))
    return Expansion(monomials, weights, offset)


def _pairs(rows: Matrix, squares: Array, size: int) -> tuple[npt.NDArray[np.int64], Array]:
    """Codes of the pairs of entries, and Σ_r v_or w_ri w_rj for each, twice that where i < j."""
    groups = list(_groups(rows))
    total = sum(comb(len(support) + 1, 2) for support, _ in groups)
    if total > _MAX_PAIRS:
        raise CompileError(
            f"the first layer's rows hold {total} pairs of inputs, at most {_MAX_PAIRS} are "
            "multiplied out: use a convolution with smaller kernels, or layout='packed'"
        )
    codes = [np.zeros(0, np.int64)]
    for support, _ in groups:
        i, j = np.triu_indices(len(support))
        codes.append(support[i] * size + support[j])
    distinct, place = np.unique(np.concatenate(codes), return_inverse=True)
    _check_count(len(distinct))  # before anything is multiplied
    summed, at = np.zeros((len(distinct), len(squares))), 0
    for support, members in groups:
        inside, outgoing = _dense(rows[members][:, support]), squares[:, members]
        for i, j in _triangle(len(support), _BLOCK // len(members) + 1):
            products = outgoing @ (inside[:, i] * inside[:, j]) * np.where(i < j, 2, 1)
            summed[place[at : at + len(i)]] += products.T  # no pair twice in one group
            at += len(i)
    return distinct, summed.T


def _triangle(count: int, most: int) -> Iterator[tuple[npt.NDArray[np.int64], ...]]:
    """Pairs i ≤ j < count in the order of `np.triu_indices`, at most so many at a time."""
    i, j = np.triu_indices(count)
    for start in range(0, len(i), most):
        yield i[start : start + most], j[start : start + most]


def _check_count(monomials: int) -> None:
    if monomials > MAX_MONOMIALS:
        raise CompileError(
            f"a query would be expanded into {monomials} products, at most {MAX_MONOMIALS}: "
            "use smaller kernels, or layout='packed'"
        )


def _groups(rows: Matrix) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rows that have their entries in the same columns: (the columns, the rows)."""
    rows.sort_indices()
    found: dict[bytes, list[int]] = {}
    for row in range(rows.shape[0]):
        columns = rows.indices[rows.indptr[row] : rows.indptr[row + 1]].astype(np.int64)
        found.setdefault(columns.tobytes(), []).append(row)
    for support, members in found.items():
        yield np.frombuffer(support, np.int64), np.array(members)


def _dense(matrix: Matrix) -> Array:
    return np.asarray(matrix.toarray(), dtype=np.float64)
