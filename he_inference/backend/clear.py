"""A program in the clear: the same slots, the same instructions, plain arithmetic.

This is the definition of what a program computes; the encrypted backends are checked against it.
With a `NoiseModel` it also adds what the scheme adds: the rounding of encoded weights exactly, the
rest as Gaussian noise of the modelled variance.
"""

from collections.abc import Iterator

import numpy as np

from he_inference.nodes import Array
from he_inference.noise import NoiseModel, rounded
from he_inference.program import Instruction, Program

CHUNK = 64
"""Queries at a time: a register then holds 2 MB at 4,096 slots, which stays in cache."""


def arrange(x: Array, program: Program) -> Array:
    """Queries (batch, *input_shape) → slots (batch, slots)."""
    flat = x.reshape(len(x), -1)
    padded = np.concatenate([flat, np.zeros((len(x), 1))], axis=1)
    slots: Array = padded[:, program.signature.gather]
    return slots


def evaluate(program: Program, x: Array) -> Array:
    """(batch, *input_shape) → (batch, outputs), exact up to float64."""
    return _in_chunks(program, x, program.vectors, None, np.random.default_rng(0))


def simulate(program: Program, x: Array, seed: int, noise: NoiseModel | None = None) -> Array:
    """(batch, *input_shape) → (batch, outputs), with the noise that encryption would add.

    noise: of the evaluator; our own unless given.
    """
    vectors, model = rounded_vectors(program), noise or NoiseModel(program.parameters)
    return _in_chunks(program, x, vectors, model, np.random.default_rng(seed))


def rounded_vectors(program: Program) -> Array:
    """The weights as the encoder represents them at the scale they are used with."""
    scales = np.ones(len(program.vectors))
    for instruction in program.instructions:
        if instruction.vector >= 0:
            scales[instruction.vector] = plain_scale(program, instruction)
    return rounded(program.vectors, scales, program.parameters.ring_degree)


def plain_scale(program: Program, instruction: Instruction) -> float:
    """The scale at which an instruction's vector is encoded."""
    if instruction.operation == "add_plain":
        return instruction.scale
    return instruction.scale / program.instructions[instruction.sources[0]].scale


def _in_chunks(
    program: Program, x: Array, vectors: Array, noise: NoiseModel | None, rng: np.random.Generator
) -> Array:
    parts = [
        _run(program, arrange(x[start : start + CHUNK], program), vectors, noise, rng)
        for start in range(0, len(x), CHUNK)
    ]
    return np.concatenate(parts)


def _run(
    program: Program,
    slots: Array,
    vectors: Array,
    noise: NoiseModel | None,
    rng: np.random.Generator,
) -> Array:
    registers: dict[int, Array] = {}
    deviations = _deviations(program, noise)
    for index, instruction in enumerate(program.instructions):
        read = [registers[source] for source in instruction.sources]
        value = _apply(instruction, read, slots, vectors)
        deviation = next(deviations)
        if deviation is not None:
            draw = rng.standard_normal(value.shape, dtype=np.float32)
            value = value + draw * deviation
        registers[index] = value
        for register in program.last_uses[index]:
            del registers[register]
    last = registers[len(program.instructions) - 1]
    answer: Array = last[:, program.signature.output_slots]
    if noise is None:
        return answer
    deviation = np.sqrt(noise.cut(program.signature.cut_bits)) / program.signature.output_scale
    noisy: Array = answer + deviation * rng.standard_normal(answer.shape)
    return noisy


def _apply(instruction: Instruction, read: list[Array], slots: Array, vectors: Array) -> Array:
    result: Array = read[0] if read else slots
    match instruction.operation:
        case "rotate":
            result = np.roll(result, -instruction.step, axis=1)
        case "multiply_plain":
            result = result * vectors[instruction.vector]
        case "add_plain":
            result = result + vectors[instruction.vector]
        case "add":
            result = result + read[1]
        case "multiply":
            result = result * read[1]
    return result


def _deviations(program: Program, noise: NoiseModel | None) -> Iterator[Array | float | None]:
    """Standard deviation, in slot values, of what each instruction adds."""
    for i in program.instructions:
        if noise is None:
            yield None
        elif i.operation == "input":
            yield np.sqrt(noise.fresh) / i.scale
        elif i.operation in ("rotate", "relinearise"):
            yield np.asarray(np.sqrt(noise.key_switch(i.level)) / i.scale, dtype=np.float32)
        elif i.operation == "rescale":
            yield np.sqrt(noise.rounding) / i.scale
        else:
            yield None
