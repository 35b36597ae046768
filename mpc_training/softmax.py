"""Softmax of shared logits, each step inside the interval where it is exact enough.

    max     all pairs are compared at once; the row that is beaten by none is the largest: 11 rounds
            (a tournament of 10 classes takes 32)
    e^x     x = logit − max ∈ (−16, 0]: a degree-4 Chebyshev interpolant of e^x on [−1, 0] at x/16,
    then
            four squarings; relative error below 5e-4. What lies 16 or more below the largest logit
            is set to exactly zero (e^−16 = 1.1e-7): the comparison for it runs beside the others
    1/S     S = Σ e^x ∈ (0.99, classes]: the best line in relative error, then steps
            y ← y(1 + e)(1 + e²), e = 1 − Sy, which raise the error to the 4th power

No interval depends on the data, except that logits differ by less than 2^15 (`fixed_point`); that
one is checked, see `out_of_range`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mpc_training.arithmetic import Arithmetic, Bits, join_bits
from mpc_training.fixed_point import SOFTMAX_BITS, Array
from mpc_training.tensor import Tensor, join

WIDTH = 16.0
"""Logits this far below the largest have probability 0."""
DEGREE = 4
SQUARINGS = 4
_COEFFICIENT_BITS = 16
MAX_LOGIT = 2.0**12
"""Logits beyond this mean that training has blown up."""


@dataclass(frozen=True)
class Outcome:
    """probabilities: as asked for. below: each logit less the largest of its row, 0 where not kept.
    kept: 1 where that is more than −`WIDTH`. total: (rows, 1), Σ e^below over those kept."""

    probabilities: Tensor
    below: Tensor
    kept: Tensor
    total: Tensor


def softmax(arithmetic: Arithmetic, logits: Tensor, bits: int) -> Outcome:
    """Probabilities with `bits` fraction bits, of the shape (rows, classes) of the logits.

    Absolute error below 1.1e-3 for logits that differ by less than 2^15; 37 rounds for 10 classes.
    """
    maximum, kept = _largest(arithmetic, logits)
    x = arithmetic.settle(arithmetic.product(kept, logits - maximum), logits.bits)
    powers = arithmetic.multiply(_exponential(arithmetic, x), kept, SOFTMAX_BITS)
    total = powers.sum(1, keepdims=True)
    inverse = _reciprocal(arithmetic, total, logits.shape[1])
    return Outcome(arithmetic.multiply(powers, inverse, bits), x, kept, total)


def cross_entropy(arithmetic: Arithmetic, outcome: Outcome, y: Tensor) -> Tensor:
    """Mean of −log p of the labels y, one-hot (rows, classes): shape (1,), to watch training by.

    Error below 0.02 for up to 10 classes; labels that are not kept count as `WIDTH`.
    """
    rows, classes = y.shape
    one = arithmetic.public(np.ones(y.shape), 0)
    below = outcome.below - arithmetic.lift(
        arithmetic.times(one - outcome.kept, WIDTH, 0), outcome.below.bits
    )
    picked = arithmetic.product(y, below).sum(1).sum(0, keepdims=True)
    logarithm = _logarithm(arithmetic, outcome.total, classes + 0.01).sum(0)
    entropy = arithmetic.lift(logarithm, picked.bits) - arithmetic.settle(picked, picked.bits)
    mean = arithmetic.as_product(arithmetic.times(entropy, 1 / rows, _COEFFICIENT_BITS))
    return arithmetic.settle(mean, SOFTMAX_BITS)


def _logarithm(arithmetic: Arithmetic, s: Tensor, high: float) -> Tensor:
    """log s for 0.99 < s ≤ high, by a Chebyshev interpolant of degree 6, Horner's rule."""
    low = 0.99
    fit = np.polynomial.Chebyshev.interpolate(np.log, 6, domain=[low, high])
    # In t = (2s − low − high)/(high − low), which is in [−1, 1] and so keeps coefficients small.
    c = np.polynomial.chebyshev.cheb2poly(fit.coef)
    middle = arithmetic.public(np.full(s.shape, -(low + high) / (high - low)), 2 * SOFTMAX_BITS)
    t = arithmetic.times(s, 2 / (high - low), SOFTMAX_BITS) + middle
    t = arithmetic.settle(arithmetic.as_product(t), SOFTMAX_BITS)
    y = arithmetic.public(np.full(s.shape, c[-1]), SOFTMAX_BITS)
    for coefficient in c[-2::-1]:
        constant = arithmetic.public(np.full(s.shape, coefficient), SOFTMAX_BITS)
        y = arithmetic.multiply(y, t, SOFTMAX_BITS) + constant
    return y


def out_of_range(arithmetic: Arithmetic, logits: Tensor) -> Bits:
    """One bit: whether any logit is larger than `MAX_LOGIT` in absolute value."""
    flat = logits.reshape(-1)
    limit = arithmetic.public(np.full(flat.shape, MAX_LOGIT), flat.bits)
    width = -(-2 * flat.size // 8) * 8
    padding = arithmetic.public(np.full(width - 2 * flat.size, MAX_LOGIT), flat.bits)
    inside = arithmetic.invert(arithmetic.negative(join([limit - flat, limit + flat, padding])))
    return arithmetic.invert(arithmetic.every(arithmetic.rows(inside, 8)))


def _largest(arithmetic: Arithmetic, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row (rows, 1), and which are less than `WIDTH` below it."""
    count, classes = logits.shape
    padded = -(-count // 8) * 8
    columns = logits.T
    if padded > count:
        none = arithmetic.public(np.zeros((classes, padded - count)), logits.bits)
        columns = join([columns, none], axis=1)
    left, right = np.triu_indices(classes, 1)
    others = [[j for j in range(classes) if j != i] for i in range(classes)]
    near_i, near_j = np.repeat(np.arange(classes), classes - 1), np.concatenate(others)
    width = arithmetic.public(np.full((len(near_i), padded), WIDTH), logits.bits)
    beaten = columns[left] - columns[right]
    far = columns[near_i] - columns[near_j] + width
    signs = arithmetic.rows(arithmetic.negative(join([beaten, far]).reshape(-1)), padded)
    less, near = signs[: len(left)], arithmetic.invert(signs[len(left) :])
    # i wins against j > i unless less; against j < i if less: the first of equals is the largest.
    wins = join_bits([less, arithmetic.invert(less)])
    place = {pair: k for k, pair in enumerate(zip(left.tolist(), right.tolist(), strict=True))}
    order = [
        [place[j, i] if j < i else len(left) + place[i, j] for j in others[i]]
        for i in range(classes)
    ]
    # Axis 0: the others that must be beaten, or be near; then classes; both questions side by side.
    won = wins[np.array(order).T.reshape(-1)]
    is_near = near[np.arange(len(near_i)).reshape(classes, classes - 1).T.reshape(-1)]
    both = _stacked(won, is_near, classes - 1)
    answer = arithmetic.number(arithmetic.every(both)).reshape(2, classes, padded)[:, :, :count]
    winner, kept = answer[0].T, answer[1].T
    product = arithmetic.product(winner, logits).sum(1, keepdims=True)
    return arithmetic.settle(product, logits.bits), kept


def _stacked(a: Bits, b: Bits, length: int) -> Bits:
    """Two tables of `length` blocks of rows → (length, rows of a block of a and of b, …)."""
    pairs = zip(a.parts, b.parts, strict=True)
    shape = (length, -1, a.parts[0].shape[-1])
    return Bits(
        tuple(np.concatenate((x.reshape(shape), y.reshape(shape)), axis=1) for x, y in pairs),
        a.count,
    )


def _exponential(arithmetic: Arithmetic, x: Tensor) -> Tensor:
    """e^x for −16 < x ≤ 0, elementwise."""
    c = _coefficients()
    t = arithmetic.lift(arithmetic.shrink(x, round(math.log2(WIDTH))), SOFTMAX_BITS)
    square = arithmetic.multiply(t, t, SOFTMAX_BITS)
    total = SOFTMAX_BITS + _COEFFICIENT_BITS
    upper = (
        arithmetic.times(square, c[4], _COEFFICIENT_BITS)
        + arithmetic.times(t, c[3], _COEFFICIENT_BITS)
        + arithmetic.public(np.full(x.shape, c[2]), total)
    )
    upper = arithmetic.settle(arithmetic.as_product(upper), SOFTMAX_BITS)
    lower = arithmetic.times(t, c[1], SOFTMAX_BITS) + arithmetic.public(
        np.full(x.shape, c[0]), 2 * SOFTMAX_BITS
    )
    y = arithmetic.settle(arithmetic.plus(arithmetic.product(square, upper), lower), SOFTMAX_BITS)
    for _ in range(SQUARINGS):
        y = arithmetic.multiply(y, y, SOFTMAX_BITS)
    return y


@lru_cache(maxsize=1)
def _coefficients() -> Array:
    """Of e^x on [−1, 0] by interpolation at Chebyshev nodes, constant first."""
    fit = np.polynomial.Chebyshev.interpolate(np.exp, DEGREE, domain=[-1.0, 0.0])
    return np.asarray(fit.convert(kind=np.polynomial.Polynomial).coef, np.float64)


def _reciprocal(arithmetic: Arithmetic, s: Tensor, largest: int) -> Tensor:
    """1/s for 0.99 < s ≤ largest + 0.01."""
    low, high = 0.99, largest + 0.01
    # The line a − bs with the least relative error: 1/T₂((high + low)/(high − low)) at the ends.
    centre = (high + low) / (high - low)
    error = 1.0 / (2 * centre**2 - 1)
    b = 8 * error / (high - low) ** 2
    a = b * (high + low)
    total = s.bits + SOFTMAX_BITS
    line = arithmetic.public(np.full(s.shape, a), total) - arithmetic.times(s, b, SOFTMAX_BITS)
    y = arithmetic.settle(arithmetic.as_product(line), SOFTMAX_BITS)
    one = arithmetic.public(np.ones(s.shape), SOFTMAX_BITS)
    for _ in range(_steps(error)):
        e = one - arithmetic.multiply(s, y, SOFTMAX_BITS)
        pair = arithmetic.multiply(join([e, y]), join([e, one + e]), SOFTMAX_BITS)
        square, better = pair[: s.shape[0]], pair[s.shape[0] :]
        y = arithmetic.multiply(better, one + square, SOFTMAX_BITS)
    return y


def _steps(error: float) -> int:
    """Steps that bring a relative error below 2^−15."""
    return max(1, math.ceil(math.log(15 * math.log(2) / -math.log(error), 4)))
