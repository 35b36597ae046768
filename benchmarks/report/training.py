"""Tables of training and inference on shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measure import Row
from benchmarks.report.table import Column, Table, number, of_kinds, plain

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
_LAYOUTS: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("training", "A training step on shares", _TRAINING),
    ("slow network", "A training step on a slow network", _SLOW),
    ("shared inference", "A query to a model that stays shared", _SHARED),
    ("trained", "Whole runs on shares", _TRAINED),
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """Of every kind of run that was measured."""
    return of_kinds(rows, _LAYOUTS)
