"""A network on any arithmetic: forward, and backward from the gradient of the logits.

Between layers go tensors, or products that were not settled yet: pooling, moving and adding up need
no rounding, so it waits until a layer must multiply or compare, and what crosses is as little as
possible. Gradients of weights are left as products, too: the update settles all of them at once. No
gradient is taken of what nobody needs: the first weighted layer gets none for its input.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mpc_training.arithmetic import Arithmetic
from mpc_training.fixed_point import ACTIVATION_BITS, GRADIENT_BITS
from mpc_training.network import AvgPool2d, Conv2d, Layer, Linear, Network, Relu, Square
from mpc_training.tensor import Kind, Part, Product, Tensor

Value = Tensor | Product
Backward = Callable[[Value], Value]
_SLACK = 4
"""Fraction bits that pooling may add before a tensor is settled anew."""
_POOL_FACTOR_BITS = 16


@dataclass
class Pass:
    """One forward pass: the logits, not yet settled, and what the way back needs."""

    answer: Value
    steps: list["_Step"] = field(default_factory=list)


@dataclass
class _Step:
    """back: from the gradient of a layer's answer to that of its input. gradients: of its
    weights."""

    back: Backward
    gradients: Callable[[Value], list[Product]] | None = None


def forward(arithmetic: Arithmetic, network: Network, weights: Tensor, x: Tensor) -> Pass:
    """x: (batch, *input_shape)."""
    done = Pass(x)
    places = network.slices()
    for layer, pool in _with_pools(network.layers):
        if isinstance(layer, Linear | Conv2d):
            matrix, bias, shape = next(places)
            w, b = weights[matrix].reshape(*shape), weights[bias]
            done.answer, step = _weighted(arithmetic, layer, pool, w, b, done.answer)
        else:
            done.answer, step = _unweighted(arithmetic, layer, done.answer)
        done.steps.append(step)
    return done


def _with_pools(layers: Sequence[Layer]) -> Iterator[tuple[Layer, int]]:
    """Layers, and for a convolution before an AvgPool2d the side of its windows, else 1.

    The mean of neighbouring answers of a convolution is its answer to the mean of neighbouring
    windows, so both are one product with a quarter of the rows. (Where the mean is exact: for other
    sides than powers of two its rounded factor would take the bits that gradients need.)
    """
    merged = False
    for layer, after in zip(layers, (*layers[1:], None), strict=True):
        if merged:
            merged = False
        elif isinstance(layer, Conv2d) and isinstance(after, AvgPool2d) and _halves(after.kernel):
            merged = True
            yield layer, after.kernel
        else:
            yield layer, 1


def settled(arithmetic: Arithmetic, x: Value, bits: int, slack: int = 0) -> Tensor:
    """x with `bits` fraction bits; a tensor that has up to `slack` more keeps them."""
    if isinstance(x, Product):
        return arithmetic.settle(x, bits)
    if x.bits > bits + slack:
        return arithmetic.settle(arithmetic.as_product(x), bits)
    return x


def backward(arithmetic: Arithmetic, done: Pass, gradient: Tensor) -> list[Product]:
    """From the gradient of the logits: those of matrix and bias of each weighted layer, in order.

    Each is flat, summed over the batch, and has fraction bits of its own.
    """
    first = next(k for k, step in enumerate(done.steps) if step.gradients)
    found: list[list[Product]] = []
    value: Value = gradient
    for k in range(len(done.steps) - 1, first - 1, -1):
        step = done.steps[k]
        if step.gradients:
            value = settled(arithmetic, value, GRADIENT_BITS, _SLACK)
            found.append(step.gradients(value))
        if k > first:
            value = step.back(value)
    return [product for pair in reversed(found) for product in pair]


# ---------------------------------------------------------------------------- layers with weights


def _weighted(
    arithmetic: Arithmetic,
    layer: Linear | Conv2d,
    pool: int,
    w: Tensor,
    b: Tensor,
    value: Value,
) -> tuple[Product, _Step]:
    x = settled(arithmetic, value, ACTIVATION_BITS, _SLACK)
    if isinstance(layer, Linear):
        rows = x
    else:
        rows = _mean(arithmetic, x.map(partial(_windows, layer, pool)), pool)
    answer = arithmetic.matmul(rows, w)
    answer = arithmetic.plus(answer, arithmetic.lift(b, answer.bits))

    def flat(gradient: Value) -> Tensor:
        whole = settled(arithmetic, gradient, GRADIENT_BITS, _SLACK)
        return whole if isinstance(layer, Linear) else whole.map(_pixels)

    def back(gradient: Value) -> Product:
        product = arithmetic.matmul(flat(gradient), w.T)
        if isinstance(layer, Linear):
            return product
        return _mean(arithmetic, product.map(partial(_scattered, layer, pool, x.shape)), pool)

    def gradients(gradient: Value) -> list[Product]:
        delta = flat(gradient)
        matrix = arithmetic.matmul(rows.T, delta)
        return [matrix.reshape(-1), arithmetic.as_product(delta.sum(0))]

    if isinstance(layer, Conv2d):
        channels, height, width = layer.answer(x.shape[1:])
        shape = (x.shape[0], channels, height // pool, width // pool)
        answer = answer.map(partial(_image, shape))
    return answer, _Step(back, gradients)


def _halves(side: int) -> bool:
    """Whether means over windows of this side only move the point."""
    return side & (side - 1) == 0


def _mean(arithmetic: Arithmetic, sums: Kind, side: int) -> Kind:
    """Sums over windows of side² values → their means."""
    if _halves(side):
        return arithmetic.shrink(sums, 2 * side.bit_length() - 2)
    return arithmetic.times(sums, 1 / (side * side), _POOL_FACTOR_BITS)


def _windows(layer: Conv2d, pool: int, image: Part) -> Part:
    """(batch, channels, height, width) → (batch · rows · columns, channels · kernel²).

    With a pool, each row is the sum of the windows that are pooled, made by adding up the image's
    pixels first.
    """
    if layer.padding:
        side = (layer.padding, layer.padding)
        image = np.pad(image, ((0, 0), (0, 0), side, side))
    height, width = (side - layer.stride * (pool - 1) for side in image.shape[2:])
    steps = range(0, layer.stride * pool, layer.stride)
    views = [image[:, :, i : i + height, j : j + width] for i in steps for j in steps]
    total = views[0] if pool == 1 else sum(views[1:], views[0])
    view = np.lib.stride_tricks.sliding_window_view(total, (layer.kernel,) * 2, axis=(2, 3))
    step = layer.stride * pool
    rows, columns = ((side - layer.kernel) // layer.stride + 1 for side in image.shape[2:])
    view = view[:, :, ::step, ::step][:, :, : rows // pool, : columns // pool]
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(-1, layer.inputs * layer.kernel**2)


def _scattered(layer: Conv2d, pool: int, shape: tuple[int, ...], windows: Part) -> Part:
    """The adjoint of `_windows`, onto images of `shape`."""
    batch, channels, height, width = shape
    _, rows, columns = layer.answer((channels, height, width))
    rows, columns = rows // pool, columns // pool
    pad, step = layer.padding, layer.stride * pool
    more = layer.stride * (pool - 1)
    whole = (batch, channels, height + 2 * pad, width + 2 * pad)
    total = np.zeros((*whole[:2], whole[2] - more, whole[3] - more), windows.dtype)
    cells = windows.reshape(batch, rows, columns, channels, layer.kernel, layer.kernel)
    for i in range(layer.kernel):
        for j in range(layer.kernel):
            down = slice(i, i + step * rows, step)
            right = slice(j, j + step * columns, step)
            total[:, :, down, right] += cells[..., i, j].transpose(0, 3, 1, 2)
    image = total if pool == 1 else np.zeros(whole, windows.dtype)
    for i in range(0, layer.stride * pool, layer.stride) if pool > 1 else ():
        for j in range(0, layer.stride * pool, layer.stride):
            image[:, :, i : i + total.shape[2], j : j + total.shape[3]] += total
    return image[:, :, pad : height + pad, pad : width + pad]


def _image(shape: tuple[int, ...], rows: Part) -> Part:
    """(batch · rows · columns, channels) → (batch, channels, rows, columns)."""
    batch, channels, height, width = shape
    return rows.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


def _pixels(image: Part) -> Part:
    """The reverse of `_image`."""
    return image.transpose(0, 2, 3, 1).reshape(-1, image.shape[1])


# ---------------------------------------------------------------------------- layers without


def _unweighted(arithmetic: Arithmetic, layer: Layer, x: Value) -> tuple[Value, _Step]:
    match layer:
        case Relu():
            answer, choice = arithmetic.relu(x, ACTIVATION_BITS)
            return answer, _Step(
                lambda g: arithmetic.choose(choice, settled(arithmetic, g, GRADIENT_BITS, _SLACK))
            )
        case Square():
            whole = settled(arithmetic, x, ACTIVATION_BITS)
            twice = arithmetic.times(whole, 2, 0)
            return arithmetic.product(whole, whole), _Step(
                lambda g: arithmetic.product(twice, settled(arithmetic, g, GRADIENT_BITS, _SLACK))
            )
        case AvgPool2d():
            return _pooled(arithmetic, layer, x)
        case _:
            shape = x.shape
            return x.reshape(shape[0], -1), _Step(lambda g: g.reshape(*shape))


def _pooled(arithmetic: Arithmetic, layer: AvgPool2d, x: Value) -> tuple[Value, _Step]:
    """Windows side by side."""
    k = layer.kernel
    batch, channels, height, width = x.shape
    cells = (batch, channels, height // k, k, width // k, k)

    def added(part: Part) -> Part:
        total: Part = part.reshape(cells).sum(axis=(3, 5))
        return total

    def spread(part: Part) -> Part:
        whole = np.broadcast_to(part[:, :, :, None, :, None], cells)
        return whole.reshape(batch, channels, height, width)

    def mean(sums: Value) -> Value:
        if isinstance(sums, Product) and not _halves(k):
            sums = arithmetic.settle(sums, ACTIVATION_BITS)
        return _mean(arithmetic, sums, k)

    return mean(x.map(added)), _Step(lambda g: mean(g).map(spread))
