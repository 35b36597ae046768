"""What `run all --quick` measures besides what other tests of benchmarks run in small.

That it runs, answers rightly and can be shown is judged here; how fast anything is, nowhere.
"""

import numpy as np
import pytest

import he_inference
from benchmarks import measure
from benchmarks.registry import BENCHMARKS
from benchmarks.report.markdown import markdown
from benchmarks.steps import Asked
from workloads.datasets import mnist_sample
from workloads.models import CRYPTONETS


def in_small(name: str, *titles: str) -> list[measure.Row]:
    rows: list[measure.Row] = []
    for step in BENCHMARKS[name].steps(Asked(quick=True)):
        step.measure(rows.append, lambda *_: None)
    assert [row for row in rows if row["kind"] == "failure"] == []
    text = markdown([measure.environment(), *rows])
    assert all(f"## {title}\n" in text for title in titles)
    return rows


def close_calls() -> int:
    """Digits of the sample whose two best scores differ by less than four units of eight bits."""
    scores = he_inference.load_network(CRYPTONETS).evaluate(mnist_sample().images)
    second, best = np.sort(scores, axis=1)[:, -2:].T
    return int((best - second < 4 * 2.0**-8 * np.abs(scores).max()).sum())


@pytest.mark.slow
def test_batches() -> None:
    rows = in_small("batch", "Thousands of queries at once")
    ours = [row for row in rows if row.get("system") == "Sottovoce"]
    assert {row["response"] for row in ours} == {"private", "plain"}
    allowed = close_calls()
    for row in ours:
        assert row["labels_equal"] >= row["queries"] - allowed
        for stage in ("evaluation", "client", "server", "http"):
            assert row[f"{stage}_images_per_second"] > 0
        assert row["server_peak_bytes"] < 4e9  # a small server does


def test_growth() -> None:
    for row in in_small("growth"):
        assert len(row["sizes"]) == len(row["bytes"]) == len(row["server_ms"]) == 2
        assert min(*row["client_ms"], *row["server_ms"], *row["bytes"]) > 0


@pytest.mark.slow
def test_the_sites_workload() -> None:
    rows = in_small("site", "FHE-Benchmarking.org's MNIST workload")
    assert [row["images"] for row in rows] == [1, 100]
    for row in rows:
        assert row["right"] == row["images"]  # of the sample it mistakes none
        assert row["public_keys_bytes"] > 0
        assert row["ciphertexts_upload_bytes"] > row["ciphertexts_download_bytes"] > 0
        assert row["seconds"] > row["server_encrypted_compute_seconds"] > 0
