"""Tables of training and inference on shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.measure import OURS, Row
from benchmarks.report.table import (
    Column,
    Table,
    number,
    of_kinds,
    plain,
    published_note,
    source,
)

SLOW_MS = 20.0
"""One way: 40 there and back, as what is published."""

_TRAINING: Sequence[Column] = (
    ("system", plain("system")),
    ("whose figure", plain("source")),
    ("network", plain("network")),
    ("CPU s, all parties", number("cpu_seconds_per_step", 3)),
    ("s elapsed", number("seconds_per_step", 3)),
    ("MB, all parties", number("bytes_per_step", 1, 1e6)),
    ("rounds", number("rounds_per_step", 0)),
    ("protection", plain("protection")),
)
_SLOW: Sequence[Column] = (
    ("system", plain("system")),
    ("network", plain("network")),
    ("ms later, one way", number("delay_ms", 0)),
    ("Mbit/s a party", number("megabits", 0)),
    ("s elapsed", number("seconds_per_step", 2)),
    ("CPU s, all parties", number("cpu_seconds_per_step", 3)),
    ("MB, all parties", number("bytes_per_step", 1, 1e6)),
    ("rounds", number("rounds_per_step", 0)),
)
_SHARED: Sequence[Column] = (
    ("system", plain("system")),
    ("network", plain("network")),
    ("images", number("rows", 0)),
    ("ms elapsed, connecting included", number("milliseconds", 1)),
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
_PUBLISHED: Sequence[Column] = (
    ("system", plain("system")),
    ("whose figure", source),
    ("network", plain("network")),
    ("s a step", number("seconds", 3)),
    ("s a step, slow network", number("slow_seconds", 2)),
    ("accuracy % of a whole run", plain("accuracy_percent")),
    ("on", plain("hardware")),
)
_NETWORKS = (
    "`mlp` is dense, 784-128-128-10 with ReLU; `lenet` has two convolutions, of 8 and 16 maps, "
    "each pooled, and two dense layers, 44,426 weights in all."
)
_NOTE = (
    "A step is forward, backward and update for a batch of 128 images of MNIST that nobody sees: "
    f"every party holds a share of each. {_NETWORKS} A round is a message that others wait for. "
    "Protection: against whom records stay hidden. One of three semi-honest: any one party may be "
    "curious, while it follows the protocol and colludes with nobody. SPU's parties are threads "
    "that speak through memory, CrypTen's processes on plain sockets, ours processes with TLS "
    "between them; all share two cores. Peers' steps are few, as theirs take long: {steps}."
)
_NOTES: Mapping[Sequence[Column], str] = {
    _SLOW: "Batches of 128. Every message arrives so much later, so a question and its answer take "
    "twice that.",
    _SHARED: "A client sends shares of its images and gets shares of their scores; no server has "
    "the model, the images or the scores.",
    _TRAINED: "Trained on MNIST's 60,000 images, tested on its 10,000. A rollback is a return to "
    "the last checkpoint, after weights that grew too large for shares.",
    _PUBLISHED: "Batches of 128. `mlp` is the same network there. Like lenet: convolutions of 20 "
    "and 50 maps, each pooled by its maximum, and 431,080 weights, near ten times those of "
    "`lenet`, so a step is more work. Ours has the narrower wire.",
}
_LAYOUTS: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("training", "A training step on shares", _TRAINING),
    ("training_published", "A training step, beside what was published", _PUBLISHED),
    ("slow network", "A training step on a slow network", _SLOW),
    ("shared inference", "A query to a model that stays shared", _SHARED),
    ("trained", "Whole runs on shares", _TRAINED),
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """Of every kind of run that was measured; ours of three parties above what is published."""
    found = list(rows)
    return [_finished(table, found) for table in of_kinds(found, _LAYOUTS)]


def _finished(table: Table, rows: Sequence[Row]) -> Table:
    if table.columns is _TRAINING:
        counts = dict.fromkeys(
            f"{row['steps'] * row['rounds_measured']} of {row['network']}"
            for row in table.rows
            if row.get("source") != OURS
        )
        return replace(table, note=_NOTE.format(steps=", ".join(counts) or "none in this run"))
    lines = table.rows
    if table.columns is _PUBLISHED:
        lines = [*_ours(rows), *lines]
    elif table.columns is _SLOW:
        lines = sorted(lines, key=lambda row: (row["system"], row["delay_ms"]))
    note = f"{_NOTES[table.columns]} {published_note(lines)}".strip()
    return replace(table, rows=lines, note=note)


def _ours(rows: Sequence[Row]) -> Iterator[Row]:
    """A step of three parties on loopback, and on the network that is slow by as much as theirs."""
    slow = {
        (row["system"], row["network"]): row["seconds_per_step"]
        for row in rows
        if row.get("kind") == "slow network" and row["delay_ms"] == SLOW_MS
    }
    accuracy = {r["network"]: r["accuracy_percent"] for r in rows if r.get("kind") == "trained"}
    for row in rows:
        if row.get("kind") == "training" and row.get("source") == OURS and "three" in row["system"]:
            yield {
                "system": row["system"], "source": row["source"], "network": row["network"],
                "seconds": row["seconds_per_step"],
                "slow_seconds": slow.get((row["system"], row["network"])),
                "accuracy_percent": accuracy.get(row["network"]),
                "hardware": f"2 cores for all; slow: {2 * SLOW_MS:g} ms there and back, 100 Mbit/s",
            }  # fmt: skip
