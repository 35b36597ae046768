"""Arithmetic modulo 2^64 that processors have no fast instruction for: exact matrix products.

A float64 holds integers up to 2^53 exactly and multiplies matrices at the speed of BLAS. So each
factor is written in three signed digits to the base 2^22,

    x = x₀ + 2²²x₁ + 2⁴⁴x₂,      |x₀|, |x₁| ≤ 2²¹,  |x₂| ≤ 2¹⁹

and of the nine products of digits the six with weight below 2⁶⁶ are taken. A sum of K products of
one weight is at most K·2⁴³, and with K ≤ 1024 every partial sum is an integer of at most 53 bits:
nothing is ever rounded, in whatever order BLAS adds. Longer sums are cut into pieces.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint64]
"""Elements of Z/2^64; additions and multiplications of these arrays wrap as the ring does."""

BASE_BITS = 22
MAX_INNER = 1024
_TOP = 64 - BASE_BITS
_SMALL = 1 << 15
"""Fewer scalar products than this are quicker without digits."""
_FEW_ROWS, _FEW_COLUMNS = 16, 8
"""So are so few of either, for which taking the other factor apart would be most of the work."""
_BLOCK = 1 << 16
"""Elements of the left factor taken at once: what fits a core's cache with their digits."""


def matmul(a: Ring, b: Ring) -> Ring:
    """(m, k) × (k, n) → (m, n) modulo 2^64, exactly."""
    (m, k), n = a.shape, b.shape[1]
    if m <= _FEW_ROWS or n <= _FEW_COLUMNS or m * k * n <= _SMALL:
        product: Ring = a @ b
        return product
    total = np.zeros((m, n), np.int64)
    for start in range(0, k, MAX_INNER):
        part = slice(start, min(start + MAX_INNER, k))
        right = np.empty((3, part.stop - start, n))
        _digits(b[part], right[::-1])
        rows = max(1, _BLOCK // (part.stop - start))
        for top in range(0, m, rows):
            total[top : top + rows] += _piece(a[top : top + rows, part], right)
    return total.view(np.uint64)


def _piece(a: Ring, right: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """One product with at most `MAX_INNER` terms; right: the digits of b, highest first.

    The digits of a stand side by side, those of b below each other in reverse, so that products of
    equal weight are one matrix product each: [a₀ a₁ a₂]·[b₂; b₁; b₀] has weight 2⁴⁴.
    """
    (m, k), n = a.shape, right.shape[2]
    left = np.empty((m, 3, k))
    _digits(a, left.transpose(1, 0, 2))
    a_row, b_column = left.reshape(m, 3 * k), right.reshape(3 * k, n)
    # float64 → int64 is exact here, and shifts wrap as the ring does.
    total: npt.NDArray[np.int64] = (a_row @ b_column).astype(np.int64)
    total <<= BASE_BITS
    total += (a_row[:, : 2 * k] @ b_column[k:]).astype(np.int64)
    total <<= BASE_BITS
    total += (a_row[:, :k] @ b_column[2 * k :]).astype(np.int64)
    return total


def _digits(x: Ring, out: npt.NDArray[np.float64]) -> None:
    """Write the three signed digits of x into out[0], out[1], out[2]."""
    rest = x.view(np.int64)
    for place in (0, 1):
        digit: npt.NDArray[Any] = rest << _TOP
        digit >>= _TOP
        out[place] = digit
        rest = rest - digit
        rest >>= BASE_BITS
    out[2] = rest
