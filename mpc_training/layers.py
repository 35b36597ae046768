"""A network on any arithmetic: forward, and backward from the gradient of the logits.

Gradients of weights are left as products: the update settles all of them at once. No gradient is
taken of what nobody needs: the first weighted layer gets none for its input.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mpc_training.arithmetic import Arithmetic
from mpc_training.fixed_point import ACTIVATION_BITS, GRADIENT_BITS
from mpc_training.network import AvgPool2d, Conv2d, Layer, Linear, Network, Relu, Square
from mpc_training.tensor import Part, Product, Tensor

Backward = Callable[[Tensor], Tensor]
_MAX_POOLED_BITS = ACTIVATION_BITS + 4
_POOL_FACTOR_BITS = 16


@dataclass
class Pass:
    """One forward pass: the logits, and what the way back needs."""

    logits: Tensor
    steps: list["_Step"] = field(default_factory=list)


@dataclass
class _Step:
    """back: from the gradient of a layer's answer to that of its input. gradients: of its
    weights."""

    back: Backward
    gradients: Callable[[Tensor], list[Product]] | None = None


def forward(arithmetic: Arithmetic, network: Network, weights: Tensor, x: Tensor) -> Pass:
    """x: (batch, *input_shape). Logits have `ACTIVATION_BITS`."""
    done = Pass(x)
    places = network.slices()
    for layer in network.layers:
        if isinstance(layer, Linear | Conv2d):
            matrix, bias, shape = next(places)
            w, b = weights[matrix].reshape(*shape), weights[bias]
            done.logits, step = _weighted(arithmetic, layer, w, b, done.logits)
        else:
            done.logits, step = _unweighted(arithmetic, layer, done.logits)
        done.steps.append(step)
    if done.logits.bits != ACTIVATION_BITS:
        done.logits = arithmetic.settle(arithmetic.as_product(done.logits), ACTIVATION_BITS)
    return done


def backward(done: Pass, gradient: Tensor) -> list[Product]:
    """From the gradient of the logits: those of matrix and bias of each weighted layer, in order.

    Each is flat, summed over the batch, and has fraction bits of its own.
    """
    first = next(k for k, step in enumerate(done.steps) if step.gradients)
    found: list[list[Product]] = []
    for k in range(len(done.steps) - 1, first - 1, -1):
        step = done.steps[k]
        if step.gradients:
            found.append(step.gradients(gradient))
        if k > first:
            gradient = step.back(gradient)
    return [product for pair in reversed(found) for product in pair]


# ---------------------------------------------------------------------------- layers with weights


def _weighted(
    arithmetic: Arithmetic, layer: Linear | Conv2d, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, _Step]:
    rows = x if isinstance(layer, Linear) else x.map(partial(_windows, layer))
    product = arithmetic.matmul(rows, w)
    product = arithmetic.plus(product, arithmetic.lift(b, product.bits))
    answer = arithmetic.settle(product, ACTIVATION_BITS)

    def flat(gradient: Tensor) -> Tensor:
        return gradient if isinstance(layer, Linear) else gradient.map(_pixels)

    def back(gradient: Tensor) -> Tensor:
        settled = arithmetic.settle(arithmetic.matmul(flat(gradient), w.T), GRADIENT_BITS)
        if isinstance(layer, Linear):
            return settled
        return settled.map(partial(_scattered, layer, x.shape))

    def gradients(gradient: Tensor) -> list[Product]:
        delta = flat(gradient)
        matrix = arithmetic.matmul(rows.T, delta)
        return [matrix.reshape(-1), arithmetic.as_product(delta.sum(0))]

    if isinstance(layer, Conv2d):
        answer = answer.map(partial(_image, (x.shape[0], *layer.answer(x.shape[1:]))))
    return answer, _Step(back, gradients)


def _windows(layer: Conv2d, image: Part) -> Part:
    """(batch, channels, height, width) → (batch · rows · columns, channels · kernel²)."""
    if layer.padding:
        side = (layer.padding, layer.padding)
        image = np.pad(image, ((0, 0), (0, 0), side, side))
    view = np.lib.stride_tricks.sliding_window_view(image, (layer.kernel,) * 2, axis=(2, 3))
    view = view[:, :, :: layer.stride, :: layer.stride]
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(-1, layer.inputs * layer.kernel**2)


def _scattered(layer: Conv2d, shape: tuple[int, ...], windows: Part) -> Part:
    """The adjoint of `_windows`, onto images of `shape`."""
    batch, channels, height, width = shape
    _, rows, columns = layer.answer((channels, height, width))
    pad = layer.padding
    image = np.zeros((batch, channels, height + 2 * pad, width + 2 * pad), windows.dtype)
    cells = windows.reshape(batch, rows, columns, channels, layer.kernel, layer.kernel)
    for i in range(layer.kernel):
        for j in range(layer.kernel):
            down = slice(i, i + layer.stride * rows, layer.stride)
            right = slice(j, j + layer.stride * columns, layer.stride)
            image[:, :, down, right] += cells[..., i, j].transpose(0, 3, 1, 2)
    return image[:, :, pad : height + pad, pad : width + pad]


def _image(shape: tuple[int, ...], rows: Part) -> Part:
    """(batch · rows · columns, channels) → (batch, channels, rows, columns)."""
    batch, channels, height, width = shape
    return rows.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


def _pixels(image: Part) -> Part:
    """The reverse of `_image`."""
    return image.transpose(0, 2, 3, 1).reshape(-1, image.shape[1])


# ---------------------------------------------------------------------------- layers without


def _unweighted(arithmetic: Arithmetic, layer: Layer, x: Tensor) -> tuple[Tensor, _Step]:
    match layer:
        case Relu():
            answer, mask = arithmetic.relu(x)
            return answer, _Step(lambda g: arithmetic.settle(arithmetic.product(mask, g), g.bits))
        case Square():
            twice = arithmetic.times(x, 2, 0)
            return (
                arithmetic.multiply(x, x, ACTIVATION_BITS),
                _Step(lambda g: arithmetic.multiply(twice, g, GRADIENT_BITS)),
            )
        case AvgPool2d():
            return _pooled(arithmetic, layer, x)
        case _:
            shape = x.shape
            return x.reshape(shape[0], -1), _Step(lambda g: g.reshape(*shape))


def _pooled(arithmetic: Arithmetic, layer: AvgPool2d, x: Tensor) -> tuple[Tensor, _Step]:
    """Sums of windows; the division by a power of two only moves the point."""
    k = layer.kernel
    batch, channels, height, width = x.shape
    cells = (batch, channels, height // k, k, width // k, k)

    def spread(part: Part) -> Part:
        whole = np.broadcast_to(part[:, :, :, None, :, None], cells)
        return whole.reshape(batch, channels, height, width)

    def mean(sums: Tensor, most: int, bits: int) -> Tensor:
        doublings = int(math.log2(k * k))
        if 2**doublings == k * k:
            sums = arithmetic.shrink(sums, doublings)
        else:
            sums = arithmetic.times(sums, 1 / (k * k), _POOL_FACTOR_BITS)
        if sums.bits > most:
            sums = arithmetic.settle(arithmetic.as_product(sums), bits)
        return sums

    answer = mean(
        x.map(lambda part: part.reshape(cells).sum(axis=(3, 5))), _MAX_POOLED_BITS, ACTIVATION_BITS
    )
    return answer, _Step(lambda g: mean(g, GRADIENT_BITS + 4, GRADIENT_BITS).map(spread))
