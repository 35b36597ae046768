"""Tables of private heads that are asked under encryption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


_HYBRID: Sequence[Column] = (
    ("data", plain("data")),
    ("figure", plain("source")),
    ("ε", number("epsilon", 0)),
    ("no privacy %", lambda row: f"{100 * row['plain_accuracy']:.2f}"),
    ("private heads %, mean", _mean),
    ("the one served %", lambda row: f"{100 * row['private_accuracy']:.2f}"),
    ("asked encrypted %", lambda row: f"{100 * row['encrypted_accuracy']:.2f}"),
    ("labels equal %", lambda row: f"{100 * row['agreement']:.2f} of {row['test_rows']:,}"),
    ("one by one", lambda row: f"{100 * row['single_agreement']:.1f} of {row['singles']}"),
    ("ms: backbone", _stage("backbone")),
    ("encrypt", _stage("encrypt")),
    ("server, HTTP", _stage("server")),
    ("decrypt", _stage("decrypt")),
    ("kB up", number("single_up", 1, 1e3)),
    ("kB down", number("single_down", 1, 1e3)),
    ("keys kB", number("single_keys", 1, 1e3)),
    ("batches: queries/s, server over HTTP", _served),
)
_AFTER: Sequence[Column] = (
    ("features", number("features", 0)),
    ("classes", number("classes", 0)),
    ("answers", plain("response")),
    ("figure", plain("source")),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("encrypt ms", number("encrypt_cpu_ms", 1)),
    ("server ms", number("server_cpu_ms", 1)),
    ("decrypt ms", number("decrypt_cpu_ms", 1)),
    ("up kB", number("request_bytes", 1, 1e3)),
    ("down kB", number("response_bytes", 1, 1e3)),
    ("keys kB", number("evaluation_key_bytes", 1, 1e3)),
)
_TOGETHER: Sequence[Column] = (
    ("features", number("features", 0)),
    ("classes", number("classes", 0)),
    ("answers", plain("response")),
    ("figure", plain("source")),
    ("batch", number("batch", 0)),
    ("on", lambda row: f"{row['cores']} cores" if row["device"] == "cpu" else str(row["device"])),
    ("queries/s, server", number("server_queries_per_second", 0)),
    ("client", number("client_queries_per_second", 0)),
    ("up kB a query", number("upload_bytes_per_query", 1, 1e3)),
    ("down kB a query", number("download_bytes_per_query", 2, 1e3)),
    ("keys kB", number("evaluation_key_bytes", 0, 1e3)),
)
_AHEAD: Sequence[Column] = (
    ("features", number("features", 0)),
    ("classes", number("classes", 0)),
    ("on", plain("device")),
    ("figure", plain("source")),
    ("ms to transform, saved at every start", number("transform_ms", 1)),
    ("ms to map the file instead", number("map_ms", 2)),
    ("file MB", number("file_bytes", 2, 1e6)),
)
_WHOLE: Sequence[Column] = (
    ("system", plain("system")),
    ("figure", source),
    ("accuracy %", _whole_accuracy),
    ("seconds a query", _whole_seconds),
    ("scenario", _where),
    ("hardware", hardware),
)
_LAYOUTS: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("hybrid", "A private head asked under encryption, whole test sets", _HYBRID),
    ("hybrid_query", "One encrypted query after its features", _AFTER),
    ("hybrid_batch", "As many queries at once as a message holds", _TOGETHER),
    ("hybrid_precompute", "Weights transformed ahead", _AHEAD),
    ("hybrid_published", "CIFAR-10, beside networks that run under encryption as a whole", _WHOLE),
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """Of everything that was measured; ours on CIFAR-10 stand above what is published."""
    found = list(rows)
    ours = [row for row in found if row.get("kind") == "hybrid" and "CIFAR" in str(row["data"])]
    return [
        replace(table, rows=[*ours, *table.rows]) if table.columns is _WHOLE else table
        for table in of_kinds(found, _LAYOUTS)
    ]
