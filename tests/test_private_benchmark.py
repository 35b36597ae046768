"""`benchmarks.bench_heads` and what it measures on: they run, on a small draw."""

import json
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import bench_heads, head_features, head_streams, measure
from benchmarks.bench_heads import (
    CLIPPED,
    LINE,
    LINE_QUADRATIC,
    QUADRATIC,
    SHORT,
    SHORT_QUADRATIC,
    WHITENED,
    Plan,
)
from benchmarks.head_tasks import TASKS, synthetic
from benchmarks.measure import Row
from benchmarks.peer_environment import InstallError
from benchmarks.report import readme
from benchmarks.report.arithmetic import power_rows
from benchmarks.report.head_plot import accuracy_plot
from benchmarks.report.markdown import markdown
from workloads.datasets import DatasetError

TINY = synthetic(rows=3000, width=24, classes=3)
PEERS = {"opacus": 0.7, "diffprivlib": 0.4}


def test_tasks_are_disjoint_draws_of_one_scale() -> None:
    assert np.linalg.norm(TINY.public, axis=1).mean() == pytest.approx(1, abs=1e-6)
    other = synthetic(rows=3000, width=24, classes=3, draw=0)
    private = {row.tobytes() for row in TINY.features}
    for others in (other.features, TINY.public, TINY.test_features):
        assert not private & {row.tobytes() for row in others}


def test_a_task_that_cannot_be_had_says_why() -> None:
    def missing() -> None:
        raise DatasetError("not there")

    with patch.object(head_features, "cifar_features", missing):
        assert TASKS["cifar"]() == "not there"


def peer(library: str, path: Path, settings: dict[str, object]) -> Row:
    """In place of a process of its own: what it is given must be whole."""
    with np.load(path, allow_pickle=False) as archive:
        assert len(archive["features"]) == len(archive["labels"]) == 3000
    assert settings["epsilon"] in (0.5, 1.0)
    return {"source": measure.PEER, "accuracy": PEERS[library], "cpu_seconds": 9.0,
            "memory_bytes": 1, "versions": {library: "1"}}  # fmt: skip


def run(plan: Plan) -> list[Row]:
    rows: list[Row] = []
    with (
        patch.dict(TASKS, {"synthetic": lambda: TINY, "text": lambda: "no reviews here"}),
        patch.object(bench_heads, "_peer", peer),
        patch.object(bench_heads, "one_thread"),
    ):
        bench_heads.run(plan, rows.append, lambda *_: None)
    return rows


def test_a_run_in_small() -> None:
    rows = run(Plan(("synthetic", "text"), (0.5, 1.0), 2, 1, streamed=2000))
    heads = [row for row in rows if row["kind"] == "head"]
    line = heads[0]
    assert (line["system"], "epsilon" in line) == ("no privacy", False)
    at = {(row["system"], row.get("epsilon")): row for row in heads}
    assert 0.5 < at[WHITENED, 1.0]["accuracy"] <= line["accuracy"] + 0.05
    assert (at[WHITENED, 1.0]["fits"], at[CLIPPED, 0.5]["source"]) == (2, measure.OURS)
    assert at[WHITENED, 0.5]["times_ours"] == 1
    assert at[SHORT, 1.0]["source"] == measure.OURS and (SHORT, 0.5) not in at
    hooks = [row for row in heads if row["system"] == bench_heads.HOOKS]
    assert [row["epsilon"] for row in hooks] == [1.0]
    assert [row["kind"] for row in rows if row["kind"] == "failure"] == ["failure"]
    streams = [row for row in rows if row["kind"] == "head_stream"]
    assert [row["rows"] for row in streams] == [250, 500, 1000, 2000, 2560]
    assert all(row["peak_resident_bytes"] > 0 for row in streams)
    assert 0 <= next(r for r in rows if r["kind"] == "head_growth")["explained"] <= 1
    text = markdown(rows)
    for word in ("accuracy %", "ε = 0.5", bench_heads.GHOST_WHITENED, "1,000", "70.0"):
        assert word in text
    (grown,) = power_rows(rows)
    assert grown["what"].endswith("a private fit") and 0 <= grown["explained"] <= 1
    assert "| synthetic |" in readme._heads(rows)
    drawing = ElementTree.fromstring(accuracy_plot(rows))
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}polyline"))) == 7


def test_a_peer_that_does_not_run_is_reported_and_ours_are_measured() -> None:
    def absent(library: str, *_: object) -> Row:
        raise InstallError(f"{library} does not install: no wheel")

    rows: list[Row] = []
    with patch.object(bench_heads, "_peer", absent):
        bench_heads.accuracies(TINY, Plan(epsilons=(1.0,), seeds=1, peer_seeds=1), rows.append,
                               lambda *_: None)  # fmt: skip
    failures = [row for row in rows if row["kind"] == "failure"]
    assert {row["source"] for row in failures} == {measure.PEER} and len(failures) == 5
    assert "does not install" in markdown(rows)
    assert [row["system"] for row in rows if row["kind"] == "head"] == [
        LINE, LINE_QUADRATIC, WHITENED, QUADRATIC, SHORT, SHORT_QUADRATIC, CLIPPED
    ]  # fmt: skip


def test_a_peer_that_fails_once_keeps_the_fits_that_it_made() -> None:
    def once(library: str, path: Path, settings: dict[str, object]) -> Row:
        if settings["seed"] == 1:
            raise bench_heads.PeerError(f"{library}: out of memory")
        return peer(library, path, settings)

    rows: list[Row] = []
    with patch.object(bench_heads, "_peer", once):
        bench_heads.accuracies(TINY, Plan(epsilons=(0.5,), seeds=1, peer_seeds=2), rows.append,
                               lambda *_: None)  # fmt: skip
    fits = {row["system"]: row["fits"] for row in rows if "fits" in row}
    assert fits[bench_heads.GHOST] == 1
    reasons = {row["reason"] for row in rows if row["kind"] == "failure"}
    assert "opacus: out of memory" in reasons


def test_a_source_repeats() -> None:
    given = head_streams.source(20_000, 8, 3)
    first, second = (list(given()) for _ in range(2))
    assert sum(len(labels) for _, labels in first) == 20_000
    for (rows, labels), (again, names) in zip(first, second, strict=True):
        assert np.array_equal(rows, again) and np.array_equal(labels, names)


def test_peers_have_their_settings_in_json() -> None:
    """What `_peer` hands over is plain JSON, and both peers' files are pinned."""
    settings = {**bench_heads.OPACUS, "learning_rate": bench_heads.raw_rate(0.5)}
    assert json.loads(json.dumps(settings)) == settings
    for name in ("opacus", "diffprivlib"):
        assert (bench_heads.PEERS_FOLDER / f"{name}_head.txt").is_file()
