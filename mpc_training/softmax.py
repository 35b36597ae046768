"""Softmax of shared logits, each step inside the interval where it is exact enough.

    max     all pairs are compared at once, which tells the largest of each row and what lies less
            than 16 below it; x = logit − max, or −16 if that is more: 7 rounds with the settling
    e^x     a degree-4 interpolant of e^x on [−1, 0] at x/16, in two products, then four
            squarings; relative error below 5e-4, of at least e^−16 = 1.1e-7: 10 rounds
    e^x/S   S = Σ e^x ∈ (0.99, classes]: a line y ≈ 1/S, e = 1 − Sy, and
            e^x·y·(1 + e)(1 + e²)(1 + e⁴)… until what is left of e is below 2^−15, multiplied up
            beside the squarings: 8 rounds for 10 classes

No interval depends on the data, except that logits differ by less than 2^15 (`fixed_point`); that
one is checked, see `out_of_range`. Every second product of a chain is settled low (`arithmetic`),
which saves a third of the rounds: its dropped bits, 20, and the 40 of a product leave values below
4.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mpc_training.arithmetic import Arithmetic, Bits, join_bits
from mpc_training.fixed_point import ACTIVATION_BITS, SOFTMAX_BITS
from mpc_training.tensor import Product, Tensor, join

WIDTH = 16.0
"""Logits this far below the largest have probability e^−16 or so, and are taken for such."""
DEGREE = 4
SQUARINGS = 4
_COEFFICIENT_BITS = 16
_ERROR = 2.0**-15
MAX_LOGIT = 2.0**12
"""Logits beyond this mean that training has blown up."""


@dataclass(frozen=True)
class Outcome:
    """logits: settled. probabilities: as asked for. below: each logit less the largest of its row,
    at least −`WIDTH`. total: (rows, 1), Σ e^below."""

    logits: Tensor
    probabilities: Tensor
    below: Tensor
    total: Tensor


def softmax(arithmetic: Arithmetic, answer: Tensor | Product, bits: int) -> Outcome:
    """Probabilities with `bits` fraction bits, of the shape (rows, classes) of a network's answer.

    Absolute error below 1.1e-3 for logits that differ by less than 2^15; 25 rounds for 10 classes.
    """
    logits, x = _below_largest(arithmetic, answer)
    powers = _exponential(arithmetic, x)
    total = powers.sum(1, keepdims=True)
    return Outcome(logits, _divided(arithmetic, powers, total, bits), x, total)


def cross_entropy(arithmetic: Arithmetic, outcome: Outcome, y: Tensor) -> Tensor:
    """Mean of −log p of the labels y, one-hot (rows, classes): shape (1,), to watch training by.

    Error below 0.02 for up to 10 classes; logits further below than `WIDTH` count as that.
    """
    rows, classes = y.shape
    picked = arithmetic.product(y, outcome.below).sum(1).sum(0, keepdims=True)
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
    """Eight bits: whether any logit of an eighth of them is larger than `MAX_LOGIT` in absolute
    value."""
    flat = logits.reshape(-1)
    limit = arithmetic.public(np.full(flat.shape, MAX_LOGIT), flat.bits)
    width = -(-2 * flat.size // 8) * 8
    padding = arithmetic.public(np.full(width - 2 * flat.size, MAX_LOGIT), flat.bits)
    inside = arithmetic.invert(arithmetic.negative(join([limit - flat, limit + flat, padding])))
    return arithmetic.invert(arithmetic.every(arithmetic.rows(inside, 8)))


def _below_largest(arithmetic: Arithmetic, answer: Tensor | Product) -> tuple[Tensor, Tensor]:
    """Logits (rows, classes), and each less the largest of its row, at least −`WIDTH`.

    With wⱼ = [j is the largest] and nᵢⱼ = [i is less than 16 below j]:
    x = Σⱼ wⱼnᵢⱼ(lᵢ − lⱼ + 16) − 16.
    """
    count, classes = answer.shape
    padded = -(-count // 8) * 8
    pairs = np.triu_indices(classes, 1)
    differences = partial(_differences, arithmetic, padded, pairs)
    if isinstance(answer, Product):
        logits, signs = arithmetic.settle_and_compare(answer, ACTIVATION_BITS, differences)
    else:
        logits, signs = answer, arithmetic.negative(differences(answer))
    signs = arithmetic.rows(signs, padded)
    less, near = signs[: len(pairs[0])], arithmetic.invert(signs[len(pairs[0]) :])
    wins = join_bits([less, arithmetic.invert(less)])
    won = wins[_where_beaten(classes)]
    largest = arithmetic.every(won, 3)  # with `near` that makes four, the fan-in of one round
    everywhere = largest[:, np.tile(np.arange(classes), classes)]
    both = arithmetic.every(join_bits([everywhere, near[None]]))
    choice = arithmetic.choice(both[0])
    table = _padded(arithmetic, logits, padded).T
    far = arithmetic.public(np.full((classes**2, padded), WIDTH), logits.bits)
    i, j = np.divmod(np.arange(classes**2), classes)
    kept = arithmetic.choose(choice, table[i] - table[j] + far)
    x = kept.reshape(classes, classes, padded).sum(1).T[:count]
    return logits, x - arithmetic.public(np.full(logits.shape, WIDTH), logits.bits)


def _where_beaten(classes: int) -> npt.NDArray[np.int64]:
    """(classes − 1, classes): for each class j the rows that say that it beats another one, among
    those of [k > j] for j < k, and then of their negations; so the first of equals is the largest.
    """
    pairs = np.triu_indices(classes, 1)
    count = len(pairs[0])
    place = np.zeros((classes, classes), np.int64)
    place[pairs[::-1]] = np.arange(count)
    place[pairs] = count + np.arange(count)
    return place[~np.eye(classes, dtype=np.bool_)].reshape(classes, -1).T


def _differences(
    arithmetic: Arithmetic, padded: int, pairs: tuple[Any, Any], logits: Tensor
) -> Tensor:
    """What is below 0 where j < k and k is larger than j; then, for all i and j, where i is further
    below j than `WIDTH`."""
    table = _padded(arithmetic, logits, padded).T
    i, j = np.divmod(np.arange(logits.shape[1] ** 2), logits.shape[1])
    width = arithmetic.public(np.full((len(i), padded), WIDTH), logits.bits)
    left, right = pairs
    return join([table[left] - table[right], table[i] - table[j] + width]).reshape(-1)


def _padded(arithmetic: Arithmetic, logits: Tensor, rows: int) -> Tensor:
    """With rows of zeros below."""
    count, classes = logits.shape
    if rows == count:
        return logits
    return join([logits, arithmetic.public(np.zeros((rows - count, classes)), logits.bits)])


def _exponential(arithmetic: Arithmetic, x: Tensor) -> Tensor:
    """e^x for −16 ≤ x ≤ 0, elementwise."""
    scale, alpha, beta, gamma, delta = _coefficients()
    f = SOFTMAX_BITS

    def constant(value: float, bits: int) -> Tensor:
        return arithmetic.public(np.full(x.shape, value), bits)

    t = arithmetic.lift(arithmetic.shrink(x, round(math.log2(WIDTH))), f)
    square = arithmetic.product(t, t + constant(alpha, f))
    y = arithmetic.settle(arithmetic.plus(square, constant(beta, 2 * f)), f)
    product = arithmetic.product(y + t + constant(gamma, f), y)
    product = arithmetic.times(product, scale, _COEFFICIENT_BITS)
    product = arithmetic.plus(product, constant(scale * delta, 2 * f + _COEFFICIENT_BITS))
    y = arithmetic.settle(product, f)
    for _ in range(SQUARINGS // 2):
        once = arithmetic.settle_low(arithmetic.product(y, y), f)
        y = arithmetic.settle(arithmetic.lift(arithmetic.product(once, once), 3 * f), f)
    return y


@lru_cache(maxsize=1)
def _coefficients() -> tuple[float, float, float, float, float]:
    """c, α, β, γ, δ with e^t ≈ c((y + t + γ)y + δ), y = t(t + α) + β, on [−1, 0].

    Any monic polynomial of degree 4 has this form (Knuth, The Art of Computer Programming,
    volume 2, 4.6.4, equation 9); which one is found by interpolation at Chebyshev nodes.
    """
    fit = np.polynomial.Chebyshev.interpolate(np.exp, DEGREE, domain=[-1.0, 0.0])
    c = np.asarray(fit.convert(kind=np.polynomial.Polynomial).coef, np.float64)
    a0, a1, a2, a3 = (c[:4] / c[4]).tolist()
    alpha = (a3 - 1) / 2
    rest = a2 - alpha**2 - alpha
    beta = a1 - alpha * rest
    gamma = rest - 2 * beta
    return float(c[4]), alpha, beta, gamma, a0 - beta**2 - gamma * beta


def _divided(arithmetic: Arithmetic, powers: Tensor, s: Tensor, bits: int) -> Tensor:
    """powers/s, (rows, classes), for 0.99 < s ≤ classes + 0.01, s of shape (rows, 1)."""
    f = SOFTMAX_BITS
    a, b, b_bits, error = _line(powers.shape[1])
    y = arithmetic.public(np.full(s.shape, a), f + b_bits) - arithmetic.times(s, b, b_bits)
    one = arithmetic.public(np.ones(s.shape), f)
    steps = max(1, math.ceil(math.log2(math.log(_ERROR) / math.log(error))))
    start = _settled(arithmetic, [arithmetic.product(s, y), arithmetic.product(powers, y)], f)
    e, quotient = one - start[0], start[1]
    dropped = 0
    for step in range(steps - 1):
        pair = arithmetic.product(e, e), arithmetic.product(quotient, one + e)
        products = [arithmetic.lift(product, 2 * f + dropped) for product in pair]
        dropped = f if dropped == 0 and step < steps - 1 else 0
        e, quotient = _settled(arithmetic, products, f, low=dropped > 0)
    last = arithmetic.lift(arithmetic.product(quotient, one + e), 2 * f + dropped)
    return arithmetic.settle(last, bits)


def _settled(
    arithmetic: Arithmetic, products: list[Product], bits: int, low: bool = False
) -> list[Tensor]:
    """Several products of equal bits at once."""
    flat = join([product.reshape(-1) for product in products])
    settled = (arithmetic.settle_low if low else arithmetic.settle)(flat, bits)
    starts = np.cumsum([0, *(product.size for product in products)]).tolist()
    return [
        settled[start : start + product.size].reshape(*product.shape)
        for start, product in zip(starts, products, strict=False)
    ]


@lru_cache(maxsize=8)
def _line(classes: int) -> tuple[float, float, int, float]:
    """a, b, the fraction bits of b, and the largest |1 − s(a − bs)| for 0.99 ≤ s ≤ classes + 0.01.

    The best line has the relative error 1/T₂((high + low)/(high − low)) at both ends and, with the
    other sign, in the middle; b is rounded to few bits, so that Sy needs no truncation.
    """
    low, high = 0.99, classes + 0.01
    centre = (high + low) / (high - low)
    best = 1.0 / (2 * centre**2 - 1)
    b = 8 * best / (high - low) ** 2
    b_bits = 5 - math.floor(math.log2(b))
    b = round(b * 2**b_bits) / 2**b_bits
    a = b * (high + low)
    ends = [1 - s * (a - b * s) for s in (low, high, a / (2 * b))]
    return a, b, b_bits, max(map(abs, ends))
