"""A schedule as flat arrays, which the compiled loops read, and a workspace for its registers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from he_inference.backend.residues import kernels
from he_inference.backend.residues.kernels import LANES, ROW_BYTES
from he_inference.backend.residues.schedule import (
    Clear,
    Finish,
    Load,
    Multiply,
    Register,
    Scale,
    Schedule,
    Square,
    Step,
    Store,
)
from he_inference.backend.residues.vectors import MAX_MAPS
from he_inference.layouts.blocks import Block
from he_inference.nodes import Array

_FIELDS = 16
_OPERATIONS: dict[type[Step], int] = {
    Load: kernels.LOAD,
    Clear: kernels.CLEAR,
    Multiply: kernels.MULTIPLY,
    Finish: kernels.FINISH,
    Square: kernels.SQUARE,
    Scale: kernels.SCALE,
    Store: kernels.STORE,
}


@dataclass(frozen=True, eq=False)
class Code:
    """steps: int64 (count, 16): operation; source and target as (offset in the workspace,
    components, elements); a constant's index or, for products, (maps, taps, positions, offset in
    weights, of gather and of rows in indices, whether to add, scratch, its rows in indices).
    workspace: float64s that a thread needs.
    """

    steps: npt.NDArray[np.int64]
    weights: Array
    indices: npt.NDArray[np.int64]
    workspace: int


def encode(schedule: Schedule) -> Code:
    """Write a schedule down for `kernels.run`."""
    offsets, scratch = _placed(schedule.steps)
    encoder = _Encoder(offsets, scratch)
    rows = [encoder.row(step) for step in schedule.steps]
    return Code(
        np.array(rows, dtype=np.int64),
        np.concatenate(encoder.weights),
        np.concatenate(encoder.indices),
        scratch + LANES * encoder.scratch_rows,
    )


class _Encoder:
    def __init__(self, offsets: dict[int, int], scratch: int) -> None:
        self._offsets, self._scratch = offsets, scratch
        self.weights: list[Array] = []
        self.indices: list[npt.NDArray[np.int64]] = []
        self._weights = self._indices = 0
        self.scratch_rows = 0

    def row(self, step: Step) -> list[int]:
        fields = [_OPERATIONS[type(step)], 0, 0, 0, 0, 0, 0, *(0,) * (_FIELDS - 7)]
        for start, name in ((1, "source"), (4, "target")):
            register = getattr(step, name, None)
            if register is not None:
                place = self._offsets[register.index]
                fields[start : start + 3] = [place, register.components, register.elements]
        match step:
            case Multiply(block=block, add=add):
                fields[7:] = [*self._block(block), add, self._scratch, self._scratch_rows(block)]
            case Finish(offset=constant) | Scale(multiplier=constant):
                fields[7] = constant
        return fields

    def _block(self, block: Block) -> list[int]:
        maps, taps = block.weights.shape
        self.weights.append(pack(block.weights))
        weights = self._weights
        self._weights += block.weights.size
        gather, rows = self._index(block.gather), self._index(block.rows)
        return [maps, taps, len(block.gather), weights, gather, rows]

    def _scratch_rows(self, block: Block) -> int:
        maps = len(block.weights)
        self.scratch_rows = max(self.scratch_rows, maps)
        return self._index(np.arange(maps))

    def _index(self, values: npt.NDArray[np.int64]) -> int:
        """Append row offsets in bytes; returns where they begin."""
        self.indices.append(values.ravel() * ROW_BYTES)
        self._indices += values.size
        return self._indices - values.size


def pack(weights: npt.NDArray[np.int64]) -> Array:
    """(maps, taps) → tile after tile of at most six maps, each (taps, maps of the tile)."""
    tiles = np.array_split(weights, -(-len(weights) // MAX_MAPS))
    return np.concatenate([tile.T.ravel() for tile in tiles]).astype(np.float64)


def _placed(steps: Sequence[Step]) -> tuple[dict[int, int], int]:
    """Offset of every register, reused after its last step; and where free space begins."""
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        for register in _registers(step):
            last[register.index] = number
    offsets: dict[int, int] = {}
    live: dict[int, tuple[int, int]] = {}
    top = 0
    for number, step in enumerate(steps):
        for register in _registers(step):
            if register.index not in offsets:
                size = register.size * LANES
                start = _gap(sorted(live.values()), size)
                offsets[register.index], live[register.index] = start, (start, start + size)
                top = max(top, start + size)
        live = {index: place for index, place in live.items() if last[index] > number}
    return offsets, top


def _gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    start = 0
    for low, high in taken:
        if low - start >= size:
            break
        start = max(start, high)
    return start


def _registers(step: Step) -> Iterator[Register]:
    for name in ("source", "target"):
        register = getattr(step, name, None)
        if register is not None:
            yield register
