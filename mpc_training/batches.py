"""Which records make up which step: public, and alike on every party.

The order of an epoch comes from the run's public seed, so that the loop in the clear can follow it.
It says nothing about the records: it is drawn without looking at them.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mpc_training.errors import SettingsError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batches:
    """counts: records of each party, one after the other; for columns one count, of the aligned
    ones.

    batch: records a step, at most all. seed: public. What does not fill a batch is left out of that
    epoch. Raises `SettingsError` if there are no records.
    """

    counts: tuple[int, ...]
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if sum(self.counts) < 1 or min(self.counts) < 0:
            raise SettingsError(f"{self.counts} records: expected at least one")

    @property
    def size(self) -> int:
        """Records a step."""
        return min(self.batch, sum(self.counts))

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return sum(self.counts) // self.size

    def rows(self, step: int) -> list[Rows]:
        """The records that each party brings to step 0, 1, … of the whole run, ascending."""
        epoch, place = divmod(step, self.steps)
        order = _order(self.seed, epoch, sum(self.counts))
        chosen = np.sort(order[place * self.size : (place + 1) * self.size])
        starts = np.concatenate(([0], np.cumsum(self.counts)))
        return [chosen[(chosen >= low) & (chosen < high)] - low for low, high in pairwise(starts)]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Rows:
    return np.random.default_rng([seed, epoch]).permutation(count)
