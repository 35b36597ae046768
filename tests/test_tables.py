"""Runs go on where they stopped, two runs compare, and the page of tables works in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import measure, runner
from benchmarks.__main__ import app
from benchmarks.fits import power_law, straight_line
from benchmarks.measure import Row
from benchmarks.published import SURVEY
from benchmarks.registry import BENCHMARKS
from benchmarks.report import arithmetic, page, pages, survey
from benchmarks.report.markdown import all_tables
from benchmarks.report.plots import pareto, plots
from benchmarks.report.readme import measured
from benchmarks.steps import Asked, Benchmark, Step

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# ---------------------------------------------------------------------------- runs


class Halting:
    """Three steps of which the second is interrupted the first time."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.halts = 1

    def steps(self, asked: Asked) -> Iterator[Step]:
        for key in ("first", "second", "third"):
            yield Step(key, lambda emit, _, key=key: self._measure(key, emit))  # type: ignore[misc]

    def _measure(self, key: str, emit: Any) -> None:
        self.measured.append(key)
        emit({"kind": "half", "of": key})
        if key == "second" and self.halts:
            self.halts -= 1
            raise KeyboardInterrupt
        emit({"kind": "whole", "of": key})

    def run(self, path: Path, asked: Asked | None = None, fresh: bool = False) -> int:
        benchmark = Benchmark("halting", "", ("numpy",), self.steps)
        return runner.run(benchmark, asked or Asked(), path, fresh, lambda *_: None)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    halting, path = Halting(), tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        halting.run(path)
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"kind": "cut o')
    assert halting.run(path) == 1
    assert halting.measured == ["first", "second", "second", "third"]
    rows = list(measure.read_rows(path))
    assert [row["of"] for row in rows if row["kind"] == "half"] == ["first", "second", "third"]
    assert [row["step"] for row in rows if row["kind"] == "step"] == ["first", "second", "third"]
    assert rows[0]["kind"] == "environment" and len(rows) == 1 + 3 * 3
    assert runner.seconds(path) == pytest.approx(
        sum(row["wall_seconds"] for row in rows if row["kind"] == "step")
    )
    assert halting.run(path) == 3


@pytest.mark.parametrize("what", ["options", "fresh", "commit"])
def test_another_run_starts_anew(tmp_path: Path, what: str) -> None:
    halting, path = Halting(), tmp_path / "rows.jsonl"
    halting.halts = 0
    halting.run(path)
    if what == "commit":
        rows = list(measure.read_rows(path))
        rows[0]["commit"] = "another"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = Asked(quick=what == "options")
    assert halting.run(path, asked, fresh=what == "fresh") == 0
    assert halting.measured == 2 * ["first", "second", "third"]


def test_keys_of_steps_are_unique() -> None:
    for name, benchmark in BENCHMARKS.items():
        if name != "heads":  # whose steps hold this process to one core
            for asked in (Asked(quick=True), Asked(peers=True)):
                keys = [step.key for step in benchmark.steps(asked)]
                assert keys and len(keys) == len(set(keys)), name


# ---------------------------------------------------------------------------- compare


def _file(path: Path, cpu_ms: float, ratio: float) -> Path:
    rows: list[Row] = [
        {"kind": "tutorial", "system": "A", "source": measure.PEER, "network": "n",
         "cpu_ms": cpu_ms, "cpu_ms_low": 1.0, "cpu_ratio_to_ours": ratio, "version": {}},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("ratio", "code"), [(2.25, 0), (2.35, 1), (1.69, 1)])
def test_compare_judges_ratios(tmp_path: Path, ratio: float, code: int) -> None:
    old, new = _file(tmp_path / "old.jsonl", 10.0, 2.0), _file(tmp_path / "new.jsonl", 50.0, ratio)
    found = CliRunner().invoke(app, ["compare", str(old), str(new)])
    assert found.exit_code == code, found.output
    assert f"cpu_ratio_to_ours (ratio) | 2 | {ratio:g} |" in found.output
    assert "cpu_ms | 10 | 50 | +400.0 % ◂" in found.output


def test_compare_refuses_what_is_no_run(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["compare", str(tmp_path), str(tmp_path)])
    assert found.exit_code == 2
    assert found.stderr.startswith("benchmarks: ")


# ---------------------------------------------------------------------------- growth, survey


@given(st.floats(-3, 3), st.floats(1e-3, 1e3))
def test_a_power_is_found(exponent: float, factor: float) -> None:
    sizes = np.array([1.0, 2.0, 5.0, 30.0])
    law = power_law(sizes.tolist(), (factor * sizes**exponent).tolist())
    # Logarithms of magnitudes up to 20, in float64, through a small least-squares problem.
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.factor == pytest.approx(factor, rel=1e-9)


def test_what_costs_the_same_has_exponent_nought_and_is_explained() -> None:
    law = power_law([1, 64, 1024, 4096], [9_474_272.0] * 4)
    assert (law.exponent, law.explained) == (0.0, 1.0)
    assert law.factor == pytest.approx(9_474_272.0)


def test_no_figure_of_the_pages_is_absurd() -> None:
    """A number of twenty digits is a fault of arithmetic, not a measurement."""
    text = (RESULTS.parents[1] / "docs" / "figures.md").read_text(encoding="utf-8")
    assert not re.findall(r"\d[\d,]{24,}", text)


@pytest.mark.parametrize("sizes", [[1.0], [1.0, 1.0], [0.0, 1.0]])
def test_a_power_needs_two_sizes(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="two or more positive"):
        power_law(sizes, sizes)


def test_the_survey_is_whole_and_says_where_it_is_behind() -> None:
    known = {figure.system for figure in SURVEY}
    assert set(survey.SERVED) | set(survey.NOT_SERVED) == known
    assert not set(survey.SERVED) & set(survey.NOT_SERVED)
    query: Row = {"kind": "mnist", "accuracy_percent": 95.05, "wall_ms": 1e6,
                  "request_bytes": 5e5, "response_bytes": 5e5}  # fmt: skip
    batch: Row = {"kind": "batch", "source": measure.OURS, "network": survey.SHIPPED,
                  "response": "plain", "accuracy_percent": 99.0, "http_images_per_second": 1000.0,
                  "upload_bytes_per_image": 5e4, "download_bytes_per_image": 0.0}  # fmt: skip
    rows = {row["system"]: row for row in survey.survey([query, batch])}
    assert len(rows) == 15
    assert rows["ML Confidential"]["verdict"] == (
        "behind in time (3.9 times more); level in accuracy (+0.05 points); not published: data"
    )
    # 697 s and 595.5 MB are of 8,192 queries: 85 ms and 73 kB each.
    assert rows["CryptoNets"]["verdict"] == (
        "ahead in time (85 times less), data (1.5 times less); level in accuracy (+0.05 points)"
    )
    assert rows["CryptoDL"]["verdict"] == (
        "behind in accuracy (-0.52 points), data (1.2 times more); ahead in time (39 times less)"
    )
    assert rows["E2DM"]["verdict"].startswith("not served")
    assert rows["Gazelle"]["verdict"].startswith("not measured")
    told = survey.counted(list(rows.values()))
    assert "15 systems 1 are served" in told and "CryptoDL, All-Convolutional Net; 3 have" in told


def test_a_line_is_found() -> None:
    line = straight_line([1, 2, 4, 8], [3.5, 4.0, 5.0, 7.0])
    # Three numbers of float64 through a least-squares problem of two unknowns.
    assert line == pytest.approx((3.0, 0.5, 1.0), abs=1e-12)
    assert straight_line([1, 2, 4], [5.0, 5.0, 5.0]).explained == 1.0
    with pytest.raises(ValueError, match="two or more sizes"):
        straight_line([1, 1], [1, 2])


def test_a_million_a_day() -> None:
    row: Row = {"kind": "mnist", "server_cpu_ms": 86.4, "encrypt_cpu_ms": 100.0,
                "decrypt_cpu_ms": 72.8, "request_bytes": 600, "response_bytes": 400,
                "evaluation_key_bytes": 2_000_000}  # fmt: skip
    (day,) = arithmetic.day_rows([row])
    assert day["cores"] == pytest.approx(1)
    assert day["gigabytes"] == pytest.approx(1)
    assert day["keys_gigabytes"] == pytest.approx(2)
    assert day["millions"] == pytest.approx(arithmetic.MACHINES * arithmetic.CORES)
    assert day["client_cores"] == pytest.approx(2)
    assert day["asking_cores"] == pytest.approx(2 * arithmetic.MACHINES * arithmetic.CORES / 1e3)


def test_a_batch_costs_its_client_every_core_for_as_long_as_it_takes() -> None:
    """The CPU time of the client's own process leaves out the processes that encrypt for it."""
    row: Row = {"kind": "batch", "network": "n", "response": "plain", "batch": 1000, "cores": 2,
                "client_images_per_second": 500.0, "client_cpu_ms_per_image": 0.1,
                "server_cpu_ms_per_image": 1.0, "upload_bytes_per_image": 3e3,
                "download_bytes_per_image": 1e3, "evaluation_key_bytes": 0}  # fmt: skip
    (day,) = arithmetic.day_rows([row])
    assert day["client_ms"] == pytest.approx(4)
    assert day["message_megabytes"] == pytest.approx(4)


def test_tables_can_be_read() -> None:
    """Ten columns at most, no two of one name, and no cell that ends a column of Markdown."""
    for table in all_tables(measured(RESULTS)):
        headings = table.headings()
        assert len(headings) == len(set(headings)) <= 10, table.title
        assert not any("|" in cell for line in table.cells() for cell in line)
        assert table.note or "accuracy %" in table.title, table.title


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_nothing_beats_the_front(points: list[tuple[int, int]]) -> None:
    front = pareto([(float(x), float(y)) for x, y in points])
    for x, y in points:
        assert any(a <= x and b <= y for a, b in front)
    for a, b in front:
        assert not any((x <= a and y < b) or (x < a and y <= b) for x, y in points)


# ---------------------------------------------------------------------------- the page


def test_the_page_asks_nobody_for_anything() -> None:
    text = page.page(measured(RESULTS))
    assert "src=" not in text and "@import" not in text
    assert 'href="http' not in text.replace('xlink:href="http', "")
    assert len(plots(measured(RESULTS))) == 5
    for table in all_tables(measured(RESULTS)):
        assert f"<h2>{table.title.split(':')[0][:10]}"[:8] in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    arguments = ["--disable-gpu", "--disable-background-networking", "--disable-sync"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser: Any, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    shown = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    address = (pages.PROJECT / pages.REPORT).as_uri()
    shown.goto(address)
    assert shown.evaluate("document.documentElement.scrollWidth") == 390
    red, *_ = shown.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
    assert (int(red) < 60) == (scheme == "dark")
    first = "section:first-of-type"
    shown.click(f"{first} th:nth-child(5) button")
    column = f"Array.from(document.querySelectorAll('{first} tbody td:nth-child(5)'))"
    up = shown.evaluate(f"{column}.map(cell => cell.dataset.value).filter(v => v).map(Number)")
    assert up == sorted(up) and len(set(up)) > 5
    shown.click(f"{first} th:nth-child(5) button")
    down = shown.evaluate(f"{column}.map(cell => cell.dataset.value)")
    assert [float(value) for value in down if value] == up[::-1]
    assert down[-1] is None  # what is not known is last either way
    assert shown.get_attribute(f"{first} th:nth-child(5)", "aria-sort") == "descending"
    assert said == []
    assert all(url == address or url.startswith("data:") for url in asked)
    context.close()
