"""nn.Sequential → Network, and weights → nn.Sequential."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from mpc_training.errors import UnsupportedNetwork
from mpc_training.fixed_point import Array
from mpc_training.network import (
    AvgPool2d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    Network,
    Relu,
    Square,
)

_ADVICE = {
    "MaxPool2d": "a maximum costs comparisons: use nn.AvgPool2d or a stride",
    "BatchNorm1d": "statistics of a batch are not computed on shares: leave it out",
    "BatchNorm2d": "statistics of a batch are not computed on shares: leave it out",
    "Softmax": "leave it out: training applies it to the logits",
    "LogSoftmax": "leave it out: training applies it to the logits",
    "Dropout": "leave it out",
}


class SquareModule(nn.Module):
    """x², as `he_inference` knows it by its name."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


def from_torch(module: nn.Module, input_shape: tuple[int, ...]) -> Network:
    """The layers of an nn.Sequential for inputs of this shape, without the batch; weights are not
    used.

    Raises `UnsupportedNetwork` listing every layer that cannot be trained on shares.
    """
    if not isinstance(module, nn.Sequential):
        raise UnsupportedNetwork([f"a {type(module).__name__}: expected an nn.Sequential"])
    layers: list[Layer] = []
    faults = []
    for name, child in module.named_children():
        try:
            layers.append(_layer(child))
        except ValueError as fault:
            faults.append(f"layer '{name}' ({type(child).__name__}): {fault}")
    if faults:
        raise UnsupportedNetwork(faults)
    return Network(tuple(layers), tuple(input_shape))


def _layer(child: nn.Module) -> Layer:
    """One layer; raises `ValueError` that says why it has no form on shares."""
    if isinstance(child, nn.Linear):
        _need(child.bias is not None, "expected a bias")
        return Linear(child.in_features, child.out_features)
    if isinstance(child, nn.Conv2d):
        return _convolution(child)
    if isinstance(child, nn.AvgPool2d):
        kernel = _one(child.kernel_size, "kernel_size")
        _need(_one(child.stride, "stride") == kernel, "expected a stride equal to the kernel_size")
        _need(child.padding == 0 and not child.ceil_mode, "expected no padding and no ceil_mode")
        return AvgPool2d(kernel)
    if isinstance(child, nn.ReLU):
        return Relu()
    if isinstance(child, nn.Flatten):
        _need(
            (child.start_dim, child.end_dim) == (1, -1),
            "expected nn.Flatten() of all but the batch",
        )
        return Flatten()
    if type(child).__name__ in ("Square", "SquareModule"):
        return Square()
    raise ValueError(
        _ADVICE.get(
            type(child).__name__,
            "expected Linear, Conv2d, AvgPool2d, ReLU, Flatten or he_inference.nn.Square",
        )
    )


def _convolution(child: nn.Conv2d) -> Conv2d:
    _need(child.bias is not None, "expected a bias")
    _need(child.groups == 1 and child.dilation == (1, 1), "expected groups 1 and dilation 1")
    _need(child.padding_mode == "zeros", "expected zero padding")
    _need(not isinstance(child.padding, str), "expected padding as a number")
    return Conv2d(
        child.in_channels,
        child.out_channels,
        _one(child.kernel_size, "kernel_size"),
        _one(child.stride, "stride"),
        _one(child.padding, "padding"),
    )


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _one(value: Any, name: str) -> int:
    """A side that is equal in both directions."""
    sides = {value} if isinstance(value, int) else set(value)
    _need(len(sides) == 1, f"{name} {value}: expected equal sides")
    return int(sides.pop())


def to_torch(
    network: Network, weights: Array, square: Callable[[], nn.Module] = SquareModule
) -> nn.Sequential:
    """An nn.Sequential in float32 with these weights (size,), in evaluation mode.

    square: makes the module that stands for x²; `he_inference.nn.Square` for serving it encrypted.
    """
    modules = nn.Sequential(*(_module(layer, square) for layer in network.layers))
    places = list(network.slices())
    weighted = [m for m in modules if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for module, (matrix, bias, shape) in zip(weighted, places, strict=True):
            table = np.ascontiguousarray(weights[matrix].reshape(shape).T)
            module.weight.copy_(torch.from_numpy(table).reshape(module.weight.shape))
            if module.bias is not None:
                module.bias.copy_(torch.from_numpy(np.ascontiguousarray(weights[bias])))
    return modules.eval()


def weights_of(module: nn.Sequential) -> Array:
    """The flat vector of weights of a module that `from_torch` takes: float64 (size,)."""
    pieces = []
    for child in module:
        if isinstance(child, nn.Linear | nn.Conv2d) and child.bias is not None:
            table = child.weight.detach().double().reshape(child.weight.shape[0], -1)
            pieces += [table.T.reshape(-1).numpy(), child.bias.detach().double().numpy()]
    return np.concatenate(pieces)


def _module(layer: Layer, square: Callable[[], nn.Module]) -> nn.Module:
    match layer:
        case Linear():
            return nn.Linear(layer.inputs, layer.outputs)
        case Conv2d():
            sizes = (layer.kernel, layer.stride, layer.padding)
            return nn.Conv2d(layer.inputs, layer.outputs, *sizes)
        case AvgPool2d():
            return nn.AvgPool2d(layer.kernel)
        case Relu():
            return nn.ReLU()
        case Square():
            return square()
        case Flatten():
            return nn.Flatten()
