"""A program is checked with nothing of the compiler's code: levels, scales, sizes, keys, memory.

Compiled programs pass through here before they are given out, and files before they are used.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from he_inference.errors import HEError, ModelFileError
from he_inference.parameters import Parameters
from he_inference.program import FORMAT, OPERATIONS, VERSION, Instruction, Program
from he_inference.signature import Signature
from he_inference.tensor_file import MALFORMED, read_tensors

MAX_INSTRUCTIONS = 100_000
MAX_REGISTER_BYTES = 4 << 30
"""Of ciphertexts alive at one time."""


def load_packed_program(path: str | Path) -> Program:
    """Read and check a saved program. Raises `ModelFileError` for anything but a sound one."""
    metadata, tensors = read_tensors(path, FORMAT, VERSION)
    try:
        signature = Signature.from_bytes(metadata["signature"].encode())
        rows = json.loads(metadata["instructions"])
        instructions = tuple(_instruction(row) for row in rows)
        program = Program(signature, instructions, tensors["vectors"])
        check(program)
        return program
    except MALFORMED as error:
        raise ModelFileError(f"{path}: the program is malformed: {error!r:.120}") from None
    except HEError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _instruction(row: Sequence[Any]) -> Instruction:
    operation, sources, level, scale, size, step, vector = row
    name: Any = dict(enumerate(OPERATIONS))[operation]
    registers = tuple(int(s) for s in sources)
    return Instruction(name, registers, int(level), float(scale), int(size), int(step), int(vector))


def check(program: Program) -> None:
    """Recompute levels, scales, sizes and key levels with nothing of the compiler's code.

    Raises `ModelFileError` at the first instruction that does not hold.
    """
    signature, parameters = program.signature, program.parameters
    instructions = program.instructions
    if not 0 < len(instructions) <= MAX_INSTRUCTIONS:
        raise ModelFileError(f"{len(instructions)} instructions, at most {MAX_INSTRUCTIONS}")
    if program.vectors.ndim != 2 or program.vectors.shape[1] != parameters.slots:
        raise ModelFileError(f"vectors {program.vectors.shape}, expected (…, {parameters.slots})")
    if not np.isfinite(program.vectors).all():
        raise ModelFileError("vectors hold NaN or infinite values")
    key_levels = dict(signature.keys.rotations)
    for index, instruction in enumerate(instructions):
        if not all(0 <= s < index for s in instruction.sources):
            raise ModelFileError(f"instruction {index} reads registers {instruction.sources}")
        read = [instructions[s] for s in instruction.sources]
        fault = _fault(instruction, read, signature, key_levels, len(program.vectors))
        fault = fault or _overflow(instruction, read, program)
        if fault:
            raise ModelFileError(f"instruction {index} ({instruction.operation}): {fault}")
    used = [i.vector for i in instructions if i.vector >= 0]
    if len(used) != len(set(used)):
        raise ModelFileError("a vector is used twice: it is encoded at one level and scale only")
    if _peak_bytes(program) > MAX_REGISTER_BYTES:
        raise ModelFileError(f"over {MAX_REGISTER_BYTES} bytes of ciphertexts alive at one time")
    last = instructions[-1]
    if (last.level, last.size) != (1, 2) or not _close(last.scale, signature.output_scale):
        raise ModelFileError("the last instruction does not yield the answer that is promised")


def _peak_bytes(program: Program) -> int:
    """Bytes of the ciphertexts that are alive at the worst moment of an evaluation."""
    alive = peak = 0
    for instruction, dying in zip(program.instructions, program.last_uses, strict=True):
        alive += instruction.size * instruction.level
        peak = max(peak, alive)
        alive -= sum(program.instructions[r].size * program.instructions[r].level for r in dying)
    return peak * program.parameters.ring_degree * 8


_ARITY = {"input": 0, "add": 2, "multiply": 2}


def _fault(
    i: Instruction,
    read: list[Instruction],
    signature: Signature,
    key_levels: Mapping[int, int],
    vectors: int,
) -> str:
    """What is wrong with one instruction, or the empty string."""
    parameters = signature.parameters
    if len(read) != _ARITY.get(i.operation, 1):
        return f"reads {len(read)} registers"
    if i.operation.endswith("_plain") and not 0 <= i.vector < vectors:
        return f"vector {i.vector} of {vectors}"
    if i.operation == "input":
        expected = (len(parameters.data_primes), 2, signature.input_scale)
    else:
        if any(r.level != read[0].level for r in read):
            return "operands at different levels"
        expected = _expected(i, read, parameters)
    if i.operation == "rotate" and key_levels.get(i.step, 0) < i.level:
        return f"no key for step {i.step} at level {i.level}"
    if i.operation == "relinearise" and signature.keys.relinearisation < i.level:
        return f"no relinearisation key at level {i.level}"
    if i.operation in ("rotate", "relinearise") and read[0].size != (
        2 if i.operation == "rotate" else 3
    ):
        return f"operand of size {read[0].size}"
    if i.operation in ("rescale", "drop") and i.level < 1:
        return "no prime left"
    if i.operation == "add" and not _close(read[0].scale, read[1].scale):
        return f"adds scales {read[0].scale:.6g} and {read[1].scale:.6g}"
    if i.operation == "multiply" and any(r.size != 2 for r in read):
        return "multiplies before relinearising"
    level, size, scale = expected
    if (i.level, i.size) != (level, size):
        return f"level {i.level} and size {i.size}, expected {level} and {size}"
    if scale and not _close(i.scale, scale):
        return f"scale {i.scale:.9g}, expected {scale:.9g}"
    if not 1 <= i.scale < 2.0 ** parameters.log_modulus(i.level):
        return f"scale {i.scale:.3g} does not fit the modulus at level {i.level}"
    return ""


def _overflow(i: Instruction, read: list[Instruction], program: Program) -> str:
    """Whether an encoded vector could not be represented. Coefficients are means of slots."""
    if i.vector < 0:
        return ""
    scale = i.scale if i.operation == "add_plain" else i.scale / read[0].scale
    largest = float(np.abs(program.vectors[i.vector]).max()) * scale
    if scale >= 1 and largest < 2.0 ** (program.parameters.log_modulus(i.level) - 1):
        return ""
    return f"weights up to {largest:.3g} at scale {scale:.3g} do not fit the modulus"


def _expected(
    i: Instruction, read: list[Instruction], parameters: Parameters
) -> tuple[int, int, float]:
    """Level, size and scale that an operation yields; scale 0 where it is the compiler's choice."""
    first = read[0]
    match i.operation:
        case "rescale":
            return (
                first.level - 1,
                first.size,
                first.scale / parameters.data_primes[first.level - 1],
            )
        case "drop":
            return first.level - 1, first.size, first.scale
        case "multiply":
            return first.level, 3, first.scale * read[1].scale
        case "relinearise":
            return first.level, 2, first.scale
        case "multiply_plain":
            return first.level, first.size, 0.0
        case "add":
            return first.level, max(r.size for r in read), first.scale
        case _:
            return first.level, first.size, first.scale


def _close(a: float, b: float) -> bool:
    """Equal up to the rounding of a product of a few doubles."""
    return abs(a - b) <= 1e-12 * abs(b)
