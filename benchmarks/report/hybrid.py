"""Tables of private heads that are asked under encryption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    published_note,
    source,
)


def _stage(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row['single_ms'][name]:.1f}"


def _mean(row: Row) -> str:
    return f"{100 * row['mean_accuracy']:.2f} ± {100 * row['accuracy_deviation']:.2f}"


def _served(row: Row) -> str:
    return f"{row['test_rows'] / row['batch_ms']['server'] * 1e3:,.0f}"


def _where(row: Row) -> str:
    """The scenario, which is not the same: it stands in every line."""
    if row["source"] == PUBLISHED:
        return "all of the network runs under encryption, at the server"
    return "a public backbone runs at the client, a private head under encryption at the server"


def _whole_seconds(row: Row) -> str:
    if "seconds" in row:
        return f"{row['seconds']:,.3g}"
    return f"{sum(row['single_ms'].values()) / 1e3:.3f}"


def _whole_accuracy(row: Row) -> str:
    if "accuracy_percent" in row:
        return f"{row['accuracy_percent']:.1f}"
    return f"{100 * row['encrypted_accuracy']:.1f}, training rows with ε = {row['epsilon']:g}"


def _head(row: Row) -> str:
    return f"{row['features']:,} × {row['classes']:,}"


_HYBRID: Sequence[Column] = (
    ("data", plain("data")),
    ("whose figure", plain("source")),
    ("ε", number("epsilon", 0)),
    ("no privacy %", lambda row: f"{100 * row['plain_accuracy']:.2f}"),
    ("private heads %, mean", _mean),
    ("the one served %", lambda row: f"{100 * row['private_accuracy']:.2f}"),
    ("asked encrypted %", lambda row: f"{100 * row['encrypted_accuracy']:.2f}"),
    (
        "labels % as in the clear, in batches",
        lambda row: f"{100 * row['agreement']:.2f} of {row['test_rows']:,}",
    ),
    ("one by one", lambda row: f"{100 * row['single_agreement']:.1f} of {row['singles']}"),
)
_COSTS: Sequence[Column] = (
    ("data", plain("data")),
    ("ε", number("epsilon", 0)),
    ("elapsed ms: backbone", _stage("backbone")),
    ("encrypt", _stage("encrypt")),
    ("server, HTTP", _stage("server")),
    ("decrypt", _stage("decrypt")),
    ("up kB", number("single_up", 1, 1e3)),
    ("down kB", number("single_down", 1, 1e3)),
    ("keys kB, once", number("single_keys", 1, 1e3)),
    ("in batches: queries/s, server over HTTP", _served),
)
_AFTER: Sequence[Column] = (
    ("features × classes", _head),
    ("answers", plain("response")),
    ("whose figure", plain("source")),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("encrypt CPU ms", number("encrypt_cpu_ms", 1)),
    ("server CPU ms", number("server_cpu_ms", 1)),
    ("decrypt CPU ms", number("decrypt_cpu_ms", 1)),
    ("up kB", number("request_bytes", 1, 1e3)),
    ("down kB", number("response_bytes", 1, 1e3)),
    ("keys kB, once", number("evaluation_key_bytes", 1, 1e3)),
)
_TOGETHER: Sequence[Column] = (
    ("features × classes", _head),
    ("answers", plain("response")),
    ("whose figure", plain("source")),
    ("batch", number("batch", 0)),
    ("on", lambda row: f"{row['cores']} cores" if row["device"] == "cpu" else str(row["device"])),
    ("queries/s, server", number("server_queries_per_second", 0)),
    ("queries/s, client", number("client_queries_per_second", 0)),
    ("up kB a query", number("upload_bytes_per_query", 1, 1e3)),
    ("down kB a query", number("download_bytes_per_query", 2, 1e3)),
    ("keys kB, once", number("evaluation_key_bytes", 0, 1e3)),
)
_AHEAD: Sequence[Column] = (
    ("features × classes", _head),
    ("on", plain("device")),
    ("whose figure", plain("source")),
    ("ms to transform weights, saved at every start", number("transform_ms", 1)),
    ("ms to map the file instead", number("map_ms", 2)),
    ("file MB", number("file_bytes", 2, 1e6)),
)
_WHOLE: Sequence[Column] = (
    ("system", plain("system")),
    ("whose figure", source),
    ("accuracy %", _whole_accuracy),
    ("seconds elapsed a query", _whole_seconds),
    ("scenario", _where),
    ("hardware", hardware),
)
_LAYOUTS: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("hybrid", "A private head asked under encryption, whole test sets", _HYBRID),
    ("hybrid", "A private head asked under encryption: what a query costs", _COSTS),
    ("hybrid_query", "One encrypted query after its features", _AFTER),
    ("hybrid_batch", "As many queries at once as a message holds", _TOGETHER),
    ("hybrid_precompute", "Weights transformed ahead", _AHEAD),
    ("hybrid_published", "CIFAR-10, beside networks that run under encryption as a whole", _WHOLE),
)
_NOTES: Mapping[Sequence[Column], str] = {
    _HYBRID: "A public backbone runs at the client, which encrypts the features it gives; the "
    "server holds the head, a linear layer trained with ε-privacy for its training rows, and sees "
    "neither features nor answers. Answers are private. Heads differ by their noise: the mean of "
    "five fits and its standard deviation, then the one that is served, in the clear and asked "
    "under encryption.",
    _COSTS: "One query, in ms elapsed, client and server on the same two cores; heads of other ε "
    "cost the same, and what differs is the machine's. Of batches the server's time alone, with "
    "HTTP.",
    _AFTER: "Heads of random weights, in one process. The rows of heads above, point by point, are "
    "of the same work on a newer machine with wider vectors.",
    _TOGETHER: "Random weights. The client has the two cores for itself, and then the server.",
    _AHEAD: "Weights are turned into the form that the evaluator multiplies with, once at every "
    "start of a server, or once in all into a file, which a server then maps into its memory. "
    "On cpu: by our own kernels.",
    _WHOLE: "Two scenarios, not one: ours leaves all layers but the last to the client, with a "
    "backbone that has seen ImageNet; theirs keep every layer at the server. Ours are elapsed with "
    "the backbone and HTTP.",
}


def tables(rows: Iterable[Row]) -> list[Table]:
    """Of everything that was measured; ours on CIFAR-10 stand above what is published."""
    found = list(rows)
    ours = [row for row in found if row.get("kind") == "hybrid" and "CIFAR" in str(row["data"])]
    shown = []
    for table in of_kinds(found, _LAYOUTS):
        lines = [*ours, *table.rows] if table.columns is _WHOLE else table.rows
        note = f"{_NOTES[table.columns]} {published_note(lines)}".strip()
        shown.append(replace(table, rows=lines, note=note))
    return shown
