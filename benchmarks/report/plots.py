"""The plots of the report as SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.measure import OURS, Row
from benchmarks.report.arithmetic import power_rows
from benchmarks.report.head_plot import LEFT_OUT

SIZE = (6.4, 4.0)
INK, GRID = "#123456", "#123457"
"""Stand for the page's own colours, and are replaced by them."""
COLOURS = ("#0b8f66", "#c1440e", "#5b5f97", "#e8a33d", "#6fb98f", "#888888", "#b0457b")
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif",
    "font.size": 11, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 9, "axes.axisbelow": True,
}  # fmt: skip

Plot = tuple[str, str, str]
"""Title, what it shows in words, and the SVG."""


def plots(rows: Iterable[Row]) -> list[Plot]:
    """Every plot for which there are rows."""
    found = list(rows)
    drawn = []
    for title, about, draw in _PLOTS:
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=SIZE, layout="constrained")
            FigureCanvasSVG(figure)
            axes = figure.add_subplot()
            if draw(axes, found):
                drawn.append((title, about, _svg(figure, title)))
    return drawn


def _svg(figure: Figure, title: str) -> str:
    """Inline SVG: no prologue, no date, names of its own, colours of the page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    own = re.sub(r"\W+", "", title.lower())
    text = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', text)
    text = re.sub(r'(href="#|url\(#)([^")]+)', rf"\1{own}-\2", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]+" ', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]+" ', r"<svg \1", text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px var(--font)", text)
    return text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)").rstrip()


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other is at most as large as in both, by the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _latency(axes: Any, rows: Sequence[Row]) -> bool:
    """Milliseconds of CPU against kilobytes of a query."""
    names = {
        **dict.fromkeys(("mnist", "point"), "ours, networks of MNIST"),
        "tutorial": "ours, tutorial CNN",
    }
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.get("kind") not in names or (
            row["kind"] == "point" and "MNIST" not in row["network"]
        ):
            continue
        ours = row["source"] == OURS
        name = names[row["kind"]] if ours else f"{row['system']}, tutorial CNN"
        crossed = (row["request_bytes"] + row["response_bytes"]) / 1e3
        groups.setdefault(name, []).append((crossed, row["cpu_ms"]))
    for (name, points), colour in zip(groups.items(), COLOURS, strict=False):
        axes.scatter(*zip(*points, strict=True), s=42, color=colour, label=name, zorder=3)
    front = pareto([point for points in groups.values() for point in points])
    axes.step(*zip(*front, strict=True), where="post", color=COLOURS[0], lw=1.2, ls="--",
              label="nothing else is less in both") if front else None  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="kB a query, both ways", ylabel="CPU ms a query")
    axes.set_xticks(
        [50, 100, 200, 500, 1000, 2000, 5000],
        ["50", "100", "200", "500", "1,000", "2,000", "5,000"],
    )
    axes.minorticks_off()
    return _legend(axes, bool(groups))


def _batches(axes: Any, rows: Sequence[Row]) -> bool:
    """Images a second against the size of a batch; a single query is a batch of one."""
    batches = [row for row in rows if row.get("kind") == "batch" and row["source"] == OURS]
    singles = [row for row in rows if row.get("kind") == "mnist"]
    for place, response in enumerate(("private", "plain")):
        points = [(r["batch"], r["server_images_per_second"]) for r in batches
                  if r["response"] == response]  # fmt: skip
        if points:
            axes.scatter(*zip(*points, strict=True), s=46, color=COLOURS[place],
                         label=f"batched, {response} answers, 2 cores", zorder=3)  # fmt: skip
    if singles:
        rates = [1e3 / row["server_cpu_ms"] for row in singles]
        axes.scatter([1] * len(rates), rates, s=46, color=COLOURS[2], zorder=3,
                     label="one query, packed, a core")  # fmt: skip
    for row in rows:
        if row.get("kind") == "power" and "batched" in row["what"]:
            rates = [1e3 * n / ms for n, ms in zip(row["sizes"], row["server_ms"], strict=True)]
            axes.plot(row["sizes"], rates, "o-", ms=4, color=COLOURS[4],
                      label="batched, small dense network, a core")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="queries in a message",
             ylabel="answers a second, server")  # fmt: skip
    return _legend(axes, bool(batches or singles))


def _heads(axes: Any, rows: Sequence[Row]) -> bool:
    """Accuracy against epsilon on the task with most systems that have real features."""
    private = [row for row in rows if row.get("kind") == "head" and "epsilon" in row]
    tasks = dict.fromkeys(row["task"] for row in private)
    if not tasks:
        return False
    task = next((name for name in tasks if "CIFAR" in name), next(iter(tasks)))
    systems = dict.fromkeys(row["system"] for row in private if row["task"] == task)
    drawn = 0
    for system in systems:
        points = sorted((r["epsilon"], 100 * r["accuracy"]) for r in private
                        if r["task"] == task and r["system"] == system)  # fmt: skip
        if len(points) > 1 and not system.endswith(LEFT_OUT):
            axes.plot(*zip(*points, strict=True), "o-", ms=4, label=system,
                      color=COLOURS[drawn % len(COLOURS)])  # fmt: skip
            drawn += 1
    for row in rows:
        if row.get("kind") == "head" and row["task"] == task and "epsilon" not in row:
            dashes = "--" if row["system"] == "no privacy" else ":"
            axes.axhline(100 * row["accuracy"], ls=dashes, lw=1, color=INK, label=row["system"])
    axes.set(xscale="log", xlabel="ε", ylabel="accuracy %", title=task)
    axes.set_xticks([0.1, 0.5, 1, 2, 4, 8], ["0.1", "0.5", "1", "2", "4", "8"])
    axes.minorticks_off()
    return _legend(axes, drawn > 0)


def _delay(axes: Any, rows: Sequence[Row]) -> bool:
    """Seconds of a training step against the delay of the network."""
    slow = [row for row in rows if row.get("kind") == "slow network"]
    fast = [row for row in rows if row.get("kind") == "training" and row["network"] == "mlp"]
    systems = list(dict.fromkeys(row["system"] for row in slow))
    for system, colour in zip(systems, COLOURS, strict=False):
        points = sorted(
            [(row["delay_ms"], row["seconds_per_step"]) for row in slow if row["system"] == system]
            + [(0.0, row["seconds_per_step"]) for row in fast if row["system"] == system]
        )
        axes.plot(*zip(*points, strict=True), "o-", ms=5, label=system, color=colour)
    axes.set(
        xlabel="ms that a message takes longer, one way", ylabel="s a training step", ylim=(0, None)
    )
    return _legend(axes, bool(slow))


def _growth(axes: Any, rows: Sequence[Row]) -> bool:
    """Cost at a size over that at the smallest, on axes on which a power is a line."""
    lines = [row for row in power_rows(rows) if row["what"].endswith(": server")]
    for line, colour in zip(lines, COLOURS, strict=False):
        across = [size / line["sizes"][0] for size in line["sizes"]]
        up = [cost / line["costs"][0] for cost in line["costs"]]
        name = line["what"].removesuffix(": server")
        axes.plot(across, up, "o-", ms=4, color=colour, label=f"{name}, ^{line['exponent']:.2f}")
    axes.set(xscale="log", yscale="log", xlabel="times as much", ylabel="times the server's time")
    return _legend(axes, bool(lines))


def _legend(axes: Any, drawn: bool) -> bool:
    if drawn:
        axes.legend(loc="best")
    return drawn


_PLOTS: Sequence[tuple[str, str, Callable[[Any, Sequence[Row]], bool]]] = (
    (
        "Latency against bytes",
        "Each point is a network served in one way; left and low is better. The dashed line joins "
        "the points that no other beats in both.",
        _latency,
    ),
    (
        "Answers a second against the size of a batch",
        "A batch costs the same however few queries are in it: throughput grows with it.",
        _batches,
    ),
    (
        "Accuracy against ε",
        "Private heads and their peers on the same rows; to the left is more private.",
        _heads,
    ),
    (
        "Seconds a step against delay",
        "A training step on shares, on a network of 100 Mbit/s whose messages are held back.",
        _delay,
    ),
    (
        "Growth",
        "By how much the server's time grows with what there is more of; exponents are fitted.",
        _growth,
    ),
)
