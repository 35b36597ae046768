"""Results to Markdown: one table for each kind of row, in the units that a reader thinks in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.measure import Row

Column = tuple[str, Callable[[Row], str]]
NOTHING = "–"


def markdown(rows: Iterable[Row]) -> str:
    """All tables for which there are rows, under the environment they were measured in."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(str(row.get("kind")), []).append(row)
    parts = [_environment(row) for row in by_kind.get("environment", [])]
    if "tutorial" in by_kind:
        found = sorted(by_kind["tutorial"], key=lambda row: float(row["cpu_ms"]))
        parts += ["## One query, tutorial CNN, one core", _table(_TUTORIAL, found)]
    if "tutorial" in by_kind:
        parts += [_settings(by_kind["tutorial"])]
    if "point" in by_kind:
        parts += ["## One query, point by point, one core", _table(_POINT, by_kind["point"])]
    if "batch" in by_kind:
        parts += ["## Thousands of queries at once", _table(_BATCH, by_kind["batch"])]
    if "growth" in by_kind:
        parts += ["## Growth of a batch's cost", _table(_GROWTH, by_kind["growth"])]
    if "training" in by_kind:
        parts += ["## A training step on shares", _table(_TRAINING, by_kind["training"])]
    if "slow network" in by_kind:
        parts += ["## A training step on a slow network", _table(_SLOW, by_kind["slow network"])]
    if "shared inference" in by_kind:
        found = by_kind["shared inference"]
        parts += ["## A query to a model that stays shared", _table(_SHARED, found)]
    if "trained" in by_kind:
        parts += ["## Whole runs on shares", _table(_TRAINED, by_kind["trained"])]
    if "head" in by_kind:
        parts += _heads(by_kind["head"])
    if "head_stream" in by_kind:
        parts += ["## Streams of rows", _table(_STREAMS, by_kind["head_stream"])]
    parts += _hybrid(by_kind)
    if "mnist" in by_kind:
        parts += [
            "## One query, the shipped MNIST network",
            _table(_MNIST, by_kind["mnist"]),
        ]
    if "cores" in by_kind:
        parts += ["## One query on two cores", _table(_CORES, by_kind["cores"])]
    if "published" in by_kind:
        beside = [*by_kind.get("mnist", []), *by_kind["published"]]
        parts += [
            "## Encrypted MNIST, beside published figures",
            _table(_PUBLISHED, beside),
        ]
        parts += ["Published figures are of other hardware: compare per core, and with care."]
    for row in by_kind.get("failure", []):
        parts.append(f"**{row['system']}** ({row['source']}): not measured. {row['reason']}")
    return "\n\n".join(parts) + "\n"


def _hybrid(by_kind: Mapping[str, Sequence[Row]]) -> list[str]:
    """A head asked under encryption; whole networks under encryption beside it."""
    parts: list[str] = []
    if found := by_kind.get("hybrid"):
        title = "## A private head asked under encryption, whole test sets"
        parts += [title, _table(_HYBRID, found)]
    if found := by_kind.get("hybrid_query"):
        parts += ["## One encrypted query after its features", _table(_AFTER, found)]
    if found := by_kind.get("hybrid_batch"):
        parts += ["## As many queries at once as a message holds", _table(_TOGETHER, found)]
    if found := by_kind.get("hybrid_precompute"):
        parts += ["## Weights transformed ahead", _table(_AHEAD, found)]
    if found := by_kind.get("hybrid_published"):
        beside = [row for row in by_kind.get("hybrid", []) if "CIFAR" in str(row["data"])]
        title = "## CIFAR-10, beside networks that run under encryption as a whole"
        parts += [title, _table(_WHOLE, [*beside, *found])]
    return parts


def _heads(rows: Sequence[Row]) -> list[str]:
    """Accuracy, a table a task with a column an epsilon; then time and memory."""
    parts = []
    for task in dict.fromkeys(str(row["task"]) for row in rows):
        found = [row for row in rows if row["task"] == task]
        epsilons = sorted({float(row["epsilon"]) for row in found if "epsilon" in row})
        columns: list[Column] = [("system", _plain("system"))]
        columns += [(f"ε = {e:g}", _at(e)) for e in epsilons]
        systems: dict[str, Row] = {}
        for row in found:
            cells = systems.setdefault(str(row["system"]), {"system": row["system"]})
            cells[f"{row.get('epsilon', 0.0):g}"] = row
        size = f"{found[0]['rows']:,} rows of {found[0]['features']:,} features"
        parts += [f"## {task}: {size}, accuracy %", _table(columns, list(systems.values()))]
    timed = [row for row in rows if row.get("epsilon") == 1.0]
    return [*parts, "## Time and memory of a fit at ε = 1", _table(_HEAD_TIMES, timed)]


def _at(epsilon: float) -> Callable[[Row], str]:
    """Mean ± standard deviation over fits, how many if not five; what needs none, for all."""

    def shown(cells: Row) -> str:
        row = cells[f"{epsilon:g}"] if f"{epsilon:g}" in cells else cells["0"]
        if "epsilon" not in row:
            return f"{100 * row['accuracy']:.1f}"
        spread = f" ± {100 * row['accuracy_deviation']:.1f}" if row["fits"] > 1 else ""
        return f"{100 * row['accuracy']:.1f}{spread}"

    return shown


def _environment(row: Row) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in row["packages"].items())
    vector = ", ".join(row["simd"]) or NOTHING
    return (
        f"Measured on {row['processor']}, {row['cores']} cores, {row['system']}; Python "
        f"{row['python']}, {packages}; commit {row['commit'] or NOTHING}. "
        f"Vector extensions: {vector}."
    )


def _settings(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        versions = ", ".join(f"{name} {number}" for name, number in row["version"].items())
        lines.append(f"- {row['system']} ({versions or 'this checkout'}): {row['settings']}")
    return "\n".join(lines)


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    lines = [[title for title, _ in columns], ["---"] * len(columns)]
    lines += [[_shown(show, row) for _, show in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(show: Callable[[Row], str], row: Row) -> str:
    """A cell; a figure that a row does not have is a dash."""
    try:
        return show(row)
    except (KeyError, TypeError):
        return NOTHING


def _plain(name: str) -> Callable[[Row], str]:
    return lambda row: NOTHING if row[name] is None else str(row[name])


def _number(name: str, digits: int, unit: float = 1.0) -> Callable[[Row], str]:
    return lambda row: f"{float(row[name]) / unit:,.{digits}f}"


def _milliseconds(name: str) -> Callable[[Row], str]:
    """The median, between its quartiles."""
    return lambda row: f"{row[name]:.1f} ({row[name + '_low']:.1f}–{row[name + '_high']:.1f})"


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


def _accelerator(row: Row) -> str:
    return str(row.get("hardware", f"{row.get('cores')} cores"))


_HYBRID: Sequence[Column] = (
    ("data", _plain("data")),
    ("figure", _plain("source")),
    ("ε", _number("epsilon", 0)),
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
    ("kB up", _number("single_up", 1, 1e3)),
    ("kB down", _number("single_down", 1, 1e3)),
    ("keys kB", _number("single_keys", 1, 1e3)),
    ("batches: queries/s, server over HTTP", _served),
)
_AFTER: Sequence[Column] = (
    ("features", _number("features", 0)),
    ("classes", _number("classes", 0)),
    ("answers", _plain("response")),
    ("figure", _plain("source")),
    ("CPU ms (quartiles)", _milliseconds("cpu_ms")),
    ("encrypt ms", _number("encrypt_cpu_ms", 1)),
    ("server ms", _number("server_cpu_ms", 1)),
    ("decrypt ms", _number("decrypt_cpu_ms", 1)),
    ("up kB", _number("request_bytes", 1, 1e3)),
    ("down kB", _number("response_bytes", 1, 1e3)),
    ("keys kB", _number("evaluation_key_bytes", 1, 1e3)),
)
_TOGETHER: Sequence[Column] = (
    ("features", _number("features", 0)),
    ("classes", _number("classes", 0)),
    ("answers", _plain("response")),
    ("figure", _plain("source")),
    ("batch", _number("batch", 0)),
    ("on", lambda row: f"{row['cores']} cores" if row["device"] == "cpu" else str(row["device"])),
    ("queries/s, server", _number("server_queries_per_second", 0)),
    ("client", _number("client_queries_per_second", 0)),
    ("up kB a query", _number("upload_bytes_per_query", 1, 1e3)),
    ("down kB a query", _number("download_bytes_per_query", 2, 1e3)),
    ("keys kB", _number("evaluation_key_bytes", 0, 1e3)),
)
_AHEAD: Sequence[Column] = (
    ("features", _number("features", 0)),
    ("classes", _number("classes", 0)),
    ("on", _plain("device")),
    ("figure", _plain("source")),
    ("ms to transform, saved at every start", _number("transform_ms", 1)),
    ("ms to map the file instead", _number("map_ms", 2)),
    ("file MB", _number("file_bytes", 2, 1e6)),
)
_WHOLE: Sequence[Column] = (
    ("system", _plain("system")),
    ("figure", _plain("source")),
    ("accuracy %", _whole_accuracy),
    ("seconds a query", _whole_seconds),
    ("scenario", _where),
    ("hardware", _accelerator),
)
_TRAINING: Sequence[Column] = (
    ("system", _plain("system")),
    ("figure", _plain("source")),
    ("network", _plain("network")),
    ("CPU s, all parties", _number("cpu_seconds_per_step", 3)),
    ("wall s", _number("seconds_per_step", 3)),
    ("MB", _number("bytes_per_step", 1, 1e6)),
    ("rounds", _number("rounds_per_step", 0)),
    ("protection", _plain("protection")),
)
_SLOW: Sequence[Column] = (
    ("system", _plain("system")),
    ("network", _plain("network")),
    ("ms later, one way", _number("delay_ms", 0)),
    ("Mbit/s a party", _number("megabits", 0)),
    ("wall s", _number("seconds_per_step", 2)),
    ("CPU s, all parties", _number("cpu_seconds_per_step", 3)),
    ("MB", _number("bytes_per_step", 1, 1e6)),
    ("rounds", _number("rounds_per_step", 0)),
)
_SHARED: Sequence[Column] = (
    ("system", _plain("system")),
    ("network", _plain("network")),
    ("images", _number("rows", 0)),
    ("ms, connecting included", _number("milliseconds", 1)),
    ("kB in all", _number("bytes", 0, 1e3)),
    ("kB from the client", _number("client_bytes", 0, 1e3)),
    ("rounds", _number("rounds", 0)),
)
_TRAINED: Sequence[Column] = (
    ("system", _plain("system")),
    ("network", _plain("network")),
    ("epochs", _number("epochs", 0)),
    ("batch", _number("batch", 0)),
    ("steps", _number("steps", 0)),
    ("accuracy % on shares", _number("accuracy_percent", 2)),
    ("same loop in the clear", _number("plain_accuracy_percent", 2)),
    ("CPU s a step", _number("cpu_seconds_per_step", 3)),
    ("MB a step", _number("bytes_per_step", 1, 1e6)),
    ("rollbacks", _number("rollbacks", 0)),
)
_TUTORIAL: Sequence[Column] = (
    ("system", _plain("system")),
    ("figure", _plain("source")),
    ("CPU ms (quartiles)", _milliseconds("cpu_ms")),
    ("times ours", _number("cpu_ratio_to_ours", 2)),
    ("encrypt ms", _number("encrypt_cpu_ms", 1)),
    ("server ms", _number("server_cpu_ms", 1)),
    ("decrypt ms", _number("decrypt_cpu_ms", 1)),
    ("wall ms", _number("wall_ms", 1)),
    ("up kB", _number("request_bytes", 0, 1e3)),
    ("down kB", _number("response_bytes", 0, 1e3)),
    ("keys MB", _number("evaluation_key_bytes", 1, 1e6)),
    ("labels equal", _labels),
    ("largest logit error", _number("largest_logit_error", 4)),
    ("security bits", _plain("security_bits")),
)
_CORES: Sequence[Column] = (
    ("network", _plain("network")),
    ("figure", _plain("source")),
    ("server wall ms, one thread", _milliseconds("wall_ms_1")),
    ("two threads", _milliseconds("wall_ms_2")),
    ("times sooner", _number("speed_up", 2)),
    ("CPU ms, one thread", _number("cpu_ms_1", 1)),
    ("two threads", _number("cpu_ms_2", 1)),
)
_MNIST: Sequence[Column] = (
    ("system", _plain("system")),
    ("figure", _plain("source")),
    ("accuracy % in the clear", _accuracy),
    ("labels equal, encrypted", _labels),
    ("CPU ms (quartiles)", _milliseconds("cpu_ms")),
    ("encrypt ms", _number("encrypt_cpu_ms", 1)),
    ("server ms", _number("server_cpu_ms", 1)),
    ("decrypt ms", _number("decrypt_cpu_ms", 1)),
    ("up kB", _number("request_bytes", 0, 1e3)),
    ("down kB", _number("response_bytes", 0, 1e3)),
    ("keys MB", _number("evaluation_key_bytes", 1, 1e6)),
    ("server memory MB, peak", _number("server_peak_bytes", 0, 1e6)),
    ("security bits", _plain("security_bits")),
)
_POINT: Sequence[Column] = (
    ("network", _plain("network")),
    ("layout", _plain("layout")),
    ("answers", _plain("response")),
    ("planned for", _plain("optimise")),
    ("accuracy % in the clear", _accuracy),
    ("labels equal, encrypted", _labels),
    ("CPU ms (quartiles)", _milliseconds("cpu_ms")),
    ("estimated ms", _number("estimated_cpu_ms", 1)),
    ("encrypt ms", _number("encrypt_cpu_ms", 1)),
    ("server ms", _number("server_cpu_ms", 1)),
    ("decrypt ms", _number("decrypt_cpu_ms", 1)),
    ("wall ms", _number("wall_ms", 1)),
    ("up kB", _number("request_bytes", 1, 1e3)),
    ("down kB", _number("response_bytes", 1, 1e3)),
    ("keys kB", _number("evaluation_key_bytes", 1, 1e3)),
    ("server memory MB, peak", _number("server_peak_bytes", 0, 1e6)),
    ("N", _number("ring_degree", 0)),
    ("primes, bits", _primes),
)


def _each(row: Row) -> str:
    unit = 1 if row["sizes"][-1] < 1000 else 1_000_000
    return f"{row['each_ms'] * unit:,.0f}"


_BATCH: Sequence[Column] = (
    ("system", _plain("system")),
    ("network", _plain("network")),
    ("answers", _plain("response")),
    ("figure", _plain("source")),
    ("cores", _plain("cores")),
    ("batch", _number("batch", 0)),
    ("accuracy % in the clear", _number("accuracy_percent", 2)),
    ("labels equal, encrypted", _labels),
    ("images/s, evaluation", _number("evaluation_images_per_second", 0)),
    ("bytes to bytes", _number("server_images_per_second", 0)),
    ("client", _number("client_images_per_second", 0)),
    ("all, over HTTP", _number("http_images_per_second", 0)),
    ("up kB an image", _number("upload_bytes_per_image", 1, 1e3)),
    ("down kB an image", _number("download_bytes_per_image", 2, 1e3)),
    ("keys MB", _number("evaluation_key_bytes", 1, 1e6)),
    ("server memory GB, peak", _number("server_peak_bytes", 2, 1e9)),
    ("bits of modulus", _plain("modulus_bits")),
)
_HEAD_TIMES: Sequence[Column] = (
    ("task", _plain("task")),
    ("system", _plain("system")),
    ("figure", _plain("source")),
    ("fits", _plain("fits")),
    ("CPU s", _number("cpu_seconds", 2)),
    ("times ours", _number("times_ours", 1)),
    ("memory MB, peak", _number("memory_bytes", 0, 1e6)),
)
_STREAMS: Sequence[Column] = (
    ("system", _plain("system")),
    ("rows", _number("rows", 0)),
    ("features", _plain("width")),
    ("classes", _plain("classes")),
    ("releases", _plain("releases")),
    ("CPU s", _number("cpu_seconds", 1)),
    ("memory GB, peak", _number("peak_resident_bytes", 2, 1e9)),
)
_GROWTH: Sequence[Column] = (
    ("with", _plain("what")),
    ("from", lambda row: f"{row['sizes'][0]:,}"),
    ("to", lambda row: f"{row['sizes'][-1]:,}"),
    ("ms", lambda row: ", ".join(f"{value:,.0f}" for value in row["milliseconds"])),
    ("ms fixed", _number("fixed_ms", 1)),
    ("ms for each, or each million", _each),
    ("of the variance, a line explains", lambda row: f"{100 * row['explained']:.1f} %"),
)
_PUBLISHED: Sequence[Column] = (
    ("system", _plain("system")),
    ("figure", _plain("source")),
    ("technique", lambda row: str(row.get("technique", "CKKS, packed CNN"))),
    ("accuracy %", _number("accuracy_percent", 2)),
    ("seconds", _seconds),
    ("MB", _megabytes),
    ("hidden from the other side", _plain("protects")),
    ("hardware", _hardware),
)
