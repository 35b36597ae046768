"""How a cost grows: by a power or along a line, by least squares, and how much that explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
    if float(((up - up.mean()) ** 2).sum()) <= _ROUNDING:
        exponent, start = 0.0, up.mean()
    return PowerLaw(
        float(exponent), float(np.exp(start)), _explained(up, exponent * across + start)
    )


class Line(NamedTuple):
    """cost = fixed + each · size.

    Attributes:
        fixed: the cost of none, in the unit of the costs.
        each: what one more costs.
        explained: R², 1 where every point is on the line.
    """

    fixed: float
    each: float
    explained: float


def straight_line(sizes: Sequence[float], costs: Sequence[float]) -> Line:
    """The line through at least two different sizes and their costs.

    Raises:
        ValueError: there are fewer.
    """
    across, up = np.asarray(sizes, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if len(set(sizes)) < 2 or across.shape != up.shape:
        raise ValueError(f"expected two or more sizes and their costs, found {sizes}, {costs}")
    each, fixed = (0.0, up[0]) if len(set(costs)) == 1 else np.polyfit(across, up, 1)
    return Line(float(fixed), float(each), _explained(up, each * across + fixed))


def _explained(found: npt.NDArray[np.float64], fitted: npt.NDArray[np.float64]) -> float:
    """R²; of costs that are all the same, everything."""
    spread = float(((found - found.mean()) ** 2).sum())
    return 1.0 - float(((found - fitted) ** 2).sum()) / spread if spread > _ROUNDING else 1.0
