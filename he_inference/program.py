"""What a server does, as frozen data.

A `Program` is a straight list of instructions in single-assignment form: instruction i computes
register i. Every instruction carries the level, scale and size of its result, so that `checker` can
recompute them independently.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from he_inference.nodes import Array
from he_inference.parameters import Parameters
from he_inference.signature import Signature
from he_inference.tensor_file import write_tensors

FORMAT = "sottovoce-program"
VERSION = 1

Operation = Literal[
    "input", "rotate", "multiply_plain", "add_plain", "add", "multiply",
    "relinearise", "rescale", "drop",
]  # fmt: skip
OPERATIONS: tuple[str, ...] = get_args(Operation)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One homomorphic operation.

    operation: `drop` discards one prime without dividing (SEAL's mod_switch); `multiply` of a
        register with itself is a square.
    sources: registers read. step: slots to rotate left by. vector: row of `Program.vectors`.
    level: primes that the result has left. scale: factor between slot values and encoded ones.
    size: polynomials of the result (2, or 3 between a product and its relinearisation).
    """

    operation: Operation
    sources: tuple[int, ...]
    level: int
    scale: float
    size: int = 2
    step: int = 0
    vector: int = -1


@dataclass(frozen=True, eq=False)
class Program:
    """Instructions, the plaintext vectors they use, and the public signature.

    vectors: (count, slots) float64, the weights as they lie in slots. The last instruction is the
    answer.
    """

    signature: Signature
    instructions: tuple[Instruction, ...]
    vectors: Array

    @property
    def parameters(self) -> Parameters:
        return self.signature.parameters

    @cached_property
    def last_uses(self) -> tuple[tuple[int, ...], ...]:
        """Registers that nobody reads after instruction i: an evaluator may drop them then."""
        last = {}
        for index, instruction in enumerate(self.instructions):
            for source in instruction.sources:
                last[source] = index
        uses: list[list[int]] = [[] for _ in self.instructions]
        for register, index in last.items():
            uses[index].append(register)
        return tuple(tuple(registers) for registers in uses)

    def count(self, operation: Operation) -> int:
        return sum(i.operation == operation for i in self.instructions)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, for the server only: it holds the weights."""
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "signature": self.signature.to_bytes().decode(),
            "instructions": json.dumps(
                [
                    [OPERATIONS.index(i.operation), list(i.sources), i.level, i.scale, i.size,
                     i.step, i.vector]
                    for i in self.instructions
                ]
            ),
        }  # fmt: skip
        write_tensors(path, {"vectors": np.ascontiguousarray(self.vectors)}, metadata)
