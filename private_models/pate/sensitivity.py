"""How much the cost of the votes, which depends on the data, can differ between neighbours.

One row reaches one teacher, and so moves at most one vote of every query. Let m be the largest
count of a query, T the threshold, σ₁ the noise of the test and σ₂ that of the votes. Its outcome is
"not answered" or a class. With Φ the normal distribution function,

    p = Φ((T − m)/σ₁)                      the test fails
    q = Σ Φ(−(m − n_k)/(√2·σ₂))            over the other classes: another class comes first
    u = p + q,   w = 1 − p                 Pr[not the leading class], Pr[answered]

and the cost is f = min(B(u), B(w)), B being `likely_outcome_divergence` for the two steps together:
theorem 6 for whichever outcome is likely. A neighbour has m within 1 and all gaps within 2, so

    w′ ≤ Φ(Φ⁻¹(w) + 1/σ₁),   u′ ≤ K·Φ(Φ⁻¹(u/K) + c),   c = max(1/σ₁, √2/σ₂)

(the latter since K terms move by c at most each, and Φ(Φ⁻¹(·) + c) is concave: compare B_U in
Papernot et al. 2018, appendix B). On the axis z = Φ⁻¹(u/K) neighbours are c apart, and d rows reach
d·c. The *local sensitivity at distance d* is bounded by the largest rise of B over a step c whose
start lies within d·c of z; steps are looked up in cells that are the same for all data. The
*smooth sensitivity* (Nissim, Raskhodnikova & Smith 2007, definition 2.2) is

    S = max over d of e^(−βd)·Σ over queries of it,

and ln S differs by at most β between neighbours: bounds at d never exceed a neighbour's at d + 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from private_models.noise import WIDTH, Array, Integers
from private_models.pate.renyi import likely_outcome_divergence

_CELLS = 8
"""In a step of one row."""
_LOWEST = -38.0
"""z below which log u is under −700 and nothing is left to tell apart."""
_HIGHEST = 9.0
"""z above which the outcome is certain not to be the leader, and B is what it is for any data."""
_LATTICE = 4 / WIDTH
"""By which counts on the noise's lattice may be off, in standard deviations, twice over."""


@dataclass(frozen=True)
class Votes:
    """Counts (queries, classes) of one vote a teacher, and the noise that they are asked with.

    Attributes:
        counts: int64. threshold: T. test_deviation: σ₁. vote_deviation: σ₂; all in votes.
        rho: of a test and an answer together, for the sensitivities that they are priced with.
    """

    counts: Integers
    threshold: float
    test_deviation: float
    vote_deviation: float
    rho: float

    def log_unlike_leader(self) -> Array:
        """log u for every query: neither unanswered nor another class."""
        ordered = np.sort(self.counts, axis=1)[:, ::-1].astype(np.float64)
        gaps = ordered[:, :1] - ordered[:, 1:]
        others = log_ndtr(-gaps / (math.sqrt(2) * self.vote_deviation) + _LATTICE)
        fails = log_ndtr((self.threshold - ordered[:, :1]) / self.test_deviation + _LATTICE)
        return np.asarray(np.logaddexp.reduce(np.hstack([fails, others]), axis=1))

    def log_answered(self) -> Array:
        """log w for every query."""
        largest = self.counts.max(axis=1).astype(np.float64)
        return np.asarray(log_ndtr((largest - self.threshold) / self.test_deviation + _LATTICE))

    def divergences(self, order: float) -> Array:
        """f for every query, (queries,)."""
        return np.minimum(
            likely_outcome_divergence(self.log_unlike_leader(), self.rho, order),
            likely_outcome_divergence(self.log_answered(), self.rho, order),
        )

    def axes(self) -> tuple["Axis", "Axis"]:
        """Where u and w lie, and how far one row moves them."""
        classes, once = self.counts.shape[1], 1 / self.test_deviation
        step = max(once, math.sqrt(2) / self.vote_deviation)
        log_share = self.log_unlike_leader() - math.log(classes)
        return (
            Axis(ndtri_exp(log_share), step, classes),
            Axis((self.counts.max(axis=1) - self.threshold) * once, once, 1),
        )


@dataclass(frozen=True)
class Axis:
    """Points z = Φ⁻¹(probability / terms), and the step c of one row."""

    points: Array
    step: float
    terms: int


class _Landscape:
    """B along an axis in cells of c/8, and the largest rise over a step that starts in each."""

    def __init__(self, axis: Axis, rho: float, order: float) -> None:
        self._axis, self._width = axis, axis.step / _CELLS
        count = math.ceil((_HIGHEST - _LOWEST) / self._width) + 4 * _CELLS
        edges = _LOWEST + self._width * np.arange(count)
        log_q = np.minimum(log_ndtr(edges) + math.log(axis.terms), 0.0)
        self.heights = likely_outcome_divergence(log_q, rho, order)
        later, earlier = self.heights[_CELLS + 1 :], self.heights[: -_CELLS - 1]
        rises = later - earlier
        # From cell k to the cell a step up, and from the cell a step down to cell k.
        self.rises = np.maximum(rises[_CELLS:], rises[:-_CELLS])
        below = np.full(_CELLS, self.heights[2 * _CELLS])
        self.rises = np.concatenate([below, self.rises])
        self._runs = np.lib.stride_tricks.sliding_window_view(self.rises, _CELLS + 1).max(axis=1)

    def _cell(self, points: Array) -> Integers:
        return np.asarray(np.floor((points - _LOWEST) / self._width), np.int64)

    def height_after(self, rows: int) -> Array:
        """B where `rows` rows can bring it to, rounded up to an edge; (queries,)."""
        cells = self._cell(self._axis.points + rows * self._axis.step) + 1
        return np.asarray(self.heights[cells.clip(0, len(self.heights) - 1)])

    def rise_within(self, rows: int, before: Array) -> Array:
        """The largest rise of a step that starts up to `rows` rows away, given that of fewer."""
        if not rows:
            return np.asarray(
                self.rises[self._cell(self._axis.points).clip(0, len(self.rises) - 1)]
            )
        reach = rows * self._axis.step
        most = len(self._runs) - 1
        low = self._runs[self._cell(self._axis.points - reach).clip(0, most)]
        high = self._runs[(self._cell(self._axis.points + reach) - _CELLS).clip(0, most)]
        return np.asarray(np.maximum(before, np.maximum(low, high)))


def local_sensitivities(votes: Votes, order: float, most_rows: int) -> Array:
    """Bounds on how much Σ f differs between neighbours 0 … most_rows rows away, ascending."""
    landscapes = [_Landscape(axis, votes.rho, order) for axis in votes.axes()]
    rises = [np.zeros(len(votes.counts)) for _ in landscapes]
    found = np.empty(most_rows + 1)
    for rows in range(most_rows + 1):
        rises = [
            land.rise_within(rows, before) for land, before in zip(landscapes, rises, strict=True)
        ]
        ceiling = np.minimum(*(land.height_after(rows + 1) for land in landscapes))
        found[rows] = float(np.minimum(np.maximum(*rises), ceiling).sum())
    found[-1] = votes.rho * order * len(votes.counts)  # beyond all teachers: whatever the data
    return found


def smooth_sensitivity(votes: Votes, order: float, smoothness: float) -> float:
    """S for β = `smoothness`: at least every local sensitivity, and ln S moves by β at most."""
    teachers = int(votes.counts[0].sum())
    local = local_sensitivities(votes, order, teachers)
    smooth = float((np.exp(-smoothness * np.arange(teachers + 1)) * local).max())
    return max(smooth, 1e-12 * votes.rho * order)
