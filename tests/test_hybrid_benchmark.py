"""`benchmarks.bench_hybrid`: its rows are measured, and its tables say what they are asked to."""

from typing import Any

import numpy as np
import pytest

from benchmarks import bench_hybrid, measure, published
from benchmarks.__main__ import RESULTS_FOLDER
from benchmarks.report.markdown import markdown


@pytest.mark.parametrize("response", ["plain", "private"])
def test_one_query_is_measured(response: Any) -> None:
    row = bench_hybrid._query(10, response, 3)
    parts = row["encrypt_cpu_ms"] + row["server_cpu_ms"] + row["decrypt_cpu_ms"]
    assert parts > 0 and row["queries"] == 3
    # The bounds on bytes hold on any machine; those on time are for a quiet one.
    assert row["request_bytes"] + row["response_bytes"] <= 250_000
    assert row["evaluation_key_bytes"] <= 2_000_000


def test_a_full_batch_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_hybrid, "FEATURES", 16)
    row = bench_hybrid._batch(3, 1)
    assert row["batch"] >= 2048
    assert min(row["server_queries_per_second"], row["client_queries_per_second"]) > 0
    assert "queries/s, server" in markdown([row])


def test_weights_of_any_width_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_hybrid, "FEATURES", 16)
    rows = list(bench_hybrid._precomputed(3, "cpu"))
    assert [row["device"] for row in rows] == ["cpu", "torch on the CPU"]
    assert all(row["transform_ms"] > 0 and row["map_ms"] > 0 for row in rows)


def test_published_rows_say_that_the_scenario_is_another() -> None:
    rows = list(measure.read_rows(RESULTS_FOLDER / "hybrid.jsonl"))
    lines = [line for line in markdown(rows).splitlines() if " 255 |" in line or " 750 |" in line]
    assert lines and all("all of the network runs under encryption" in line for line in lines)


def test_published_seconds_are_as_published() -> None:
    lines = markdown(published.wholes()).splitlines()
    expected = {"Cheddar": "0.72", "Kim & Guyot 2023": "255", "LoLa on SEAL 3.2": "750"}
    for system, seconds in expected.items():
        (line,) = (line for line in lines if line.startswith(f"| {system} |"))
        assert f"| {seconds} |" in line


def test_a_row_of_whole_test_sets_is_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a hundred rows: what is served is what is asked, and all fits are counted."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    pictures = (rng.random((300, 8, 8)) * 0.5 + 0.5 * labels[:, None, None]).astype(np.float32)
    monkeypatch.setattr("private_models.hybrid.trial._AUDIT_RUNS", 60)
    from private_models.backbones.pixels import pixels

    flat = pictures.reshape(300, -1)
    _, rows, backbone = bench_hybrid._task(
        "small", flat[:200], labels[:200], flat[200:], labels[200:], list(pictures[200:]), 50,
        pixels(8, 8),
    )  # fmt: skip
    wishes = bench_hybrid.Wishes(8.0, 1e-3, 2)
    row = bench_hybrid._whole(rows, backbone, wishes, 1.0, 2, lambda *_: None)
    assert (row["fits"], row["test_rows"], row["singles"]) == (2, 100, 2)
    assert row["agreement"] >= 0.95
    assert abs(row["encrypted_accuracy"] - row["private_accuracy"]) <= 0.05
    assert "small" in markdown([row])
