"""The figures in README.md, taken from a run's results so that nobody types one.

A block stands between `<!-- figures: NAME -->` and `<!-- /figures -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.measure import OURS, Row, read_rows
from benchmarks.report import markdown

_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
RESULTS = (
    "query.jsonl", "batch.jsonl", "points.jsonl", "cores.jsonl", "heads.jsonl", "training.jsonl",
    "trained.jsonl", "hybrid.jsonl",
)  # fmt: skip
"""Files of results, each of one run."""
NOT_YET = "Not measured on this version: `python -m benchmarks run heads --peers` does it.\n"
_SHOWN = ("environment", "tutorial", "mnist", "cores", "failure")


def measured(folder: Path) -> list[Row]:
    """The rows of all of `RESULTS` that are in a folder."""
    paths = [folder / name for name in RESULTS if (folder / name).is_file()]
    return [row for path in paths for row in read_rows(path)]


def blocks(rows: Iterable[Row]) -> dict[str, str]:
    """Text of every block by name, for the rows of all of `RESULTS`."""
    found = list(rows)
    shown = [
        row
        for row in found
        if row.get("kind") in _SHOWN and row.get("benchmark", "query") == "query"
    ]
    tables = markdown(shown).replace("\n## ", "\n### ")
    return {
        "summary": _summary(found),
        "query": tables,
        "batch": _batch(found),
        "points": _points(found),
        "heads": _heads(found),
        "training": _training(found),
        "hybrid": _hybrid(found),
    }


def _points(rows: Iterable[Row]) -> str:
    shown = [
        row for row in rows if row.get("kind") == "point" or row.get("benchmark") == "points"
    ]  # fmt: skip
    return markdown(shown).replace("\n## ", "\n### ")


def _heads(rows: Iterable[Row]) -> str:
    found = [row for row in rows if str(row.get("kind")).startswith("head")]
    if not found:
        return NOT_YET
    growth = [row for row in found if row["kind"] == "head_growth"]
    tables = markdown(found).replace("## ", "### ")
    lines = [
        f"A line explains {100 * row['explained']:.1f} % of how time grows with {row['what']}: "
        f"{row['seconds_a_million']:.0f} s a million, from {row['sizes'][0]:,} to "
        f"{row['sizes'][-1]:,}."
        for row in growth
    ]
    return "\n".join([tables, *lines]).rstrip("\n") + "\n"


def _hybrid(rows: Iterable[Row]) -> str:
    found = [row for row in rows if str(row.get("kind")).startswith("hybrid")]
    return markdown(found).replace("## ", "### ") if found else NOT_YET


_SHARES = ("training", "slow network", "shared inference", "trained")


def _training(rows: Iterable[Row]) -> str:
    every = list(rows)
    found = [row for row in every if row.get("kind") in _SHARES]
    (load,) = (row["load"] for row in every if row.get("benchmark") == "training")
    steps = [row for row in found if row["kind"] == "training"]
    lines = []
    for network in dict.fromkeys(str(row["network"]) for row in steps):
        ours, *others = (row for row in steps if row["network"] == network)
        compared = [
            f"{row['system']} takes {_times(row, ours, 'cpu_seconds_per_step')} the CPU time and "
            f"{_times(row, ours, 'bytes_per_step')} the bytes of our three parties"
            for row in others
            if row["source"] != OURS
        ]
        if compared:
            lines.append(f"- `{network}`: " + "; ".join(compared) + ".")
    tables = markdown(found).replace("\n## ", "\n### ").replace("## ", "### ", 1)
    lines.append(
        f"- When the run began {load:.0f} processes wanted the machine's two cores: more than two "
        "make wall times long, and leave CPU times, bytes and rounds as they are."
    )
    return f"{tables}\n" + "\n".join(lines) + "\n"


def _times(row: Row, ours: Row, figure: str) -> str:
    return f"**{row[figure] / ours[figure]:.1f} times**"


def _batch(rows: Iterable[Row]) -> str:
    found = list(rows)
    batches = [row for row in found if row.get("kind") == "batch"]
    growth = {str(row["what"]): row for row in found if row.get("kind") == "growth"}
    ours = [row for row in batches if row["source"] == OURS]
    (seal,) = (row for row in batches if row["source"] != OURS)
    (beside,) = (
        row for row in ours
        if (row["network"], row["response"]) == (seal["network"], seal["response"])
    )  # fmt: skip
    per_core = beside["evaluation_images_per_second"] / beside["cores"]
    ratio = per_core / seal["evaluation_images_per_second"]
    tables = markdown([*ours, *growth.values()]).replace("\n## ", "\n### ")
    return (
        f"{tables.replace('## ', '### ', 1)}\n"
        f"Per core that is **{ratio:.0f} times** what the same layers would take as scalar "
        f"operations of SEAL's, timed in the same run ({seal['network']}, plain answers). Every "
        f"one of MNIST's {ours[0]['queries']:,} test images was asked under encryption. A line "
        f"explains {100 * growth['batches']['explained']:.1f} % of how time grows with the number "
        f"of batches, and {100 * growth['products']['explained']:.1f} % with a network's products "
        "(per prime of the modulus).\n"
    )


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
        f"{_labels(by_kind['tutorial'])}, and the errors of scores are in the table. We encrypt "
        "with the secret key, the others with a public one.\n"
    )


def _labels(rows: Iterable[Row]) -> str:
    equal = all(row["labels_equal"] == row["queries"] for row in rows)
    return "every system gets every label" if equal else "labels differ"


def filled(text: str, contents: Mapping[str, str]) -> str:
    """A page with its blocks replaced. Raises KeyError for a block that nothing is known of."""

    def replacement(match: re.Match[str]) -> str:
        return f"{match[1]}{contents[match[2]]}{match[3]}"

    return _BLOCK.sub(replacement, text)
