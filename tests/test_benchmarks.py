"""The benchmarks run, add up and report; how fast anything is, is judged nowhere here."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import he_inference
from benchmarks import (
    bench_cores,
    bench_points,
    bench_query,
    measure,
    peer_environment,
    published,
    tutorial,
)
from benchmarks.__main__ import RESULTS_FOLDER, app
from benchmarks.measure import Span, Summary, read_rows
from benchmarks.peers.protocol import Array, System, Weights, serve
from benchmarks.registry import BENCHMARKS
from benchmarks.report import pages, readme
from benchmarks.report.markdown import markdown
from benchmarks.report.table import NOTHING
from benchmarks.steps import Asked
from benchmarks.system_process import PROJECT, AnswerError, SystemProcess
from he_inference.processors import processors
from workloads.datasets import mnist_sample

KEY_BYTES = 1234


class ToySystem(System):
    """Encrypts nothing: the request is the image, the response ten sums of it."""

    def prepare(self, weights: Weights) -> dict[str, Any]:
        print("a library may print")
        return {"weights": sorted(weights), "evaluation_key_bytes": KEY_BYTES}

    def encrypt(self, image: Array) -> bytes:
        if image.max() > 1:
            raise ValueError("an image above one")
        return image.tobytes()

    def evaluate(self, request: bytes) -> bytes:
        return bytes(np.frombuffer(request).sum() * np.arange(10.0))

    def decrypt(self, response: bytes) -> Array:
        return np.frombuffer(response)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Two images of ones and one that the toy refuses."""
    path = tmp_path / "task.npz"
    images = np.ones((3, 28, 28))
    images[2] *= 2
    tutorial.write_task(path, {"output.bias": np.zeros(10, np.float32)}, images)
    return path


@pytest.fixture
def toy() -> Iterator[SystemProcess]:
    with SystemProcess(sys.executable, "tests.test_benchmarks") as process:
        yield process


# measure


def test_timed_counts_cpu_and_waiting_apart() -> None:
    waiting, _ = measure.timed(lambda: time.sleep(0.05))
    assert waiting.wall_ms >= 50
    assert waiting.cpu_ms < waiting.wall_ms
    working, answer = measure.timed(lambda: sum(range(100_000)))
    assert answer == sum(range(100_000))
    assert working.cpu_ms > 0


def test_spans_add_up() -> None:
    assert Span(1, 2) + Span(10, 20) == Span(11, 22)


def test_summary_is_the_median_between_quartiles() -> None:
    summary = Summary.of([5, 1, 4, 2, 3])
    assert summary == Summary(median=3, low=2, high=4, minimum=1, maximum=5, count=5)
    assert summary.spread == pytest.approx(2 / 3)
    assert summary.as_row("cpu_ms") == {"cpu_ms": 3, "cpu_ms_low": 2, "cpu_ms_high": 4}


def test_summary_of_one_value_has_no_spread() -> None:
    assert Summary.of([7.0]).spread == 0
    assert Summary.of([0.0, 0.0]).spread == 0


def test_summary_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        Summary.of([])


def test_ratio_pairs_what_was_measured_together() -> None:
    # The machine slowed down tenfold in the second round: the ratio does not notice.
    assert measure.ratio([2, 20, 2], [1, 10, 1]).median == 2
    assert measure.ratio([2, 20, 2], [1, 10, 1]).spread == 0
    with pytest.raises(ValueError, match="shorter"):
        measure.ratio([1, 2], [1])


def test_one_thread_environment_keeps_the_rest() -> None:
    variables = measure.one_thread_environment({"HOME": "here", "OMP_NUM_THREADS": "8"})
    assert variables["HOME"] == "here"
    assert all(variables[name] == "1" for name in measure.THREAD_VARIABLES)


def test_rows_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows: list[measure.Row] = [{"kind": "tutorial", "cpu_ms": 1.5}, {"kind": "failure"}]
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            measure.write_row(stream, row)
            assert path.read_text(encoding="utf-8").endswith("}\n")
    assert list(measure.read_rows(path)) == rows


def test_a_row_holds_numbers_only(tmp_path: Path) -> None:
    with (tmp_path / "row").open("w") as stream, pytest.raises(ValueError, match="JSON"):
        measure.write_row(stream, {"cpu_ms": math.nan})


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("{}\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 3"):
        list(measure.read_rows(path))


def test_environment_says_what_it_was_measured_on() -> None:
    row = measure.environment(["numpy", "no-such-distribution"])
    assert list(row["packages"]) == ["numpy"]
    assert row["cores"] >= 1
    assert row["processor"]
    assert str(PROJECT) not in json.dumps(row)


def test_peak_memory_outlives_what_was_held() -> None:
    held = 64_000_000
    code = (
        "from benchmarks.measure import peak_memory_bytes as peak; before = peak(); "
        f"block = bytearray({held}); del block; print(peak() - before)"
    )
    grown = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert int(grown.stdout) == pytest.approx(held, rel=0.05)


def test_measure_needs_the_standard_library_alone() -> None:
    # A peer's virtual environment loads it, and has nothing of ours installed.
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import benchmarks.measure"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


# system_process, protocol


def test_a_system_answers_in_order(toy: SystemProcess, task: Path) -> None:
    prepared = toy.prepare(task)
    assert prepared["weights"] == ["output.bias"]
    assert prepared["evaluation_key_bytes"] == KEY_BYTES
    for index in (0, 1):
        answer = toy.query(index)
        assert answer["logits"] == [784.0 * digit for digit in range(10)]
        assert (answer["request_bytes"], answer["response_bytes"]) == (784 * 8, 80)
        stages = sum(answer[f"{stage}_cpu_ms"] for stage in bench_query.STAGES)
        assert answer["cpu_ms"] == pytest.approx(stages)


def test_an_error_is_reported_and_the_next_query_answered(toy: SystemProcess, task: Path) -> None:
    toy.prepare(task)
    with pytest.raises(AnswerError, match="ValueError: an image above one"):
        toy.query(2)
    with pytest.raises(AnswerError, match="Unknown command 'sing'"):
        toy.ask({"command": "sing"})
    assert toy.query(0)["logits"]


def test_a_system_that_ends_says_why() -> None:
    with (
        SystemProcess(sys.executable, "benchmarks.no_such_module") as process,
        pytest.raises(AnswerError, match="No module named"),
    ):
        process.query(0)


# peer_environment


def test_every_peer_is_pinned() -> None:
    scripts = {path.stem for path in peer_environment.PEERS_FOLDER.glob("*.txt")}
    assert set(bench_query.PEERS) <= scripts
    for peer in scripts:
        lines = (peer_environment.PEERS_FOLDER / f"{peer}.txt").read_text().split()
        assert all(line.count("==") == 1 for line in lines)
        assert (peer_environment.PEERS_FOLDER / f"{peer}.py").is_file()


def test_a_peer_that_does_not_install_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_environment, "ENVIRONMENTS_FOLDER", tmp_path)
    said = "No matching distribution"

    def fail(command: list[str], **_: object) -> None:
        Path(command[-1]).mkdir() if command[1:3] == ["-m", "venv"] else None
        if "install" in command:
            raise subprocess.CalledProcessError(1, command, stderr=f"ERROR: {said}\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(peer_environment.InstallError, match=f"orion_v2 .*{said}"):
        peer_environment.peer_python("orion_v2")
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]
    assert (tmp_path / ".gitignore").read_text(encoding="utf-8") == "*\n"


# bench_query, report, the command line


def test_agreement_counts_labels_and_the_largest_error() -> None:
    clear = np.array([[0.0, 1.0], [2.0, 0.0]])
    found = bench_query.agreement(clear + np.array([[0.25, 0], [0, 3]]), clear)
    assert found == {"labels_equal": 1, "largest_logit_error": 3.0, "largest_clear_logit": 2.0}


def test_the_tutorial_weights_are_those_of_a_trained_network() -> None:
    sample = mnist_sample()
    logits = tutorial.clear_logits(tutorial.weights(), sample.images[:, 0].astype(np.float64))
    correct = int(np.sum(logits.argmax(axis=1) == sample.labels))
    # An untrained network is right on 30 of 300, give or take 5.
    assert len(sample) == 300
    assert correct > 270


_FOLLOWED = r"arXiv \d|ePrint \d|doi 10|github|by the survey's list|PMLR"
"""A source that can be opened."""


def test_published_rows_are_marked_and_whole() -> None:
    rows = list(published.rows())
    assert {row["source"] for row in rows} == {measure.PUBLISHED}
    assert len({row["system"] for row in rows}) == len(rows) == 4
    for figure in (*published.SURVEY, *published.NEWER, *published.CIFAR, *published.RATES):
        assert figure.hardware
        assert re.search(_FOLLOWED, figure.paper), figure.paper
    assert all(row["protects"] for row in rows)


def test_published_rates_are_marked_and_leave_out_what_is_not_known() -> None:
    rows = list(published.rates())
    text = markdown(rows)
    assert {row["source"] for row in rows} == {measure.PUBLISHED}
    assert all(value is not None for row in rows for value in row.values())
    (line,) = (line for line in text.splitlines() if line.startswith("| nGraph-HE2 |"))
    assert "; plain | published: Boemer et al., WAHC 2019, arXiv 1908.04172 | a large" in line
    assert "| 320 |" in text


def test_what_is_published_stands_beside_ours_and_in_no_results() -> None:
    results = [row for path in sorted(RESULTS_FOLDER.glob("*.jsonl")) for row in read_rows(path)]
    assert not [row for row in results if row.get("source") == measure.PUBLISHED]
    added = [row for row in published.beside(results) if row.get("source") == measure.PUBLISHED]
    assert {row["kind"] for row in added} == {
        "published", "batch", "hybrid_published", "site", "training_published",
    }  # fmt: skip
    peers = [row for row in results if row.get("source") != measure.OURS]
    assert published.beside(peers) == peers


def test_report_shows_every_kind_of_row() -> None:
    costs = {f"{stage}_cpu_ms": 2.0 for stage in bench_query.STAGES}
    row: measure.Row = {
        "kind": "tutorial", "system": "A", "source": measure.PEER, "cpu_ms": 6.0,
        "cpu_ms_low": 5.0, "cpu_ms_high": 7.0, "wall_ms": 8.0, "request_bytes": 2000,
        "response_bytes": 1000, "evaluation_key_bytes": 3_000_000, "labels_equal": 9,
        "queries": 10, "security_bits": 128, "version": {"a": "1"}, "settings": "N = 8", **costs,
    }  # fmt: skip
    failure = {"kind": "failure", "system": "B", "source": measure.PEER, "reason": "no wheel"}
    text = markdown([measure.environment(), row, failure, *published.rows()])
    line, other = (line for line in text.splitlines() if line.startswith("| A |"))
    assert "| peer measured here | 6.0 (5.0–7.0) |" in line
    assert "| 2 | 1 | 3.0 | 9/10 |" in other
    assert f"| {NOTHING} |" in line and f"| {NOTHING} |" in other
    assert "**B** (peer measured here): not measured. no wheel" in text
    assert "| LoLa | published: Brutzkus et al., ICML 2019, arXiv 1812.10659 |" in text


def test_the_command_line_lists_and_refuses(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in BENCHMARKS)
    for arguments in (["run", "walk"], ["report", str(tmp_path / "none.jsonl")]):
        refused = runner.invoke(app, arguments)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("benchmarks: ")


def test_a_run_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = bench_query.Plan(rounds=1, queries=2, memory_queries=1, full_test_set=False)
    monkeypatch.setattr(bench_query.Plan, "quick", classmethod(lambda *_: small))
    network = he_inference.from_torch(
        tutorial.module(tutorial.weights()), np.zeros((1, 1, 28, 28), np.float32)
    )
    network.save(tmp_path / "network.safetensors")
    # Both tables compile; once, and coarsely, keeps this to seconds.
    compiled = he_inference.compile(network, layout="packed", response="plain", precision=6)
    monkeypatch.setattr(he_inference, "compile", lambda *_, **__: compiled)
    monkeypatch.setattr(bench_query, "MNIST_NETWORK", tmp_path / "network.safetensors")
    path = tmp_path / "results.jsonl"
    found = CliRunner().invoke(app, ["run", "query", "--quick", "--output", str(path)])
    assert found.exit_code == 0, found.output
    rows = list(measure.read_rows(path))
    assert [row["reason"] for row in rows if row["kind"] == "failure"] == []
    assert rows[0]["kind"] == "environment"
    for kind, queries, systems in (("tutorial", 1, 2), ("mnist", 2, 1)):
        row, *others = (row for row in rows if row["kind"] == kind)
        assert len(others) == systems - 1
        assert row["source"] == measure.OURS
        assert row["labels_equal"] == row["queries"] == queries
        assert row["security_bits"] >= 128
    assert row["server_peak_bytes"] >= row["server_start_bytes"] > 0


@pytest.mark.skipif(processors() < 2, reason="needs two cores")
def test_two_cores_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = he_inference.compile(
        he_inference.from_torch(
            tutorial.module(tutorial.weights()), np.zeros((1, 1, 28, 28), np.float32)
        ),
        layout="packed",
        response="plain",
        precision=6,
    )
    monkeypatch.setattr(he_inference, "compile", lambda *_, **__: compiled)
    rows: list[measure.Row] = []
    bench_cores.measure_cores(2, rows.append, lambda *_: None)
    assert [row["kind"] for row in rows] == ["cores", "cores"]
    assert all(row["speed_up"] > 0 and row["cpu_ms_2"] > 0 for row in rows)


def test_points_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tuple(task for task in bench_points.TASKS if "10" in task.name.split())
    monkeypatch.setattr(bench_points, "TASKS", tasks)
    path = tmp_path / "points.jsonl"
    arguments = ["run", "points", "--quick", "--queries", "2", "--output", str(path)]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    environment, *rows = measure.read_rows(path)
    points = [row for row in rows if row["kind"] == "point"]
    assert [row["step"] for row in rows if row["kind"] == "step"] == [task.name for task in tasks]
    assert environment["benchmark"] == "points"
    assert [(row["layout"], row["response"]) for row in points] == [
        (service.layout, service.response) for task in tasks for service in task.services
    ]
    for row in points:
        assert row["labels_equal"] == row["queries"] == 2
        assert row["security_bits"] >= 128
        assert row["server_peak_bytes"] >= row["server_start_bytes"] > 0
        assert "accuracy_percent" not in row
        assert row["modulus_bits"] <= sum(row["prime_bits"])
        served = f"{row['layout']}, {row['response']}, {row['optimise']}"
        assert f"| {row['network']} | {served} |" in found.output


def test_a_service_that_does_not_compile_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    task = bench_points.TASKS[-1]
    services = (bench_points.Service("packed", "private"),)
    monkeypatch.setattr(bench_points, "TASKS", (replace(task, services=services),))
    rows: list[measure.Row] = []
    (step,) = bench_points.steps(Asked(quick=True, queries=2))
    step.measure(rows.append, lambda *_: None)
    assert [row["kind"] for row in rows] == ["failure"]
    assert task.name in rows[0]["system"] and "private" in rows[0]["reason"]


if __name__ == "__main__":
    serve(ToySystem())


def test_every_figure_in_the_readme_is_measured() -> None:
    """`python -m benchmarks readme` would change nothing."""
    root = Path(__file__).resolve().parents[1]
    page = (root / "README.md").read_text(encoding="utf-8")
    assert "<!-- figures: summary -->" in page
    for name, text in pages.contents(root / "benchmarks" / "results").items():
        assert (root / name).read_text(encoding="utf-8") == text, name


def test_a_page_with_other_figures_is_noticed() -> None:
    page = "<!-- figures: summary -->\nmade up\n<!-- /figures -->\n"
    filled = readme.filled(page, {"summary": "measured\n"})
    assert filled == "<!-- figures: summary -->\nmeasured\n<!-- /figures -->\n"
