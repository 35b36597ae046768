"""torch module → `Network`: one visitor per layer, every refusal collected before any is raised.

`nn.Sequential` and whatever `torch.fx` can trace. Batch normalisation becomes a scale and a shift
per channel, dropout and identity vanish, everything else keeps its place; the compiler merges
neighbouring affine nodes later.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import fx, nn

from he_inference.errors import ModelError, UnsupportedModel
from he_inference.network import Network
from he_inference.nn import Polynomial, Square
from he_inference.nodes import (
    Activation,
    Add,
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Node,
    Pad2d,
    ScaleShift,
)

_POLYNOMIAL = (
    "use he_inference.nn.Square() or he_inference.nn.Polynomial.quadratic(channels) after a "
    "BatchNorm instead, and train with it"
)
_SUPPORTED = (
    "not supported; supported are Conv2d, Linear, BatchNorm1d/2d, AvgPool2d, ZeroPad2d, Flatten, "
    "Dropout, Identity, addition, and he_inference.nn.Square and Polynomial"
)
_AT_THE_END = "leave it out: the client applies it to the decrypted scores"
_OUTPUT_LAYERS = {"Sigmoid", "Tanh", "LogSoftmax", "Softmax", "sigmoid", "tanh", "softmax"}
_REMEDIES: dict[str, str] = {
    **dict.fromkeys(
        ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "GELU", "SiLU", "Mish", "Tanh",
         "Sigmoid", "Hardtanh", "Hardswish", "Hardsigmoid", "Softplus", "relu", "gelu", "silu",
         "tanh", "sigmoid", "leaky_relu", "hardtanh", "abs"),
        f"comparisons and transcendental functions have no encrypted form: {_POLYNOMIAL}",
    ),
    **dict.fromkeys(
        ("AdaptiveAvgPool2d", "adaptive_avg_pool2d"),
        "use nn.AvgPool2d(kernel) with the kernel written out: the feature map's size",
    ),
    **dict.fromkeys(
        ("cat", "concat", "concatenate"),
        "concatenation is not supported: add, or use one wider layer",
    ),
    **dict.fromkeys(
        ("MaxPool2d", "AdaptiveMaxPool2d", "max_pool2d", "max"),
        "a maximum has no encrypted form: use nn.AvgPool2d or a stride in the convolution",
    ),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "softmax", "log_softmax"),
        "leave it out: the client applies it to the decrypted scores, and labels do not change",
    ),
    **dict.fromkeys(
        ("LayerNorm", "GroupNorm", "InstanceNorm2d"),
        "it divides by a value of the query: use BatchNorm, whose divisor is fixed after training",
    ),
}  # fmt: skip


class _Refusal(Exception):
    """One layer that cannot be taken; collected, never seen by users."""


def from_torch(
    module: nn.Module,
    example_input: npt.ArrayLike | torch.Tensor,
    *,
    input_range: tuple[float, float] | None = None,
) -> Network:
    """Translate a trained module into polynomial form.

    module: an `nn.Sequential` or any module that `torch.fx` can trace. It is not changed; the
        translation is of its evaluation mode.
    example_input: a typical batch, shape (batch, features) or (batch, channels, height, width).
    input_range: (lowest, highest) value a query may hold. Default: (0, 1) where the example lies
        in it, otherwise twice the example's largest magnitude on both sides.

    Raises `UnsupportedModel` listing *all* layers that have no encrypted form, each with its name
    and what to use instead, and `ModelError` where the result does not compute what torch does.
    """
    example = torch.as_tensor(np.asarray(example_input), dtype=torch.float32)
    if example.ndim not in (2, 4) or not len(example):
        raise ModelError(
            f"example_input has shape {tuple(example.shape)}: expected (batch, features) or "
            "(batch, channels, height, width)"
        )
    module = copy.deepcopy(module).cpu().eval()
    graph = _trace(module)
    nodes = _Translator(module, tuple(example.shape[1:])).translate(graph)
    network = Network(nodes, tuple(example.shape[1:]), input_range or _default_range(example))
    _verify(module, network, example)
    return network


def _default_range(example: torch.Tensor) -> tuple[float, float]:
    low, high = float(example.min()), float(example.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    magnitude = 2 * max(abs(low), abs(high))
    return -magnitude, magnitude


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Polynomial | Square) or super().is_leaf_module(
            m, module_qualified_name
        )


def _trace(module: nn.Module) -> fx.Graph:
    root = module if not _is_single_layer(module) else nn.Sequential(module)
    try:
        return _Tracer().trace(root)
    except (fx.proxy.TraceError, TypeError, RuntimeError, NameError) as error:
        raise UnsupportedModel(
            [f"{type(module).__name__} cannot be traced: {error}. Write its forward without "
             "branches on data, or as nn.Sequential"]
        ) from None  # fmt: skip


def _is_single_layer(module: nn.Module) -> bool:
    if isinstance(module, Polynomial | Square):
        return True
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)


def _verify(module: nn.Module, network: Network, example: torch.Tensor) -> None:
    """Transform, then check: the translation must compute what torch computes."""
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(example.double()).numpy()
    found = network.evaluate(example.numpy())
    # Both sides are float64; the bound allows for sums of a few thousand terms in another order.
    tolerance = 1e-9 * (1 + np.abs(expected).max())
    if found.shape != expected.shape:
        raise ModelError(
            f"the module gives shape {expected.shape} and its translation {found.shape}: write its "
            "forward with layers of torch.nn"
        )
    if not np.abs(found - expected).max() <= tolerance:
        raise ModelError(
            f"the translated network disagrees with the module by "
            f"{np.abs(found - expected).max():.2e}: please report the layer types in use"
        )


class _Translator:
    """Walks the traced graph; `_known` maps fx nodes to indices of ours."""

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...]) -> None:
        self._modules = dict(module.named_modules())
        if _is_single_layer(module):
            self._modules = {"0": module}
        self._nodes: list[Node] = []
        self._known: dict[fx.Node, int] = {}
        self._shapes: list[tuple[int, ...]] = []
        self._input_shape = input_shape
        self._faults: list[str] = []

    def translate(self, graph: fx.Graph) -> list[Node]:
        for step in graph.nodes:
            try:
                self._visit(step)
            except _Refusal as refusal:
                self._faults.append(str(refusal))
                # Go on behind it as if it were not there, to find the other faults too.
                known = [self._known[s] for s in step.all_input_nodes if s in self._known]
                self._known[step] = known[0] if known else 0
        if self._faults:
            raise UnsupportedModel(self._faults)
        return self._nodes

    def _visit(self, step: fx.Node) -> None:
        match step.op:
            case "placeholder":
                if self._nodes:
                    raise _Refusal(f"input {step.name}: a query carries one array only")
                self._known[step] = self._append(Input(()))
            case "call_module":
                layer = self._modules[str(step.target)]
                self._known[step] = self._layer(step, layer, self._sources(step)[:1])
            case "call_function" | "call_method":
                self._known[step] = self._function(step)
            case "get_attr":
                raise _Refusal(
                    f"attribute {step.target}: free tensors in forward are not supported"
                )
            case "output":
                if not isinstance(step.args[0], fx.Node):
                    raise _Refusal("the model returns several values: return one tensor")
                self._end_at(self._known[step.args[0]])

    def _end_at(self, index: int) -> None:
        """The network's value is its last node's: drop dead ends that follow."""
        del self._nodes[index + 1 :]

    def _append(self, node: Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _sources(self, step: fx.Node) -> tuple[int, ...]:
        return tuple(self._known[s] for s in step.all_input_nodes)

    def _layer(self, step: fx.Node, layer: nn.Module, sources: tuple[int, ...]) -> int:
        name = str(step.target)
        for kind, visitor in _VISITORS.items():
            if isinstance(layer, kind):
                node = visitor(name, layer, sources)
                return sources[0] if node is None else self._append(node)
        kind_name = type(layer).__name__
        raise _Refusal(f"layer {name!r} ({kind_name}): {_remedy(kind_name, step)}")

    def _function(self, step: fx.Node) -> int:
        target, sources = step.target, self._sources(step)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if name in ("add", "iadd", "add_") and len(step.args) == 2 and not step.kwargs:
            left, right = (self._known[a] if isinstance(a, fx.Node) else -1 for a in step.args)
            if min(left, right) >= 0:
                return self._append(Add((left, right)))
        if name in ("flatten", "view", "reshape") and _is_flatten(name, step):
            return self._append(Flatten(sources[:1]))
        if name in ("size", "getattr") or (name == "getitem" and _is_size(step.args[0])):
            return sources[0]  # x.size(0), x.shape[0] inside a reshape
        if name == "square" or _is_square(name, step):
            return self._append(Activation(sources[:1], np.array([[0.0, 0.0, 1.0]])))
        if target is F.dropout or name == "contiguous":
            return sources[0]
        raise _Refusal(f"operation {name!r} at {step.name!r}: {_remedy(name, step)}")


def _remedy(name: str, step: fx.Node) -> str:
    """What to use instead; where a squashing function ends the network, nothing at all."""
    if name in _OUTPUT_LAYERS and all(user.op == "output" for user in step.users):
        return _AT_THE_END
    return _REMEDIES.get(name, _SUPPORTED)


def _is_size(value: Any) -> bool:
    """Whether a traced value is a shape, not data."""
    if not isinstance(value, fx.Node):
        return False
    return value.target == "size" or getattr(value.target, "__name__", "") == "getattr"


def _is_flatten(name: str, step: fx.Node) -> bool:
    """Whether a step keeps the batch axis and joins all others; `_verify` checks the numbers."""
    arguments = step.args[1:] or tuple(step.kwargs.values())
    if name == "flatten":
        return arguments in ((1,), (1, -1))
    sizes = arguments[0] if arguments and isinstance(arguments[0], tuple | list) else arguments
    return len(sizes) == 2


def _is_square(name: str, step: fx.Node) -> bool:
    if name == "pow":
        return tuple(step.args[1:]) == (2,)
    return name == "mul" and len(step.args) == 2 and step.args[0] is step.args[1]


def _array(tensor: torch.Tensor | None, length: int = 0) -> Array:
    if tensor is None:
        return np.zeros(length)
    return tensor.detach().double().numpy().copy()


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _conv2d(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    faults = []
    if layer.groups != 1:
        faults.append(f"groups={layer.groups}: only groups=1 is supported")
    if _pair(layer.dilation) != (1, 1):
        faults.append(f"dilation={layer.dilation}: only dilation=1 is supported")
    if layer.padding_mode != "zeros":
        faults.append(f"padding_mode={layer.padding_mode!r}: only 'zeros' is supported")
    padding = (0, 0) if layer.padding == "valid" else layer.padding
    if padding == "same":
        kernel = _pair(layer.kernel_size)
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            faults.append("padding='same' with an even kernel is lopsided: give numbers")
        padding = (kernel[0] // 2, kernel[1] // 2)
    if faults:
        raise _Refusal(f"layer {name!r} (Conv2d): {'; '.join(faults)}")
    bias = _array(layer.bias, layer.out_channels)
    return Conv2d(sources, _array(layer.weight), bias, _pair(layer.stride), _pair(padding))


def _linear(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    return Linear(sources, _array(layer.weight), _array(layer.bias, layer.out_features))


def _batch_norm(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    if layer.running_mean is None:
        raise _Refusal(
            f"layer {name!r} ({type(layer).__name__}): it keeps no running statistics, so it would "
            "divide by a value of the query: train with track_running_stats=True"
        )
    deviation = np.sqrt(_array(layer.running_var) + layer.eps)
    gain = _array(layer.weight) if layer.affine else np.ones_like(deviation)
    shift = _array(layer.bias, len(deviation))
    scale = gain / deviation
    return ScaleShift(sources, scale, shift - _array(layer.running_mean) * scale)


def _avg_pool2d(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    if (
        layer.ceil_mode
        or layer.divisor_override
        or (not layer.count_include_pad and _pair(layer.padding) != (0, 0))
    ):
        raise _Refusal(
            f"layer {name!r} (AvgPool2d): ceil_mode, divisor_override and count_include_pad=False "
            "are not supported"
        )
    return AvgPool2d(sources, _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding))


def _flatten(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    if layer.start_dim != 1 or layer.end_dim != -1:
        raise _Refusal(f"layer {name!r} (Flatten): only start_dim=1, end_dim=-1 are supported")
    return Flatten(sources)


def _zero_pad2d(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    left, right, top, bottom = layer.padding
    return Pad2d(sources, (int(left), int(right), int(top), int(bottom)))


def _square(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    return Activation(sources, np.array([[0.0, 0.0, 1.0]]))


def _polynomial(name: str, layer: Any, sources: tuple[int, ...]) -> Node:
    return Activation(sources, np.atleast_2d(_array(layer.coefficients)))


def _nothing(name: str, layer: Any, sources: tuple[int, ...]) -> None:
    return None


_VISITORS: dict[Any, Callable[[str, Any, tuple[int, ...]], Node | None]] = {
    nn.Conv2d: _conv2d,
    nn.Linear: _linear,
    (nn.BatchNorm1d, nn.BatchNorm2d): _batch_norm,
    nn.AvgPool2d: _avg_pool2d,
    nn.Flatten: _flatten,
    nn.ZeroPad2d: _zero_pad2d,
    Square: _square,
    Polynomial: _polynomial,
    (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity): _nothing,
}
