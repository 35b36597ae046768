"""What a benchmark is: named steps, each of which emits rows, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.measure import Row

Emit = Callable[[Row], None]
Progress = Callable[[str, int, int], None]
"""What is being done, how many parts of it are done, and how many there are."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks of every benchmark.

    Attributes:
        quick: see that everything runs, in the smallest shape; not to quote.
        peers: run peers too, each in an environment of its own.
        queries: encrypted queries to each network; None for a benchmark's own number.
        device: where torch may compute, such as "cpu" or "cuda"; secrets never go there.
    """

    quick: bool = False
    peers: bool = False
    queries: int | None = None
    device: str = "auto"

    def options(self) -> Row:
        """As a row holds it: two runs with other options are two runs."""
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """A part of a run that is done wholly or not at all; its key is unique in its benchmark."""

    key: str
    measure: Callable[[Emit, Progress], None]


@dataclass(frozen=True)
class Benchmark:
    """Something that `python -m benchmarks run` can measure.

    Attributes:
        name: what it is called on the command line, and its file of results.
        about: one line.
        packages: distributions whose versions are recorded.
        steps: its parts, in order, for what is asked.
    """

    name: str
    about: str
    packages: Sequence[str]
    steps: Callable[[Asked], Iterable[Step]]
