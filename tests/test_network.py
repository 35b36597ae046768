"""`he_inference.network`: shapes, refusals, the reference, and files that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import save_file

from he_inference import network as module
from he_inference import tensor_file
from he_inference.errors import HEError, InputError, ModelError, ModelFileError
from he_inference.network import (
    Network,
    check_batch,
    load_network,
)
from he_inference.nodes import (
    Activation,
    Add,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Node,
    Pad2d,
    ScaleShift,
)
from tests.conftest import Case, cases

EYE = np.eye(2)
ZERO = np.zeros(2)
IMAGE = (1, 4, 4)


def chain(*nodes: Node, shape: tuple[int, ...] = (2,)) -> Network:
    return Network([Input(()), *nodes], shape, (0.0, 1.0))


def test_every_node_by_hand() -> None:
    """Values that can be checked on paper: an image of 0 … 15."""
    image = np.arange(16.0).reshape(1, 1, 4, 4)
    nodes = [
        Input(()),
        Conv2d((0,), np.array([[[[1.0, 0.0], [0.0, -1.0]]]]), np.array([2.0]), (2, 1), (0, 1)),
        AvgPool2d((0,), (2, 2), (2, 2), (0, 0)),
        Pad2d((2,), (1, -1, 0, 2)),
        ScaleShift((3,), np.array([2.0]), np.array([1.0])),
        Activation((4,), np.array([[1.0, 0.0, 1.0]])),
        Add((5, 5)),
        Flatten((6,)),
        Linear((7,), np.ones((1, 8)), np.array([-3.0])),
    ]
    network = Network(nodes, IMAGE, (0.0, 15.0))
    values = network.trace(image)
    # Rows 0-1 and 2-3; columns −1 … 4 with zeros outside: w[0,0]·x[y,x] − x[y+1,x+1] + 2.
    assert values[1][0, 0].tolist() == [[-2, -3, -3, -3, 5], [-10, -3, -3, -3, 13]]
    assert values[2][0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert values[3][0, 0].tolist() == [[0, 2.5], [0, 10.5], [0, 0], [0, 0]]
    assert values[4][0, 0].tolist() == [[1, 6], [1, 22], [1, 1], [1, 1]]
    squares = np.array([[2, 37], [2, 485], [2, 2], [2, 2]])
    assert np.array_equal(values[6][0, 0], 2 * squares)
    assert network.evaluate(image).tolist() == [[2 * squares.sum() - 3]]
    assert network.shapes == tuple(value.shape[1:] for value in values)
    assert network.outputs == 1


@given(cases())
@settings(max_examples=30)
def test_declared_shapes_are_those_of_the_values(case: Case) -> None:
    network = case.network
    assert network.shapes == tuple(value.shape[1:] for value in network.trace(case.x))


@given(case=cases())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_saved_network_is_the_same_network(case: Case, tmp_path: Path) -> None:
    network = case.network
    network.save(tmp_path / "n.safetensors")
    loaded = load_network(tmp_path / "n.safetensors")
    assert loaded.digest == network.digest
    assert np.array_equal(loaded.evaluate(case.x), network.evaluate(case.x))
    assert loaded.input_range == network.input_range


def test_the_digest_names_architecture_and_weights() -> None:
    digests = {
        chain(Linear((0,), EYE, ZERO)).digest,
        chain(Linear((0,), 2 * EYE, ZERO)).digest,
        chain(Linear((0,), EYE, ZERO + 1)).digest,
        chain(ScaleShift((0,), np.ones(2), ZERO)).digest,
        Network([Input(()), Linear((0,), EYE, ZERO)], (2,), (0.0, 2.0)).digest,
    }
    assert len(digests) == 5


FAULTS: dict[str, tuple[list[Node], tuple[int, ...], tuple[float, float], str]] = {
    "no input": ([Linear((0,), EYE, ZERO)], (2,), (0, 1), "begins with its Input"),
    "empty": ([], (2,), (0, 1), "begins with its Input"),
    "rank 2": ([Input(())], (2, 2), (0, 1), r"\(features,\) or \(channels"),
    "no features": ([Input(())], (0,), (0, 1), r"\(features,\) or \(channels"),
    "range": ([Input(())], (2,), (1, 1), "low < high"),
    "range nan": ([Input(())], (2,), (0, float("nan")), "two finite numbers"),
    "forward": ([Input(()), Linear((1,), EYE, ZERO)], (2,), (0, 1), r"node 1 \(Linear\) reads"),
    "arity": ([Input(()), Add((0,))], (2,), (0, 1), "expected 2 earlier"),
    "nan": ([Input(()), Linear((0,), EYE * np.nan, ZERO)], (2,), (0, 1), "weight holds NaN"),
    "clash": ([Input(()), Linear((0,), np.eye(3), np.zeros(3))], (2,), (0, 1), "receives"),
    "bias": ([Input(()), Linear((0,), EYE, np.zeros(3))], (2,), (0, 1), r"bias \(3,\)"),
    "image end": ([Input(())], IMAGE, (0, 1), "end it in a flat vector"),
    "flat conv": (
        [Input(()), Conv2d((0,), np.ones((1, 1, 1, 1)), np.ones(1), (1, 1), (0, 0))],
        (2,), (0, 1), "channels, height, width",
    ),
    "kernel over": ([Input(()), AvgPool2d((0,), (5, 5), (1, 1), (0, 0))], IMAGE, (0, 1), "over"),
    "stride 0": ([Input(()), AvgPool2d((0,), (1, 1), (0, 1), (0, 0))], IMAGE, (0, 1), "stride"),
    "cropped": ([Input(()), Pad2d((0,), (-2, -2, 0, 0))], IMAGE, (0, 1), "leaves nothing"),
    "degree 0": ([Input(()), Activation((0,), np.ones((1, 1)))], (2,), (0, 1), "degree 0"),
    "degree 9": ([Input(()), Activation((0,), np.ones((1, 10)))], (2,), (0, 1), "degree 9"),
    "rows": ([Input(()), Activation((0,), np.ones((3, 3)))], (2,), (0, 1), "3 rows for 2"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_contradictions_are_refused(fault: str) -> None:
    nodes, shape, input_range, message = FAULTS[fault]
    with pytest.raises(ModelError, match=message):
        Network(nodes, shape, input_range)


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 3)
    step = ScaleShift((0,), np.ones(2), ZERO)
    chain(step, step)
    with pytest.raises(ModelError, match="4 nodes: at most 3"):
        chain(step, step, step)


# ---------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2), r"shape \(batch, 2\), found \(2,\)"),
        (np.zeros((1, 3)), r"found \(1, 3\)"),
        (np.zeros((0, 2)), r"found \(0, 2\)"),
        (np.zeros((1, 1, 2)), r"found \(1, 1, 2\)"),
        (3.0, r"found \(\)"),
        (np.zeros((1, 2), complex), "dtype complex128"),
        (np.zeros((1, 2), object), "dtype object"),
        ([["a", "b"]], "dtype <U1"),
        (np.zeros((1, 2), "M8[s]"), "dtype datetime64"),
        (np.zeros((1, 2), "m8[s]"), "dtype timedelta64"),
        ([[0, 10**30]], "dtype object"),
        ([[0, 0], [np.nan, 0]], "item 1 of the batch holds NaN"),
        ([[np.inf, 0]], "item 0"),
        ([[1, 2], [3]], "(?s).*"),
    ],
)
def test_wrong_arrays_are_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_batch(value, (2,))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint64, bool])
def test_real_numbers_of_any_width_are_taken(dtype: type) -> None:
    found = check_batch(np.ones((3, 2), dtype), (2,))
    assert found.dtype == np.float64 and np.array_equal(found, np.ones((3, 2)))


def test_a_batch_is_a_copy() -> None:
    given_array = np.ones((1, 2))
    check_batch(given_array, (2,))[0, 0] = 5
    assert given_array.sum() == 2


# ---------------------------------------------------------------------------- hostile files

ARCHITECTURE = {
    "input_shape": [1, 4, 4],
    "input_range": [0, 1],
    "nodes": [{"type": "Input", "sources": []}, {"type": "Flatten", "sources": [0]}],
}
INPUT = ARCHITECTURE["nodes"][0]


def pool(**changes: Any) -> dict[str, Any]:
    entry = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], **changes}
    return {"type": "AvgPool2d", "sources": [0], **entry}


def written(
    path: Path, architecture: Any, tensors: dict[str, Any] | None = None, **metadata: str
) -> Path:
    text = architecture if isinstance(architecture, str) else json.dumps(architecture)
    head = {"format": module.FORMAT, "version": "1", "architecture": text, **metadata}
    save_file(tensors or {"unused": np.zeros(1)}, str(path), metadata=head)
    return path


def test_the_file_that_the_hostile_ones_differ_from(tmp_path: Path) -> None:
    assert load_network(written(tmp_path / "n", ARCHITECTURE)).outputs == 16


HOSTILE_ARCHITECTURES: dict[str, Any] = {
    "not JSON": "{",
    "deep": "[" * 100_000,
    "a list": [],
    "null": None,
    "no nodes": {**ARCHITECTURE, "nodes": []},
    "nodes a number": {**ARCHITECTURE, "nodes": 3},
    "node a number": {**ARCHITECTURE, "nodes": [3]},
    "unknown type": {**ARCHITECTURE, "nodes": [{"type": "System", "sources": []}]},
    "base type": {**ARCHITECTURE, "nodes": [INPUT, {"type": "Node", "sources": [0]}]},
    "unhashable type": {**ARCHITECTURE, "nodes": [{"type": [], "sources": []}]},
    "later source": {**ARCHITECTURE, "nodes": [INPUT, {"type": "Flatten", "sources": [1]}]},
    "negative source": {**ARCHITECTURE, "nodes": [INPUT, {"type": "Flatten", "sources": [-1]}]},
    "infinite shape": {**ARCHITECTURE, "input_shape": [float("inf")]},
    "text shape": {**ARCHITECTURE, "input_shape": "a"},
    "short range": {**ARCHITECTURE, "input_range": [0]},
    "range of text": {**ARCHITECTURE, "input_range": ["a", "b"]},
    "missing weight": {**ARCHITECTURE, "nodes": [INPUT, {"type": "Linear", "sources": [0]}]},
    "weight in JSON": {
        **ARCHITECTURE,
        "nodes": [INPUT, {"type": "Linear", "sources": [0], "weight": [1], "bias": [1]}],
    },
    "no kernel": {**ARCHITECTURE, "nodes": [INPUT, pool(kernel=[])]},
    "kernel of one": {**ARCHITECTURE, "nodes": [INPUT, pool(kernel=[1])]},
    "infinite kernel": {**ARCHITECTURE, "nodes": [INPUT, pool(kernel=[float("inf"), 1])]},
    "stride of zero": {**ARCHITECTURE, "nodes": [INPUT, pool(stride=[0, 0])]},
    "vast shape": {**ARCHITECTURE, "input_shape": [10**30]},
    "vast padding": {
        **ARCHITECTURE,
        "nodes": [
            INPUT,
            {"type": "Pad2d", "sources": [0], "amounts": [10**9] * 4},
            {"type": "Flatten", "sources": [1]},
        ],
    },
    "negative padding": {**ARCHITECTURE, "nodes": [INPUT, pool(padding=[-1, 0])]},
    "pad of two": {
        **ARCHITECTURE,
        "nodes": [INPUT, {"type": "Pad2d", "sources": [0], "amounts": [1, 1]}],
    },
}


@pytest.mark.parametrize("name", HOSTILE_ARCHITECTURES)
def test_hostile_architectures(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError):
        load_network(written(tmp_path / "n", HOSTILE_ARCHITECTURES[name]))


def test_numbers_of_a_layer_may_not_come_as_tensors(tmp_path: Path) -> None:
    """A stride of 2.0 would load, and fail only when a query arrives."""
    entry = pool()
    del entry["stride"]
    nodes = [INPUT, entry, {"type": "Flatten", "sources": [1]}]
    path = written(tmp_path / "n", {**ARCHITECTURE, "nodes": nodes}, {"1.stride": np.ones(2) * 2})
    with pytest.raises(ModelFileError):
        load_network(path)


@pytest.mark.parametrize("metadata", [{"format": "other"}, {"version": "2"}])
def test_other_formats_and_versions(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(ModelFileError, match="|".join(metadata.values())):
        load_network(written(tmp_path / "n", ARCHITECTURE, **metadata))


def test_files_without_metadata(tmp_path: Path) -> None:
    save_file({"w": np.zeros(1)}, str(tmp_path / "n"))
    with pytest.raises(ModelFileError):
        load_network(tmp_path / "n")


DTYPES = ["F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "BOOL", "I64", "U8", "C64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_element_types(tmp_path: Path, dtype: str) -> None:
    bits = {"F4": 4, "BOOL": 8, "C64": 64}.get(dtype) or next(
        b for b in (16, 64, 8) if str(b) in dtype
    )
    size = 2 * bits // 8
    head = {
        "__metadata__": {
            "format": module.FORMAT,
            "version": "1",
            "architecture": json.dumps(ARCHITECTURE),
        },
        "w": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]},
    }
    text = json.dumps(head).encode()
    path = tmp_path / "n"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    with pytest.raises(ModelFileError):
        load_network(path)


def test_oversized_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "n", ARCHITECTURE)
    monkeypatch.setattr(tensor_file, "MAX_FILE_BYTES", path.stat().st_size)
    load_network(path)
    monkeypatch.setattr(tensor_file, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(ModelFileError, match="at most"):
        load_network(path)


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_network(tmp_path / name)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_bytes_give_one_kind_of_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "n").write_bytes(data)
    with pytest.raises(ModelFileError):
        load_network(tmp_path / "n")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_damage_gives_one_kind_of_error_or_a_sound_network(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "n"
    chain(Linear((0,), EYE, ZERO), Activation((1,), np.ones((1, 3)))).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        network = load_network(path)
    except HEError as error:
        assert type(error) is ModelFileError
    else:
        network.trace(np.zeros((1, *network.input_shape)))
