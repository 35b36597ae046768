"""The figures in README.md, taken from a run's results so that nobody types one.

A block stands between `<!-- figures: NAME -->` and `<!-- /figures -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import OURS, Row, read_rows
from benchmarks.registry import BENCHMARKS
from benchmarks.report import survey
from benchmarks.report.table import (
    NOTHING,
    Column,
    Table,
    hardware,
    milliseconds,
    number,
    plain,
)

_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
RESULTS = tuple(f"{name}.jsonl" for name in BENCHMARKS)
"""Files of results, each of one run."""
NOT_YET = "Not measured on this version: `python -m benchmarks run heads --peers` does it.\n"
_NO_PRIVACY, _OURS_HEAD = "no privacy", "Sottovoce fc, public whitening"
_QUADRATIC_LINE = "no privacy, our public quadratic layer"
_QUADRATIC = "Sottovoce fc, public quadratic layer"
_OPACUS = "Opacus DP-SGD, ghost"
_OPACUS_WHITENED = "Opacus DP-SGD, ghost, our public whitening"
_DELAY = 20.0


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row[name]['accuracy']:.1f}" if name in row else NOTHING


_QUERY: Sequence[Column] = (
    ("tutorial CNN, one core", plain("system")),
    ("CPU ms (quartiles)", milliseconds("cpu_ms")),
    ("times ours", number("cpu_ratio_to_ours", 1)),
    ("up kB", number("request_bytes", 0, 1e3)),
    ("down kB", number("response_bytes", 0, 1e3)),
    ("keys MB", number("evaluation_key_bytes", 1, 1e6)),
)
_POINTS: Sequence[Column] = (
    ("network", plain("network")),
    ("answers", plain("response")),
    ("CPU ms", number("cpu_ms", 1)),
    ("up kB", number("request_bytes", 0, 1e3)),
    ("down kB", number("response_bytes", 0, 1e3)),
    ("keys kB", number("evaluation_key_bytes", 0, 1e3)),
)
_HEADS: Sequence[Column] = (
    ("accuracy % at ε = 1", plain("task")),
    ("no privacy", _percent(_NO_PRIVACY)),
    ("ours, public whitening", _percent(_OURS_HEAD)),
    ("no privacy, quadratic", _percent(_QUADRATIC_LINE)),
    ("ours, quadratic", _percent(_QUADRATIC)),
    ("Opacus DP-SGD, same whitening", _percent(_OPACUS_WHITENED)),
    ("Opacus DP-SGD", _percent(_OPACUS)),
)

_HYBRID: Sequence[Column] = (
    ("data, all of the test set", plain("data")),
    ("ε", number("epsilon", 0)),
    ("no privacy %", number("plain_accuracy", 2, 0.01)),
    ("private head %", number("private_accuracy", 2, 0.01)),
    ("asked encrypted %", number("encrypted_accuracy", 2, 0.01)),
    ("labels equal %", number("agreement", 2, 0.01)),
)
_AFTER: Sequence[Column] = (
    ("one query, after its features", lambda row: f"{row['features']:,} × {row['classes']:,}"),
    ("answers", plain("response")),
    ("CPU ms", number("cpu_ms", 1)),
    ("kB up", number("request_bytes", 0, 1e3)),
    ("kB down", number("response_bytes", 0, 1e3)),
    ("keys kB", number("evaluation_key_bytes", 1, 1e3)),
)


def measured(folder: Path) -> list[Row]:
    """The rows of all of `RESULTS` that are in a folder."""
    paths = [folder / name for name in RESULTS if (folder / name).is_file()]
    return [row for path in paths for row in read_rows(path)]


def blocks(rows: Iterable[Row]) -> dict[str, str]:
    """Text of every block by name, for the rows of all of `RESULTS`: a few lines a flow."""
    found = list(rows)
    return {
        "summary": _summary(found),
        "survey": survey.counted(survey.survey(found)) + "\n",
        "query": _small(_QUERY, sorted(_of(found, "tutorial"), key=lambda row: row["cpu_ms"])),
        "batch": _batch(found),
        "points": _small(_POINTS, [r for r in _of(found, "point") if r["optimise"] == "latency"]),
        "heads": _heads(found),
        "training": _training(found),
        "hybrid": _hybrid(found),
    }


def _of(rows: Iterable[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.get("kind") == kind]


def _small(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    return Table("", columns, rows).markdown().split("\n\n", 1)[1] + "\n"


def _heads(rows: Iterable[Row]) -> str:
    """Accuracy at ε = 1, a line a task."""
    found = _of(rows, "head")
    if not found:
        return NOT_YET
    lines = []
    for task in dict.fromkeys(str(row["task"]) for row in found):
        here = {row["system"]: row for row in found
                if row["task"] == task and row.get("epsilon", 1.0) == 1.0}  # fmt: skip
        lines.append({**here, "task": task})
    return _small(_HEADS, lines)


def _hybrid(rows: Iterable[Row]) -> str:
    """Accuracy, a line a data set and epsilon; one query after its features; full messages."""
    found = list(rows)
    sets, queries = _of(found, "hybrid"), _of(found, "hybrid_query")
    if not sets:
        return NOT_YET.replace("heads --peers", "hybrid")
    lines = [
        f"- {row['classes']:,} classes, a full message of {row['batch']:,} queries: "
        f"**{row['server_queries_per_second']:,.0f} answers a second** on "
        f"{row['device'] if row['device'] != 'cpu' else hardware(row)}, private ones, "
        f"{row['upload_bytes_per_query'] / 1e3:.1f} kB a query up and "
        f"{row['download_bytes_per_query'] / 1e3:.2f} kB down."
        for row in _of(found, "hybrid_batch")
    ]
    return "\n".join([_small(_HYBRID, sets), _small(_AFTER, queries), *lines]) + "\n"


_SHARES = ("training", "slow network", "shared inference", "trained")


def _training(rows: Iterable[Row]) -> str:
    every = list(rows)
    found = [row for row in every if row.get("kind") in _SHARES]
    steps = [row for row in found if row["kind"] == "training"]
    lines = []
    for network in dict.fromkeys(str(row["network"]) for row in steps):
        ours, *others = (row for row in steps if row["network"] == network)
        compared = [
            f"{row['system']} takes {_times(row, ours, 'cpu_seconds_per_step')} the CPU time and "
            f"{_times(row, ours, 'bytes_per_step')} the bytes"
            for row in others
            if row["source"] != OURS
        ]
        if compared:
            lines.append(
                f"- A step of `{network}` takes our three parties "
                f"{1e3 * ours['cpu_seconds_per_step']:.0f} ms of CPU in all and "
                f"{ours['bytes_per_step'] / 1e6:.1f} MB; {'; '.join(compared)}."
            )
    slow = [row for row in found if row["kind"] == "slow network"]
    delayed = next((row for row in slow if row["delay_ms"] == _DELAY), None)
    runs = [row for row in found if row["kind"] == "trained"]
    lines += [
        f"- `{row['network']}` on MNIST, on shares: **{row['accuracy_percent']:.2f} %** after "
        f"{row['steps']:,} steps, {row['plain_accuracy_percent']:.2f} % by the same loop in the "
        f"clear; {row['bytes_per_step'] / 1e6:.1f} MB and {row['rounds_per_step']} rounds a step."
        for row in runs
    ]
    if delayed:
        lines.append(
            f"- {delayed['seconds_per_step']:.2f} s a step of `mlp` where every message takes "
            f"{_DELAY:.0f} ms longer and a party sends {delayed['megabits']:.0f} Mbit/s."
        )
    return "\n".join(lines) + "\n"


def _times(row: Row, ours: Row, figure: str) -> str:
    return f"**{row[figure] / ours[figure]:.1f} times**"


def _batch(rows: Iterable[Row]) -> str:
    found = list(rows)
    batches = [row for row in found if row.get("kind") == "batch"]
    ours = [row for row in batches if row["source"] == OURS]
    (seal,) = (row for row in batches if row["source"] != OURS)
    (beside,) = (
        row for row in ours
        if (row["network"], row["response"]) == (seal["network"], seal["response"])
    )  # fmt: skip
    per_core = beside["evaluation_images_per_second"] / beside["cores"]
    ratio = per_core / seal["evaluation_images_per_second"]
    lines = [
        f"- {_begin(str(row['network']))}: **{row['server_images_per_second']:,.0f} images a "
        f"second** by the server on {row['cores']} cores, bytes to bytes; "
        f"{row['http_images_per_second']:,.0f} over HTTP with the client on the same cores; "
        f"{row['accuracy_percent']:.2f} % right; "
        f"{row['labels_equal']:,} of {row['queries']:,} labels as in the clear; "
        f"{row['upload_bytes_per_image'] / 1e3:.1f} kB an image up, "
        f"{row['download_bytes_per_image'] / 1e3:.2f} kB down."
        for row in ours
        if row["response"] == "private"
    ]
    return "\n".join(lines) + (
        f"\n- Per core the evaluator is **{ratio:.0f} times** as fast as the same layers would be "
        f"as scalar operations of SEAL's: each timed in the same run, and counted as often as the "
        f"layers need it ({seal['network']}, plain answers).\n"
    )


def _begin(text: str) -> str:
    """With a capital, and other letters as they are."""
    return text[:1].upper() + text[1:]


def _summary(rows: Iterable[Row]) -> str:
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(str(row.get("kind")), []).append(row)
    ours = by_kind["mnist"][0]
    peers = [row for row in by_kind["tutorial"] if row["source"] != "ours measured"]
    ratios = ", ".join(
        f"**{row['cpu_ratio_to_ours']:.1f} times** less than that of {row['system']}"
        for row in sorted(peers, key=lambda row: -float(row["cpu_ratio_to_ours"]))
    )
    return (
        f"- **{ours['accuracy_percent']:.2f} %** of MNIST's {ours['accuracy_images']:,} test "
        f"images, by the network that ships; {ours['labels_equal']} of {ours['queries']} "
        "encrypted queries got the label that they get in the clear.\n"
        f"- One query takes **{ours['cpu_ms']:.0f} ms** of CPU, client and server together, "
        f"{ours['request_bytes'] / 1e3:.0f} kB up and {ours['response_bytes'] / 1e3:.0f} kB down, "
        f"{ours['evaluation_key_bytes'] / 1e6:.1f} MB of keys once, and "
        f"{ours['server_peak_bytes'] / 1e6:.0f} MB of memory for one client in one process.\n"
        f"- On TenSEAL's tutorial network, in one run on one core, CPU time is {ratios}; "
        f"{_labels(by_kind['tutorial'])}, and [the tables](docs/figures.md) have the errors of "
        "scores. We encrypt with the secret key, the others with a public one.\n"
        "- These answers are plain: a client that looks closely learns weights. "
        f"{_hidden(by_kind)}\n"
    )


def _hidden(by_kind: Mapping[str, Sequence[Row]]) -> str:
    """What it takes to hide them."""
    trained = [
        r for r in by_kind["point"] if r["response"] == "private" and "accuracy_percent" in r
    ]
    best = max(trained, key=lambda row: (row["accuracy_percent"], -row["cpu_ms"]))
    return (
        f"Where it must not, a network of {best['accuracy_percent']:.2f} % answers in "
        f"{best['cpu_ms']:.0f} ms of CPU, and all networks do in batches."
    )


def _labels(rows: Iterable[Row]) -> str:
    equal = all(row["labels_equal"] == row["queries"] for row in rows)
    counts = {row["queries"] for row in rows}
    each = f" of {counts.pop()}" if len(counts) == 1 else ""
    return f"every system gets every label{each}" if equal else "labels differ"


def filled(text: str, contents: Mapping[str, str]) -> str:
    """A page with its blocks replaced. Raises KeyError for a block that nothing is known of."""

    def replacement(match: re.Match[str]) -> str:
        return f"{match[1]}{contents[match[2]]}{match[3]}"

    return _BLOCK.sub(replacement, text)
