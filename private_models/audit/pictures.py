"""Drawings for the page of results: inline SVG that follows the page's colours, and PNG as text."""

import base64
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from private_models.audit.findings import Curve
from private_models.noise import Array

_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 36
_LEAST = 1e-3
"""Of rates, at the left end of a logarithmic axis."""


def roc(curve: Curve, epsilon: float, delta: float) -> str:
    """The curve on logarithmic axes, with chance, and what (ε, δ) allows at most."""
    rates = np.geomspace(_LEAST, 1, 100)
    allowed = np.minimum.reduce(
        [
            np.ones_like(rates),
            math.exp(min(epsilon, 50.0)) * rates + delta,
            1 - math.exp(-min(epsilon, 50.0)) * (1 - delta - rates),
        ]
    )
    lines = [
        _line("chance", rates, rates),
        _line("allowed", rates, allowed),
        _line("found", curve.false_positive, curve.true_positive, steps=True),
    ]
    ticks = [10.0**power for power in range(-3, 1)]
    axis = [
        f'<text x="{_x(t):.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{t:g}</text>'
        f'<text x="{_LEFT - 5}" y="{_y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        f'<path class="grid" d="M{_x(t):.1f} {_TOP}V{_HEIGHT - _BOTTOM}'
        f'M{_LEFT} {_y(t):.1f}H{_WIDTH - _RIGHT}"/>'
        for t in ticks
    ]
    label = (
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">false alarms</text>'
        f'<text transform="translate(11 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "members found</text>"
    )
    return _svg("True against false alarms", "".join([*axis, *lines, label]))


def histograms(there: Array, absent: Array) -> str:
    """How often a statistic came out where, in the two cases."""
    both = np.concatenate([there, absent])
    low, high = np.quantile(both, [0.005, 0.995])
    if not low < high:
        low, high = float(both.min()) - 1, float(both.max()) + 1
    edges = np.linspace(low, high, 37)
    counts = [np.histogram(side, edges)[0] for side in (absent, there)]
    tallest = max(int(count.max()) for count in counts) or 1
    bars = [
        _outline(kind, edges, count / tallest)
        for kind, count in zip(("absent", "there"), counts, strict=True)
    ]
    floor = _HEIGHT - _BOTTOM
    label = (
        f'<path class="grid" d="M{_LEFT} {floor}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">'
        "the statistic, over all fits</text>"
        f'<text class="absent" x="{_LEFT}" y="{_TOP + 8}">without the row</text>'
        f'<text class="there" x="{_WIDTH - _RIGHT}" y="{_TOP + 8}" text-anchor="end">with it</text>'
    )
    return _svg("How often the statistic came out where", "".join([*bars, label]))


def image(values: Array, limits: tuple[float, float], name: str) -> str:
    """Grey values (height, width) or colours (height, width, 3) as an `img` with the PNG in it."""
    low, high = limits
    scaled = np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(scaled).save(buffer, format="PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="pixels" alt="{name}" title="{name}" src="data:image/png;base64,{text}">'


def _svg(title: str, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        f"<title>{title}</title>{inside}</svg>"
    )


def _x(rate: float) -> float:
    share = 1 - math.log(max(rate, _LEAST)) / math.log(_LEAST)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(rate: float) -> float:
    share = 1 - math.log(max(rate, _LEAST)) / math.log(_LEAST)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _line(kind: str, xs: npt.ArrayLike, ys: npt.ArrayLike, *, steps: bool = False) -> str:
    points: list[tuple[float, float]] = []
    for x, y in zip(np.asarray(xs).tolist(), np.asarray(ys).tolist(), strict=True):
        if steps and points:
            points.append((_x(x), points[-1][1]))
        points.append((_x(x), _y(y)))
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{path}"/>'


def _outline(kind: str, edges: Array, heights: Array) -> str:
    low, high = float(edges[0]), float(edges[-1])
    floor, room = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    xs = [_LEFT + (e - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT) for e in edges.tolist()]
    parts = [f"M{xs[0]:.1f} {floor}"]
    for left, right, height in zip(xs[:-1], xs[1:], heights.tolist(), strict=True):
        top = floor - height * room
        parts.append(f"L{left:.1f} {top:.1f}L{right:.1f} {top:.1f}")
    return f'<path class="{kind}" d="{"".join(parts)}L{xs[-1]:.1f} {floor}Z"/>'
