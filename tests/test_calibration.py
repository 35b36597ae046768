"""`he_inference.calibration`: which files of prices are trusted, and what timings make of prices.

Nothing here depends on how long anything takes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_inference import calibration
from he_inference.calibration import MAX_AGE_DAYS, Machine, calibrated
from he_inference.coefficient_program import CoefficientProgram
from he_inference.cost import Prices
from he_inference.prices import CoefficientPrices, MachinePrices

NOW, DAY = 1.8e9, 86_400.0
KEPT = MachinePrices(CoefficientPrices(*(np.arange(1, 10) / 7).tolist()), Prices(row=0.7))
ANEW = replace(KEPT, packed=Prices(row=99.0))


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[MachinePrices]:
    """What was measured, which is what another test measures; here it is the same each time."""
    made: list[MachinePrices] = []

    def measured() -> MachinePrices:
        made.append(ANEW)
        return ANEW

    monkeypatch.setattr(calibration, "measured", measured)
    return made


PARTS = ("coefficients", "packed")
PRICED = (("coefficients", "product"), ("packed", "slot"))


def _with(part: str, name: str, value: Any) -> dict[str, Any]:
    whole = asdict(KEPT)
    return {**whole, part: {**whole[part], name: value}}


def _without(part: str, name: str) -> dict[str, Any]:
    whole = asdict(KEPT)
    return {**whole, part: {k: v for k, v in whole[part].items() if k != name}}


def content(**changes: Any) -> dict[str, Any]:
    whole = {"machine": asdict(Machine.this()), "time": NOW - DAY, "prices": asdict(KEPT)}
    return {**whole, **changes}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(content(**changes)), encoding="utf-8")
    return path


def test_a_sound_fresh_file_is_trusted(tmp_path: Path, measurements: list[Any]) -> None:
    for age in (0.0, 1.0, MAX_AGE_DAYS * DAY):
        path = written(tmp_path / "p", time=NOW - age)
        before = path.read_bytes()
        assert calibrated(path, now=NOW) == KEPT
        assert path.read_bytes() == before
    assert measurements == []


def test_what_is_measured_is_kept(tmp_path: Path, measurements: list[Any]) -> None:
    path = tmp_path / "deep" / "folder" / "prices.json"
    for _ in range(3):
        assert calibrated(path, now=NOW) == ANEW
    assert len(measurements) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["prices.json"]
    assert calibrated(path, now=NOW + (MAX_AGE_DAYS + 1) * DAY) == ANEW
    assert len(measurements) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"time": NOW - MAX_AGE_DAYS * DAY - 1},
        {"time": NOW + 1},
        {"time": math.nan},
        {"time": math.inf},
        {"time": None},
        {"time": "yesterday"},
        {"time": 10**400},
        {"time": []},
        {"machine": None},
        {"machine": {}},
        {"machine": "this"},
        {"machine": {**asdict(Machine.this()), "processor": "abacus"}},
        {"machine": {**asdict(Machine.this()), "cores": 10**6}},
        {"machine": {**asdict(Machine.this()), "python": "2.7"}},
        {"machine": {**asdict(Machine.this()), "versions": ["sottovoce 0"]}},
        {"machine": {**asdict(Machine.this()), "more": 1}},
        {"prices": None},
        {"prices": []},
        {"prices": 5},
        {"prices": {}},
        *({"prices": {k: v for k, v in asdict(KEPT).items() if k != part}} for part in PARTS),
        *({"prices": {**asdict(KEPT), part: bad}} for part in PARTS for bad in (None, 5, [], {})),
        *({"prices": _without(part, name)} for part, name in PRICED),
        *({"prices": _with(part, name, bad)} for part, name in PRICED for bad in
          (-1, -1e-9, math.nan, math.inf, -math.inf, None, "x", [], {}, 10**400)),
    ],
    ids=lambda changes: repr(changes)[:60],
)  # fmt: skip
def test_what_is_not_trusted_is_measured_again(
    tmp_path: Path, measurements: list[Any], changes: dict[str, Any]
) -> None:
    path = written(tmp_path / "p", **changes)
    assert calibrated(path, now=NOW) == ANEW
    assert calibrated(path, now=NOW) == ANEW  # from the file, which was replaced
    assert len(measurements) == 1
    assert json.loads(path.read_text())["prices"] == asdict(ANEW)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"5", b"\xff\xfe", b"{" * 10, b"[" * 100_000, b'"' + b"x" * 999],
    ids=lambda data: repr(data)[:20],
)  # fmt: skip
def test_files_that_are_no_json_of_ours(
    tmp_path: Path, measurements: list[Any], data: bytes
) -> None:
    (tmp_path / "p").write_bytes(data)
    assert calibrated(tmp_path / "p", now=NOW) == ANEW
    assert len(measurements) == 1


@given(data=st.data())
@settings(max_examples=40)
def test_half_a_file_is_not_trusted(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = json.dumps(content()).encode()
    path = tmp_path_factory.mktemp("half") / "p"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert calibration._read(path, Machine.this(), NOW) is None
    path.write_bytes(whole)
    assert calibration._read(path, Machine.this(), NOW) == KEPT


def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, measurements: list[Any]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "prices.json", tmp_path):
        assert calibrated(path, now=NOW) == ANEW
    assert len(measurements) == 2
    assert {entry.name for entry in tmp_path.iterdir()} >= {"file"}


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, measurements: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads meanwhile finds the old one; a disk that is full leaves it there."""
    path = written(tmp_path / "p", time=NOW - 99 * DAY)
    before = path.read_bytes()
    seen: list[bytes] = []
    replacing = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(path.read_bytes())
        assert json.loads(self.read_text())["prices"] == asdict(ANEW)
        return replacing(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    assert calibrated(path, now=NOW) == ANEW
    assert seen == [before] and json.loads(path.read_text())["prices"] == asdict(ANEW)

    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    path.write_bytes(before)
    monkeypatch.setattr(Path, "write_text", full)
    assert calibrated(path, now=NOW) == ANEW
    assert path.read_bytes() == before
    assert len(measurements) == 2


def test_the_file_is_in_the_users_cache() -> None:
    path = calibration.calibration_file()
    assert path.is_absolute() and path.parts[-2:] == ("sottovoce", "prices.json")


def test_a_machine_is_named() -> None:
    this = Machine.this()
    assert this == Machine.this() and this.cores >= 1
    assert len(this.versions) == 4 and any(v.startswith("numpy ") for v in this.versions)
    assert not any(v.endswith(" none") for v in this.versions[1:])


# ---------------------------------------------------------------------------- prices of timings


positive = st.floats(1e-3, 10)


@given(st.lists(positive, min_size=2, max_size=5), st.integers(0, 2**31))
def test_prices_that_explain_timings_exactly_are_found(prices: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 50, (12, len(prices))).astype(float)
    found = calibration._fit([tuple(row) for row in rows], (rows @ prices).tolist())
    condition = np.linalg.cond(rows / (rows @ prices)[:, None])
    # A residual of zero within rounding; what it says of prices is as sharp as they are told apart.
    assert np.allclose(rows @ found, rows @ prices, rtol=1e-9)
    assert np.allclose(found, prices, rtol=0, atol=1e-12 * condition * max(prices) * 10)


def test_no_price_is_negative() -> None:
    found = calibration._fit([(1.0, 1.0), (1.0, 10.0), (1.0, 20.0)], [10.0, 5.0, 1.0])
    assert (found >= 0).all()


PAID = CoefficientPrices(0.4, 0.7, 0.3, 0.5, 0.45, 0.06, 0.011, 0.07, 0.09)


def paid(program: CoefficientProgram) -> Any:
    """Timings of a machine whose prices are known; opening an answer is not told from asking."""
    s = program.signature
    opening = replace(PAID, ask=0.1, encrypt=0.0)
    return calibration._Timing(
        encrypt=0.3 + PAID.encrypt * s.layout.queries,
        evaluate=PAID.server_ms(s),
        decrypt=opening.client_ms(s),
    )


def test_the_programs_that_are_timed_tell_all_prices_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_timed", paid)
    found = asdict(calibration._coefficient_prices())
    for name, value in asdict(PAID).items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_real_timings_are_of_some_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured for once, on small programs: numbers that a file may hold."""
    monkeypatch.setattr(calibration, "SHAPES", ((40, 3),))
    monkeypatch.setattr(calibration, "REPEATS", 2)
    prices = MachinePrices(calibration._coefficient_prices())
    assert MachinePrices.from_json(asdict(prices)) == prices
    assert sum(asdict(prices.coefficients).values()) > 0
    assert prices.coefficients != MachinePrices().coefficients


def test_a_quick_time_is_of_as_many_rounds() -> None:
    calls: list[int] = []
    assert calibration._quick_ms(lambda: calls.append(1)) >= 0
    assert len(calls) == calibration.REPEATS
