"""The survey's fifteen systems, and beside each what of ours serves its scenario, as measured.

A scenario is who takes part and what is hidden from whom. Where ours has other parties or hides
other things, the row says that it is not served, whatever the figures are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.measure import Row
from benchmarks.published import SURVEY
from benchmarks.report.table import NOTHING, Column, Table, plain


class Ours(NamedTuple):
    """A mode of ours: accuracy in percent, seconds and megabytes of one query, all measured."""

    mode: str
    protects: str
    accuracy_percent: float
    seconds: float
    megabytes: float


QUERY, PRIVATE, THREE, DEALER = "query", "private", "three", "dealer"
SERVED: Mapping[str, str] = {
    "DeepSecure": PRIVATE, "SecureML": DEALER, "MiniONN": PRIVATE, "ABY3": THREE,
    "ML Confidential": QUERY, "CryptoNets": QUERY, "Chabanne et al.": QUERY, "CryptoDL": QUERY,
    "All-Convolutional Net": QUERY, "Gazelle": PRIVATE, "TAPAS": PRIVATE, "FHE-DiNN": PRIVATE,
}  # fmt: skip
"""Which mode of ours has the same parties and hides the same, by the survey's names."""
NOT_SERVED: Mapping[str, str] = {
    "E2DM": "not served: its one server computes on a model that is hidden from it too; ours "
    "hides a model from servers only where it is shared among two or three",
    "PPDL via additive HE": "not served: its server adds up gradients that it cannot read; our "
    "parties train on shares, and have no such server",
    "Multi-key FHE": "not served: its inputs are under the keys of several owners; a query of "
    "ours is under one key",
}


def modes(rows: Iterable[Row]) -> dict[str, Ours]:
    """What of ours was measured, by mode; one that was not is left out."""
    found = list(rows)
    modes: dict[str, Ours] = {}
    for row in found:
        if row.get("kind") == "mnist":
            modes[QUERY] = _query(row, "one query, packed, plain answers", "client data")
    private = [
        row for row in found
        if row.get("kind") == "point" and row["response"] == "private" and _trained(row)
    ]  # fmt: skip
    if private:
        best = max(private, key=lambda row: (row["accuracy_percent"], -row["wall_ms"]))
        about = f"one query, {best['layout']}, private answers"
        modes[PRIVATE] = _query(best, about, "client data, model")
    accuracy = {row["network"]: row["accuracy_percent"] for row in found if _kind(row, "trained")}
    for row in found:
        if _kind(row, "shared inference") and row["rows"] == 1 and row["network"] in accuracy:
            mode = THREE if "three" in row["system"] else DEALER
            modes[mode] = Ours(
                f"{str(row['system']).removeprefix('Sottovoce, ')}, the model stays shared",
                "client data, model, training data",
                accuracy[row["network"]],
                row["milliseconds"] / 1e3,
                row["bytes"] / 1e6,
            )
    return modes


def survey(rows: Iterable[Row]) -> list[Row]:
    """A row for each system of the survey: its figures, ours, and a verdict for each column."""
    found = modes(rows)
    lines = []
    for figure in SURVEY:
        row: Row = figure._asdict()
        ours = found.get(SERVED.get(figure.system, ""))
        if figure.system in NOT_SERVED:
            row |= {"verdict": NOT_SERVED[figure.system]}
        elif ours is None:
            row |= {"verdict": "not measured on this version"}
        else:
            row |= {f"our_{name}": value for name, value in ours._asdict().items()}
            row |= _verdicts(row)
        lines.append(row)
    return lines


def _query(row: Row, mode: str, protects: str) -> Ours:
    crossed = row["request_bytes"] + row["response_bytes"]
    accuracy = row["accuracy_percent"]
    return Ours(mode, protects, accuracy, row["wall_ms"] / 1e3, crossed / 1e6)


def _trained(row: Row) -> bool:
    return "accuracy_percent" in row


def _kind(row: Row, kind: str) -> bool:
    return row.get("kind") == kind


def _verdicts(row: Row) -> Row:
    """Points of accuracy; times for seconds and megabytes; and whether all that is known wins."""
    said: Row = {}
    wins: dict[str, bool] = {}
    if row["accuracy_percent"] is not None:
        points = row["our_accuracy_percent"] - row["accuracy_percent"]
        wins["accuracy"] = points >= 0
        said["accuracy_verdict"] = f"{points:+.2f} points"
    for name in ("seconds", "megabytes"):
        if row[name] is not None:
            ratio = row[name] / row[f"our_{name}"]
            wins[name] = ratio >= 1
            said[f"{name}_verdict"] = times(ratio)
    behind = [name for name, won in wins.items() if not won]
    ahead = ", ".join(name for name, won in wins.items() if won)
    said["verdict"] = f"behind in {' and '.join(behind)}" if behind else f"served, ahead in {ahead}"
    return said


def times(ratio: float) -> str:
    """How many times less or more ours is."""
    word, shown = ("less", ratio) if ratio >= 1 else ("more", 1 / ratio)
    return f"{shown:,.3g} times {word}" if shown < 1000 else f"{shown:,.0f} times {word}"


def _figure(name: str) -> Callable[[Row], str]:
    return lambda row: NOTHING if row[name] is None else f"{row[name]:,.6g}"


def _ours(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: f"{row[name]:,.{digits}g}"


COLUMNS: Sequence[Column] = (
    ("system", plain("system")),
    ("verdict", plain("verdict")),
    ("technique", plain("technique")),
    ("hides", plain("protects")),
    ("accuracy %", _figure("accuracy_percent")),
    ("seconds", _figure("seconds")),
    ("MB", _figure("megabytes")),
    ("ours that serves it", plain("our_mode")),
    ("ours hides", plain("our_protects")),
    ("ours: accuracy %", _ours("our_accuracy_percent", 4)),
    ("ours: seconds", _ours("our_seconds", 3)),
    ("ours: MB", _ours("our_megabytes", 3)),
    ("accuracy, ours", plain("accuracy_verdict")),
    ("time, ours", plain("seconds_verdict")),
    ("data, ours", plain("megabytes_verdict")),
)
NOTE = (
    "Theirs are published, on hardware of their time, and hide what the survey says they hide; "
    "ours are of the runs on this page, in one process or over loopback, connecting included for "
    "shared models, keys aside. Accuracy of shared models is that of the run on shares whose "
    "network they have."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """The survey, if anything of ours was measured."""
    found = list(rows)
    if not modes(found):
        return []
    return [Table("The survey, and what serves the same scenario", COLUMNS, survey(found), NOTE)]
