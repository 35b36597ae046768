"""Was this row among the training data? LiRA (Carlini et al. 2022, arXiv 2112.03570).

Shadow heads on random halves give, for each row, scores with and without it; a likelihood ratio of
two normals decides.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from scipy.stats import norm

from private_models.audit.findings import Curve, Fit, Flags, Steps, ignore
from private_models.errors import InputError, OptionError
from private_models.head import PrivateHead
from private_models.noise import Array, RandomBits, bernoulli_rows


def membership(
    fit: Fit,
    features: Array,
    labels: npt.NDArray[np.int64],
    shadows: int = 32,
    progress: Steps = ignore,
) -> Curve:
    """LiRA with `shadows` heads on random halves, judged on one more head and its own half.

    features (rows, d), labels (rows,) as class indices. Raises `InputError` and `OptionError`.
    """
    if len(features) != len(labels) or len(labels) < 20:
        raise InputError(
            f"{len(features)} rows and {len(labels)} labels: expected 20 pairs at least"
        )
    if not 8 <= shadows <= 10_000:
        raise OptionError(f"{shadows} shadow heads: expected 8 to 10,000")
    bits = RandomBits()
    inside = np.stack([bernoulli_rows(bits, 0.5, len(labels)) for _ in range(shadows + 1)])
    confidence = np.empty((shadows + 1, len(labels)))
    for number, chosen in enumerate(inside):
        head = fit(features[chosen], labels[chosen])
        confidence[number] = _logit_confidence(head, features, labels)
        progress(number + 1)
    scores = _likelihood_ratio(confidence[:-1], inside[:-1], confidence[-1])
    return Curve.of(scores, inside[-1])


def _logit_confidence(head: PrivateHead, features: Array, labels: Any) -> Array:
    """log p/(1 − p) of the true class, as LiRA takes it; (rows,)."""
    logs = log_softmax(head.scores(features), axis=1)
    true = logs[np.arange(len(labels)), labels]
    return np.asarray(true - np.log(-np.expm1(np.minimum(true, -1e-12))))


def _likelihood_ratio(shadow: Array, inside: Flags, target: Array) -> Array:
    """log N(target; in) − log N(target; out) by row, with one variance for all rows."""
    members, others = np.where(inside, shadow, np.nan), np.where(inside, np.nan, shadow)
    mean_in, mean_out = _mean(members), _mean(others)
    spread = math.sqrt(float(np.nanmean(np.square(members - mean_in))) + 1e-300)
    spread_out = math.sqrt(float(np.nanmean(np.square(others - mean_out))) + 1e-300)
    return np.asarray(
        norm.logpdf(target, mean_in, spread) - norm.logpdf(target, mean_out, spread_out)
    )


def _mean(values: Array) -> Array:
    """Column means without NaN; 0 for a row that was always, or never, inside."""
    counts = np.isfinite(values).sum(axis=0)
    return np.asarray(np.nansum(values, axis=0) / np.maximum(counts, 1))
