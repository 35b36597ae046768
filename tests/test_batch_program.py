"""`he_inference.batch_program`: a file is the program it was written from, or one error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import he_inference
from he_inference import Client, Server, tensor_file
from he_inference.backend.residues.schedule import schedule
from he_inference.batch_program import FORMAT, BatchProgram, check, load_batch_program
from he_inference.batch_signature import MIN_STATISTICAL_BITS
from he_inference.checker import load_packed_program
from he_inference.errors import HEError, ModelFileError
from he_inference.flooding import STATISTICAL_BITS, statistical_bits
from he_inference.nn import Square
from he_inference.programs import load_program
from he_inference.torch_modules import from_torch
from tests.conftest import Party, Residual

X = np.random.default_rng(1).random((7, 6))


@cache
def program(response: str) -> BatchProgram:
    """Two squares, the second one beside what it is made of: arms of different scales."""
    torch.manual_seed(7)
    module = nn.Sequential(
        nn.Linear(6, 5), Square(), Residual(nn.Sequential(nn.Linear(5, 5), Square())),
        nn.Linear(5, 3),
    )  # fmt: skip
    network = from_torch(module.eval(), X)
    return he_inference.compile(network, layout="batched", response=response, precision=6).program


@pytest.fixture(scope="module", params=["private", "plain"])
def made(request: pytest.FixtureRequest) -> BatchProgram:
    return program(request.param)


def parts(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    with safe_open(str(path), framework="numpy") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


Plan = dict[str, Any]
Tensors = dict[str, Any]


def changed(
    path: Path,
    made: BatchProgram,
    change: Callable[[Plan, Tensors], object] = lambda plan, tensors: None,
    **metadata: str,
) -> Path:
    """The program's file with another plan, tensors or metadata."""
    made.save(path)
    head, tensors = parts(path)
    plan = json.loads(head["plan"])
    change(plan, tensors)
    save_file(tensors, str(path), metadata={**head, "plan": json.dumps(plan), **metadata})
    return path


def refused(path: Path, because: str = ".") -> None:
    for load in (load_program, load_batch_program):
        with pytest.raises(ModelFileError, match=because) as caught:
            load(path)
        assert type(caught.value) is ModelFileError
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


# ---------------------------------------------------------------------------- to and fro


def test_a_saved_program_is_the_same_program(made: BatchProgram, tmp_path: Path) -> None:
    made.save(tmp_path / "p")
    for load in (load_program, load_batch_program, he_inference.load_program):
        loaded = load(tmp_path / "p")
        assert isinstance(loaded, BatchProgram)
        assert loaded.signature.digest == made.signature.digest
        assert len(loaded.plan.stages) == len(made.plan.stages)
        for one, other in zip(loaded.plan.stages, made.plan.stages, strict=True):
            assert one.offset == other.offset and one.scale == other.scale
            assert (
                one.secret_degree == other.secret_degree and one.terms.keys() == other.terms.keys()
            )
            for source, term in one.terms.items():
                same = other.terms[source]
                assert term.multiplier == same.multiplier
                assert np.array_equal(term.weights.toarray(), same.weights.toarray())
                assert term.weights.dtype == np.int64
        for name in (
            "weight_bits",
            "largest_answer",
            "flooding_bits",
            "input_scale",
        ):
            assert getattr(loaded.plan, name) == getattr(made.plan, name)
        assert loaded.plan.precision_bits == made.signature.precision_bits
        loaded.save(tmp_path / "q")
        (head, tensors), (same_head, same_tensors) = parts(tmp_path / "p"), parts(tmp_path / "q")
        assert head == same_head and tensors.keys() == same_tensors.keys()
        assert all(np.array_equal(tensors[name], same_tensors[name]) for name in tensors)


def test_a_saved_program_gives_the_same_answers(tmp_path: Path) -> None:
    """Bit for bit, where nothing is drawn."""
    made = program("plain")
    made.save(tmp_path / "p")
    client = Client(made.signature, processes=0)
    query = client.encrypt(X)
    answers = [Server(source).evaluate(query) for source in (made, tmp_path / "p", tmp_path / "p")]
    assert answers[0] == answers[1] == answers[2]
    assert client.decrypt(answers[1]).shape == (7, 3)
    assert np.array_equal(
        load_batch_program(tmp_path / "p").plan.simulate(X), made.plan.simulate(X)
    )


def test_offsets_are_as_large_as_they_need_be(made: BatchProgram, tmp_path: Path) -> None:
    """Integers that no float64 holds."""
    odd = (1 << 150) + 1
    stages = [replace(s, offset=tuple(b + odd for b in s.offset)) for s in made.plan.stages]
    other = replace(made, plan=replace(made.plan, stages=tuple(stages)))
    other.save(tmp_path / "p")
    loaded = load_batch_program(tmp_path / "p")
    assert [s.offset for s in loaded.plan.stages] == [s.offset for s in stages]


def test_where_files_cannot_be(made: BatchProgram, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written"):
        made.save(tmp_path / "none" / "p")
    refused(tmp_path / "none", "cannot be read")
    refused(tmp_path, "cannot be read: it is a folder")


def test_what_the_compiler_makes_passes(made: BatchProgram) -> None:
    check(made)
    schedule(made.plan)
    s = made.signature
    if s.response == "private":
        found = statistical_bits(s.parameters, s.components, s.outputs, made.plan.flooding_bits)
        assert found == s.statistical_bits >= STATISTICAL_BITS == MIN_STATISTICAL_BITS
    else:
        assert made.plan.flooding_bits == 0


# ---------------------------------------------------------------------------- hostile plans


def with_stage(number: int, **values: Any) -> Callable[[Plan, Tensors], object]:
    return lambda plan, tensors: plan["stages"][number].update(values)


def with_term(
    place: int, value: Any, stage: int = 1, term: int = 0
) -> Callable[[Plan, Tensors], object]:
    """place: 0 source, 1 power, 2 multiplier, 3 shape."""
    return lambda plan, tensors: plan["stages"][stage]["terms"][term].__setitem__(place, value)


def with_tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Plan, Tensors], object]:
    return lambda plan, tensors: tensors.update({name: change(tensors[name].copy())})


def put(value: Any, at: int = 0) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[at] = value
        return array

    return change


NAN, INFINITE = float("nan"), float("inf")
PLANS: dict[str, tuple[Callable[[Plan, Tensors], object], str]] = {
    **{f"scale {bad}": (with_stage(0, scale=bad), "scales that are not numbers of at least 1")
       for bad in (NAN, 0, -1.0, 0.5, INFINITE)},
    "scale of text": (with_stage(0, scale="x"), "malformed"),
    "scale beyond floats": (with_stage(0, scale=10**400), "malformed"),
    "no scale": (lambda plan, tensors: plan["stages"][0].pop("scale"), "malformed"),
    **{f"multiplier {bad}": (with_term(2, bad), "multipliers that are not at least 1")
       for bad in ("-0x1", "0x0", "-0xffffffffffffffffffff")},
    "multiplier not hexadecimal": (with_term(2, "0xzz"), "malformed"),
    "multiplier a number": (with_term(2, 5), "malformed"),
    "offsets not hexadecimal": (with_stage(0, offset=["0x1"] * 4 + ["five"]), "malformed"),
    "offsets numbers": (with_stage(0, offset=[1.0] * 5), "malformed"),
    "offsets null": (with_stage(0, offset=None), "malformed"),
    "no offsets": (with_stage(0, offset=[]), "without layers, or with an empty one"),
    "an offset too few": (with_stage(0, offset=["0x1"] * 4), "layer 1: weights"),
    "an offset too many": (with_stage(0, offset=["0x1"] * 6), "layer 1: weights"),
    "no stages": (lambda plan, tensors: plan.update(stages=[]), "without layers"),
    "stages null": (lambda plan, tensors: plan.update(stages=None), "malformed"),
    "a stage too few": (lambda plan, tensors: plan["stages"].pop(), "outputs and components"),
    "a stage reads itself": (with_term(0, 2), "layer 2 reads power . of layer 2"),
    "a stage reads a later one": (with_term(0, 3), "layer 2 reads power . of layer 3"),
    "a stage reads what is not there": (with_term(0, 10**6), "of layer 1000000"),
    "a stage reads before the query": (with_term(0, -1), "of layer -1"),
    "a cube": (with_term(1, 3), "layer 2 reads power 3"),
    "no power": (with_term(1, 0), "layer 2 reads power 0"),
    "a power of text": (with_term(1, "x"), "malformed"),
    "a source of infinity": (with_term(0, INFINITE), "malformed"),
    "another shape": (with_term(3, [6, 5]), "malformed|not"),
    "a shape of one": (with_term(3, [5]), "malformed"),
    "a shape of three": (with_term(3, [5, 5, 1]), "malformed"),
    "a negative shape": (with_term(3, [-5, 5]), "malformed"),
    "a vast shape": (with_term(3, [5, 10**18]), "malformed|not"),
    "a shape beyond integers": (with_term(3, [5, 10**30]), "malformed"),
    "a wider source": (with_term(3, [5, 50]), r"weights \(5, 50\), not"),
    "a secret degree too low": (with_stage(1, secret_degree=0), "secret degrees"),
    "a last secret degree too high": (with_stage(-1, secret_degree=40), "secret degrees"),
    "a secret degree without end": (with_stage(0, secret_degree=10**12), "secret degrees"),
    "a last scale of one's own": (with_stage(-1, scale=2.0**70), "answers of scale"),
    "largest answer NaN": (
        lambda plan, tensors: plan.update(largest_answer=float("nan")), "largest answer",
    ),
    "a secret degree of infinity": (with_stage(1, secret_degree=INFINITE), "malformed"),
    "terms null": (with_stage(0, terms=None), "malformed"),
    "terms of another length": (with_stage(0, terms=[[0, 1, "0x1"]]), "malformed"),
    "a term without tensors": (
        lambda plan, tensors: plan["stages"][0]["terms"].append([0, 2, "0x1", [5, 6]]), "malformed",
    ),
    "weight bits null": (lambda plan, tensors: plan.update(weight_bits=None), "malformed"),
    "weight bits of text": (lambda plan, tensors: plan.update(weight_bits=["x"]), "malformed"),
    "largest answer of text": (lambda plan, tensors: plan.update(largest_answer="x"), "malformed"),
    "flooding null": (lambda plan, tensors: plan.update(flooding_bits=None), "malformed"),
    "flooding infinite": (lambda plan, tensors: plan.update(flooding_bits=INFINITE), "malformed"),
    "flooding vast": (lambda plan, tensors: plan.update(flooding_bits=10**400), "."),
    "flooding negative": (lambda plan, tensors: plan.update(flooding_bits=-5), "flood"),
    **{f"a weight of {bad}": (with_tensor("0.0.data", put(bad)), why)
       for bad, why in ((0.5, "not whole"), (NAN, "at most 52 bits"), (INFINITE, "at most 52 bits"),
                        (2.0**53, "at most 52 bits"), (-(2.0**60), "at most 52 bits"),
                        (2.0**51, "exceeds"))},
    "weights too few": (with_tensor("0.0.data", lambda a: a[:-1]), "malformed"),
    "weights in a square": (with_tensor("0.0.data", lambda a: a.reshape(5, 6)), "malformed"),
    "weights a scalar": (with_tensor("0.0.data", lambda a: np.array(1.0)), "malformed"),
    "weights of integers": (with_tensor("0.0.data", lambda a: a.astype(int)), "expected float"),
    "no weights": (lambda plan, tensors: tensors.pop("0.0.data"), "malformed"),
    **{f"a column {bad}": (with_tensor("0.0.indices", put(bad)), "malformed")
       for bad in (6, -1, 2.0**40, 0.5, NAN)},
    **{f"a row's start {bad}": (with_tensor("0.0.indptr", put(bad, 1)), "malformed")
       for bad in (-1, 1000, 2.0**40, 0.5)},
    "rows that end before they begin": (with_tensor("0.0.indptr", put(0, -1)), "malformed"),
    "rows too few": (with_tensor("0.0.indptr", lambda a: a[:-1]), "malformed"),
    "rows from one on": (with_tensor("0.0.indptr", put(1)), "malformed"),
    "no rows": (with_tensor("0.0.indptr", lambda a: a[:0]), "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_hostile_plans(made: BatchProgram, tmp_path: Path, name: str) -> None:
    change, because = PLANS[name]
    refused(changed(tmp_path / "p", made, change), because)


def test_floods_too_little(tmp_path: Path) -> None:
    """Below 40 bits whatever the signature says, or below what the signature says."""
    made = program("private")
    s, bits = made.signature, made.plan.flooding_bits
    lowest = bits - int(s.statistical_bits - STATISTICAL_BITS)

    def written(flooding: int, promised: float) -> Path:
        signature = json.loads(s.to_bytes())
        signature["statistical_bits"] = promised
        return changed(
            tmp_path / "p", made, lambda plan, tensors: plan.update(flooding_bits=flooding),
            signature=json.dumps(signature),
        )  # fmt: skip

    refused(written(bits - 1, s.statistical_bits), "flooding hides .* bits, expected at least 40")
    refused(written(lowest - 1, 40.0), "flooding hides 39.* bits, expected at least 40")
    assert load_program(written(lowest, 40.0)).signature.statistical_bits == 40
    assert load_program(written(bits, s.statistical_bits)).plan.flooding_bits == bits
    refused(written(bits, s.statistical_bits + 0.01), "flooding hides")
    refused(written(bits, 39.9), "malformed|contradict")


def test_responses_that_contradict_the_flooding(tmp_path: Path) -> None:
    private, plain = program("private"), program("plain")
    none = changed(tmp_path / "p", private, lambda plan, tensors: plan.update(flooding_bits=0))
    refused(none, "flooding of 0 bits, where the signature promises private answers")
    some = changed(tmp_path / "p", plain, lambda plan, tensors: plan.update(flooding_bits=111))
    refused(some, "flooding of 111 bits, where the signature promises plain answers")
    for made in (private, plain):
        value = json.loads(made.signature.to_bytes())
        value["response"] = "plain" if made is private else "private"
        refused(changed(tmp_path / "p", made, signature=json.dumps(value)))
    value.update(response="private", response_bits=[19, 20], statistical_bits=50.0)
    value["output_scale"] = 2.0**10
    other = changed(tmp_path / "p", plain, signature=json.dumps(value))
    refused(other, "flooding of 0 bits, where the signature promises private")


@pytest.mark.parametrize("field", ["outputs", "components"])
@pytest.mark.parametrize("by", [-1, 1])
def test_signatures_that_promise_something_else(
    made: BatchProgram, tmp_path: Path, field: str, by: int
) -> None:
    value = json.loads(made.signature.to_bytes())
    value[field] += by
    path = changed(tmp_path / "p", made, signature=json.dumps(value))
    refused(path, "outputs and components, where the signature promises")


def test_signatures_of_another_query(made: BatchProgram, tmp_path: Path) -> None:
    value = json.loads(made.signature.to_bytes())
    for shape in ([5], [7], [1, 1, 7]):
        value["input_shape"] = shape
        refused(changed(tmp_path / "p", made, signature=json.dumps(value)), "layer 1: weights")


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "sottovoce-network"},
        {"format": ""},
        {"format": "sottovoce-program"},
        {"version": "0"},
        {"version": "2"},
        {"signature": "{}"},
        {"signature": "null"},
        {"signature": ""},
        {"plan": "["},
        {"plan": "[" * 100_000},
        {"plan": "null"},
        {"plan": "5"},
        {"plan": "[]"},
        {"plan": "{}"},
        {"plan": ""},
    ],
    ids=lambda metadata: repr(metadata)[:40],
)
def test_hostile_metadata(made: BatchProgram, tmp_path: Path, metadata: dict[str, str]) -> None:
    refused(changed(tmp_path / "p", made, **metadata))


def test_files_without_metadata(made: BatchProgram, tmp_path: Path) -> None:
    made.save(tmp_path / "p")
    head, tensors = parts(tmp_path / "p")
    for name in head:
        rest = {key: value for key, value in head.items() if key != name}
        save_file(tensors, str(tmp_path / "p"), metadata=rest)
        refused(tmp_path / "p")
    save_file(tensors, str(tmp_path / "p"))
    refused(tmp_path / "p")
    save_file({}, str(tmp_path / "p"), metadata=head)
    refused(tmp_path / "p", "malformed")


def test_weak_parameters_are_one_kind_of_error(made: BatchProgram, tmp_path: Path) -> None:
    value = json.loads(made.signature.to_bytes())
    value["parameters"]["ring_degree"] //= 2
    refused(changed(tmp_path / "p", made, signature=json.dumps(value)))


def test_oversized_programs(
    made: BatchProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.save(tmp_path / "p")
    monkeypatch.setattr(tensor_file, "MAX_FILE_BYTES", (tmp_path / "p").stat().st_size - 1)
    refused(tmp_path / "p", "at most")


def test_one_layout_is_not_read_as_the_other(
    made: BatchProgram, shallow: Party, tmp_path: Path
) -> None:
    made.save(tmp_path / "batched")
    shallow.program.save(tmp_path / "packed")
    with pytest.raises(ModelFileError, match=f"expected a sottovoce-program .*{FORMAT}"):
        load_packed_program(tmp_path / "batched")
    with pytest.raises(ModelFileError, match=f"expected a {FORMAT} .*sottovoce-program"):
        load_batch_program(tmp_path / "packed")
    assert load_program(tmp_path / "packed").signature.digest == shallow.program.signature.digest
    packed = shallow.program.signature.to_bytes().decode()
    refused(changed(tmp_path / "p", made, signature=packed), "packed layout: expected batched")


# ---------------------------------------------------------------------------- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["0x1", "-0x1", 10**18, -(10**18), 2.0**40]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
)  # fmt: skip


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*before, key))
        if isinstance(inner, dict | list):
            found.extend(places(inner, (*before, key)))
    return found


def sound_or_refused(path: Path) -> None:
    try:
        loaded = load_program(path)
    except HEError as error:
        assert type(error) is ModelFileError and "\n" not in str(error)
    else:
        check(loaded)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_any_value_anywhere_in_a_plan(
    made: BatchProgram, tmp_path: Path, data: st.DataObject
) -> None:
    """What passes is sound: its steps can be listed."""

    def change(plan: Plan, tensors: Tensors) -> None:
        *way, last = data.draw(st.sampled_from(places(plan)))
        inner: Any = plan
        for key in way:
            inner = inner[key]
        inner[last] = data.draw(JSON)

    sound_or_refused(changed(tmp_path / "p", made, change))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_numbers_in_tensors(made: BatchProgram, tmp_path: Path, data: st.DataObject) -> None:
    def change(plan: Plan, tensors: Tensors) -> None:
        tensor = tensors[data.draw(st.sampled_from(sorted(tensors)))]
        at = data.draw(st.integers(0, len(tensor) - 1))
        tensor[at] = data.draw(st.floats() | st.integers(-5, 50).map(float))

    sound_or_refused(changed(tmp_path / "p", made, change))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_damage_gives_one_kind_of_error_or_a_sound_program(
    made: BatchProgram, tmp_path: Path, data: st.DataObject
) -> None:
    """Flips and truncation in the header, where they are of consequence."""
    if not (tmp_path / "whole").exists():
        made.save(tmp_path / "whole")
    content = bytearray((tmp_path / "whole").read_bytes())
    header = int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, header + 8))] = data.draw(st.integers(0, 255))
    path = tmp_path / "p"
    path.write_bytes(content[: data.draw(st.integers(0, 2)) * header or len(content)])
    sound_or_refused(path)


def test_places() -> None:
    assert places({"a": [1, {"b": 2}]}) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b")]
