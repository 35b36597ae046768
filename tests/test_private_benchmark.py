"""`benchmarks.bench_heads` and `head_tasks`: they run, on a small draw of the synthetic task."""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks import bench_heads, measure
from benchmarks.head_tasks import FEATURES_VARIABLE, cifar_features, synthetic

TINY = synthetic(rows=3000, width=24, classes=3)


def test_tasks_are_disjoint_draws_of_one_scale() -> None:
    assert np.linalg.norm(TINY.public, axis=1).mean() == np.float32(1)
    other = synthetic(rows=3000, width=24, classes=3, draw=1)
    private = {row.tobytes() for row in TINY.features}
    for others in (other.features, TINY.public, TINY.test_features):
        assert not private & {row.tobytes() for row in others}


def test_features_that_are_not_there_are_left_out() -> None:
    with patch.dict("os.environ"):
        import os

        os.environ.pop(FEATURES_VARIABLE, None)
        assert cifar_features() is None


def test_accuracy_runs(tmp_path: Path) -> None:
    path = tmp_path / "heads.jsonl"
    with (
        patch.object(bench_heads, "RESULTS", path),
        patch.dict(bench_heads.TASKS, {"synthetic": lambda: TINY}),
        patch.object(measure, "pin_to_one_core"),
    ):
        bench_heads.accuracy("synthetic", "2", 2)
        bench_heads.memory(rows=3000, width=16, classes=3, solver="fc", folder=tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["environment", "head", "head", "head", "head_memory"]
    line_above, whitened, clipped = rows[1:4]
    assert 0.5 < whitened["accuracy"] <= line_above["accuracy"] + 0.05
    assert (whitened["fits"], clipped["source"]) == (2, measure.OURS)
    assert rows[4]["peak_resident_bytes"] > 0
