"""Growth, and what the measured figures come to: a million queries a day, a thousand machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.fits import power_law, straight_line
from benchmarks.measure import Row
from benchmarks.report.table import Column, Table, plain

DAY = 86_400.0
QUERIES_A_DAY = 1_000_000
MACHINES, CORES = 1000, 2
CLIENTS = 1000
"""Clients whose keys a server keeps."""


def power_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Fitted growth, a line an axis and a stage: of `growth`, of batches, of a delay."""
    found = list(rows)
    for row in found:
        if row.get("kind") == "power":
            for stage in ("client", "server"):
                yield _line(f"{row['what']}: {stage}", "CPU ms", row["sizes"], row[f"{stage}_ms"])
            yield _line(f"{row['what']}: both ways", "bytes", row["sizes"], row["bytes"])
        elif row.get("kind") == "growth":
            what = f"{row['what']}, batched: server"
            yield _line(what, "wall ms", row["sizes"], row["milliseconds"])
        elif row.get("kind") == "head_growth":
            yield _line(f"{row['what']}: a private fit", "CPU s", row["sizes"], row["seconds"])
    slow = [row for row in found if row.get("kind") == "slow network"]
    for system in dict.fromkeys(str(row["system"]) for row in slow):
        points = sorted(
            (r["delay_ms"], r["seconds_per_step"]) for r in slow if r["system"] == system
        )
        if len(points) > 1:
            delays, seconds = zip(*points, strict=True)
            yield _line(f"ms of delay, {system}: a step", "wall s", delays, seconds)


def _line(what: str, unit: str, sizes: Sequence[float], costs: Sequence[float]) -> Row:
    law, line = power_law(sizes, costs), straight_line(sizes, costs)
    return {"what": what, "unit": unit, "sizes": sizes, "costs": costs,
            "exponent": law.exponent, "explained": law.explained, "fixed": line.fixed,
            "each": line.each, "line_explained": line.explained}  # fmt: skip


def day_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Every mode that was measured, as a load: cores, bytes and stored keys."""
    for row in rows:
        kind = row.get("kind")
        if kind == "mnist":
            yield _day("one query, packed, plain", row, row["server_cpu_ms"])
        elif kind == "point" and "accuracy_percent" in row and row["optimise"] == "latency":
            mode = f"one query, {row['network']}, {row['layout']}, {row['response']}"
            yield _day(mode, row, row["server_cpu_ms"])
        elif kind == "batch" and "server_cpu_ms_per_image" in row:
            mode = f"batches of {row['batch']:,}, {row['network']}, {row['response']}"
            yield _day(mode, row, row["server_cpu_ms_per_image"])


def _day(mode: str, row: Row, server_ms: float) -> Row:
    up = row.get("request_bytes", row.get("upload_bytes_per_image"))
    down = row.get("response_bytes", row.get("download_bytes_per_image"))
    crossed = float(up or 0) + float(down or 0)
    seconds = server_ms / 1e3
    return {
        "mode": mode,
        "server_ms": server_ms,
        "cores": QUERIES_A_DAY * seconds / DAY,
        "gigabytes": QUERIES_A_DAY * crossed / 1e9,
        "megabits": 8 * QUERIES_A_DAY * crossed / DAY / 1e6,
        "keys_gigabytes": CLIENTS * row["evaluation_key_bytes"] / 1e9,
        "millions": MACHINES * CORES * DAY / seconds / 1e6,
        "terabits": 8 * crossed * MACHINES * CORES / seconds / 1e12,
    }


def _shown(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name]:,.3g}" if row[name] < 1000 else f"{row[name]:,.0f}"


def _list(name: str) -> Callable[[Row], str]:
    return lambda row: ", ".join(f"{v:,.3g}" if v < 1000 else f"{v:,.0f}" for v in row[name])


GROWTH: Sequence[Column] = (
    ("with", plain("what")),
    ("sizes", _list("sizes")),
    ("cost", _list("costs")),
    ("in", plain("unit")),
    ("exponent", lambda row: f"{round(row['exponent'], 2) + 0.0:.2f}"),
    ("R²", lambda row: f"{row['explained']:.3f}"),
    ("or a line: fixed", lambda row: f"{row['fixed']:,.3g}"),
    ("and for each", lambda row: f"{row['each']:,.3g}"),
    ("R² of the line", lambda row: f"{row['line_explained']:.3f}"),
)
DAYS: Sequence[Column] = (
    ("mode", plain("mode")),
    ("server CPU ms a query", _shown("server_ms")),
    ("cores for a million a day", _shown("cores")),
    ("GB a day", _shown("gigabytes")),
    ("Mbit/s, mean", _shown("megabits")),
    (f"GB of keys of {CLIENTS:,} clients", _shown("keys_gigabytes")),
    (f"million queries a day on {MACHINES:,} machines", _shown("millions")),
    ("Tbit/s through all of them", _shown("terabits")),
)
GROWTH_NOTE = (
    "Exponents are of least squares on logarithms: 1 is proportional, 0 costs nothing more. Where "
    "a cost has a fixed part, small sizes hide its slope, and the line beside it says more: a step "
    "on a slow network is a fixed time and a delay for each of its rounds. With depth the modulus "
    "grows, and from three squares on it needs a ring of twice the degree. Products of a batch are "
    "weights times values of its network. Parties are three, or two and a dealer, by the protocol: "
    "there is no axis of them."
)
DAY_NOTE = (
    f"Cores: {QUERIES_A_DAY:,} queries times the server's CPU time, over the {DAY:,.0f} seconds of "
    f"a day, kept busy all day; load that comes in waves takes more. A machine has {CORES} cores, "
    f"as the one measured, so {MACHINES:,} of them answer {MACHINES * CORES:,} times {DAY:,.0f} s "
    "over that CPU time, if their network carries the last column, which it does not where that "
    "is more than a terabit: there divide. The client's own work, in the tables above, is not in "
    "it. Batches are full ones: a message with one query costs as much."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """Growth and loads, of what was measured."""
    found = list(rows)
    growth, days = list(power_rows(found)), list(day_rows(found))
    parts = [Table("How costs grow", GROWTH, growth, GROWTH_NOTE)] if growth else []
    return parts + ([Table("A million queries a day", DAYS, days, DAY_NOTE)] if days else [])
