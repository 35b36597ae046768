"""A sparse integer matrix as dense blocks, each used at many positions.

A convolution's matrix repeats one small dense matrix (maps × taps) at every position; a dense
layer is one such matrix at one position; average pooling and residual arms are repeated rows. So

    y[rows[p, m]] = Σ_t weights[m, t] · x[gather[p, t]]        for every position p

and the three index arrays say all. Rows at the border of a padded image have fewer taps: they
become blocks of their own.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Integers = npt.NDArray[np.int64]

DENSE_SHARE = 0.5
"""A matrix with at least this share of its used rows × used columns filled is one block."""


@dataclass(frozen=True, eq=False)
class Block:
    """weights: (maps, taps). gather: (positions, taps), columns. rows: (positions, maps)."""

    weights: Integers
    gather: Integers
    rows: Integers

    @property
    def products(self) -> int:
        """Multiplications by one weight, at all positions together."""
        return self.weights.size * len(self.gather)

    def within(self, limit: int) -> "list[Block] | None":
        """Cut along the taps so that every map's Σ |w| is at most `limit` in every part.

        None where a single weight is larger.
        """
        parts, start = [], 0
        sizes = np.abs(self.weights)
        if sizes.max() > limit:
            return None
        sums = np.zeros(len(sizes), dtype=np.int64)
        for tap in range(sizes.shape[1]):
            sums += sizes[:, tap]
            if sums.max() > limit:
                parts.append(self._taps(start, tap))
                start, sums = tap, sizes[:, tap].copy()
        return [*parts, self._taps(start, sizes.shape[1])]

    def _taps(self, start: int, stop: int) -> "Block":
        return replace(self, weights=self.weights[:, start:stop], gather=self.gather[:, start:stop])


def blocks(matrix: sp.csr_array) -> tuple[Block, ...]:
    """The blocks of an int64 matrix; entries stored as zero count as taps, others do not.

    Every row with an entry is in exactly one block.
    """
    matrix = sp.csr_array(matrix, copy=True)  # sorted below, and the caller's is not
    matrix.sum_duplicates()
    counts = np.diff(matrix.indptr)
    rows, columns = np.flatnonzero(counts), np.unique(matrix.indices)
    if not len(rows):
        return ()
    if matrix.nnz >= DENSE_SHARE * len(rows) * len(columns):
        dense = sp.csc_array(matrix[rows])[:, columns].toarray()
        return (Block(dense.astype(np.int64), _int64(columns)[None], _int64(rows)[None]),)
    return tuple(_merged(_groups(matrix, rows)))


def _groups(matrix: sp.csr_array, rows: npt.NDArray[np.intp]) -> Iterator[Block]:
    """Rows that read the same columns, as a block at one position."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows:
        support = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        groups[support.tobytes()].append(int(row))
    for members in groups.values():
        spans = [slice(matrix.indptr[row], matrix.indptr[row + 1]) for row in members]
        weights = np.stack([matrix.data[span] for span in spans]).astype(np.int64)
        yield Block(weights, _int64(matrix.indices[spans[0]])[None], _int64(members)[None])


def _merged(groups: Iterator[Block]) -> Iterator[Block]:
    """Blocks of equal weights as one block with many positions."""
    equal: dict[tuple[tuple[int, ...], bytes], list[Block]] = defaultdict(list)
    for block in groups:
        equal[block.weights.shape, block.weights.tobytes()].append(block)
    for alike in equal.values():
        gather = np.concatenate([block.gather for block in alike])
        rows = np.concatenate([block.rows for block in alike])
        yield Block(alike[0].weights, gather, rows)


def _int64(values: npt.ArrayLike) -> Integers:
    return np.asarray(values, dtype=np.int64)
