"""The kinds of node that a network is made of: additions and multiplications, nothing else.

Each knows how to apply itself to arrays, in float64; `output_shape` checks and infers shapes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Shape = tuple[int, ...]

MAX_DEGREE = 8
"""Largest degree of a polynomial activation."""


@dataclass(frozen=True, eq=False)
class Node:
    """One step. `sources` are indices of earlier nodes."""

    sources: tuple[int, ...]
    arity: ClassVar[int] = 1

    def apply(self, *values: Array) -> Array:
        """Map arrays of shape (batch, …) to one of shape (batch, …)."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Input(Node):
    """The image or feature vector that a query carries."""

    arity: ClassVar[int] = 0


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """y = W x + b with weight (outputs, inputs) and bias (outputs,)."""

    weight: Array
    bias: Array

    def apply(self, *values: Array) -> Array:
        return np.asarray(values[0] @ self.weight.T + self.bias)


@dataclass(frozen=True, eq=False)
class Conv2d(Node):
    """Cross-correlation: weight (maps, channels, kernel, kernel), stride and padding per axis."""

    weight: Array
    bias: Array
    stride: tuple[int, int]
    padding: tuple[int, int]

    def apply(self, *values: Array) -> Array:
        (py, px), (sy, sx) = self.padding, self.stride
        padded = np.pad(values[0], ((0, 0), (0, 0), (py, py), (px, px)))
        kernel = self.weight.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
        result = np.einsum(
            "bcyxij,ocij->boyx", windows[:, :, ::sy, ::sx], self.weight, optimize=True
        )
        return np.asarray(result + self.bias[:, None, None])


@dataclass(frozen=True, eq=False)
class AvgPool2d(Node):
    """Mean over windows, zeros of the padding counted in."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def apply(self, *values: Array) -> Array:
        (py, px), (sy, sx) = self.padding, self.stride
        padded = np.pad(values[0], ((0, 0), (0, 0), (py, py), (px, px)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, (2, 3))
        return np.asarray(windows[:, :, ::sy, ::sx].mean((-2, -1)))


@dataclass(frozen=True, eq=False)
class ScaleShift(Node):
    """y_c = scale_c x_c + shift_c per channel: what batch normalisation is once trained."""

    scale: Array
    shift: Array

    def apply(self, *values: Array) -> Array:
        return values[0] * per_channel(self.scale, values[0]) + per_channel(self.shift, values[0])


@dataclass(frozen=True, eq=False)
class Pad2d(Node):
    """Zeros around an image as (left, right, top, bottom); negative numbers crop."""

    amounts: tuple[int, int, int, int]

    def apply(self, *values: Array) -> Array:
        left, right, top, bottom = self.amounts
        grown = np.pad(
            values[0],
            ((0, 0), (0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))),
        )
        height, width = grown.shape[2:]
        rows = slice(max(-top, 0), height - max(-bottom, 0))
        columns = slice(max(-left, 0), width - max(-right, 0))
        return grown[:, :, rows, columns]


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(batch, channels, height, width) → (batch, features), channels slowest."""

    def apply(self, *values: Array) -> Array:
        return values[0].reshape(len(values[0]), -1)


@dataclass(frozen=True, eq=False)
class Add(Node):
    """The sum of two nodes of one shape: a residual connection."""

    arity: ClassVar[int] = 2

    def apply(self, *values: Array) -> Array:
        return values[0] + values[1]


@dataclass(frozen=True, eq=False)
class Activation(Node):
    """Σ_k c_k x^k per channel: coefficients (1 or channels, degree + 1), lowest degree first."""

    coefficients: Array

    def apply(self, *values: Array) -> Array:
        result = np.zeros_like(values[0])
        for column in self.coefficients.T[::-1]:
            result = result * values[0] + per_channel(column, values[0])
        return result


AFFINE = (Linear, Conv2d, AvgPool2d, ScaleShift, Pad2d, Flatten, Add)
"""Nodes that are affine in what they read: neighbours merge into one matrix."""


def per_channel(vector: Array, like: Array) -> Array:
    """Shape a (1 or channels,) vector so that it broadcasts over (batch, channels, …)."""
    return vector.reshape(1, -1, *(1,) * (like.ndim - 2))


def output_shape(node: Node, sources: list[Shape], input_shape: Shape) -> Shape:
    """Shape of a node's value, from declared weights alone; raises ValueError where they clash."""
    match node:
        case Input():
            return input_shape
        case Linear():
            _expect(node.weight.ndim == 2, f"weight {node.weight.shape} is not a matrix")
            outputs, inputs = node.weight.shape
            _expect(sources[0] == (inputs,), f"expects ({inputs},) and receives {sources[0]}")
            _expect(node.bias.shape == (outputs,), f"bias {node.bias.shape}, expected ({outputs},)")
            return (outputs,)
        case Conv2d():
            _expect(node.weight.ndim == 4, f"weight {node.weight.shape} is not of rank 4")
            maps, channels, *kernel = node.weight.shape
            _expect_image(sources[0], channels)
            _expect(node.bias.shape == (maps,), f"bias {node.bias.shape}, expected ({maps},)")
            return (maps, *_windows(sources[0], (kernel[0], kernel[1]), node.stride, node.padding))
        case AvgPool2d():
            _expect_image(sources[0])
            size = _windows(sources[0], node.kernel, node.stride, node.padding)
            return (sources[0][0], *size)
        case ScaleShift():
            channels = sources[0][0]
            _expect(
                node.scale.shape == node.shift.shape == (channels,),
                f"scale {node.scale.shape} and shift {node.shift.shape}, expected ({channels},)",
            )
            return sources[0]
        case Pad2d():
            _expect_image(sources[0])
            channels, height, width = sources[0]
            left, right, top, bottom = node.amounts
            shape = (channels, height + top + bottom, width + left + right)
            _expect(min(shape) >= 1, f"padding {node.amounts} leaves nothing of {sources[0]}")
            return shape
        case Flatten():
            return (int(np.prod(sources[0])),)
        case Add():
            _expect(sources[0] == sources[1], f"adds shapes {sources[0]} and {sources[1]}")
            return sources[0]
        case Activation():
            _expect(
                node.coefficients.ndim == 2, "coefficients must have shape (channels, degree+1)"
            )
            rows, columns = node.coefficients.shape
            _expect(rows in (1, sources[0][0]), f"{rows} rows for {sources[0][0]} channels")
            _expect(
                2 <= columns <= MAX_DEGREE + 1, f"degree {columns - 1}, expected 1 to {MAX_DEGREE}"
            )
            return sources[0]
    raise ValueError("unknown kind of node")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _expect_image(shape: Shape, channels: int | None = None) -> None:
    _expect(len(shape) == 3, f"expects (channels, height, width) and receives {shape}")
    if channels is not None:
        _expect(shape[0] == channels, f"expects {channels} channels and receives {shape[0]}")


def _windows(
    shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Shape:
    _expect(min(*kernel, *stride) >= 1 and min(padding) >= 0, f"kernel {kernel}, stride {stride}")
    padded = tuple(n + 2 * p for n, p in zip(shape[1:], padding, strict=True))
    _expect(padded[0] >= kernel[0] and padded[1] >= kernel[1], f"kernel {kernel} over {padded}")
    return tuple((n - k) // s + 1 for n, k, s in zip(padded, kernel, stride, strict=True))
