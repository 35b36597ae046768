"""One of three parties at run time: its connections, the keys it holds, and where it is in the
protocol.

Indices are modulo 3. A secret is a sum of components s₀ + s₁ + s₂; party i holds sᵢ and sᵢ₊₁, so it
shares each of its two with one neighbour, and the key kᵢ with party i − 1:

    party   components   keys      previous   next
    0       s₀ s₁        k₀ k₁     2          1
    1       s₁ s₂        k₁ k₂     0          2
    2       s₂ s₀        k₂ k₀     1          0
"""

from dataclasses import dataclass

from mpc_training.agreement import Keys
from mpc_training.randomness import Generator, derive
from mpc_training.transport import Transport

PARTIES = 3


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
        self.previous = (self.index - 1) % PARTIES
        self.next = (self.index + 1) % PARTIES
        label = f"shares {self.attempt}"
        self.first = Generator(derive(self.keys.pairs[self.previous], label))
        self.second = Generator(derive(self.keys.pairs[self.next], label))

    def begin(self) -> int:
        """The number of the next operation."""
        self.operation += 1
        return self.operation
