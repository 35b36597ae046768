"""Releases: what was published of the private rows, planned before the first of them is touched.

A `Release` is frozen data: which sum, how much one row can change it, how much noise covers that.
A `Mechanism` is given all of them in advance, whose total is priced, and then adds the noise, in
that order and once each. Whatever is not in the plan cannot be published; so the price is known
before any row is read, and a fit that is refused has spent nothing.

**Rounding.** Sensitivities are those of exact sums; float64 sums are not exact, and which rows
share a chunk depends on every row before them. Let u = 2⁻⁵³, m = `CHUNK_ROWS`, N the most rows
there may be (`MAX_ROWS`, or twice a number that is public), and C the norm of one row's part. A sum
over chunks of m differs from the exact one by at most (m + N/m)·u·N·C, and a row's own part,
computed beside other rows, by at most `part_error`·C. Two neighbouring data sets therefore have
computed sums at most

    Δ + 2·N·C·((m + N/m + 8)·u + part error)  ≤  Δ·(1 + ROUNDING_MARGIN)

apart. The margin is part of every sensitivity, and whatever the bound needs is made to hold by
public means: rows are limited to N, weights to `LARGEST_LOGIT`, the condition of whitening.
(Standard model of float64 arithmetic without underflow, any order of summation: Higham 2002,
"Accuracy and Stability of Numerical Algorithms", §3.1 and §4.2.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from private_models.accounting import composed_mu
from private_models.errors import BudgetError, OptionError
from private_models.noise import (
    LARGEST_INTEGER,
    TOTAL_VARIATION,
    WIDTH,
    Array,
    RandomBits,
    add_noise,
)

MAX_ROWS = 1 << 21
"""Rows that one fit takes: 2,097,152."""
CHUNK_ROWS = 1024
"""Rows in one matrix product: small enough for a cache, large enough to be quick."""
ROUNDING_MARGIN = 2.0**-7
"""Of every sensitivity; it costs about as much of epsilon."""
LARGEST_LOGIT = 256.0
"""Bound on (norm of a row)·(Frobenius norm of the weights): weights beyond are scaled back."""
UNIT_ROUNDOFF = 2.0**-53
_ROUNDING_TO_LATTICE = ROUNDING_MARGIN / 4


@dataclass(frozen=True)
class Release:
    """`count` sums over the private rows, each published once with Gaussian noise.

    Attributes:
        what: which sum, in words for a statement.
        sensitivity: the most (L2 norm) that the exact sum differs between neighbours.
        noise_multiplier: standard deviation / sensitivity, the latter with the rounding margin.
        coordinates: numbers in one of the sums.
        count: how many sums.
        sampled: probability with which a row takes part, or None for all rows every time.
    """

    what: str
    sensitivity: float
    noise_multiplier: float
    coordinates: int
    count: int = 1
    sampled: float | None = None

    def __post_init__(self) -> None:
        """Refuse with `OptionError` what cannot be carried out exactly."""
        for name in ("sensitivity", "noise_multiplier"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{self.what}: {name} {value}, expected a positive number")
        if self.coordinates < 1 or self.count < 1:
            raise OptionError(f"{self.what}: {self.coordinates} numbers, {self.count} times")
        if MAX_ROWS * WIDTH / self.noise_multiplier > LARGEST_INTEGER / 4:
            raise BudgetError(
                f"{self.what}: noise multiplier {self.noise_multiplier:.3g} is too small for "
                "integer noise: ask for a smaller epsilon, or fewer steps"
            )
        if math.sqrt(self.coordinates) * self.noise_multiplier / WIDTH > _ROUNDING_TO_LATTICE:
            raise BudgetError(
                f"{self.what}: noise multiplier {self.noise_multiplier:.3g} on {self.coordinates} "
                "numbers: ask for a larger epsilon"
            )

    @property
    def standard_deviation(self) -> float:
        """Of the noise in every coordinate, in the unit of the sum."""
        return self.noise_multiplier * self.sensitivity * (1 + ROUNDING_MARGIN)

    @property
    def drawn(self) -> int:
        """Numbers published in all."""
        return self.coordinates * self.count


def total_mu(releases: Sequence[Release]) -> float:
    """μ of the full-batch ones together (Gaussian differential privacy; see `accounting`)."""
    multipliers = [r.noise_multiplier / math.sqrt(r.count) for r in releases if r.sampled is None]
    return composed_mu(multipliers) if multipliers else 0.0


def sampler_delta(epsilon: float, coordinates: int) -> float:
    """What integer noise for this many numbers adds to δ (see `noise`)."""
    return (1 + math.exp(epsilon)) * coordinates * TOTAL_VARIATION


def part_error(width: int, ratio: float = 1.0, prepared: float = 0.0) -> float:
    """Error of one row's part of a gradient over the clip norm C, at most.

    width: columns of the prepared features. ratio: R/C, the norm bound of a row over the clip norm.
    prepared: error of a prepared row over R.

    Logits are products of `width` terms with a norm of at most `LARGEST_LOGIT`, and are off as well
    by what the row is off; a softmax halves differences at least, so e is off by ½·LARGEST_LOGIT·
    ((width + 8)·u + prepared). Scaling e·z to norm C, where it is longer, at most doubles an error
    relative to C, which is R/C times that of e; and z itself is off.
    """
    own = LARGEST_LOGIT * (UNIT_ROUNDOFF * (width + 8) + prepared) + 4 * prepared
    return own * max(1.0, ratio)


def check_rounding(
    width: int, prepared: float = 0.0, ratio: float = 1.0, rows: float = MAX_ROWS
) -> None:
    """Refuse with `OptionError` what could round by more than the margin.

    width, prepared, ratio: as of `part_error`. rows: that neighbouring data sets have, at most.
    """
    sums = (CHUNK_ROWS + rows / CHUNK_ROWS + 8) * UNIT_ROUNDOFF
    own = part_error(width, ratio, prepared)
    bound = 2 * rows * (sums + own) + _ROUNDING_TO_LATTICE
    if not bound <= ROUNDING_MARGIN:
        raise OptionError(
            f"{width} features, prepared to within {prepared:.1e}: rounding could reach "
            f"{bound / ROUNDING_MARGIN:.1f} times its margin; say how many rows there are, if that "
            "is public (rows=, --count), use fewer features, a larger clip norm, or public "
            "features that are better conditioned"
        )


class Mechanism:
    """Publishes planned sums, each once and in order, with noise of its own.

    Guarantee: if every array given differs between neighbours by at most its release's sensitivity
    (as exact sums), everything returned together is one Gaussian mechanism with `total_mu` of the
    plan, up to `sampler_delta`; Poisson-sampled releases are for `accounting` to price.
    """

    def __init__(self, bits: RandomBits, planned: Sequence[Release]) -> None:
        self._bits = bits
        self._planned = [release for release in planned for _ in range(release.count)]
        self._done = 0

    @property
    def next_release(self) -> Release:
        """What is to be published next. Raises `BudgetError` if nothing is left."""
        if self._done == len(self._planned):
            raise BudgetError("nothing more is planned: the budget is spent")
        return self._planned[self._done]

    def publish(self, what: str, total: Array) -> Array:
        """`total` plus noise. Raises `BudgetError` for anything but the next planned release."""
        release = self.next_release
        if (release.what, release.coordinates) != (what, total.size):
            raise BudgetError(
                f"expected {release.what!r} with {release.coordinates} numbers next, found "
                f"{what!r} with {total.size}"
            )
        self._done += 1
        return add_noise(self._bits, total, release.standard_deviation)

    def publish_symmetric(self, what: str, total: Array) -> Array:
        """A symmetric matrix (d, d) through its upper triangle: d(d + 1)/2 numbers, less noise.

        Entries off the diagonal are scaled by √2, so that L2 distance is Frobenius distance.
        """
        upper = np.triu_indices(len(total))
        scale = np.where(upper[0] == upper[1], 1.0, math.sqrt(2))
        noisy = self.publish(what, total[upper] * scale) / scale
        symmetric = np.empty_like(total)
        symmetric[upper] = noisy
        symmetric.T[upper] = noisy
        return symmetric

    @property
    def is_spent(self) -> bool:
        return self._done == len(self._planned)
