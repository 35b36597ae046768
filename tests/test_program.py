"""`he_inference.program`: the checker finds planted faults; files that lie give one error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import save_file

from he_inference import checker as program_module
from he_inference import tensor_file
from he_inference.backend import clear
from he_inference.checker import check
from he_inference.checker import load_packed_program as load_program
from he_inference.errors import HEError, ModelFileError, ParameterError
from he_inference.program import FORMAT as PROGRAM_FORMAT
from he_inference.program import OPERATIONS, Instruction, Program
from he_inference.signature import MAX_BYTES as MAX_SIGNATURE_BYTES
from he_inference.signature import KeyPlan, Signature
from he_inference.signatures import load_signature
from tests.conftest import Party

Change = Callable[[Instruction], Instruction]


def first(program: Program, operation: str) -> int:
    return next(i for i, made in enumerate(program.instructions) if made.operation == operation)


def planted(program: Program, index: int, **changes: Any) -> Program:
    instructions = list(program.instructions)
    instructions[index] = replace(instructions[index], **changes)
    return replace(program, instructions=tuple(instructions))


# ---------------------------------------------------------------------------- planted faults


USED = [o for o in OPERATIONS if o != "drop"]
"""By the program that the faults are planted in; `drop` has a test of its own."""


@pytest.mark.parametrize("operation", USED)
@pytest.mark.parametrize("field", ["level", "size"])
@pytest.mark.parametrize("by", [-1, 1])
def test_wrong_levels_and_sizes(deep: Party, operation: str, field: str, by: int) -> None:
    index = first(deep.program, operation)
    value = getattr(deep.program.instructions[index], field) + by
    with pytest.raises(ModelFileError, match=f"instruction {index} "):
        check(planted(deep.program, index, **{field: value}))


@pytest.mark.parametrize("operation", [o for o in USED if o != "multiply_plain"])
@pytest.mark.parametrize("factor", [1 + 2**-32, 0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_wrong_scales(deep: Party, operation: str, factor: float) -> None:
    """Even a relative error of 2⁻³², which SEAL would not notice and answers would show."""
    index = first(deep.program, operation)
    scale = deep.program.instructions[index].scale * factor
    with pytest.raises(ModelFileError, match=f"instruction {index} .*scale"):
        check(planted(deep.program, index, scale=scale))


@pytest.mark.parametrize("change", [{"level": 2}, {"level": 0}, {"size": 3}, {"scale": 2.0**30}])
def test_wrong_drops(shallow: Party, change: dict[str, Any]) -> None:
    top = shallow.program.instructions[0]
    assert top.level == 2
    drop = replace(top, operation="drop", sources=(0,), level=1)
    signature = replace(shallow.program.signature, output_scale=top.scale)
    sound = replace(shallow.program, signature=signature, instructions=(top, drop))
    check(sound)
    with pytest.raises(ModelFileError, match=r"instruction 1 \(drop\)"):
        check(planted(sound, 1, **change))


@pytest.mark.parametrize("scale", [0.5, 2.0**600, float("nan"), -1.0])
def test_products_with_scales_out_of_bounds(deep: Party, scale: float) -> None:
    index = first(deep.program, "multiply_plain")
    with pytest.raises(ModelFileError, match=f"instruction {index} "):
        check(planted(deep.program, index, scale=scale))


@pytest.mark.parametrize("offset", [0, 1, 10**6])
def test_forward_references(deep: Party, offset: int) -> None:
    index = first(deep.program, "add")
    register = index + offset
    with pytest.raises(ModelFileError, match=f"instruction {index} reads registers"):
        check(planted(deep.program, index, sources=(0, register)))
    with pytest.raises(ModelFileError, match="reads registers"):
        check(planted(deep.program, index, sources=(0, -1 - offset)))


@pytest.mark.parametrize(
    ("operation", "sources"),
    [("add", (0,)), ("add", (0, 0, 0)), ("rotate", (0, 0)), ("multiply", ()), ("rescale", ())],
)
def test_wrong_numbers_of_operands(deep: Party, operation: str, sources: tuple[int, ...]) -> None:
    index = first(deep.program, operation)
    with pytest.raises(ModelFileError, match=rf"reads {len(sources)} registers"):
        check(planted(deep.program, index, sources=sources))


def test_an_input_reads_nothing(deep: Party) -> None:
    with pytest.raises(ModelFileError, match="reads 1 registers"):
        check(planted(deep.program, 1, operation="input"))


def test_missing_keys(deep: Party) -> None:
    """Absent, or at a level below the one where it is used."""
    program, plan = deep.program, deep.program.signature.keys

    def with_keys(keys: KeyPlan) -> Program:
        return replace(program, signature=replace(program.signature, keys=keys))

    check(with_keys(plan))
    for index, (step, level) in enumerate(plan.rotations):
        without = (*plan.rotations[:index], *plan.rotations[index + 1 :])
        with pytest.raises(ModelFileError, match=f"no key for step {step}"):
            check(with_keys(KeyPlan(plan.relinearisation, without)))
        lower = (*plan.rotations[:index], (step, level - 1), *plan.rotations[index + 1 :])
        with pytest.raises(ModelFileError, match=f"no key for step {step} at level {level}"):
            check(with_keys(KeyPlan(plan.relinearisation, lower)))
    with pytest.raises(ModelFileError, match="no relinearisation key"):
        check(with_keys(KeyPlan(plan.relinearisation - 1, plan.rotations)))


def test_rotations_by_nothing(deep: Party) -> None:
    with pytest.raises(ModelFileError, match="no key for step 0"):
        check(planted(deep.program, first(deep.program, "rotate"), step=0))


@pytest.mark.parametrize("vector", [-1, -2, 10**6])
def test_vectors_that_are_not_there(deep: Party, vector: int) -> None:
    for operation in ("multiply_plain", "add_plain"):
        with pytest.raises(ModelFileError, match=f"vector {vector} of"):
            check(planted(deep.program, first(deep.program, operation), vector=vector))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_vectors_that_cannot_be_encoded(deep: Party, value: float) -> None:
    vectors = deep.program.vectors.copy()
    vectors[0, 0] = value
    with pytest.raises(ModelFileError):
        check(replace(deep.program, vectors=vectors))


def test_a_vector_is_used_once(deep: Party) -> None:
    """It is encoded at one level and scale."""
    index = first(deep.program, "add_plain")
    used = deep.program.instructions[first(deep.program, "multiply_plain")].vector
    with pytest.raises(ModelFileError, match=r"vector is used twice|do not fit"):
        check(planted(deep.program, index, vector=used))


def test_programs_that_would_fill_the_memory(deep: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is the least that the program itself may need."""
    peak = program_module._peak_bytes(deep.program)
    p = deep.program.parameters
    one = 2 * len(p.data_primes) * p.ring_degree * 8
    assert one <= peak <= len(deep.program.instructions) * 2 * one
    monkeypatch.setattr(program_module, "MAX_REGISTER_BYTES", peak)
    check(deep.program)
    monkeypatch.setattr(program_module, "MAX_REGISTER_BYTES", peak - 1)
    with pytest.raises(ModelFileError, match="alive at one time"):
        check(deep.program)


def test_vectors_of_another_ring(deep: Party) -> None:
    with pytest.raises(ModelFileError, match=r"vectors .* expected"):
        check(replace(deep.program, vectors=deep.program.vectors[:, ::2]))


def test_unequal_operands(shallow: Party) -> None:
    """Sums of two scales or two levels, products of what was not relinearised."""
    program = shallow.program
    top = program.instructions[0]
    down = replace(top, operation="rescale", sources=(0,), level=top.level - 1,
                   scale=top.scale / program.parameters.data_primes[-1])  # fmt: skip
    drop = replace(top, operation="drop", sources=(0,), level=top.level - 1)
    squared = replace(top, operation="multiply", sources=(0, 0), scale=top.scale**2, size=3)
    faults: dict[str, tuple[Instruction, ...]] = {
        "different levels": (drop, replace(top, operation="add", sources=(0, 1))),
        "adds scales": (
            replace(top, operation="multiply_plain", sources=(0,), scale=top.scale * 2, vector=0),
            replace(top, operation="add", sources=(0, 1)),
        ),
        "before relinearising": (
            squared,
            replace(top, operation="multiply", sources=(1, 1), scale=top.scale**4, size=3),
        ),
        "operand of size 3": (
            squared,
            replace(
                top, operation="rotate", sources=(1,), scale=top.scale**2,
                step=program.signature.keys.rotations[0][0],
            ),
        ),
        "operand of size 2": (replace(top, operation="relinearise", sources=(0,)),),
        "scale": (down,),
    }  # fmt: skip
    keys = KeyPlan(top.level, tuple((s, top.level) for s, _ in program.signature.keys.rotations))
    signature = replace(program.signature, keys=keys)
    for message, instructions in faults.items():
        with pytest.raises(ModelFileError, match=message):
            check(replace(program, signature=signature, instructions=(top, *instructions)))


def test_what_is_promised_must_come_last(deep: Party) -> None:
    program = deep.program
    with pytest.raises(ModelFileError, match="last instruction"):
        check(replace(program, instructions=program.instructions[:2]))
    signature = replace(program.signature, output_scale=program.signature.output_scale * 2)
    with pytest.raises(ModelFileError, match="last instruction"):
        check(replace(program, signature=signature))
    with pytest.raises(ModelFileError, match="0 instructions"):
        check(replace(program, instructions=()))


def test_registers_are_dropped_after_their_last_use(deep: Party) -> None:
    program, alive = deep.program, set()
    for index, (instruction, dying) in enumerate(
        zip(program.instructions, program.last_uses, strict=True)
    ):
        assert set(instruction.sources) <= alive
        alive = (alive | {index}) - set(dying)
    assert alive == {len(program.instructions) - 1}


# ---------------------------------------------------------------------------- files


def rows(program: Program) -> list[list[Any]]:
    return [
        [OPERATIONS.index(i.operation), list(i.sources), i.level, i.scale, i.size, i.step, i.vector]
        for i in program.instructions
    ]


def written(path: Path, program: Program, *, instructions: Any = None, vectors: Any = None,
            **metadata: str) -> Path:  # fmt: skip
    made = rows(program) if instructions is None else instructions
    head = {
        "format": PROGRAM_FORMAT,
        "version": "1",
        "signature": program.signature.to_bytes().decode(),
        "instructions": made if isinstance(made, str) else json.dumps(made),
        **metadata,
    }
    save_file(
        {"vectors": program.vectors if vectors is None else vectors}, str(path), metadata=head
    )
    return path


def test_a_saved_program_is_the_same_program(deep: Party, tmp_path: Path) -> None:
    deep.program.save(tmp_path / "p")
    loaded = load_program(tmp_path / "p")
    assert loaded.instructions == deep.program.instructions
    assert np.array_equal(loaded.vectors, deep.program.vectors)
    assert loaded.signature.digest == deep.program.signature.digest
    assert np.array_equal(clear.evaluate(loaded, deep.x), clear.evaluate(deep.program, deep.x))


HOSTILE_INSTRUCTIONS: dict[str, Any] = {
    "not JSON": "[",
    "deep": "[" * 100_000,
    "none": [],
    "null": "null",
    "a number": 5,
    "an object": {"a": 1},
    "null rows": [None],
    "short rows": [[0, [], 2]],
    "long rows": [[0, [], 2, 1.0, 2, 0, -1, 0]],
    "unknown operation": [[99, [], 2, 1.0, 2, 0, -1]],
    "negative operation": [[-9, [], 2, 1.0, 2, 0, -1]],
    "text operation": [["input", [], 2, 1.0, 2, 0, -1]],
    "infinite level": "[[0, [], Infinity, 1.0, 2, 0, -1]]",
    "vast level": [[0, [], 10**30, 1.0, 2, 0, -1]],
    "vast scale": [[0, [], 2, 10**400, 2, 0, -1]],
    "sources a number": [[0, 0, 2, 1.0, 2, 0, -1]],
}


@pytest.mark.parametrize("name", HOSTILE_INSTRUCTIONS)
def test_hostile_instructions(shallow: Party, tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "p", shallow.program, instructions=HOSTILE_INSTRUCTIONS[name])
    with pytest.raises(ModelFileError):
        load_program(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "sottovoce-network"},
        {"version": "0"},
        {"signature": "{}"},
        {"signature": "null"},
        {"vectors": np.array(1.0)},
        {"vectors": np.zeros((0, 4096))},
        {"vectors": np.zeros((3, 3, 3))},
        {"vectors": np.zeros((3, 4096), np.int32)},
    ],
)
def test_hostile_metadata(shallow: Party, tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(tmp_path / "p", shallow.program, **change)
    with pytest.raises(ModelFileError):
        load_program(path)


def test_weak_parameters_in_a_program_are_one_kind_of_error(shallow: Party, tmp_path: Path) -> None:
    value = json.loads(shallow.program.signature.to_bytes())
    value["parameters"]["ring_degree"] = 4096
    path = written(tmp_path / "p", shallow.program, signature=json.dumps(value))
    with pytest.raises(ModelFileError):
        load_program(path)


def test_oversized_programs(
    shallow: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "p", shallow.program)
    monkeypatch.setattr(tensor_file, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(ModelFileError, match="at most"):
        load_program(path)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_damage_gives_one_kind_of_error_or_a_sound_program(
    shallow: Party, tmp_path: Path, data: st.DataObject
) -> None:
    """Flips and truncation in the header, where they are of consequence; `check` follows."""
    path = tmp_path / "p"
    if not path.exists():
        shallow.program.save(path)
        (tmp_path / "whole").write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    header = int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, header + 8))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, 2)) * header or len(content)])
    try:
        check(load_program(path))
    except HEError as error:
        assert type(error) is ModelFileError


# ---------------------------------------------------------------------------- signatures


def altered(signature: Signature, **changes: Any) -> bytes:
    return json.dumps({**json.loads(signature.to_bytes()), **changes}).encode()


def test_a_signature_is_what_it_was(deep: Party) -> None:
    signature = deep.program.signature
    again = Signature.from_bytes(signature.to_bytes())
    assert again.to_bytes() == signature.to_bytes() and again.digest == signature.digest


def test_a_signature_holds_no_weights(deep: Party) -> None:
    """All its numbers are layout, scales and sizes: the same network with other weights differs
    from it in scales alone."""
    value = json.loads(deep.program.signature.to_bytes())
    assert value.keys() == {
        "format", "version", "layout", "identity", "parameters", "input_shape", "input_range",
        "input_scale", "gather", "output_slots", "output_scale", "keys", "response_bits",
        "precision_bits", "resolution",
    }  # fmt: skip


NUMBERS = {
    "input_scale": 0.5,
    "output_scale": float("inf"),
    "resolution": 0,
    "precision_bits": None,
}
SIGNATURE_FAULTS: list[dict[str, Any]] = [
    *({name: value} for name, value in NUMBERS.items()),
    {"format": None},
    {"version": 2},
    {"layout": "batched"},
    {"layout": None},
    {"identity": "00"},
    {"identity": 5},
    {"identity": "zz" * 16},
    {"input_shape": []},
    {"input_shape": [0]},
    {"input_shape": [-2, -2, 1]},
    {"input_shape": [2**33 + 1, 2**31]},
    {"input_shape": [float("inf")]},
    {"input_shape": [2, 2]},
    {"input_range": [1, 0]},
    {"input_range": [1]},
    {"input_range": [float("nan"), 1]},
    {"gather": []},
    {"gather": "abc"},
    {"gather": [float("nan")] * 4096},
    {"gather": [0.5] * 4096},
    {"gather": [10**30] * 4096},
    {"gather": [-2] * 4096},
    {"gather": [4] * 4096},
    {"gather": [[0], [0, 1]]},
    {"output_slots": []},
    {"output_slots": 5},
    {"output_slots": [-1]},
    {"output_slots": [4096]},
    {"response_bits": [0, 5]},
    {"response_bits": [61, 5]},
    {"response_bits": [5]},
    {"keys": {}},
    {"keys": {"relinearisation": 99, "rotations": []}},
    {"keys": {"relinearisation": -1, "rotations": []}},
    {"keys": {"relinearisation": 0, "rotations": [[2, 1], [1, 1]]}},
    {"keys": {"relinearisation": 0, "rotations": [[1, 1], [1, 1]]}},
    {"keys": {"relinearisation": 0, "rotations": [[0, 1]]}},
    {"keys": {"relinearisation": 0, "rotations": [[4096, 1]]}},
    {"keys": {"relinearisation": 0, "rotations": [[1, 0]]}},
    {"keys": {"relinearisation": 0, "rotations": [[1]]}},
]


@pytest.mark.parametrize("fault", SIGNATURE_FAULTS, ids=lambda f: repr(f)[:50])
def test_signatures_that_contradict_themselves(shallow: Party, fault: dict[str, Any]) -> None:
    assert shallow.program.parameters.slots == 4096
    with pytest.raises(ModelFileError):
        Signature.from_bytes(altered(shallow.program.signature, **fault))


def test_a_signature_with_weak_parameters(shallow: Party) -> None:
    """A server that offers insecure parameters is refused by every client."""
    parameters = shallow.program.parameters.to_json()
    weak = {**parameters, "ring_degree": 4096}
    with pytest.raises(ParameterError, match="over the 106 bits"):
        Signature.from_bytes(altered(shallow.program.signature, parameters=weak))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
)


@given(data=st.data())
@settings(max_examples=150)
def test_any_value_in_any_field(shallow: Party, data: st.DataObject) -> None:
    signature = shallow.program.signature
    field = data.draw(st.sampled_from(sorted(json.loads(signature.to_bytes()))))
    try:
        found = Signature.from_bytes(altered(signature, **{field: data.draw(JSON)}))
    except HEError as error:
        assert type(error) in (ModelFileError, ParameterError)
    else:
        assert Signature.from_bytes(found.to_bytes()).digest == found.digest


@given(st.binary(max_size=100))
def test_any_bytes_as_a_signature(data: bytes) -> None:
    with pytest.raises(ModelFileError):
        Signature.from_bytes(data)


def test_oversized_signatures(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="at most"):
        Signature.from_bytes(b" " * (MAX_SIGNATURE_BYTES + 1))
    path = tmp_path / "s"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading all of it would not end
    with pytest.raises(ModelFileError, match="at most"):
        load_signature(path)


def test_signature_files(shallow: Party, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(shallow.program.signature.to_bytes())
    assert load_signature(path).digest == shallow.program.signature.digest
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_signature(tmp_path / "missing")
