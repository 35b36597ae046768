"""Results to Markdown: one table for each kind of row, in the units that a reader thinks in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.measure import Row
from benchmarks.table import NOTHING, Column, Table, milliseconds, number, plain

PUBLISHED_NOTE = "Published figures are of other hardware: compare per core, and with care."


def markdown(rows: Iterable[Row]) -> str:
    """All tables for which there are rows, under the environment they were measured in."""
    found = list(rows)
    parts = [environment(row) for row in found if row.get("kind") == "environment"]
    parts += [table.markdown() for table in tables(found)]
    parts += [failure(row) for row in found if row.get("kind") == "failure"]
    return "\n\n".join(parts) + "\n"


def tables(rows: Iterable[Row]) -> list[Table]:
    """A table for each kind of row that there is."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(str(row.get("kind")), []).append(row)
    if "tutorial" in by_kind:
        by_kind["tutorial"].sort(key=lambda row: float(row["cpu_ms"]))
    if "published" in by_kind:
        by_kind["published"] = [*by_kind.get("mnist", []), *by_kind["published"]]
    if "hybrid_published" in by_kind:
        beside = [row for row in by_kind.get("hybrid", []) if "CIFAR" in str(row["data"])]
        by_kind["hybrid_published"] = [*beside, *by_kind["hybrid_published"]]
    notes = {"published": PUBLISHED_NOTE, "tutorial": _settings(by_kind.get("tutorial", []))}
    found: list[Table] = []
    for kind, title, columns in _TABLES:
        if kind == "head" and kind in by_kind:
            found += _heads(by_kind[kind])
        elif kind in by_kind:
            found.append(Table(title, columns, by_kind[kind], notes.get(kind, "")))
    return found


def _heads(rows: Sequence[Row]) -> list[Table]:
    """Accuracy, a table a task with a column an epsilon; then time and memory."""
    found_tables = []
    for task in dict.fromkeys(str(row["task"]) for row in rows):
        found = [row for row in rows if row["task"] == task]
        epsilons = sorted({float(row["epsilon"]) for row in found if "epsilon" in row})
        columns: list[Column] = [("system", plain("system"))]
        columns += [(f"ε = {e:g}", _at(e)) for e in epsilons]
        systems: dict[str, Row] = {}
        for row in found:
            cells = systems.setdefault(str(row["system"]), {"system": row["system"]})
            cells[f"{row.get('epsilon', 0.0):g}"] = row
        size = f"{found[0]['rows']:,} rows of {found[0]['features']:,} features"
        found_tables.append(Table(f"{task}: {size}, accuracy %", columns, list(systems.values())))
    timed = [row for row in rows if row.get("epsilon") == 1.0]
    return [*found_tables, Table("Time and memory of a fit at ε = 1", _HEAD_TIMES, timed)]


def _at(epsilon: float) -> Callable[[Row], str]:
    """Mean ± standard deviation over fits, how many if not five; what needs none, for all."""

    def shown(cells: Row) -> str:
        row = cells[f"{epsilon:g}"] if f"{epsilon:g}" in cells else cells["0"]
        if "epsilon" not in row:
            return f"{100 * row['accuracy']:.1f}"
        spread = f" ± {100 * row['accuracy_deviation']:.1f}" if row["fits"] > 1 else ""
        return f"{100 * row['accuracy']:.1f}{spread}"

    return shown


def environment(row: Row) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in row["packages"].items())
    vector = ", ".join(row["simd"]) or NOTHING
    return (
        f"Measured on {row['processor']}, {row['cores']} cores, {row['system']}; Python "
        f"{row['python']}, {packages}; commit {row['commit'] or NOTHING}. "
        f"Vector extensions: {vector}."
    )


def failure(row: Row) -> str:
    """What could not be measured, and why."""
    return f"**{row['system']}** ({row['source']}): not measured. {row['reason']}"


def _settings(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        versions = ", ".join(f"{name} {number}" for name, number in row["version"].items())
        lines.append(f"- {row['system']} ({versions or 'this checkout'}): {row['settings']}")
    return "\n".join(lines)


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


def _hardware(row: Row) -> str:
    return str(row["hardware"]) if "hardware" in row else f"{row['cores']} core"


def _stage(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row['single_ms'][name]:.1f}"


def _mean(row: Row) -> str:
    return f"{100 * row['mean_accuracy']:.2f} ± {100 * row['accuracy_deviation']:.2f}"


def _served(row: Row) -> str:
    return f"{row['test_rows'] / row['batch_ms']['server'] * 1e3:,.0f}"


def _where(row: Row) -> str:
    """The scenario, which is not the same: it stands in every line."""
    if row["source"] == "published":
        return "all of the network runs under encryption, at the server"
    return "a public backbone runs at the client, a private head under encryption at the server"


def _whole_seconds(row: Row) -> str:
    if "seconds" in row:
        return f"{row['seconds']:,.0f}"
    return f"{sum(row['single_ms'].values()) / 1e3:.3f}"


def _whole_accuracy(row: Row) -> str:
    if "accuracy_percent" in row:
        return f"{row['accuracy_percent']:.1f}"
    return f"{100 * row['encrypted_accuracy']:.1f}, training rows with ε = {row['epsilon']:g}"


def _place(row: Row) -> str:
    return str(row.get("hardware", f"{row.get('cores')} cores"))


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
    ("figure", plain("source")),
    ("accuracy %", _whole_accuracy),
    ("seconds a query", _whole_seconds),
    ("scenario", _where),
    ("hardware", _place),
)
_TRAINING: Sequence[Column] = (
    ("system", plain("system")),
    ("figure", plain("source")),
    ("network", plain("network")),
    ("CPU s, all parties", number("cpu_seconds_per_step", 3)),
    ("wall s", number("seconds_per_step", 3)),
    ("MB", number("bytes_per_step", 1, 1e6)),
    ("rounds", number("rounds_per_step", 0)),
    ("protection", plain("protection")),
)
_SLOW: Sequence[Column] = (
    ("system", plain("system")),
    ("network", plain("network")),
    ("ms later, one way", number("delay_ms", 0)),
    ("Mbit/s a party", number("megabits", 0)),
    ("wall s", number("seconds_per_step", 2)),
    ("CPU s, all parties", number("cpu_seconds_per_step", 3)),
    ("MB", number("bytes_per_step", 1, 1e6)),
    ("rounds", number("rounds_per_step", 0)),
)
_SHARED: Sequence[Column] = (
    ("system", plain("system")),
    ("network", plain("network")),
    ("images", number("rows", 0)),
    ("ms, connecting included", number("milliseconds", 1)),
    ("kB in all", number("bytes", 0, 1e3)),
    ("kB from the client", number("client_bytes", 0, 1e3)),
    ("rounds", number("rounds", 0)),
)
_TRAINED: Sequence[Column] = (
    ("system", plain("system")),
    ("network", plain("network")),
    ("epochs", number("epochs", 0)),
    ("batch", number("batch", 0)),
    ("steps", number("steps", 0)),
    ("accuracy % on shares", number("accuracy_percent", 2)),
    ("same loop in the clear", number("plain_accuracy_percent", 2)),
    ("CPU s a step", number("cpu_seconds_per_step", 3)),
    ("MB a step", number("bytes_per_step", 1, 1e6)),
    ("rollbacks", number("rollbacks", 0)),
)
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
_CORES: Sequence[Column] = (
    ("network", plain("network")),
    ("figure", plain("source")),
    ("server wall ms, one thread", milliseconds("wall_ms_1")),
    ("two threads", milliseconds("wall_ms_2")),
    ("times sooner", number("speed_up", 2)),
    ("CPU ms, one thread", number("cpu_ms_1", 1)),
    ("two threads", number("cpu_ms_2", 1)),
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


def _each(row: Row) -> str:
    unit = 1 if row["sizes"][-1] < 1000 else 1_000_000
    return f"{row['each_ms'] * unit:,.0f}"


_BATCH: Sequence[Column] = (
    ("system", plain("system")),
    ("network", plain("network")),
    ("answers", plain("response")),
    ("figure", plain("source")),
    ("on", _place),
    ("batch", number("batch", 0)),
    ("accuracy % in the clear", number("accuracy_percent", 2)),
    ("labels equal, encrypted", _labels),
    ("images/s, evaluation", number("evaluation_images_per_second", 0)),
    ("bytes to bytes", number("server_images_per_second", 0)),
    ("client", number("client_images_per_second", 0)),
    ("all, over HTTP", number("http_images_per_second", 0)),
    ("up kB an image", number("upload_bytes_per_image", 1, 1e3)),
    ("down kB an image", number("download_bytes_per_image", 2, 1e3)),
    ("keys MB", number("evaluation_key_bytes", 1, 1e6)),
    ("server memory GB, peak", number("server_peak_bytes", 2, 1e9)),
    ("bits of modulus", plain("modulus_bits")),
)
_HEAD_TIMES: Sequence[Column] = (
    ("task", plain("task")),
    ("system", plain("system")),
    ("figure", plain("source")),
    ("fits", plain("fits")),
    ("CPU s", number("cpu_seconds", 2)),
    ("times ours", number("times_ours", 1)),
    ("memory MB, peak", number("memory_bytes", 0, 1e6)),
)
_STREAMS: Sequence[Column] = (
    ("system", plain("system")),
    ("rows", number("rows", 0)),
    ("features", plain("width")),
    ("classes", plain("classes")),
    ("releases", plain("releases")),
    ("CPU s", number("cpu_seconds", 1)),
    ("memory GB, peak", number("peak_resident_bytes", 2, 1e9)),
)
_GROWTH: Sequence[Column] = (
    ("with", plain("what")),
    ("from", lambda row: f"{row['sizes'][0]:,}"),
    ("to", lambda row: f"{row['sizes'][-1]:,}"),
    ("ms", lambda row: ", ".join(f"{value:,.0f}" for value in row["milliseconds"])),
    ("ms fixed", number("fixed_ms", 1)),
    ("ms for each, or each million", _each),
    ("of the variance, a line explains", lambda row: f"{100 * row['explained']:.1f} %"),
)
_PUBLISHED: Sequence[Column] = (
    ("system", plain("system")),
    ("figure", plain("source")),
    ("technique", lambda row: str(row.get("technique", "CKKS, packed CNN"))),
    ("accuracy %", number("accuracy_percent", 2)),
    ("seconds", _seconds),
    ("MB", _megabytes),
    ("hidden from the other side", plain("protects")),
    ("hardware", _hardware),
)
_TABLES: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("tutorial", "One query, tutorial CNN, one core", _TUTORIAL),
    ("point", "One query, point by point, one core", _POINT),
    ("batch", "Thousands of queries at once", _BATCH),
    ("growth", "Growth of a batch's cost", _GROWTH),
    ("training", "A training step on shares", _TRAINING),
    ("slow network", "A training step on a slow network", _SLOW),
    ("shared inference", "A query to a model that stays shared", _SHARED),
    ("trained", "Whole runs on shares", _TRAINED),
    ("head", "", ()),
    ("head_stream", "Streams of rows", _STREAMS),
    ("hybrid", "A private head asked under encryption, whole test sets", _HYBRID),
    ("hybrid_query", "One encrypted query after its features", _AFTER),
    ("hybrid_batch", "As many queries at once as a message holds", _TOGETHER),
    ("hybrid_precompute", "Weights transformed ahead", _AHEAD),
    ("hybrid_published", "CIFAR-10, beside networks that run under encryption as a whole", _WHOLE),
    ("mnist", "One query, the shipped MNIST network", _MNIST),
    ("cores", "One query on two cores", _CORES),
    ("published", "Encrypted MNIST, beside published figures", _PUBLISHED),
)
"""The kind of a row, the title of its table, and the columns; in the order of a report."""
