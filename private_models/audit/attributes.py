"""What is the value of a column that the attacker does not know? Attribute inference.

The attacker knows all else of a row, its label included, and takes the value that explains the
label best: the largest p(label | row with this value)·P(value) (Fredrikson et al. 2014; Yeom et
al. 2018, arXiv 1709.01604, section 4). It succeeds on anybody, in the data or not, as far as the
column goes with the label; that is what the head was trained to know. What is held against the
training is only how much better it does on members than on others.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from private_models.audit.findings import NO_REASSURANCE, rate_at_least, rate_at_most
from private_models.errors import InputError
from private_models.head import PrivateHead
from private_models.noise import Array

Labels = npt.NDArray[np.int64]
_CANDIDATES = 10
_SMALLEST = 20


@dataclass(frozen=True)
class AttributeInference:
    """Shares of rows whose value was found.

    Attributes:
        column: which. values: candidates, (values,).
        members, others: right guesses over rows; counts of either.
        baseline: of guessing the commonest value, on all rows.
        advantage_at_least: members − others, but for a chance of 1 %; 0 if that is less.
    """

    column: int
    values: Array
    members: float
    others: float
    baseline: float
    count_members: int
    count_others: int
    note: str = NO_REASSURANCE

    @property
    def advantage_at_least(self) -> float:
        high = rate_at_most(round(self.others * self.count_others), self.count_others, 0.005)
        low = rate_at_least(round(self.members * self.count_members), self.count_members, 0.005)
        return max(0.0, low - high)


def attribute_inference(
    head: PrivateHead,
    members: tuple[Array, Labels],
    others: tuple[Array, Labels],
    column: int,
) -> AttributeInference:
    """Attack one column of the rows that a head was trained on, and of as many that it was not.

    members, others: features (rows, d) and class indices (rows,). Columns with more than ten values
    are cut at their tenths. Raises `InputError` for a column that is not there or has one value,
    and for fewer than 20 rows of either kind.
    """
    width = head.n_features
    if not 0 <= column < width:
        raise InputError(f"column {column}: the head has columns 0 to {width - 1}")
    if min(len(members[0]), len(others[0])) < _SMALLEST:
        raise InputError(
            f"{len(members[0])} members and {len(others[0])} others: expected {_SMALLEST} of each"
        )
    values = _candidates(np.concatenate([members[0][:, column], others[0][:, column]]))
    truth = [_nearest(rows[:, column], values) for rows, _ in (members, others)]
    shares = np.bincount(np.concatenate(truth), minlength=len(values)) / sum(map(len, truth))
    right = [
        float((_guess(head, rows, labels, column, values, shares) == true).mean())
        for (rows, labels), true in zip((members, others), truth, strict=True)
    ]
    return AttributeInference(
        column, values, right[0], right[1], float(shares.max()), len(members[0]), len(others[0])
    )


def _candidates(found: Array) -> Array:
    distinct = np.unique(found)
    if len(distinct) < 2:
        raise InputError("the column has a single value: there is nothing to infer")
    if len(distinct) <= _CANDIDATES:
        return distinct
    middles = (np.arange(_CANDIDATES) + 0.5) / _CANDIDATES
    return np.unique(np.quantile(found, middles))


def _nearest(column: Array, values: Array) -> Labels:
    return np.asarray(np.abs(column[:, None] - values).argmin(axis=1), np.int64)


def _guess(
    head: PrivateHead, rows: Array, labels: Labels, column: int, values: Array, shares: Array
) -> Labels:
    scores = np.empty((len(rows), len(values)))
    changed = rows.copy()
    for place, value in enumerate(values):
        changed[:, column] = value
        logs = log_softmax(head.scores(changed), axis=1)
        scores[:, place] = logs[np.arange(len(rows)), labels] + math.log(shares[place] or 1e-300)
    return np.asarray(scores.argmax(axis=1), np.int64)
