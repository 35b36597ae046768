"""`he_inference.planning`: the front, and what is chosen from it, for any costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_inference import planning
from he_inference.cost import Cost
from he_inference.errors import CompileError
from he_inference.plan_table import plan_table
from he_inference.planning import OBJECTIVES, Plan, planned
from he_inference.terminal import Console


@dataclass(frozen=True, eq=False)
class Point:
    """A program of which nothing is known but its cost."""

    cost: Cost
    response: str

    def facts(self) -> dict[str, Any]:
        return {"response": self.response, "layout": "coefficients", "precision_bits": 10.0}


few = st.integers(0, 3)
"""So that costs are often equal."""
milliseconds = few.map(float) | st.floats(0, 1e4)
size = few | st.integers(0, 10**8)
costs = st.builds(
    Cost, server_ms=milliseconds, client_ms=milliseconds, upload_bytes=size, download_bytes=size,
    key_bytes=size,
)  # fmt: skip
points = st.builds(Point, costs, st.sampled_from(["private", "plain"]))
plans = st.lists(points, min_size=1, max_size=12).map(lambda found: planned(found, {}))


def measures(point: Point) -> tuple[float, float, float]:
    cost = point.cost
    return (
        cost.server_ms + cost.client_ms, cost.upload_bytes + cost.download_bytes, cost.key_bytes,
    )  # fmt: skip


def beaten(point: Point, by: Point) -> bool:
    one, other = measures(point), measures(by)
    no_worse = all(b <= a for a, b in zip(one, other, strict=True))
    return point.response == by.response and no_worse and one != other


@given(plans)
def test_nothing_on_the_front_is_beaten_and_all_else_is(plan: Plan[Point]) -> None:
    for point in plan.points:
        found = [other for other in plan.points if beaten(point, other)]
        assert (point in plan.front) == (not found)
        assert point in plan.front or any(other in plan.front for other in found)
    assert list(plan.front) == [point for point in plan.points if point in plan.front]


@given(plans)
def test_points_are_sorted_by_time(plan: Plan[Point]) -> None:
    times = [measures(point)[0] for point in plan.points]
    assert times == sorted(times)


@given(plans, st.sampled_from(OBJECTIVES))
def test_what_is_chosen_is_the_best_and_on_the_front(plan: Plan[Point], optimise: str) -> None:
    by = {
        "latency": lambda p: measures(p)[0],
        "bytes": lambda p: measures(p)[1],
        "keys": lambda p: measures(p)[2],
        "balanced": lambda p: measures(p)[0] + 8 * (measures(p)[1] + measures(p)[2] / 100) / 1e5,
    }[optimise]
    chosen = plan.chosen(optimise)
    assert chosen in plan.front
    best = min(map(by, plan.points))
    assert by(chosen) <= best * (1 + 1e-12)  # sums in another order
    ties = [p for p in plan.points if by(p) == by(chosen)]
    if optimise != "balanced":
        assert measures(chosen)[0] == min(measures(p)[0] for p in ties)


@given(plans)
def test_private_and_plain_programs_do_not_beat_each_other(plan: Plan[Point]) -> None:
    both = [plan.answering(response) for response in ("private", "plain")]
    assert sorted(map(id, [*both[0].points, *both[1].points])) == sorted(map(id, plan.points))
    fronts = [point for part in both for point in part.front]
    assert set(map(id, fronts)) == set(map(id, plan.front))
    assert all(point.response == "private" for point in both[0].points)


def test_elapsed_time_is_that_over_the_link() -> None:
    """100 Mbit/s: 100 kB take 8 ms; of keys a hundredth counts."""
    cost = Cost(
        server_ms=3, client_ms=4, upload_bytes=60_000, download_bytes=40_000, key_bytes=10**6
    )
    assert planning.elapsed(cost) == pytest.approx(3 + 4 + 8 + 0.8)
    assert (planning.milliseconds(cost), planning.traffic(cost)) == (7, 100_000)


def test_an_unknown_measure() -> None:
    cost = Cost(1, 1, 1, 1, 1)
    for plan in (planned([Point(cost, "plain")], {}), planned([], {})):
        with pytest.raises(CompileError, match="'memory' is unknown: use one of latency, bytes"):
            plan.chosen("memory")


def test_refusals_are_listed() -> None:
    plan: Plan[Point] = planned([], {"packed": "too deep", "coefficients": "two activations"})
    assert plan.front == ()
    with pytest.raises(CompileError) as caught:
        plan.chosen("latency")
    for words in ("no layout", "packed: too deep", "coefficients: two activations"):
        assert words in str(caught.value)


@given(plans, st.sampled_from(OBJECTIVES))
def test_the_table_shows_the_front_and_marks_what_is_chosen(
    plan: Plan[Point], optimise: str
) -> None:
    chosen = plan.chosen(optimise)
    console = Console(width=120, force_terminal=False)
    with console.capture() as captured:
        console.print(plan_table(plan, chosen))
    lines = captured.get().splitlines()
    assert sum("coefficients" in line for line in lines) == len(plan.front)
    (marked,) = [line for line in lines if line.startswith(" ▸")]
    assert chosen.response in marked
    told = "compile with --response plain would" if chosen.response == "plain" else "compile would"
    assert told in " ".join(captured.get().split())
