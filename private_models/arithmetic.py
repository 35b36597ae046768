"""Sums over chunks of prepared rows, in float64, and how numpy makes them on a CPU.

A head is linear, so no gradient of a single example is ever made: the gradient of row i is the
outer product of z_i and e_i = softmax(Wᵀz_i) − onehot(y_i), its norm is ‖z_i‖·‖e_i‖, and the sum of
clipped ones is Zᵀ·diag(c)·E (the norm trick: Goodfellow 2015, arXiv 1510.01799).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from private_models.features import Chunk, Labels
from private_models.noise import Array


@dataclass(frozen=True)
class ScaledChunk:
    """Prepared rows that are not formed: scale_i · y_i, and then a constant column. rows: y, (m,
    r). labels: class indices (m,). scale: (m,)."""

    rows: Array
    labels: Labels
    scale: Array


class Arithmetic(Protocol):
    """What solvers ask of a chunk; every answer is a float64 numpy array."""

    def gradient(self, chunks: Iterable[Chunk], weights: Array, clip_norm: float) -> Array:
        """Σ clip(∂ cross-entropy/∂W, clip_norm): (width, K)."""

    def scaled_gradient(
        self, chunks: Iterable[ScaledChunk], bias: float, weights: Array, clip_norm: float
    ) -> Array:
        """As `gradient`, of rows that are not formed. bias: of the constant column, 0 for none."""

    def gram(self, chunks: Iterable[Chunk], width: int) -> Array:
        """Σ z zᵀ: (width, width)."""

    def class_sums(self, chunks: Iterable[Chunk], width: int, classes: int) -> Array:
        """Σ z over the rows of each class: (width, K)."""

    def logistic(self, chunks: Iterable[Chunk], weights: Array) -> tuple[Array, Array]:
        """Gradients (width, K) and Hessians (K, width, width) of one-against-rest logistic loss."""


def softmax_residual(logits: Array, labels: Labels) -> Array:
    """softmax(logits) − onehot(labels), in place in `logits`, which is returned.

    (K, m), a class a row: sums over classes then run along memory, which is what takes time.
    """
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    logits[labels, np.arange(len(labels))] -= 1
    return logits


class CpuArithmetic:
    """numpy."""

    def gradient(self, chunks: Iterable[Chunk], weights: Array, clip_norm: float) -> Array:
        turned = np.ascontiguousarray(weights.T)
        total = np.zeros_like(turned)
        for rows, labels in chunks:
            residual = softmax_residual(turned @ rows.T, labels)
            residual *= _clip_factors(np.vecdot(rows, rows), residual, clip_norm)
            total += residual @ rows
        return np.ascontiguousarray(total.T)

    def scaled_gradient(
        self, chunks: Iterable[ScaledChunk], bias: float, weights: Array, clip_norm: float
    ) -> Array:
        turned = np.ascontiguousarray((weights[:-1] if bias else weights).T)
        constant = bias * weights[-1][:, None] if bias else 0.0
        by_rows, by_constant = np.zeros_like(turned), np.zeros(weights.shape[1])
        for chunk in chunks:
            logits = turned @ chunk.rows.T
            logits *= chunk.scale
            residual = softmax_residual(logits + constant, chunk.labels)
            squares = np.vecdot(chunk.rows, chunk.rows) * chunk.scale**2 + bias**2
            residual *= _clip_factors(squares, residual, clip_norm)
            by_constant += residual.sum(axis=1)
            residual *= chunk.scale
            by_rows += residual @ chunk.rows
        return np.vstack([by_rows.T, bias * by_constant]) if bias else by_rows.T

    def gram(self, chunks: Iterable[Chunk], width: int) -> Array:
        total = np.zeros((width, width))
        for rows, _ in chunks:
            total += rows.T @ rows  # numpy sees the symmetry and does half of it
        return total

    def class_sums(self, chunks: Iterable[Chunk], width: int, classes: int) -> Array:
        total = np.zeros((classes, width))
        for rows, labels in chunks:
            order = np.argsort(labels, kind="stable")
            present, starts = np.unique(labels[order], return_index=True)
            if len(present):
                total[present] += np.add.reduceat(rows[order], starts, axis=0)
        return np.ascontiguousarray(total.T)

    def logistic(self, chunks: Iterable[Chunk], weights: Array) -> tuple[Array, Array]:
        width, classes = weights.shape
        gradient, hessian = np.zeros_like(weights), np.zeros((classes, width, width))
        for rows, labels in chunks:
            probability = _sigmoid(rows @ weights)
            curvature = probability * (1 - probability)
            for k in range(classes):
                scaled = rows * np.sqrt(curvature[:, k : k + 1])
                hessian[k] += scaled.T @ scaled
            probability[np.arange(len(labels)), labels] -= 1
            gradient += rows.T @ probability
        return gradient, hessian


def _clip_factors(row_squares: Array, residual: Array, clip_norm: float) -> Array:
    squares = row_squares * np.einsum("ki,ki->i", residual, residual)
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(1.0, clip_norm / np.sqrt(squares)))


def _sigmoid(logits: Array) -> Array:
    return 0.5 * (1 + np.tanh(logits / 2))


def largest_gradient(bound: float, clip_norm: float | None) -> float:
    """L2 norm of one row's gradient: ‖z‖·‖softmax − onehot‖ < bound·√2, or the clip norm."""
    unclipped = math.sqrt(2) * bound
    return unclipped if clip_norm is None else min(clip_norm, unclipped)
