"""What `run all --quick` measures besides queries, points and cores, which `test_benchmarks` has.

That it runs, answers rightly and can be shown is judged here; how fast anything is, nowhere.
"""

from benchmarks import measure
from benchmarks.registry import BENCHMARKS
from benchmarks.report.markdown import markdown
from benchmarks.steps import Asked


def in_small(name: str, *titles: str) -> list[measure.Row]:
    rows: list[measure.Row] = []
    for step in BENCHMARKS[name].steps(Asked(quick=True)):
        step.measure(rows.append, lambda *_: None)
    text = markdown([measure.environment(), *rows])
    assert all(f"## {title}\n" in text for title in titles)
    assert [row for row in rows if row["kind"] == "failure"] == []
    return rows


def test_batches() -> None:
    rows = in_small("batch", "Thousands of queries at once", "Growth of a batch's cost")
    ours = [row for row in rows if row.get("system") == "Sottovoce"]
    assert {row["response"] for row in ours} == {"private", "plain"}
    for row in ours:
        # At eight bits of precision the two best scores of one digit in 2,000 tie, at most.
        assert row["labels_equal"] >= row["queries"] - 2
        for stage in ("evaluation", "client", "server", "http"):
            assert row[f"{stage}_images_per_second"] > 0
        assert row["server_peak_bytes"] < 4e9


def test_growth() -> None:
    for row in in_small("growth"):
        assert len(row["sizes"]) == len(row["bytes"]) == len(row["server_ms"]) == 2
        assert min(*row["client_ms"], *row["server_ms"], *row["bytes"]) > 0


def test_the_sites_workload() -> None:
    rows = in_small("site", "FHE-Benchmarking.org's MNIST workload")
    assert [row["images"] for row in rows] == [1, 100]
    for row in rows:
        assert row["right"] >= row["images"] - 1  # of the sample it mistakes none
        assert row["ciphertexts_upload_bytes"] > row["ciphertexts_download_bytes"] > 0


def test_training_and_queries_on_shares() -> None:
    rows = in_small(
        "training",
        "A training step on shares",
        "A training step on a slow network",
        "A query to a model that stays shared",
    )
    for kind in ("training", "slow network"):
        assert len([row for row in rows if row["kind"] == kind]) == 2
    for row in rows:
        if row["kind"] == "slow network":  # no step is over before its rounds have crossed
            assert row["seconds_per_step"] > row["rounds_per_step"] * row["delay_ms"] / 1e3
        elif row["kind"] == "shared inference":
            assert 0 < row["client_bytes"] < row["bytes"]
