"""What attacks find, as numbers: bounds on epsilon, and curves of true against false alarms."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from private_models.accounting import check_delta
from private_models.head import PrivateHead
from private_models.noise import Array

Fit = Callable[[Array, npt.NDArray[np.int64]], PrivateHead]
"""From features and class indices to a head, with noise of its own each time."""

Flags = npt.NDArray[np.bool_]
Steps = Callable[[int], None]
"""Called with how many steps are done."""

NO_REASSURANCE = "a lower bound: this attack found this much; a low one proves nothing"


def ignore(_done: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Bound:
    """What an attack proves.

    Attributes:
        claimed: epsilon that the head states. found: epsilon below which it cannot be, at the same
        delta, except with probability 1 − confidence. runs: fits in each of the two cases, or
        canaries. method: what the bound rests on.
    """

    claimed: float
    found: float
    delta: float
    confidence: float
    runs: int
    method: str
    note: str = NO_REASSURANCE

    @property
    def is_broken(self) -> bool:
        """Whether the claim is refuted."""
        return self.found > self.claimed


def rate_at_least(hits: int, count: int, risk: float) -> float:
    """A bound on a rate that is too high with probability `risk` at most (Clopper & Pearson)."""
    return float(beta.ppf(risk, hits, count - hits + 1)) if hits else 0.0


def rate_at_most(hits: int, count: int, risk: float) -> float:
    """A bound on a rate that is too low with probability `risk` at most (Clopper & Pearson)."""
    return float(beta.isf(risk, hits + 1, count - hits)) if hits < count else 1.0


@dataclass(frozen=True)
class Curve:
    """How well members are told from others.

    Attributes:
        false_positive, true_positive: the ROC curve, ascending arrays (points,).
        members, others: how many of each were judged.
    """

    false_positive: Array
    true_positive: Array
    members: int
    others: int
    note: str = NO_REASSURANCE

    @classmethod
    def of(cls, scores: Array, inside: Flags) -> "Curve":
        """From a score for every row, higher for likelier members, and the truth."""
        order = np.argsort(-scores, kind="stable")
        hits, alarms = np.cumsum(inside[order]), np.cumsum(~inside[order])
        members, others = int(inside.sum()), int((~inside).sum())
        last = np.append(np.diff(scores[order]) != 0, True)  # ties stand or fall together
        return cls(
            np.append(0.0, (alarms / max(others, 1))[last]),
            np.append(0.0, (hits / max(members, 1))[last]),
            members,
            others,
        )

    def true_positive_at(self, false_positive: float) -> float:
        """The largest true positive rate at no more than this false positive rate."""
        allowed = self.false_positive <= false_positive
        return float(self.true_positive[allowed].max(initial=0.0))

    @property
    def area(self) -> float:
        """Under the ROC curve; 0.5 for guessing."""
        return float(np.trapezoid(self.true_positive, self.false_positive))

    def epsilon(self, delta: float, confidence: float = 0.999) -> float:
        """What the curve's best point would prove of ε, had it been chosen before looking.

        Rows share heads and the point is chosen after the fact, so this is an indication, not a
        bound with that confidence.
        """
        check_delta(delta)
        risk = (1 - confidence) / 2
        found = 0.0
        for fp, tp in zip(self.false_positive, self.true_positive, strict=True):
            high = rate_at_most(round(fp * self.others), self.others, risk)
            low = rate_at_least(round(tp * self.members), self.members, risk)
            if low > delta and high > 0:
                found = max(found, math.log((low - delta) / high))
        return found
