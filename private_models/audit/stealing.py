"""Copying a served model by asking it: equation solving (Tramèr et al. 2016, arXiv 1609.02943).

For a linear head, scores (or logarithms of probabilities, up to a number for each query) are linear
in the input: d + 1 queries determine it, one at a base point and one a step along each feature.
Differential privacy of the training data does not hinder this, nor does encryption of queries: who
asks gets scores, and that is what a copy is made of. Limit queries, or publish the head.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from private_models.audit.findings import NO_REASSURANCE, Steps, ignore
from private_models.errors import InputError
from private_models.noise import Array

Scores = Callable[[Array], Array]
"""A served model: from (rows, d) within limits to (rows, K) scores, logits or probabilities."""

_BATCH = 256
_SUM_ERROR = 1e-3


@dataclass(frozen=True)
class Stolen:
    """A copy, and how good it is.

    Attributes:
        weights: (K, d). bias: (K,); both up to what is common to all classes.
        queries: how many were asked to make it, not counting those it was judged on.
        agreement: share of test rows on which copy and model name the same class.
        error: largest difference of centred scores on these, over the largest score.
    """

    weights: Array
    bias: Array
    queries: int
    agreement: float
    error: float
    note: str = NO_REASSURANCE

    def scores(self, rows: Array) -> Array:
        """(rows, d) → (rows, K), centred."""
        return np.asarray(rows @ self.weights.T + self.bias)


def steal(
    ask: Scores,
    width: int,
    limits: tuple[float, float],
    test: Array,
    progress: Steps = ignore,
) -> Stolen:
    """Copy a model with `width` inputs by width + 1 queries, and compare on rows `test` (n, d).

    limits: of every input value. Raises `InputError` for limits that are none, for test rows of
    another width, and for a model that answers labels alone or nothing finite.
    """
    low, high = limits
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(f"limits {limits}: expected two finite numbers, the lower first")
    if test.ndim != 2 or test.shape[1] != width or not len(test):
        raise InputError(f"test rows of shape {test.shape}: expected (rows, {width})")
    base, step = (low + high) / 2, (high - low) / 2
    queries = np.full((width + 1, width), base)
    queries[np.arange(width) + 1, np.arange(width)] += step
    answers = _ask_all(ask, queries, progress)
    weights = (answers[1:] - answers[0]).T / step
    bias = answers[0] - base * weights.sum(axis=1)
    truth, copied = _ask_all(ask, test, progress), test @ weights.T + bias
    largest = float(np.abs(truth).max())
    error = float(np.abs(truth - copied).max()) / (largest or 1.0)
    agreement = float((truth.argmax(axis=1) == copied.argmax(axis=1)).mean())
    return Stolen(weights, bias, width + 1, agreement, error)


def _ask_all(ask: Scores, rows: Array, progress: Steps) -> Array:
    """Centred scores (rows, K); from probabilities by their logarithms."""
    found = []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        answer = np.asarray(ask(batch), np.float64)
        if answer.ndim != 2 or len(answer) != len(batch) or answer.shape[1] < 2:
            raise InputError(
                f"the model answered {len(batch)} rows with shape {answer.shape}: expected a score "
                "for every class"
            )
        found.append(answer)
        progress(len(batch))
    scores = np.concatenate(found)
    if not np.isfinite(scores).all():
        raise InputError("the model answered values that are not finite")
    if (scores >= 0).all() and np.abs(scores.sum(axis=1) - 1).max() < _SUM_ERROR:
        scores = np.log(np.maximum(scores, 1e-300))
    return np.asarray(scores - scores.mean(axis=1, keepdims=True))
