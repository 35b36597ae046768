"""The public part of a program: all that a client needs, and nothing of the weights.

Parameters, how a query is arranged in slots, which evaluation keys are needed, where the answers
are. A client may get it from a server that it does not trust, so everything is checked again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from he_inference.errors import ModelFileError
from he_inference.nodes import Shape
from he_inference.parameters import SECURITY_BITS, Parameters
from he_inference.tensor_file import MALFORMED

FORMAT = "sottovoce-signature"
VERSION = 1
LAYOUT = "packed"
_Built = TypeVar("_Built")
MAX_BYTES = 16 << 20
MAX_KEY_BYTES = 4 << 30
"""Of one client's evaluation keys: a signature that asks for more is refused before any is made."""
MIN_RESOLUTION = 2.0**-60


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
    def needs_keys(self) -> bool:
        """Whether a server must hold a client's evaluation keys before it can answer."""
        return True

    @property
    def query_primes(self) -> tuple[int, ...]:
        return self.parameters.data_primes

    @property
    def query_ciphertexts(self) -> int:
        return 1

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
            "format": FORMAT,
            "version": VERSION,
            "layout": LAYOUT,
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
        return from_json(data, LAYOUT, cls._from_json)

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
                integer(keys["relinearisation"]),
                tuple((integer(step), integer(level)) for step, level in keys["rotations"]),
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


def from_json(data: bytes, layout: str, build: Callable[[Mapping[str, Any]], _Built]) -> _Built:
    """What `build` makes of a signature's fields. Raises `ModelFileError` as `layout_of` does."""
    found = layout_of(data)
    if found != layout:
        raise ModelFileError(f"a signature of the {found[:40]} layout: expected {layout}")
    try:
        return build(json.loads(data))
    except MALFORMED as error:
        raise _malformed(error) from None


def layout_of(data: bytes) -> str:
    """The layout that a signature says it is of. Raises `ModelFileError` for anything else."""
    if len(data) > MAX_BYTES:
        raise ModelFileError(f"a signature of {len(data)} bytes: at most {MAX_BYTES}")
    try:
        value = json.loads(data)
        if value["format"] != FORMAT or value["version"] != VERSION:
            raise ModelFileError(
                f"expected {FORMAT} version {VERSION}, found "
                f"{str(value['format'])[:40]!r} version {str(value['version'])[:10]}"
            )
        return str(value["layout"])
    except MALFORMED as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> ModelFileError:
    reason = "" if isinstance(error, UnicodeDecodeError) else f" ({error!r:.120})"
    return ModelFileError(
        f"not a signature{reason}: expected the .signature file that compile wrote"
    )


def integer(value: Any) -> int:
    """A JSON number that is an integer. Raises `ValueError`."""
    if type(value) is not int:
        raise ValueError(f"expected an integer, found {value!r:.40}")
    return value


def _integers(values: Any) -> npt.NDArray[np.int64]:
    array = np.array(values)
    if array.dtype != np.int64:
        raise ValueError(f"expected a list of integers, found {array.dtype}")
    return array
