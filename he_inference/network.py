"""A network in polynomial form.

A `Network` is a list of nodes in the order of evaluation. Node 0 is the input; every other node
names the earlier nodes it reads. `evaluate` in float64 is the reference that everything else is
compared with. The saved form is one safetensors file: weights as tensors, the architecture as
JSON in the metadata; reading it executes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from he_inference.errors import InputError, ModelError, ModelFileError
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
    Shape,
    output_shape,
)
from he_inference.tensor_file import MALFORMED, read_tensors, write_tensors

FORMAT = "sottovoce-network"
VERSION = 1
MAX_NODES = 10_000
MAX_ELEMENTS = 1 << 28
"""Of one node's value, for one query."""


class Network:
    """A checked list of nodes.

    nodes: node 0 is the `Input`; sources of every node are earlier ones.
    input_shape: shape of one query, without the batch axis.
    input_range: (lowest, highest) value that a query may hold. Clients refuse others, because
        the modulus is chosen for this range and an overflow would not be noticed.
    """

    def __init__(
        self, nodes: Sequence[Node], input_shape: Shape, input_range: tuple[float, float]
    ) -> None:
        self.nodes = tuple(nodes)
        self.input_shape = tuple(input_shape)
        self.input_range = (float(input_range[0]), float(input_range[1]))
        self._check_structure()
        self.shapes = self._infer_shapes()

    def evaluate(self, x: npt.ArrayLike) -> Array:
        """The reference: (batch, *input_shape) → (batch, outputs), in float64.

        Raises `InputError` for another shape or values that are not finite.
        """
        return self.trace(check_batch(x, self.input_shape))[-1]

    def trace(self, x: Array) -> list[Array]:
        """The value of every node for a checked batch."""
        values: list[Array] = []
        for node in self.nodes:
            values.append(node.apply(*(values[s] for s in node.sources)) if node.sources else x)
        return values

    @property
    def outputs(self) -> int:
        return self.shapes[-1][0]

    @property
    def digest(self) -> bytes:
        """32 bytes that name architecture and weights."""
        architecture, tensors = self._to_parts()
        state = sha256(json.dumps(architecture, sort_keys=True).encode())
        for name in sorted(tensors):
            state.update(np.ascontiguousarray(tensors[name]).tobytes())
        return state.digest()

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. Raises `ModelFileError`."""
        architecture, tensors = self._to_parts()
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "architecture": json.dumps(architecture),
        }
        write_tensors(path, tensors, metadata)

    def _to_parts(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        tensors: dict[str, npt.NDArray[Any]] = {}
        nodes = []
        for index, node in enumerate(self.nodes):
            entry: dict[str, Any] = {"type": type(node).__name__, "sources": list(node.sources)}
            for field in fields(node)[1:]:
                value = getattr(node, field.name)
                if isinstance(value, np.ndarray):
                    tensors[f"{index}.{field.name}"] = _narrowest(value)
                else:
                    entry[field.name] = list(value)
            nodes.append(entry)
        architecture = {
            "input_shape": list(self.input_shape),
            "input_range": list(self.input_range),
            "nodes": nodes,
        }
        return architecture, tensors

    def _check_structure(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0], Input):
            raise ModelError("a network begins with its Input node")
        if len(self.nodes) > MAX_NODES:
            raise ModelError(f"{len(self.nodes)} nodes: at most {MAX_NODES} are accepted")
        if not all(n >= 1 for n in self.input_shape) or len(self.input_shape) not in (1, 3):
            raise ModelError(
                f"input shape {self.input_shape}: expected (features,) or (channels, height, width)"
            )
        low, high = self.input_range
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ModelError(
                f"input range {self.input_range}: expected two finite numbers, low < high"
            )
        for index, node in enumerate(self.nodes):
            self._check_node(index, node)

    def _check_node(self, index: int, node: Node) -> None:
        name = f"node {index} ({type(node).__name__})"
        if len(node.sources) != node.arity or not all(0 <= s < index for s in node.sources):
            raise ModelError(f"{name} reads {node.sources}: expected {node.arity} earlier nodes")
        for field in fields(node)[1:]:
            value = getattr(node, field.name)
            if isinstance(value, np.ndarray):
                if not np.isfinite(value).all():
                    raise ModelError(f"{name}: {field.name} holds NaN or infinite values")
            elif len(value) != (4 if field.name == "amounts" else 2):
                raise ModelError(f"{name}: {field.name} is {value}")

    def _infer_shapes(self) -> tuple[Shape, ...]:
        shapes: list[Shape] = []
        for index, node in enumerate(self.nodes):
            name = f"node {index} ({type(node).__name__})"
            try:
                shapes.append(
                    output_shape(node, [shapes[s] for s in node.sources], self.input_shape)
                )
            except ValueError as error:
                raise ModelError(f"{name}: {error}") from None
            if prod(shapes[-1]) > MAX_ELEMENTS:
                raise ModelError(f"{name}: shape {shapes[-1]} has over {MAX_ELEMENTS} elements")
        if len(shapes[-1]) != 1:
            raise ModelError(f"the network ends in shape {shapes[-1]}: end it in a flat vector")
        return tuple(shapes)


def _narrowest(value: Array) -> npt.NDArray[np.float32] | Array:
    """float32 where nothing is lost by it: trained weights come that way."""
    narrow = value.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), value) else value


def check_batch(x: npt.ArrayLike, input_shape: Shape) -> Array:
    """A float64 batch of finite values and of shape (batch, *input_shape), or `InputError`."""
    try:
        array = np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"expected an array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected real numbers, found dtype {array.dtype}")
    if array.shape[1:] != input_shape or array.ndim != len(input_shape) + 1 or not len(array):
        expected = ", ".join(map(str, input_shape))
        raise InputError(f"expected an array of shape (batch, {expected}), found {array.shape}")
    with np.errstate(over="ignore"):
        checked = array.astype(np.float64)
    if not np.isfinite(checked).all():
        bad = int(np.flatnonzero(~np.isfinite(checked).reshape(len(checked), -1).all(1))[0])
        raise InputError(f"item {bad} of the batch holds NaN or infinite values")
    return checked


def check_range(batch: Array, input_range: tuple[float, float]) -> None:
    """Refuse with `InputError` values beyond what a program was compiled for."""
    low, high = input_range
    if batch.min() < low or batch.max() > high:
        raise InputError(
            f"values from {batch.min():.6g} to {batch.max():.6g}: this program was compiled "
            f"for {low:g} to {high:g}; scale the queries as in training, or have the network's "
            "owner make it again with from_torch(…, input_range=(lowest, highest))"
        )


_NODE_TYPES: Mapping[str, type[Node]] = {
    kind.__name__: kind
    for kind in (Input, Linear, Conv2d, AvgPool2d, ScaleShift, Pad2d, Flatten, Add, Activation)
}


def load_network(path: str | Path) -> Network:
    """Read a saved network. Raises `ModelFileError` for anything but a sound one."""
    metadata, tensors = read_tensors(path, FORMAT, VERSION)
    try:
        architecture = json.loads(metadata["architecture"])
        nodes = [_node(i, entry, tensors) for i, entry in enumerate(architecture["nodes"])]
        shape = tuple(int(n) for n in architecture["input_shape"])
        low, high = (float(v) for v in architecture["input_range"])
        return Network(nodes, shape, (low, high))
    except MALFORMED as error:
        raise ModelFileError(f"{path}: the architecture is malformed: {error!r:.120}") from None
    except ModelError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _node(index: int, entry: dict[str, Any], tensors: dict[str, Array]) -> Node:
    kind = _NODE_TYPES[entry["type"]]
    values: dict[str, Any] = {"sources": tuple(int(s) for s in entry["sources"])}
    for field in fields(kind)[1:]:
        if field.type is Array:
            values[field.name] = tensors[f"{index}.{field.name}"]
        else:
            values[field.name] = tuple(int(v) for v in entry[field.name])
    return kind(**values)
