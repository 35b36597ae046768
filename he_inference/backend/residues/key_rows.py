"""Where evaluation keys and encoded weights lie, row by row, in the arrays that tasks read."""

from dataclasses import dataclass
from functools import cached_property

from he_inference.program import Program


@dataclass(frozen=True)
class KeyPlace:
    """Where a key lies: digit i, part b, modulus j are row first + (2·i + b)·(level + 1) + j."""

    first: int
    level: int

    @property
    def rows(self) -> int:
        return 2 * self.level * (self.level + 1)


class KeyRows:
    """Where the evaluation keys of a program lie, one after the other as in `KeyPlan.levels`."""

    def __init__(self, program: Program) -> None:
        plan = program.signature.keys
        self.places: list[KeyPlace] = []
        self.count = 0
        for level in plan.levels:
            self.places.append(KeyPlace(self.count, level))
            self.count += self.places[-1].rows
        rotations = self.places[1:] if plan.relinearisation else self.places
        self.rotations = {
            step: place for (step, _), place in zip(plan.rotations, rotations, strict=True)
        }

    @cached_property
    def relinearisation(self) -> KeyPlace:
        return self.places[0]


def weight_rows(program: Program) -> dict[int, int]:
    """The first row of every vector that is used: it has one for each prime of its level."""
    firsts: dict[int, int] = {}
    top = 0
    for i in program.instructions:
        if i.vector >= 0:
            firsts[i.vector] = top
            top += i.level
    return firsts
