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
            yield _line(what, "elapsed ms", row["sizes"], row["milliseconds"])
        elif row.get("kind") == "head_growth":
            yield _line(f"{row['what']}: a private fit", "CPU s", row["sizes"], row["seconds"])
    slow = [row for row in found if row.get("kind") == "slow network"]
    for system in dict.fromkeys(str(row["system"]) for row in slow):
        points = sorted(
            (r["delay_ms"], r["seconds_per_step"]) for r in slow if r["system"] == system
        )
        if len(points) > 1:
            delays, seconds = zip(*points, strict=True)
            yield _line(f"ms of delay, {system}: a step", "elapsed s", delays, seconds)


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
    seconds, client_ms = server_ms / 1e3, _client_ms(row)
    return {
        "mode": mode,
        "server_ms": server_ms,
        "client_ms": client_ms,
        "cores": QUERIES_A_DAY * seconds / DAY,
        "client_cores": QUERIES_A_DAY * client_ms / 1e3 / DAY,
        "message_megabytes": crossed * row.get("batch", 1) / 1e6,
        "gigabytes": QUERIES_A_DAY * crossed / 1e9,
        "megabits": 8 * QUERIES_A_DAY * crossed / DAY / 1e6,
        "keys_gigabytes": CLIENTS * row["evaluation_key_bytes"] / 1e9,
        "millions": MACHINES * CORES * DAY / seconds / 1e6,
        "a_second": MACHINES * CORES / seconds / 1e6,
        "terabits": 8 * crossed * MACHINES * CORES / seconds / 1e12,
        "asking_cores": MACHINES * CORES * client_ms / server_ms / 1e3,
    }


def _client_ms(row: Row) -> float:
    """What a client computes for a query: encrypts and decrypts.

    A batch's client works in processes of its own, one a core: all cores for as long as it takes.
    """
    if "client_images_per_second" in row:
        return float(1e3 * row["cores"] / row["client_images_per_second"])
    return float(row["encrypt_cpu_ms"] + row["decrypt_cpu_ms"])


def _shown(name: str) -> Callable[[Row], str]:
    return lambda row: _digits(row[name])


def _list(name: str) -> Callable[[Row], str]:
    return lambda row: ", ".join(map(_digits, row[name]))


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


GROWTH: Sequence[Column] = (
    ("grows with: whose cost", plain("what")),
    ("sizes", _list("sizes")),
    ("cost at each", _list("costs")),
    ("cost in", plain("unit")),
    ("exponent", lambda row: f"{round(row['exponent'], 2) + 0.0:.2f}"),
    ("R² of the power", lambda row: f"{row['explained']:.3f}"),
    ("line: fixed cost", _shown("fixed")),
    ("line: for each more", _shown("each")),
    ("R² of the line", lambda row: f"{row['line_explained']:.3f}"),
)
DAYS: Sequence[Column] = (
    ("mode", plain("mode")),
    ("CPU ms a query: server", _shown("server_ms")),
    ("CPU ms a query: client", _shown("client_ms")),
    ("cores, busy all day: server", _shown("cores")),
    ("cores: all clients together", _shown("client_cores")),
    ("GB a day, both ways", _shown("gigabytes")),
    ("Mbit/s, mean", _shown("megabits")),
    (f"keys: GB at the server for {CLIENTS:,} clients", _shown("keys_gigabytes")),
    ("message: MB at its client, both ways", _shown("message_megabytes")),
)
FLEET: Sequence[Column] = (
    ("mode", plain("mode")),
    ("million queries a day", _shown("millions")),
    ("million queries a second", _shown("a_second")),
    ("Tbit/s through their network", _shown("terabits")),
    ("thousand cores of clients that ask as fast", _shown("asking_cores")),
)
GROWTH_NOTE = (
    "Cost is fitted twice, as a power of the size and as a line. Exponents are of least squares on "
    "logarithms: 1 is proportional, 0 costs nothing more. R² is the share of what varies that the "
    "fit explains: where nothing grows there is nothing to explain. Where "
    "a cost has a fixed part, small sizes hide its slope, and the line beside it says more: a step "
    "on a slow network is a fixed time and a delay for each of its rounds. With depth the modulus "
    "grows, and from three squares on it needs a ring of twice the degree. Products of a batch are "
    "weights times values of its network. Parties are three, or two and a dealer, by the protocol: "
    "there is no axis of them."
)
DAY_NOTE = (
    f"Arithmetic, of rows measured above: {QUERIES_A_DAY:,} queries times CPU time, over the "
    f"{DAY:,.0f} seconds of a day; load that comes in waves takes more cores. A client encrypts "
    "and decrypts. For a batch it works on all its cores, and its CPU time is reckoned as all of "
    "them for as long as that took, which is no less than it was. A message is a query and its "
    "answer, or a full batch of queries and their answers: so much a client holds while it asks. "
    "It also makes the keys, once: its own are a thousandth of that column, and a secret one, not "
    "in it, stays with it. Batches are full ones: a message with one query costs as much."
)
FLEET_NOTE = (
    f"The same arithmetic for {MACHINES:,} servers of {CORES} cores, as the one measured, kept "
    "busy by queries alone, if their network carries the bits that stand there; where it does not, "
    "divide. Last: how many cores of clients, as fast as these, are busy with asking that much; "
    "all layouts but the packed one leave the client more to do than the server."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """Growth and loads, of what was measured."""
    found = list(rows)
    growth, days = list(power_rows(found)), list(day_rows(found))
    shown = (
        Table("How costs grow", GROWTH, growth, GROWTH_NOTE),
        Table("A million queries a day", DAYS, days, DAY_NOTE),
        Table("A thousand machines", FLEET, days, FLEET_NOTE),
    )
    return [table for table in shown if table.rows]
