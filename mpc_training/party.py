"""One of three parties at run time: its connections, the keys it holds, and where it is in the
protocol.

A secret is a sum of components s₀ + s₁ + s₂. Component i and the key kᵢ are held by the same two
parties:

    party          components   keys
    0              s₀ s₁        k₀ k₁
    1              s₁ s₂        k₁ k₂
    2, the helper  s₂ s₀        k₂ k₀

Operations on shares are arranged so that **the helper receives nothing**: it sends to party 1 what
0 and 1 need, ahead of time, and only these two wait for each other. So whatever the helper sends
costs no delay, and a helper without data of its own is the dealer of two-party training.

An operation is a generator of rounds. What it yields, party 0 and 1 send each other; what comes
back has the same shapes and types. The helper yields empty lists, so that all three run the same
program.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mpc_training.agreement import Keys
from mpc_training.randomness import Generator as Randomness
from mpc_training.randomness import derive
from mpc_training.tensor import Part
from mpc_training.transport import Transport

PARTIES = 3
HELPER = 2
Found = TypeVar("Found")
Rounds = Generator[Sequence[Part], Sequence[Part], Found]


@dataclass
class Party:
    """One party's state. `operation` numbers what is drawn; all parties count alike.

    attempt: after a rollback the same steps are made again with other numbers, so with other words.
    """

    index: int
    transport: Transport
    keys: Keys
    attempt: int = 0
    operation: int = 0

    def __post_init__(self) -> None:
        label = f"shares {self.attempt}"
        before, after = (self.index - 1) % PARTIES, (self.index + 1) % PARTIES
        # k₀ is that of parties 2 and 0, k₁ of 0 and 1, k₂ of 1 and 2.
        self._keys = {
            key: Randomness(derive(self.keys.pairs[peer], label))
            for key, peer in ((self.index, before), (after, after))
        }

    @property
    def helps(self) -> bool:
        """Whether this is the party that receives nothing."""
        return self.index == HELPER

    def begin(self) -> int:
        """The number of the next operation."""
        self.operation += 1
        return self.operation

    def words(
        self, key: int, number: int, lane: int, shape: tuple[int, ...], dtype: npt.DTypeLike = "u8"
    ) -> npt.NDArray[Any]:
        """F: words from k₀, k₁ or k₂, which this party must hold."""
        return self._keys[key].words(number, lane, shape, dtype)

    def give(self, *arrays: Part) -> None:
        """The helper's part of an operation, for party 1."""
        self.transport.exchange({1: [np.ascontiguousarray(array) for array in arrays]}, {})

    def take(self, *arrays: Part) -> None:
        """Fill arrays with what the helper gave."""
        self.transport.exchange({}, {HELPER: arrays})

    def run(self, rounds: Rounds[Found]) -> Found:
        """Carry an operation out."""
        try:
            ours = next(rounds)
            while True:
                ours = rounds.send(self._swapped(ours))
        except StopIteration as end:
            found: Found = end.value
            return found

    def _swapped(self, ours: Sequence[Part]) -> Sequence[Part]:
        if self.helps or not ours:
            return []
        ours = [np.ascontiguousarray(array) for array in ours]
        theirs = [np.empty_like(array) for array in ours]
        self.transport.exchange({1 - self.index: ours}, {1 - self.index: theirs})
        return theirs


def side_by_side(*operations: Rounds[Any]) -> Rounds[list[Any]]:
    """Independent operations in as many rounds as the longest takes: their results, in order."""
    results: list[Any] = [None] * len(operations)
    live: dict[int, Sequence[Part]] = {}
    for place, operation in enumerate(operations):
        try:
            live[place] = next(operation)
        except StopIteration as end:
            results[place] = end.value
    while live:
        came = yield [array for arrays in live.values() for array in arrays]
        start, going = 0, live
        live = {}
        for place, arrays in going.items():
            part = came[start : start + len(arrays)]
            start += len(arrays)
            try:
                live[place] = operations[place].send(part)
            except StopIteration as end:
                results[place] = end.value
    return results
