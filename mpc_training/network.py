"""What is trained: a list of layers with their shapes, as plain data that all parties compare.

Weights are one flat vector, layer after layer, each layer's matrix (inputs, outputs) before its
bias (outputs). For a convolution the inputs of the matrix are (channel, row, column) of its window.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mpc_training.errors import UnsupportedNetwork
from mpc_training.fixed_point import Array

Shape = tuple[int, ...]
MAX_WEIGHTS = 2**26


@dataclass(frozen=True)
class Linear:
    """y = xW + b on vectors."""

    inputs: int
    outputs: int

    def answer(self, shape: Shape) -> Shape:
        return (self.outputs,)


@dataclass(frozen=True)
class Conv2d:
    """A convolution of images (channels, height, width) with square windows and zero padding."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def answer(self, shape: Shape) -> Shape:
        height, width = (
            (side + 2 * self.padding - self.kernel) // self.stride + 1 for side in shape[1:]
        )
        return (self.outputs, height, width)


@dataclass(frozen=True)
class AvgPool2d:
    """The mean of each square window, side by side."""

    kernel: int

    def answer(self, shape: Shape) -> Shape:
        return (shape[0], shape[1] // self.kernel, shape[2] // self.kernel)


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""

    def answer(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Square:
    """x², which needs no comparison."""

    def answer(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Flatten:
    """An image as a vector, channel by channel."""

    def answer(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


Layer = Linear | Conv2d | AvgPool2d | Relu | Square | Flatten


@dataclass(frozen=True)
class Network:
    """Layers for inputs of `input_shape`; the last answers one logit a class.

    Raises `UnsupportedNetwork` with every fault.
    """

    layers: tuple[Layer, ...]
    input_shape: Shape

    def __post_init__(self) -> None:
        faults, shape = [], self.input_shape
        for place, layer in enumerate(self.layers):
            fault = _fault(layer, shape)
            if fault:
                faults.append(f"layer {place} ({type(layer).__name__}): {fault}")
                break  # what follows has no shape
            shape = layer.answer(shape)
        if not faults and (len(shape) != 1 or shape[0] < 2):
            faults.append(f"the answer has shape {shape}: expected logits of 2 or more classes")
        if not faults and self.size > MAX_WEIGHTS:
            faults.append(f"{self.size} weights: expected up to {MAX_WEIGHTS}")
        if not self.weighted:
            faults.append("no layer has weights: nothing can be trained")
        if faults:
            raise UnsupportedNetwork(faults)

    @property
    def classes(self) -> int:
        """Logits."""
        shape = self.input_shape
        for layer in self.layers:
            shape = layer.answer(shape)
        return shape[0]

    @property
    def weighted(self) -> tuple[Linear | Conv2d, ...]:
        """Layers that have weights, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Linear | Conv2d))

    @property
    def size(self) -> int:
        """Weights and biases."""
        return sum(rows * columns + columns for rows, columns in map(matrix_shape, self.weighted))

    def slices(self) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
        """For each weighted layer: where its matrix is, where its bias is, the matrix's shape."""
        start = 0
        for layer in self.weighted:
            rows, columns = matrix_shape(layer)
            middle = start + rows * columns
            yield slice(start, middle), slice(middle, middle + columns), (rows, columns)
            start = middle + columns

    def describe(self) -> dict[str, Any]:
        """JSON values from which `read_network` makes an equal network."""
        layers = [{"kind": type(layer).__name__, **asdict(layer)} for layer in self.layers]
        return {"input_shape": list(self.input_shape), "layers": layers}

    @property
    def digest(self) -> str:
        """SHA-256 of the description, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()

    def first_weights(self, coins: np.random.Generator) -> Array:
        """He initialisation, uniform in ±√(6/inputs), biases 0: float64 (size,). Public."""
        weights = np.zeros(self.size)
        for matrix, _, (rows, columns) in self.slices():
            bound = math.sqrt(6 / rows)
            weights[matrix] = coins.uniform(-bound, bound, rows * columns)
        return weights


def matrix_shape(layer: Linear | Conv2d) -> tuple[int, int]:
    """(inputs, outputs) of a layer's matrix."""
    window = layer.kernel**2 if isinstance(layer, Conv2d) else 1
    return layer.inputs * window, layer.outputs


def read_network(description: Any) -> Network:
    """The reverse of `Network.describe`. Raises `UnsupportedNetwork` for anything else."""
    kinds = {kind.__name__: kind for kind in (Linear, Conv2d, AvgPool2d, Relu, Square, Flatten)}
    try:
        layers = [
            kinds[entry["kind"]](**{k: int(v) for k, v in entry.items() if k != "kind"})
            for entry in description["layers"]
        ]
        shape = tuple(int(side) for side in description["input_shape"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UnsupportedNetwork(["the description is damaged: save the network again"]) from None
    return Network(tuple(layers), shape)


def _fault(layer: Layer, shape: Sequence[int]) -> str:
    """What keeps a layer from taking inputs of this shape; empty if nothing does."""
    numbers = list(asdict(layer).items())
    if any(value < (0 if name == "padding" else 1) for name, value in numbers):
        return f"sizes {dict(numbers)}: expected positive ones"
    if isinstance(layer, Linear) and tuple(shape) != (layer.inputs,):
        return (
            f"its input has shape {tuple(shape)}, expected ({layer.inputs},); nn.Flatten() before?"
        )
    if isinstance(layer, Conv2d):
        if len(shape) != 3 or shape[0] != layer.inputs:
            return f"its input has shape {tuple(shape)}, expected ({layer.inputs}, height, width)"
        if min(shape[1:]) + 2 * layer.padding < layer.kernel:
            return f"its window of {layer.kernel} is larger than its input {tuple(shape)}"
    if isinstance(layer, AvgPool2d) and (
        len(shape) != 3 or any(s % layer.kernel for s in shape[1:])
    ):
        return f"its input has shape {tuple(shape)}, expected sides that {layer.kernel} divides"
    return ""
