"""The figures in README.md, taken from a run's results so that nobody types one.

A block stands between `<!-- figures: NAME -->` and `<!-- /figures -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from benchmarks.measure import Row
from benchmarks.report import markdown

_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
RESULTS = ("query.jsonl", "batch.jsonl")
"""Files of results, each of one run."""
_SHOWN = ("environment", "tutorial", "mnist", "failure")


def blocks(rows: Iterable[Row]) -> dict[str, str]:
    """Text of every block by name, for the rows of all of `RESULTS`."""
    found = list(rows)
    shown = [
        row
        for row in found
        if row.get("kind") in _SHOWN and row.get("benchmark", "query") == "query"
    ]
    tables = markdown(shown).replace("\n## ", "\n### ")
    return {"summary": _summary(found), "query": tables, "batch": _batch(found)}


def _batch(rows: Iterable[Row]) -> str:
    ours, seal = (row for row in rows if row.get("kind") == "batch")
    per_core = ours["evaluation_images_per_second"] / ours["cores"]
    return (
        f"For the network that ships, in batches of {ours['batch']:,} and with {ours['cores']} "
        f"cores: the server answers **{ours['server_images_per_second']:,.0f} images a second**, "
        f"from request bytes to response bytes ({ours['evaluation_images_per_second']:,.0f} of "
        f"evaluation alone: per core {per_core / seal['evaluation_images_per_second']:.0f} times "
        "what the same layers would take as scalar operations of SEAL's, timed in the same run); "
        f"the client encrypts and decrypts {ours['client_images_per_second']:,.0f} a second. "
        f"{ours['upload_bytes_per_image'] / 1e3:.1f} kB up and "
        f"{ours['download_bytes_per_image'] / 1e3:.1f} kB down an image. All "
        f"{ours['queries']:,} test images were asked under encryption: {ours['labels_equal']:,} "
        "labels are those in the clear.\n"
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
