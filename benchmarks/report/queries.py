"""Tables of encrypted queries: one at a time, point by point, thousands at once, on two cores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from benchmarks.measure import Row
from benchmarks.report.table import (
    Column,
    Table,
    hardware,
    milliseconds,
    number,
    of_kinds,
    plain,
    published_note,
    source,
)


def _labels(row: Row) -> str:
    return f"{row['labels_equal']:,}/{row['queries']:,}"


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


def _served(row: Row) -> str:
    return f"{row['layout']}, {row['response']}, {row['optimise']}"


def _client(row: Row) -> str:
    return f"{row['encrypt_cpu_ms'] + row['decrypt_cpu_ms']:.1f}"


def _network(row: Row) -> str:
    return f"{row['network']}; {row['response']}"


_TUTORIAL: Sequence[Column] = (
    ("system", plain("system")),
    ("whose figure", plain("source")),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("times ours", number("cpu_ratio_to_ours", 2)),
    ("encrypt CPU ms", number("encrypt_cpu_ms", 1)),
    ("server CPU ms", number("server_cpu_ms", 1)),
    ("decrypt CPU ms", number("decrypt_cpu_ms", 1)),
    ("elapsed ms", number("wall_ms", 1)),
)
_TUTORIAL_BYTES: Sequence[Column] = (
    ("system", plain("system")),
    ("whose figure", plain("source")),
    ("up kB", number("request_bytes", 0, 1e3)),
    ("down kB", number("response_bytes", 0, 1e3)),
    ("keys MB, once", number("evaluation_key_bytes", 1, 1e6)),
    ("labels as in the clear", _labels),
    ("largest error of a score", number("largest_logit_error", 4)),
    ("largest score", number("largest_clear_logit", 1)),
    ("security bits", plain("security_bits")),
)
_POINT: Sequence[Column] = (
    ("network", plain("network")),
    ("layout, answers, kept small", _served),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("foretold CPU ms", number("estimated_cpu_ms", 1)),
    ("encrypt CPU ms", number("encrypt_cpu_ms", 1)),
    ("server CPU ms", number("server_cpu_ms", 1)),
    ("decrypt CPU ms", number("decrypt_cpu_ms", 1)),
    ("elapsed ms", number("wall_ms", 1)),
)
_POINT_BYTES: Sequence[Column] = (
    ("network", plain("network")),
    ("layout, answers, kept small", _served),
    ("accuracy % in the clear", _accuracy),
    ("labels as in the clear", _labels),
    ("up kB", number("request_bytes", 1, 1e3)),
    ("down kB", number("response_bytes", 1, 1e3)),
    ("keys kB, once", number("evaluation_key_bytes", 1, 1e3)),
    ("server memory MB, peak", number("server_peak_bytes", 0, 1e6)),
    ("ring degree N", number("ring_degree", 0)),
    ("bits of primes", _primes),
)
_BATCH: Sequence[Column] = (
    ("system", plain("system")),
    ("network; answers", _network),
    ("whose figure", source),
    ("on", hardware),
    ("batch", number("batch", 0)),
    ("accuracy % in the clear", number("accuracy_percent", 2)),
    ("images/s: evaluation alone", number("evaluation_images_per_second", 0)),
    ("images/s: server, bytes to bytes", number("server_images_per_second", 0)),
    ("images/s: client", number("client_images_per_second", 0)),
    ("images/s: client and server over HTTP", number("http_images_per_second", 0)),
)
_BATCH_BYTES: Sequence[Column] = (
    ("network; answers", _network),
    ("whose figure", source),
    ("labels as in the clear", _labels),
    ("up kB an image", number("upload_bytes_per_image", 1, 1e3)),
    ("down kB an image", number("download_bytes_per_image", 2, 1e3)),
    ("keys MB, once", number("evaluation_key_bytes", 1, 1e6)),
    ("server memory GB, peak", number("server_peak_bytes", 2, 1e9)),
    ("bits of modulus", plain("modulus_bits")),
)
_MNIST: Sequence[Column] = (
    ("whose figure", plain("source")),
    ("accuracy % in the clear", _accuracy),
    ("labels as in the clear", _labels),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("client CPU ms", _client),
    ("server CPU ms", number("server_cpu_ms", 1)),
    ("up kB", number("request_bytes", 0, 1e3)),
    ("down kB", number("response_bytes", 0, 1e3)),
    ("keys MB, once", number("evaluation_key_bytes", 1, 1e6)),
    ("server memory MB, peak", number("server_peak_bytes", 0, 1e6)),
)
_CORES: Sequence[Column] = (
    ("network", plain("network")),
    ("whose figure", plain("source")),
    ("server elapsed ms, one thread (quartiles)", milliseconds("wall_ms_1")),
    ("elapsed ms, two threads (quartiles)", milliseconds("wall_ms_2")),
    ("times as fast", number("speed_up", 2)),
    ("CPU ms, one thread", number("cpu_ms_1", 1)),
    ("CPU ms, two threads", number("cpu_ms_2", 1)),
    ("ns of a cache line between the cores", number("cache_line_ns", 0)),
)
_PUBLISHED: Sequence[Column] = (
    ("system", plain("system")),
    ("whose figure", source),
    ("technique", lambda row: str(row.get("technique", "CKKS, packed CNN"))),
    ("accuracy %", number("accuracy_percent", 2)),
    ("seconds elapsed", _seconds),
    ("MB, both ways", _megabytes),
    ("hidden from the other side", plain("protects")),
    ("hardware", hardware),
)
_LAYOUTS: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("tutorial", "One query, tutorial CNN, one core", _TUTORIAL),
    ("tutorial", "One query, tutorial CNN: bytes and errors", _TUTORIAL_BYTES),
    ("mnist", "One query, the shipped MNIST network, one core", _MNIST),
    ("point", "One query, point by point, one core", _POINT),
    ("point", "One query, point by point: accuracy, bytes and parameters", _POINT_BYTES),
    ("cores", "One query on two cores", _CORES),
    ("batch", "Thousands of queries at once", _BATCH),
    ("batch", "Thousands of queries at once: bytes and memory", _BATCH_BYTES),
    ("published", "One encrypted digit, beside what was published since", _PUBLISHED),
)
_NOTES: Mapping[Sequence[Column], str] = {
    _TUTORIAL_BYTES: "A score is what the network gives for a class; the label is that of the "
    "largest. Errors are against the same network in the clear.",
    _MNIST: "Answers are plain, the layout is packed, parameters are those of 128 bits of "
    "security. Client is to encrypt and to decrypt.",
    _CORES: "The network mnist_cnn.safetensors is the one that ships. Two threads that share a "
    "query pass rows to each other. Where the last column is "
    "some tens, the cores share a cache and that costs little; where it is in the hundreds they do "
    "not, passing takes all that the second core brings, and one thread a query is as fast. Cores "
    "of a virtual machine may change from one to the other while it runs.",
    _POINT: "All are ours, measured; the table after this one has the rest of each row. Kept "
    "small: what the compiler was asked for. Foretold: what it reckoned with before it ran.",
    _POINT_BYTES: "Heads have random weights, whose best scores lie close: a label in some hundred "
    "is another under encryption, and there is no accuracy. Bits of primes: of the modulus that "
    "ciphertexts are of, the last for switching keys and for what is rounded away. All "
    "parameters are those of 128 bits of security.",
    _BATCH: "Client and server share the cores here; where the client has its own, the server's "
    "rate from bytes to bytes is what it takes. SEAL's row reckons with one of each operation, "
    "timed between our rounds, as often as the layers need it.",
    _BATCH_BYTES: "Bytes are of full batches: a message with one query is as long as a full one.",
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
        lines, note = table.rows, _NOTES.get(table.columns, "")
        if table.columns in (_TUTORIAL, _TUTORIAL_BYTES):
            lines = sorted(lines, key=lambda row: float(row["cpu_ms"]))
        elif table.columns is _PUBLISHED:
            lines = [*ours, *lines]
        elif table.columns is _BATCH_BYTES:
            lines = [row for row in lines if "upload_bytes_per_image" in row]
        if table.columns is _TUTORIAL:
            note = _settings(lines)
        if lines:
            note = f"{note} {published_note(lines)}".strip()
            shown.append(replace(table, rows=lines, note=note))
    return shown


def _settings(rows: Iterable[Row]) -> str:
    """The versions and parameters of every system, and who has no row."""
    lines = []
    for row in rows:
        versions = ", ".join(f"{name} {number}" for name, number in row["version"].items())
        lines.append(f"- {row['system']} ({versions or 'this checkout'}): {row['settings']}")
    return "\n".join([*lines, "", _NO_ROW])
