"""A plan as a picture: time against bytes, the front as a line, the chosen point marked."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from he_inference.planning import Plan, Planned, Point, milliseconds, traffic

KINDS = (".png", ".svg", ".pdf")
MARKERS = {"coefficients": "o", "packed": "s"}
COLOURS = {"private": "#0072b2", "plain": "#d55e00"}
"""Told apart by those who see few colours, too (Okabe and Ito)."""


def draw_plan(plan: Plan[Point], chosen: Planned, title: str, path: Path) -> None:
    """Write a picture of the kind that the file's name ends in: png, svg or pdf."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for response, colour in COLOURS.items():
        front = [p for p in plan.front if p.facts()["response"] == response]
        if front:
            axes.plot(
                [traffic(p.cost) / 1e3 for p in front],
                [milliseconds(p.cost) for p in front],
                color=colour, linewidth=1, alpha=0.6, label=f"{response} answers",
            )  # fmt: skip
    for point in plan.points:
        facts, on_front = point.facts(), point in plan.front
        axes.plot(
            traffic(point.cost) / 1e3, milliseconds(point.cost),
            MARKERS[facts["layout"]], color=COLOURS[facts["response"]],
            markersize=4 + 2 * on_front, alpha=1.0 if on_front else 0.35,
        )  # fmt: skip
    axes.plot(
        traffic(chosen.cost) / 1e3, milliseconds(chosen.cost),
        "o", markersize=16, markerfacecolor="none", color="black", label="chosen",
    )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", title=title,
        xlabel="kB up and down, one query", ylabel="CPU ms, client and server",
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    axes.grid(which="both", alpha=0.25)
    axes.legend(title="○ coefficients  □ packed")
    figure.savefig(path, dpi=150)
