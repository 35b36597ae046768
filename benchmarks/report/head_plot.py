"""Accuracy against epsilon with peers, as an SVG that needs no drawing library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from benchmarks.measure import OURS, Row

PLOT = "docs/heads.svg"
PANEL, HEIGHT, LEFT, TOP, BOTTOM = 380, 300, 48, 40, 44
LEGEND = 26
COLOURS = ("#0b6e4f", "#1f78b4", "#6fb98f", "#c1440e", "#e8a33d", "#b279a2", "#888888")
LEFT_OUT = " steps"
"""Of fewer steps the tables tell: in a plot they lie on the line of all."""


def accuracy_plot(rows: Iterable[Row]) -> str:
    """One panel a task, one line a system; dashed lines are heads without privacy."""
    found = [row for row in rows if row.get("kind") == "head"]
    tasks = list(dict.fromkeys(str(row["task"]) for row in found))
    private = [row for row in found if "epsilon" in row]
    several = {s for s in _systems(private) if len({r["epsilon"] for r in _of(private, s)}) > 1}
    systems = [s for s in _systems(private) if s in several and not s.endswith(LEFT_OUT)]
    colours = dict(zip(systems, COLOURS, strict=False))
    columns = max(1, min(2, len(tasks)))
    lines = -(-len(tasks) // columns)
    width, height = PANEL * columns, HEIGHT * lines + LEGEND * len(systems) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, task in enumerate(tasks):
        across, down = place % columns * PANEL, place // columns * HEIGHT
        inside = "".join(_panel([row for row in found if row["task"] == task], colours))
        parts.append(f'<g transform="translate({across},{down})">{inside}</g>')
    for place, (system, colour) in enumerate(colours.items()):
        y = HEIGHT * lines + LEGEND * place + 14
        parts.append(f'<rect x="{LEFT}" y="{y - 4}" width="24" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 32}" y="{y + 2}">{escape(system)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _systems(rows: Sequence[Row]) -> list[str]:
    ours_first = sorted(rows, key=lambda row: row["source"] != OURS)
    return list(dict.fromkeys(str(row["system"]) for row in ours_first))


def _of(rows: Iterable[Row], system: str) -> list[Row]:
    return sorted((r for r in rows if r["system"] == system), key=lambda r: float(r["epsilon"]))


def _panel(rows: Sequence[Row], colours: dict[str, str]) -> list[str]:
    """Axes, then the lines; epsilon on a logarithmic axis."""
    private = [row for row in rows if "epsilon" in row and row["system"] in colours]
    above = [float(row["accuracy"]) for row in rows if "epsilon" not in row]
    epsilons = sorted({float(row["epsilon"]) for row in private})
    if not epsilons:
        return []
    # What is far below, such as pure epsilon on many features, may leave the panel.
    ours = [float(row["accuracy"]) for row in private if row["source"] == OURS]
    low = max(0.0, math.floor(20 * (min(ours) - 0.05)) / 20)
    high = min(1.0, math.ceil(20 * max(above + ours)) / 20)
    first, last = math.log(epsilons[0]), math.log(epsilons[-1])

    def x(epsilon: float) -> float:
        share = (math.log(epsilon) - first) / (last - first) if last > first else 0.5
        return LEFT + share * (PANEL - LEFT - 20)

    def y(accuracy: float) -> float:
        share = (max(accuracy, low) - low) / max(high - low, 1e-9)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="22" font-size="12">{escape(str(rows[0]["task"]))}</text>']
    for step in range(5):
        level = low + (high - low) * step / 4
        parts.append(
            f'<line x1="{LEFT}" x2="{PANEL - 20}" y1="{y(level):.1f}" y2="{y(level):.1f}" '
            f'stroke="#dddddd"/><text x="8" y="{y(level) + 4:.1f}">{100 * level:.1f}</text>'
        )
    parts += [f'<text x="{x(e) - 6:.1f}" y="{HEIGHT - BOTTOM + 16}">{e:g}</text>' for e in epsilons]
    parts.append(f'<text x="{PANEL / 2:.0f}" y="{HEIGHT - 10}">epsilon (accuracy in %)</text>')
    for level in above:
        parts.append(
            f'<line x1="{LEFT}" x2="{PANEL - 20}" y1="{y(level):.1f}" y2="{y(level):.1f}" '
            'stroke="black" stroke-dasharray="5 4"/>'
        )
    for system, colour in colours.items():
        points = [(x(float(r["epsilon"])), y(float(r["accuracy"]))) for r in _of(private, system)]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
    return parts
