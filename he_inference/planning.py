"""Which program for single queries: every one worth considering, what each costs, which to take.

    time      CPU milliseconds, client and server, for one query
    bytes     up and down, for one query
    keys      bytes that a client sends once

A point is on the front if no other is at least as good in all three and better in one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args

from he_inference.cost import Cost
from he_inference.errors import CompileError

Objective = Literal["latency", "bytes", "keys", "balanced"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)

LINK_BITS_PER_MS = 100e3
"""Of the link that "balanced" reckons with: 100 Mbit/s."""
QUERIES_PER_KEY = 100
"""Queries among which "balanced" divides the keys."""


class Planned(Protocol):
    """A compiled program with its cost."""

    @property
    def cost(self) -> Cost:
        """Of one query, and of a client's keys."""

    def facts(self) -> dict[str, Any]:
        """What it is, for machines."""


Point = TypeVar("Point", bound=Planned)


def milliseconds(cost: Cost) -> float:
    """CPU of client and server."""
    return cost.client_ms + cost.server_ms


def traffic(cost: Cost) -> int:
    """Bytes of one query, both ways."""
    return cost.upload_bytes + cost.download_bytes


def elapsed(cost: Cost) -> float:
    """Milliseconds until the answer is there, over the link of "balanced"."""
    sent = traffic(cost) + cost.key_bytes / QUERIES_PER_KEY
    return milliseconds(cost) + 8 * sent / LINK_BITS_PER_MS


_MEASURES: Mapping[str, Callable[[Cost], float]] = {
    "latency": milliseconds,
    "bytes": traffic,
    "keys": lambda cost: cost.key_bytes,
    "balanced": elapsed,
}


@dataclass(frozen=True, eq=False)
class Plan(Generic[Point]):
    """Every program that was considered, fastest first, and why a layout has none."""

    points: Sequence[Point]
    refusals: Mapping[str, str]

    @cached_property
    def front(self) -> tuple[Point, ...]:
        """Those that nothing of as private answers beats, fastest first."""
        return tuple(p for p in self.points if not any(_beats(q, p) for q in self.points))

    def answering(self, response: str) -> "Plan[Point]":
        """The same of private or plain answers alone."""
        alike = [p for p in self.points if p.facts()["response"] == response]
        return Plan(alike, self.refusals)

    def chosen(self, optimise: str) -> Point:
        """The best by one measure, on the front; ties by time.

        Raises `CompileError` for an unknown measure, and where there is no program at all.
        """
        if optimise not in _MEASURES:
            known = ", ".join(_MEASURES)
            raise CompileError(f"optimise {optimise!r} is unknown: use one of {known}")
        if not self.points:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in self.refusals.items())
            raise CompileError(f"no layout for single queries fits the network:\n{reasons}")
        measure = _MEASURES[optimise]
        return min(self.points, key=lambda p: (measure(p.cost), *_measures(p.cost)))


def planned(points: Sequence[Point], refusals: Mapping[str, str]) -> Plan[Point]:
    """What was compiled, sorted by time."""
    return Plan(sorted(points, key=lambda point: milliseconds(point.cost)), refusals)


def _beats(one: Planned, other: Planned) -> bool:
    left, right = _measures(one.cost), _measures(other.cost)
    alike = one.facts()["response"] == other.facts()["response"]
    return alike and left != right and all(a <= b for a, b in zip(left, right, strict=True))


def _measures(cost: Cost) -> tuple[float, ...]:
    return milliseconds(cost), traffic(cost), cost.key_bytes
