"""The survey's fifteen systems, and beside each what of ours serves its scenario, as measured.

A scenario is who takes part and what is hidden from whom. Where ours has other parties or hides
other things, the row says that it is not served, whatever the figures are. A system that answers
many queries in the time that is published is set beside our batches, a query's share against a
query's share; every other beside one query of ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.measure import OURS, Row
from benchmarks.published import SURVEY, SURVEY_PAPER
from benchmarks.report.table import NOTHING, Column, Table, plain


class Ours(NamedTuple):
    """A mode of ours: accuracy in percent, seconds and megabytes of one query, all measured."""

    mode: str
    accuracy_percent: float
    seconds: float
    megabytes: float


QUERY, PRIVATE, THREE, DEALER = "query", "private", "three", "dealer"
BATCH, PRIVATE_BATCH = "batch", "private batch"
SERVED: Mapping[str, str] = {
    "DeepSecure": PRIVATE_BATCH, "SecureML": DEALER, "MiniONN": PRIVATE, "ABY3": THREE,
    "ML Confidential": QUERY, "CryptoNets": BATCH, "Chabanne et al.": QUERY, "CryptoDL": BATCH,
    "All-Convolutional Net": BATCH, "Gazelle": PRIVATE, "TAPAS": PRIVATE, "FHE-DiNN": PRIVATE,
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
MODES: Mapping[str, str] = {
    QUERY: "one query, packed, plain answers: hides queries",
    PRIVATE: "one query, coefficients, private answers: hides queries and weights",
    BATCH: "batches, plain answers: hides queries",
    PRIVATE_BATCH: "batches, private answers: hides queries and weights",
    THREE: "model shared among three: hides queries, weights and training data",
    DEALER: "model shared between two, helped by a dealer: hides queries, weights and training "
    "data while the dealer sides with neither",
}
SHIPPED = "the shipped network, two squares"
LEVEL = 0.1
"""Points of accuracy, ten of 10,000 test images, within which two networks are level."""
TITLE = "The survey, and what serves the same scenario"


def modes(rows: Iterable[Row]) -> dict[str, Ours]:
    """What of ours was measured, by mode; one that was not is left out."""
    found = list(rows)
    modes: dict[str, Ours] = {}
    for row in found:
        if _kind(row, "mnist"):
            modes[QUERY] = _query(row, MODES[QUERY])
        elif _kind(row, "batch") and row.get("source") == OURS and row["network"] == SHIPPED:
            mode = BATCH if row["response"] == "plain" else PRIVATE_BATCH
            crossed = row["upload_bytes_per_image"] + row["download_bytes_per_image"]
            seconds = 1 / row["http_images_per_second"]
            modes[mode] = Ours(MODES[mode], row["accuracy_percent"], seconds, crossed / 1e6)
    private = [
        row for row in found
        if _kind(row, "point") and row["response"] == "private" and "accuracy_percent" in row
    ]  # fmt: skip
    if private:
        best = max(private, key=lambda row: (row["accuracy_percent"], -row["wall_ms"]))
        modes[PRIVATE] = _query(best, MODES[PRIVATE])
    accuracy = {row["network"]: row["accuracy_percent"] for row in found if _kind(row, "trained")}
    for row in found:
        if _kind(row, "shared inference") and row["rows"] == 1 and row["network"] in accuracy:
            mode = THREE if "three" in row["system"] else DEALER
            modes[mode] = Ours(
                MODES[mode],
                accuracy[row["network"]],
                row["milliseconds"] / 1e3,
                row["bytes"] / 1e6,
            )
    return modes


def survey(rows: Iterable[Row]) -> list[Row]:
    """A row for each system of the survey: its figures for one query, ours, and the verdict."""
    found = modes(rows)
    lines = []
    for figure in SURVEY:
        row: Row = figure._asdict()
        for name in ("seconds", "megabytes"):
            row[name] = None if row[name] is None else row[name] / figure.queries
        ours = found.get(SERVED.get(figure.system, ""))
        if figure.system in NOT_SERVED:
            row |= {"verdict": NOT_SERVED[figure.system], "served": None}
        elif ours is None:
            row |= {"verdict": "not measured on this version", "served": None}
        else:
            row |= {f"our_{name}": value for name, value in ours._asdict().items()}
            row |= _verdict(row)
        lines.append(row)
    return lines


def _query(row: Row, mode: str) -> Ours:
    crossed = row["request_bytes"] + row["response_bytes"]
    return Ours(mode, row["accuracy_percent"], row["wall_ms"] / 1e3, crossed / 1e6)


def _kind(row: Row, kind: str) -> bool:
    return row.get("kind") == kind


def _verdict(row: Row) -> Row:
    """Column by column: ahead, level or behind, by how much, and what nobody has published."""
    said: dict[str, list[str]] = {"behind": [], "ahead": [], "level": [], "unknown": []}
    if row["accuracy_percent"] is None:
        said["unknown"].append("accuracy")
    else:
        points = row["our_accuracy_percent"] - row["accuracy_percent"]
        word = "level" if abs(points) <= LEVEL else "ahead" if points > 0 else "behind"
        said[word].append(f"accuracy ({points:+.2f} points)")
    for name, shown in (("seconds", "time"), ("megabytes", "data")):
        if row[name] is None:
            said["unknown"].append(shown)
        else:
            ratio = row[name] / row[f"our_{name}"]
            said["ahead" if ratio >= 1 else "behind"].append(f"{shown} ({times(ratio)})")
    parts = [
        f"{word} in {', '.join(found)}"
        for word, found in said.items()
        if found and word != "unknown"
    ]
    if said["unknown"]:
        parts.append(f"not published: {', '.join(said['unknown'])}")
    served = "behind" if said["behind"] else "partly" if said["unknown"] else "served"
    return {"verdict": "; ".join(parts), "served": served}


def times(ratio: float) -> str:
    """How many times less or more ours is, in two digits: no more are comparable."""
    word, shown = ("less", ratio) if ratio >= 1 else ("more", 1 / ratio)
    return f"{float(f'{shown:.2g}'):,.15g} times {word}"


def counted(lines: Sequence[Row]) -> str:
    """A sentence on how many of the lines of `survey` are served, and where we are behind."""
    found = Counter(line["served"] for line in lines)
    behind = ", ".join(str(line["system"]) for line in lines if line["served"] == "behind")
    return (
        f"Of the survey's {len(lines)} systems {found['served']} are served, with no figure behind "
        f"theirs; {found['partly']} likewise as far as their figures are published; behind in one "
        f"column or more: {behind or 'none'}; {len(NOT_SERVED)} have a scenario that is not served."
    )


def _beside(name: str, digits: int) -> Callable[[Row], str]:
    """Theirs, and ours behind an arrow."""

    def shown(row: Row) -> str:
        theirs = NOTHING if row[name] is None else f"{row[name]:,.{digits}g}"
        ours = row.get(f"our_{name}")
        return theirs if ours is None else f"{theirs} → {ours:,.{digits}g}"

    return shown


COLUMNS: Sequence[Column] = (
    ("system", plain("system")),
    ("technique", plain("technique")),
    ("hides, says the survey", plain("protects")),
    ("ours that serves it", plain("our_mode")),
    ("accuracy %, theirs → ours", _beside("accuracy_percent", 4)),
    ("seconds a query, theirs → ours", _beside("seconds", 3)),
    ("MB a query, theirs → ours", _beside("megabytes", 3)),
    ("their queries at once", plain("queries")),
    ("verdict", plain("verdict")),
    ("paper", plain("paper")),
)
NOTE = (
    f"MNIST. Theirs are published, as {SURVEY_PAPER}, has them, on hardware of their years; a "
    "factor below ten is within what that explains. Where they answer thousands at once, theirs "
    "and ours are a query's share of a batch, over HTTP with client and server on the same two "
    "cores; else one query, start to end, in one process, or over loopback with connecting for "
    "shared models. Keys are aside. Accuracy of shared models is that of the run on shares whose "
    f"network they have; within {LEVEL:g} points networks are level. DeepSecure, SecureML, MiniONN "
    "and ABY3 hide queries as well, by their papers, and so do ours; SecureML has no dealer. "
    "FHE-DiNN's data are up alone, at 80 bits of security. E2DM's paper has 1.69 s for its 64 in "
    "its newest version. The last column is the paper of each; its figures here are the survey's."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """The survey, if anything of ours was measured."""
    found = list(rows)
    if not modes(found):
        return []
    lines = survey(found)
    return [Table(TITLE, COLUMNS, lines, f"{counted(lines)}\n\n{NOTE}")]
