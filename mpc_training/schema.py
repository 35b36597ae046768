"""What all parties agreed that their columns look like, so that a table that does not fit is found
before anything is shared, by its owner alone.

Nobody learns anybody's range or columns: the schema is public, and each party holds its own records
against it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mpc_training.errors import DataError, SettingsError
from mpc_training.holdings import MAX_VALUE, Holding

_FULL = 1 / 16
"""A party whose values stay within this part of the range has another scale."""
_BLOCK = 4096


@dataclass(frozen=True)
class Schema:
    """columns: names, in order, of a CSV file's features, where all parties hold the same ones.
    classes: names of folders of images, in the order of their labels. low, high: between which
    features are, once divided. Raises `SettingsError`."""

    columns: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise SettingsError(f"low {self.low}, high {self.high}: expected both or neither")
        if self.low is None or self.high is None:
            return
        if not -MAX_VALUE <= self.low < self.high <= MAX_VALUE:
            raise SettingsError(
                f"low {self.low:g}, high {self.high:g}: expected −{MAX_VALUE:g} ≤ low < high "
                f"≤ {MAX_VALUE:g}"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """JSON values that must be equal on all parties."""
        return asdict(self)

    def check(self, holding: Holding) -> None:
        """Raises `DataError` with every way in which these records do not fit."""
        faults = [*self._wrong_columns(holding), *self._wrong_scale(holding)]
        if faults:
            raise DataError("; ".join(faults))

    def _wrong_columns(self, holding: Holding) -> list[str]:
        if self.columns is None or holding.kind == "columns":
            return []
        if holding.names is None:
            return ["columns have no names, but names were agreed on: use a CSV file"]
        missing = [name for name in self.columns if name not in holding.names]
        more = [name for name in holding.names if name not in self.columns]
        if missing or more:
            lacking, surplus = (", ".join(some) or "none" for some in (missing, more))
            return [
                f"columns {lacking} are missing, and {surplus} were not agreed on: correct the "
                "file, or name the columns in [data]"
            ]
        if holding.names != self.columns:
            return [
                f"columns stand as {', '.join(holding.names)}, agreed was "
                f"{', '.join(self.columns)}: name them in [data] in that order"
            ]
        return []

    def _wrong_scale(self, holding: Holding) -> list[str]:
        if self.low is None or self.high is None:
            return []
        least, most = np.inf, -np.inf
        for start in range(0, holding.count, _BLOCK):
            block = holding.values(slice(start, start + _BLOCK))
            least, most = min(least, float(block.min())), max(most, float(block.max()))
        found = f"features ({holding.features.dtype}) go from {least:.6g} to {most:.6g}"
        agreed = f"agreed is {self.low:g} to {self.high:g}"
        if least < self.low or most > self.high:
            return [f"{found}, {agreed}: scale them, or correct the divisor"]
        if most - least < _FULL * (self.high - self.low):
            return [f"{found}, {agreed}, of which that is a sixteenth or less: divided twice?"]
        return []
