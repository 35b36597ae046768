"""Confident-GNMax: a noisy test whether teachers agree, and a noisy vote where they do.

(Papernot et al. 2018, arXiv 1802.08908, algorithm 1.) A query with vote counts n is answered with
argmax(n + N(0, σ₂²)) if max(n) + N(0, σ₁²) ≥ T. Its answer, and that there is none, are published.

**Sensitivity.** Parts are disjoint and a row's part is drawn independently of all other rows. So a
row more, a row less, *and* a row replaced touch the votes of one teacher alone: the largest count
moves by at most 1, the counts by at most √2 in L2 norm (one vote leaves a class, another gets it).
Both relations therefore cost the same, and a replaced row is not two here.

**Composition.** All Q tests are one release: a row moves their vector by at most √Q. Its outcome
says which queries are answered, the first A that pass; their votes are the second release, which a
row moves by at most √(2A). Two Gaussian mechanisms, the second chosen by what the first published:
together μ² = Q/σ₁² + 2A/σ₂².
"""

import math
from dataclasses import dataclass

import numpy as np

from private_models.errors import OptionError
from private_models.noise import Integers, RandomBits
from private_models.releases import Mechanism, Release
from private_models.solvers.task import shares

TEST = "whether teachers agree on each query"
VOTE = "votes of the queries that are answered"
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
        tests, votes = shares(mu, [self.test_share, 1 - self.test_share])
        return (
            Release(TEST, math.sqrt(self.queries), tests, self.queries),
            Release(VOTE, math.sqrt(2 * self.answers), votes, self.classes * self.answers),
        )


def vote(
    counts: Integers,
    ballot: Ballot,
    plan: tuple[Release, Release],
    bits: RandomBits,
) -> Integers:
    """The class of every query, or `UNANSWERED`; int64 (Q,).

    counts: (Q, K), a vote a teacher in every row.

    Guarantee: the whole of what is returned is Gaussian-private with the plan's total μ.
    Raises `OptionError` for counts that do not fit the ballot.
    """
    if counts.shape != (ballot.queries, ballot.classes) or len(set(counts.sum(axis=1))) != 1:
        raise OptionError(
            f"votes of shape {counts.shape}: expected {ballot.queries} queries, {ballot.classes} "
            "classes, and every teacher's one vote in each"
        )
    mechanism = Mechanism(bits, plan)
    agreement = mechanism.publish(TEST, counts.max(axis=1).astype(np.float64))
    passed = np.flatnonzero(agreement >= ballot.threshold)[: ballot.answers]
    asked = np.zeros((ballot.answers, ballot.classes))
    asked[: len(passed)] = counts[passed]
    found = mechanism.publish(VOTE, asked).argmax(axis=1)
    answers = np.full(ballot.queries, UNANSWERED, np.int64)
    answers[passed] = found[: len(passed)]
    return answers
