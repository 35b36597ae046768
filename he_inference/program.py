"""What a server does, and what a client must know, as frozen data.

A `Program` is a straight list of instructions in single-assignment form: instruction i computes
register i. Every instruction carries the level, scale and size of its result, so that a checker
can recompute them independently (`check`). A `Signature` is the public part: parameters, how a
query is arranged in slots, which evaluation keys are needed, where the answers are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from he_inference.errors import HEError, ModelFileError
from he_inference.nodes import Array, Shape
from he_inference.parameters import SECURITY_BITS, Parameters
from he_inference.tensor_file import MALFORMED, read_tensors, write_tensors

PROGRAM_FORMAT = "sottovoce-program"
SIGNATURE_FORMAT = "sottovoce-signature"
VERSION = 1
MAX_INSTRUCTIONS = 100_000
MAX_SIGNATURE_BYTES = 16 << 20
MAX_KEY_BYTES = 4 << 30
"""Of one client's evaluation keys: a signature that asks for more is refused before any is made."""
MAX_REGISTER_BYTES = 4 << 30
"""Of ciphertexts alive at one time."""
MIN_RESOLUTION = 2.0**-60

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


@dataclass(frozen=True)
class KeyPlan:
    """The evaluation keys that a program uses, each with the highest level it is used at.

    A key for level l is made modulo the first l data primes and the special one, which keeps keys
    that are used late small.
    """

    relinearisation: int
    """0 where the program multiplies nothing by itself."""
    rotations: tuple[tuple[int, int], ...]
    """(step, level), in ascending order of steps."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of every key in the order of transport: relinearisation first."""
        first = (self.relinearisation,) if self.relinearisation else ()
        return (*first, *(level for _, level in self.rotations))


@dataclass(frozen=True, eq=False)
class Signature:
    """All that a client needs, and nothing of the weights.

    identity: 16 random bytes made by the compiler; messages carry it.
    gather: (slots,), slot s of a query holds flat input element gather[s], zero where −1.
    output_slots: (outputs,), where the answers are.
    response_bits: bits kept of every coefficient of c0 and c1 of an answer; the lower ones are
        cut, as they hold nothing but noise.
    precision_bits: expected −log2 of (root mean square error / largest answer), an average over
        queries like the examples and over keys; single keys may be a bit worse.
    resolution: a power of two about as large as that error; answers are rounded to multiples, as
        digits beyond it mean nothing. That hides nothing: see SECURITY.md.
    """

    identity: bytes
    parameters: Parameters
    input_shape: Shape
    input_range: tuple[float, float]
    input_scale: float
    gather: npt.NDArray[np.int64]
    output_slots: npt.NDArray[np.int64]
    output_scale: float
    keys: KeyPlan
    response_bits: tuple[int, int]
    precision_bits: float
    resolution: float

    @property
    def cut_bits(self) -> tuple[int, int]:
        """Low bits of c0 and c1 that an answer does not carry."""
        whole = self.parameters.data_primes[0].bit_length()
        return whole - self.response_bits[0], whole - self.response_bits[1]

    @property
    def security_bits(self) -> int:
        """Parameters cannot be made below this."""
        return SECURITY_BITS

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that both sides must agree on before they exchange anything."""
        return sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """JSON, the same bytes for the same signature."""
        value = {
            "format": SIGNATURE_FORMAT,
            "version": VERSION,
            "identity": self.identity.hex(),
            "parameters": self.parameters.to_json(),
            "input_shape": list(self.input_shape),
            "input_range": list(self.input_range),
            "input_scale": self.input_scale,
            "gather": self.gather.tolist(),
            "output_slots": self.output_slots.tolist(),
            "output_scale": self.output_scale,
            "keys": asdict(self.keys),
            "response_bits": list(self.response_bits),
            "precision_bits": self.precision_bits,
            "resolution": self.resolution,
        }
        return json.dumps(value, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Signature":
        """Read a signature from a file or from a server that is not trusted.

        Everything is checked again, the security of the parameters first of all. Raises
        `ModelFileError` or `ParameterError`.
        """
        if len(data) > MAX_SIGNATURE_BYTES:
            raise ModelFileError(f"a signature of {len(data)} bytes: at most {MAX_SIGNATURE_BYTES}")
        try:
            value = json.loads(data)
            if value["format"] != SIGNATURE_FORMAT or value["version"] != VERSION:
                raise ModelFileError(
                    f"expected {SIGNATURE_FORMAT} version {VERSION}, found "
                    f"{str(value['format'])[:40]!r} version {str(value['version'])[:10]}"
                )
            return cls._from_json(value)
        except MALFORMED as error:
            raise ModelFileError(f"not a signature: {error!r}") from None

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> "Signature":
        keys = value["keys"]
        signature = cls(
            identity=bytes.fromhex(value["identity"]),
            parameters=Parameters.from_json(value["parameters"]),
            input_shape=tuple(int(n) for n in value["input_shape"]),
            input_range=(float(value["input_range"][0]), float(value["input_range"][1])),
            input_scale=float(value["input_scale"]),
            gather=_integers(value["gather"]),
            output_slots=_integers(value["output_slots"]),
            output_scale=float(value["output_scale"]),
            keys=KeyPlan(
                _integer(keys["relinearisation"]),
                tuple((_integer(step), _integer(level)) for step, level in keys["rotations"]),
            ),
            response_bits=(int(value["response_bits"][0]), int(value["response_bits"][1])),
            precision_bits=float(value["precision_bits"]),
            resolution=float(value["resolution"]),
        )
        signature._check()
        return signature

    def _check(self) -> None:
        slots, top = self.parameters.slots, len(self.parameters.data_primes)
        size = prod(self.input_shape)
        steps = [step for step, _ in self.keys.rotations]
        low, high = self.input_range
        sound = (
            len(self.identity) == 16
            and len(self.input_shape) in (1, 3)
            and 0 < size < 1 << 31
            and min(self.input_shape) > 0
            and self.gather.shape == (slots,)
            and -1 <= self.gather.min() <= self.gather.max() < size
            and self.output_slots.ndim == 1
            and 0 < len(self.output_slots) <= slots
            and 0 <= self.output_slots.min() <= self.output_slots.max() < slots
            and 1 <= self.input_scale < 2.0 ** self.parameters.log_modulus(top)
            and 1 <= self.output_scale < 2.0 ** self.parameters.log_modulus(1)
            and np.isfinite([low, high, self.precision_bits, self.resolution]).all()
            and self.resolution >= MIN_RESOLUTION
            and all(
                1 <= b <= self.parameters.data_primes[0].bit_length() for b in self.response_bits
            )
            and low < high
            and 0 <= self.keys.relinearisation <= top
            and steps == sorted(set(steps))
            and all(0 < s < slots and 1 <= level <= top for s, level in self.keys.rotations)
            and self._key_words() * 8 <= MAX_KEY_BYTES
        )
        if not sound:
            raise ValueError("its fields contradict each other, or ask for more than is accepted")

    def _key_words(self) -> int:
        """64-bit words that a client's evaluation keys take while they are made."""
        digits = sum(level * (level + 1) for level in self.keys.levels)
        return 2 * digits * self.parameters.ring_degree


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"expected an integer, found {value!r:.40}")
    return value


def _integers(values: Any) -> npt.NDArray[np.int64]:
    array = np.array(values)
    if array.dtype != np.int64:
        raise ValueError(f"expected a list of integers, found {array.dtype}")
    return array


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
            "format": PROGRAM_FORMAT,
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


def load_program(path: str | Path) -> Program:
    """Read and check a saved program. Raises `ModelFileError` for anything but a sound one."""
    metadata, tensors = read_tensors(path, PROGRAM_FORMAT, VERSION)
    try:
        signature = Signature.from_bytes(metadata["signature"].encode())
        rows = json.loads(metadata["instructions"])
        instructions = tuple(_instruction(row) for row in rows)
        program = Program(signature, instructions, tensors["vectors"])
        check(program)
        return program
    except MALFORMED as error:
        raise ModelFileError(f"{path}: the program is malformed: {error!r}") from None
    except HEError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _instruction(row: Sequence[Any]) -> Instruction:
    operation, sources, level, scale, size, step, vector = row
    name: Any = dict(enumerate(OPERATIONS))[operation]
    registers = tuple(int(s) for s in sources)
    return Instruction(name, registers, int(level), float(scale), int(size), int(step), int(vector))


def load_signature(path: str | Path) -> Signature:
    """Read and check a saved signature. Raises `ModelFileError` or `ParameterError`."""
    try:
        with Path(path).open("rb") as file:
            return Signature.from_bytes(file.read(MAX_SIGNATURE_BYTES + 1))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None


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
