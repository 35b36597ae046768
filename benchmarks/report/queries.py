"""Tables of encrypted queries: one at a time, point by point, thousands at once, on two cores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from benchmarks.measure import PUBLISHED, Row
from benchmarks.report.table import (
    Column,
    Table,
    hardware,
    milliseconds,
    number,
    of_kinds,
    plain,
    source,
)


def _labels(row: Row) -> str:
    return f"{row['labels_equal']}/{row['queries']}"


def _accuracy(row: Row) -> str:
    return f"{row['accuracy_percent']:.2f} on {row['accuracy_images']:,}"


def _primes(row: Row) -> str:
    return " + ".join(str(bits) for bits in row["prime_bits"])


def _seconds(row: Row) -> str:
    """Elapsed seconds: published, or our own median."""
    return f"{row['seconds'] if 'seconds' in row else row['wall_ms'] / 1e3:,.3g}"


def _megabytes(row: Row) -> str:
    """What crosses with one query, both ways, keys aside."""
    if "megabytes" in row:
        return f"{row['megabytes']:,.3g}"
    return f"{(row['request_bytes'] + row['response_bytes']) / 1e6:,.3g}"


_TUTORIAL: Sequence[Column] = (
    ("system", plain("system")),
    ("figure", plain("source")),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("times ours", number("cpu_ratio_to_ours", 2)),
    ("encrypt ms", number("encrypt_cpu_ms", 1)),
    ("server ms", number("server_cpu_ms", 1)),
    ("decrypt ms", number("decrypt_cpu_ms", 1)),
    ("wall ms", number("wall_ms", 1)),
    ("up kB", number("request_bytes", 0, 1e3)),
    ("down kB", number("response_bytes", 0, 1e3)),
    ("keys MB", number("evaluation_key_bytes", 1, 1e6)),
    ("labels equal", _labels),
    ("largest logit error", number("largest_logit_error", 4)),
    ("security bits", plain("security_bits")),
)
_POINT: Sequence[Column] = (
    ("network", plain("network")),
    ("layout", plain("layout")),
    ("answers", plain("response")),
    ("planned for", plain("optimise")),
    ("accuracy % in the clear", _accuracy),
    ("labels equal, encrypted", _labels),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("estimated ms", number("estimated_cpu_ms", 1)),
    ("encrypt ms", number("encrypt_cpu_ms", 1)),
    ("server ms", number("server_cpu_ms", 1)),
    ("decrypt ms", number("decrypt_cpu_ms", 1)),
    ("wall ms", number("wall_ms", 1)),
    ("up kB", number("request_bytes", 1, 1e3)),
    ("down kB", number("response_bytes", 1, 1e3)),
    ("keys kB", number("evaluation_key_bytes", 1, 1e3)),
    ("server memory MB, peak", number("server_peak_bytes", 0, 1e6)),
    ("N", number("ring_degree", 0)),
    ("primes, bits", _primes),
)
_BATCH: Sequence[Column] = (
    ("system", plain("system")),
    ("network", plain("network")),
    ("answers", plain("response")),
    ("figure", source),
    ("on", hardware),
    ("batch", number("batch", 0)),
    ("accuracy % in the clear", number("accuracy_percent", 2)),
    ("labels equal, encrypted", _labels),
    ("images/s: evaluation alone", number("evaluation_images_per_second", 0)),
    ("images/s: server, bytes to bytes", number("server_images_per_second", 0)),
    ("images/s: client", number("client_images_per_second", 0)),
    ("images/s: client and server over HTTP", number("http_images_per_second", 0)),
    ("up kB an image", number("upload_bytes_per_image", 1, 1e3)),
    ("down kB an image", number("download_bytes_per_image", 2, 1e3)),
    ("keys MB", number("evaluation_key_bytes", 1, 1e6)),
    ("server memory GB, peak", number("server_peak_bytes", 2, 1e9)),
    ("bits of modulus", plain("modulus_bits")),
)
_MNIST: Sequence[Column] = (
    ("system", plain("system")),
    ("figure", plain("source")),
    ("accuracy % in the clear", _accuracy),
    ("labels equal, encrypted", _labels),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("encrypt ms", number("encrypt_cpu_ms", 1)),
    ("server ms", number("server_cpu_ms", 1)),
    ("decrypt ms", number("decrypt_cpu_ms", 1)),
    ("up kB", number("request_bytes", 0, 1e3)),
    ("down kB", number("response_bytes", 0, 1e3)),
    ("keys MB", number("evaluation_key_bytes", 1, 1e6)),
    ("server memory MB, peak", number("server_peak_bytes", 0, 1e6)),
    ("security bits", plain("security_bits")),
)
_CORES: Sequence[Column] = (
    ("network", plain("network")),
    ("figure", plain("source")),
    ("server wall ms, one thread", milliseconds("wall_ms_1")),
    ("two threads", milliseconds("wall_ms_2")),
    ("times sooner", number("speed_up", 2)),
    ("CPU ms, one thread", number("cpu_ms_1", 1)),
    ("two threads", number("cpu_ms_2", 1)),
    ("ns of a cache line between the cores", number("cache_line_ns", 0)),
)
_PUBLISHED: Sequence[Column] = (
    ("system", plain("system")),
    ("figure", source),
    ("technique", lambda row: str(row.get("technique", "CKKS, packed CNN"))),
    ("accuracy %", number("accuracy_percent", 2)),
    ("seconds", _seconds),
    ("MB", _megabytes),
    ("hidden from the other side", plain("protects")),
    ("hardware", hardware),
)
_LAYOUTS: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("tutorial", "One query, tutorial CNN, one core", _TUTORIAL),
    ("mnist", "One query, the shipped MNIST network", _MNIST),
    ("point", "One query, point by point, one core", _POINT),
    ("cores", "One query on two cores", _CORES),
    ("batch", "Thousands of queries at once", _BATCH),
    ("published", "One encrypted digit, beside what was published since", _PUBLISHED),
)
PUBLISHED_NOTE = (
    "Published figures are of other hardware and years: a ratio to them compares both at once."
)
_NOTES = {
    "cores": "Two threads that share a query pass rows to each other. Where the last column is "
    "some tens, the cores share a cache and that costs little; where it is in the hundreds they do "
    "not, passing takes all that the second core brings, and one thread a query is as fast. Cores "
    "of a virtual machine may change from one to the other while it runs.",
    "point": "Planned for: what the compiler was asked to keep small. Estimated: what it reckoned "
    "with. Heads have random weights, whose best scores lie close: a label in some hundred is "
    "another under encryption.",
    "batch": "Client and server share the cores here; where the client has its own, the server's "
    "rate from bytes to bytes is what it takes. SEAL's row reckons with one of each operation, "
    "timed between our rounds, as often as the layers need it.",
}


_NO_ROW = (
    "OpenFHE has no row: it offers operations and no networks, and its wheel for this Python does "
    "not load. Every system had the same images; quartiles are of all its queries."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """Of every kind of query that was measured; ours stand above what is published."""
    found = list(rows)
    ours = [row for row in found if row.get("kind") == "mnist"]
    shown = []
    for table in of_kinds(found, _LAYOUTS):
        if table.columns is _TUTORIAL:
            table = _fastest_first(table)
        elif table.columns is _PUBLISHED:
            table = replace(table, rows=[*ours, *table.rows])
        note = _NOTES.get(str(table.rows[0]["kind"]), "")
        if any(row.get("source") == PUBLISHED for row in table.rows):
            note = f"{note} {PUBLISHED_NOTE}".strip()
        table = replace(table, note=note or table.note)
        shown.append(table)
    return shown


def _fastest_first(table: Table) -> Table:
    """With the settings of every system below."""
    rows = sorted(table.rows, key=lambda row: float(row["cpu_ms"]))
    lines = []
    for row in rows:
        versions = ", ".join(f"{name} {number}" for name, number in row["version"].items())
        lines.append(f"- {row['system']} ({versions or 'this checkout'}): {row['settings']}")
    return replace(table, rows=rows, note="\n".join([*lines, "", _NO_ROW]))
