"""How a cost grows: exponents by least squares on logarithms, and how much of it they explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROUNDING = 1e-20
"""Of logarithms, squared and summed: costs that differ by no more are one and the same."""


class PowerLaw(NamedTuple):
    """cost = factor · size ** exponent.

    Attributes:
        exponent: 1 where twice the size takes twice as long.
        factor: the cost at size 1, in the unit of the costs.
        explained: R² of the logarithms, 1 where every point is on the curve.
    """

    exponent: float
    factor: float
    explained: float


def power_law(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw:
    """The curve through at least two different sizes and their costs, all positive.

    Raises:
        ValueError: there are fewer, or some are not positive.
    """
    across, up = np.asarray(sizes, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if len(set(sizes)) < 2 or across.shape != up.shape or (across <= 0).any() or (up <= 0).any():
        raise ValueError(f"expected two or more positive sizes and costs, found {sizes}, {costs}")
    across, up = np.log(across), np.log(up)
    exponent, start = np.polyfit(across, up, 1)
    rest, total = up - (exponent * across + start), up - up.mean()
    spread = float((total**2).sum())
    if spread <= _ROUNDING:
        return PowerLaw(0.0, float(np.exp(up.mean())), 1.0)
    explained = 1.0 - float((rest**2).sum()) / spread
    return PowerLaw(float(exponent), float(np.exp(start)), explained)
