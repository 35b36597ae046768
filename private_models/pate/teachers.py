"""Teachers on disjoint parts of the private rows, and their votes on public ones.

A part is drawn for every row by itself, from the noise module's random bits: were rows dealt out by
their place, one row more would move all that follow to other teachers.

A teacher, and the student, is a ridge regression of −1/K, 1 − 1/K labels on centred features, in
closed form: a few dozen rows each are too few for anything better, and hundreds take a second.
"""

from collections.abc import Sequence

import numpy as np

from private_models.errors import OptionError
from private_models.features import Labels
from private_models.noise import Array, Integers, RandomBits
from private_models.solvers.task import Progress, silent

MOST_TEACHERS = 10_000


def parts(bits: RandomBits, rows: int, teachers: int) -> list[Integers]:
    """Row numbers of every teacher, disjoint; some may be empty.

    Each row's teacher is uniform to within teachers·2⁻⁶⁴ and independent of all other rows.
    Raises `OptionError` for fewer than 2 teachers or more than `MOST_TEACHERS`.
    """
    if not 2 <= teachers <= MOST_TEACHERS:
        raise OptionError(f"{teachers} teachers: expected 2 to {MOST_TEACHERS}")
    chosen = (bits.words(rows) % np.uint64(teachers)).astype(np.int64)
    order = np.argsort(chosen, kind="stable")
    return list(np.split(order, np.searchsorted(chosen[order], np.arange(1, teachers))))


def ridge_regression(rows: Array, labels: Labels, classes: int, ridge: float) -> Array:
    """Weights (d, K) that minimise ‖rows·W − Y‖² + ridge·(mean squared norm)·‖W‖².

    rows (n, d), labels (n,). For no rows, zeros. Solved in the smaller of n and d dimensions.
    """
    count, width = rows.shape
    targets = np.full((count, classes), -1 / classes)
    targets[np.arange(count), labels] += 1
    penalty = ridge * float(np.einsum("ij,ij->", rows, rows)) / max(count, 1)
    if not penalty > 0:
        return np.zeros((width, classes))
    if count <= width:
        return np.asarray(
            rows.T @ np.linalg.solve(rows @ rows.T + penalty * np.eye(count), targets)
        )
    return np.asarray(np.linalg.solve(rows.T @ rows + penalty * np.eye(width), rows.T @ targets))


def count_votes(
    rows: Array,
    labels: Labels,
    places: Sequence[Integers],
    queries: Array,
    classes: int,
    ridge: float,
    progress: Progress = silent,
) -> Integers:
    """Votes (Q, K) of one teacher for each entry of `places` on queries (Q, d)."""
    counts = np.zeros((len(queries), classes), np.int64)
    asked = np.arange(len(queries))
    for number, place in enumerate(places):
        weights = ridge_regression(rows[place], labels[place], classes, ridge)
        counts[asked, (queries @ weights).argmax(axis=1)] += 1
        progress("teachers", number + 1, len(places))
    return counts
