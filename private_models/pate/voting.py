"""Confident-GNMax: a noisy test whether teachers agree, and a noisy vote where they do.

(Papernot et al. 2018, arXiv 1802.08908, algorithm 1.) A query with vote counts n is answered with
argmax(n + N(0, σ₂²)) if max(n) + N(0, σ₁²) ≥ T. Its answer, and that there is none, are published.

**Sensitivity.** Parts are disjoint and a row's part is drawn independently of all other rows. So a
row more, a row less, *and* a row replaced touch the votes of one teacher alone: the largest count
moves by at most 1, the counts by at most √2 in L2 norm (one vote leaves a class, another gets it).
Both relations therefore cost the same, and a replaced row is not two here.

**Composition.** Q tests and at most A answers are together Gaussian with μ² = Q/σ₁² + 2A/σ₂². Which
queries are answered depends on the data; the number of answers is limited in advance, so fully
adaptive composition of Gaussian mechanisms (Smith & Thakurta 2022, arXiv 2210.17520) covers it.
"""

import math
from dataclasses import dataclass

import numpy as np

from private_models.errors import OptionError
from private_models.noise import Integers, RandomBits
from private_models.releases import Mechanism, Release
from private_models.solvers.task import Progress, silent

TEST = "whether teachers agree on a query"
VOTE = "votes of a query that is answered"
UNANSWERED = -1


@dataclass(frozen=True)
class Ballot:
    """What teachers are asked and how much noise hides one of them.

    Attributes:
        queries: Q. answers: A, at most Q. classes: K.
        threshold: T, in votes.
        test_share: of μ² spent on tests, over 0 and under 1.
    """

    queries: int
    answers: int
    classes: int
    threshold: float
    test_share: float = 0.25

    def __post_init__(self) -> None:
        """Raises `OptionError`."""
        if not 1 <= self.answers <= self.queries:
            raise OptionError(f"{self.answers} answers to {self.queries} queries: expected 1 to as "
                              "many answers as queries")  # fmt: skip
        if not 0 < self.test_share < 1:
            raise OptionError(f"test_share {self.test_share}: expected more than 0, less than 1")
        if not math.isfinite(self.threshold):
            raise OptionError(f"threshold {self.threshold}: expected a number of votes")

    def plan(self, mu: float) -> tuple[Release, Release]:
        """Tests and votes with a total of `mu`; for either relation (see above)."""
        tests = math.sqrt(self.queries / self.test_share) / mu
        votes = math.sqrt(self.answers / (1 - self.test_share)) / mu
        return (
            Release(TEST, 1.0, tests, 1, self.queries),
            Release(VOTE, math.sqrt(2), votes, self.classes, self.answers),
        )


def vote(
    counts: Integers,
    ballot: Ballot,
    plan: tuple[Release, Release],
    bits: RandomBits,
    progress: Progress = silent,
) -> Integers:
    """The class of every query, or `UNANSWERED`; int64 (Q,).

    counts: (Q, K), a vote a teacher in every row. After A answers none is asked any more.

    Guarantee: the whole of what is returned is Gaussian-private with the plan's total μ.
    Raises `OptionError` for counts that do not fit the ballot.
    """
    if counts.shape != (ballot.queries, ballot.classes) or len(set(counts.sum(axis=1))) != 1:
        raise OptionError(
            f"votes of shape {counts.shape}: expected {ballot.queries} queries, {ballot.classes} "
            "classes, and every teacher's one vote in each"
        )
    tests, votes = (Mechanism(bits, [release]) for release in plan)
    answers = np.full(ballot.queries, UNANSWERED, np.int64)
    given = 0
    for query, count in enumerate(counts.astype(np.float64)):
        if given == ballot.answers:
            break
        agreement = tests.publish(TEST, count.max(keepdims=True))
        if agreement[0] >= ballot.threshold:
            answers[query] = int(votes.publish(VOTE, count).argmax())
            given += 1
        progress("queries", query + 1, ballot.queries)
    return answers
