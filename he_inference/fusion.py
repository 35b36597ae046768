"""Which instructions of a program an evaluator may do together.

Additions whose results are read once, by another addition, make a tree; rotations and products with
weights that only such a tree reads are its leaves. The whole tree is one sum, at one level: its
products are added up as they are made, and its rotations are divided by the special prime once.
Rotations of one ciphertext share its decomposition into digits, wherever they stand. And where a
sum of rotations is only rotated and added again, its first component can wait for its division: it
is the second alone that must be decomposed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from he_inference.program import Instruction

_LEAVES = ("add", "rotate", "multiply_plain")


@dataclass
class Sum:
    """Σ rotations + Σ products + Σ others, of registers: (register, step), (register, vector)."""

    rotations: list[tuple[int, int]] = field(default_factory=list)
    products: list[tuple[int, int]] = field(default_factory=list)
    others: list[int] = field(default_factory=list)


class Fusion:
    """Of a list of instructions.

    absorbed: those that are done with the sum that reads them. deferred: sums of rotations that
    nothing but other sums of rotations reads.
    """

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self._instructions = instructions
        uses = Counter(source for i in instructions for source in i.sources)
        self.absorbed = frozenset(
            source
            for i in instructions
            if i.operation == "add" and i.size == 2
            for source in i.sources
            if uses[source] == 1 and instructions[source].operation in _LEAVES
        )
        self.deferred = self._deferred()
        self._rotations = Counter(i.sources[0] for i in instructions if i.operation == "rotate")

    def _deferred(self) -> frozenset[int]:
        sums, others = set[int](), {len(self._instructions) - 1}
        for index, i in enumerate(self._instructions):
            if index in self.absorbed:
                continue
            found = self.sum(index) if i.operation in _LEAVES else Sum()
            if found.rotations:
                sums.add(index)
                others |= {register for register, _ in found.products}
            else:
                others |= set(i.sources) | {register for register, _ in found.products}
                others |= set(found.others)
        return frozenset(sums - others)

    def shared(self, register: int) -> bool:
        """Whether several rotations read a register."""
        return self._rotations[register] > 1

    def sum(self, index: int) -> Sum:
        """What a rotation, a product with weights, or an addition adds up."""
        found, left = Sum(), [index]
        while left:
            register = left.pop()
            i = self._instructions[register]
            if register != index and register not in self.absorbed:
                found.others.append(register)
            elif i.operation == "rotate":
                found.rotations.append((i.sources[0], i.step))
            elif i.operation == "multiply_plain":
                found.products.append((i.sources[0], i.vector))
            else:
                left.extend(reversed(i.sources))
        return found


def alone(i: Instruction) -> Sum:
    """One instruction as a sum, nothing fused."""
    if i.operation == "rotate":
        return Sum(rotations=[(i.sources[0], i.step)])
    if i.operation == "multiply_plain":
        return Sum(products=[(i.sources[0], i.vector)])
    return Sum(others=list(i.sources))
