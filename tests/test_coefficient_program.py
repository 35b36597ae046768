"""`he_inference.coefficient_program`: a file is the program it was written from, or one error."""

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
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import save_file

from he_inference import Server, tensor_file
from he_inference.coefficient_compiler import compile_coefficients
from he_inference.coefficient_program import (
    COMPONENTS,
    FORMAT,
    SHOWN,
    CoefficientProgram,
    check,
    load_coefficient_program,
)
from he_inference.errors import HEError, ModelFileError
from he_inference.flooding import STATISTICAL_BITS, largest_noise, statistical_bits
from he_inference.nn import Square
from he_inference.programs import load_program
from tests.conftest import Party
from tests.test_batch_program import parts
from tests.test_batch_signature import JSON
from tests.test_expansion import nn, of


@cache
def program(response: str) -> CoefficientProgram:
    """Two outputs share a ciphertext, the third has its own."""
    network, x = of(nn.Sequential(nn.Linear(6, 5), Square(), nn.Linear(5, 3)), 6)
    found = compile_coefficients(network, x, precision=6, response=response)  # type: ignore[arg-type]
    return next(c.program for c in found if c.signature.group == 2)


@pytest.fixture(scope="module", params=["private", "plain"])
def made(request: pytest.FixtureRequest) -> CoefficientProgram:
    return program(request.param)


Tensors = dict[str, Any]
Change = Callable[[Tensors], object]


def changed(
    path: Path,
    made: CoefficientProgram,
    change: Change = lambda tensors: None,
    **metadata: str,
) -> Path:
    """The program's file with other tensors or metadata."""
    made.save(path)
    head, tensors = parts(path)
    change(tensors)
    save_file(tensors, str(path), metadata={**head, **metadata})
    return path


def resigned(path: Path, made: CoefficientProgram, **fields: Any) -> Path:
    signature = {**json.loads(made.signature.to_bytes()), **fields}
    return changed(path, made, signature=json.dumps(signature))


def refused(path: Path, because: str = ".") -> None:
    for load in (load_program, load_coefficient_program):
        with pytest.raises(ModelFileError, match=because) as caught:
            load(path)
        assert type(caught.value) is ModelFileError
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


# ---------------------------------------------------------------------------- to and fro


def test_a_saved_program_is_the_same_program(made: CoefficientProgram, tmp_path: Path) -> None:
    made.save(tmp_path / "p")
    for load in (load_program, load_coefficient_program):
        loaded = load(tmp_path / "p")
        assert isinstance(loaded, CoefficientProgram)
        assert loaded.signature.digest == made.signature.digest
        assert np.array_equal(loaded.weights, made.weights)
        assert np.array_equal(loaded.offset, made.offset)
        assert loaded.weights.dtype == loaded.offset.dtype == np.int64
        assert loaded.flooding_bits == made.flooding_bits
    assert Server(tmp_path / "p").signature().digest == made.signature.digest


@pytest.mark.parametrize("largest", [(1 << 24) - 1, 1 << 24, (1 << 24) + 1])
def test_integers_of_any_size_are_kept(largest: int, tmp_path: Path) -> None:
    """Small ones as float32, which holds them exactly; the others as float64."""
    made = program("private")
    weights = made.weights.copy()
    weights[0, 0], weights[-1, -1] = largest, -largest
    wide = replace(made, weights=weights)
    wide.save(tmp_path / "p")
    assert np.array_equal(load_coefficient_program(tmp_path / "p").weights, weights)


# ---------------------------------------------------------------------------- hostile files


def with_tensor(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda tensors: tensors.update({name: change(tensors[name].astype(np.float64))})


def put(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array.reshape(-1)[1] = value
        return array

    return change


NAN, INFINITE = float("nan"), float("inf")
FILES: dict[str, tuple[Change, str]] = {
    **{f"{name} of {bad}": (with_tensor(name, put(bad)), why)
       for name in ("weights", "offset")
       for bad, why in ((NAN, "at most 53 bits"), (INFINITE, "at most 53 bits"),
                        (-INFINITE, "at most 53 bits"), (2.0**53, "at most 53 bits"),
                        (0.5, "not whole"), (-1e-300, "not whole"),
                        (2.0**52, "beyond half the modulus"), (-(2.0**45), "beyond half"))},
    "no weights": (lambda tensors: tensors.pop("weights"), "malformed"),
    "no offset": (lambda tensors: tensors.pop("offset"), "malformed"),
    "weights of integers": (
        lambda tensors: tensors.update(weights=tensors["weights"].astype(int)), "expected float",
    ),
    "an output too few": (with_tensor("weights", lambda a: a[:-1]), r"weights \(2, "),
    "an output too many": (with_tensor("weights", lambda a: np.concatenate([a, a[:1]])),
                           r"weights \(4, "),
    "a feature too few": (with_tensor("weights", lambda a: np.ascontiguousarray(a[:, 1:])),
                          "where the signature promises"),
    "no features": (with_tensor("weights", lambda a: a[:, :0].copy()), "signature promises"),
    "no outputs": (with_tensor("weights", lambda a: a[:0]), "signature promises"),
    "weights in a row": (with_tensor("weights", lambda a: a.reshape(-1)), "signature promises"),
    "weights in a cube": (with_tensor("weights", lambda a: a[None]), "signature promises"),
    "a weight alone": (with_tensor("weights", lambda a: np.array(1.0)), "signature promises"),
    "an offset too few": (with_tensor("offset", lambda a: a[:-1]), r"offset \(2,\)"),
    "an offset too many": (with_tensor("offset", lambda a: np.append(a, 0.0)), r"offset \(4,\)"),
    "offsets in a column": (with_tensor("offset", lambda a: a[:, None].copy()), "promises"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_hostile_tensors(made: CoefficientProgram, tmp_path: Path, name: str) -> None:
    change, because = FILES[name]
    refused(changed(tmp_path / "p", made, change), because)


def test_what_is_changed_harmlessly_is_sound(made: CoefficientProgram, tmp_path: Path) -> None:
    """So the faults are what is refused above."""
    for name in ("weights", "offset"):
        path = changed(tmp_path / "p", made, with_tensor(name, put(made.weights[0, 0])))
        check(load_coefficient_program(path))


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "sottovoce-network"},
        {"format": ""},
        {"version": "0"},
        {"version": "2"},
        {"signature": "{}"},
        {"signature": "null"},
        {"signature": ""},
        {"signature": "[" * 100_000},
        *({"flooding_bits": bad} for bad in ("", "x", "nan", "59.5", "1e3", "9" * 5000, "-1")),
    ],
    ids=lambda metadata: repr(metadata)[:40],
)
def test_hostile_metadata(
    made: CoefficientProgram, tmp_path: Path, metadata: dict[str, str]
) -> None:
    refused(changed(tmp_path / "p", made, **metadata))


def test_files_without_metadata(made: CoefficientProgram, tmp_path: Path) -> None:
    made.save(tmp_path / "p")
    head, tensors = parts(tmp_path / "p")
    for name in head:
        rest = {key: value for key, value in head.items() if key != name}
        save_file(tensors, str(tmp_path / "p"), metadata=rest)
        with pytest.raises(ModelFileError, match=str(tmp_path)):
            load_coefficient_program(tmp_path / "p")
        with pytest.raises(ModelFileError):
            load_program(tmp_path / "p")


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"outputs": 4}, "signature promises"),
        ({"outputs": 2}, "signature promises"),
        ({"input_shape": [1]}, "malformed|contradict|not a signature"),
        ({"group": 4}, "contradict|not a signature"),
        ({"layout": "batched"}, "batched layout: expected coefficients"),
    ],
)
def test_signatures_that_promise_something_else(
    made: CoefficientProgram, tmp_path: Path, fields: dict[str, Any], because: str
) -> None:
    refused(resigned(tmp_path / "p", made, **fields), because)


def test_weak_parameters_are_one_kind_of_error(made: CoefficientProgram, tmp_path: Path) -> None:
    parameters = {**made.parameters.to_json(), "ring_degree": 2048}
    refused(resigned(tmp_path / "p", made, parameters=parameters), "2048")


def test_oversized_programs(
    made: CoefficientProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.save(tmp_path / "p")
    monkeypatch.setattr(tensor_file, "MAX_FILE_BYTES", (tmp_path / "p").stat().st_size - 1)
    refused(tmp_path / "p", "at most")


def test_one_layout_is_not_read_as_another(shallow: Party, tmp_path: Path) -> None:
    shallow.program.save(tmp_path / "packed")
    with pytest.raises(ModelFileError, match=f"expected a {FORMAT} file, found 'sottovoce-prog"):
        load_coefficient_program(tmp_path / "packed")
    made = program("private")
    refused(
        changed(tmp_path / "p", made, signature=shallow.program.signature.to_bytes().decode()),
        "packed layout: expected coefficients",
    )


# ---------------------------------------------------------------------------- flooding


def test_answers_are_flooded_as_the_signature_promises(made: CoefficientProgram) -> None:
    """outputs · B / F, one coefficient of c0 shown for each output."""
    s, bits = made.signature, made.flooding_bits
    if not s.private:
        assert (bits, s.statistical_bits) == (0, 0)
        return
    bound = largest_noise(4096, s.parameters.data_primes, COMPONENTS)
    assert bound == (2 * 4096 + 1) * 21 and SHOWN == 1
    assert s.statistical_bits == bits - np.log2(3 * bound) >= STATISTICAL_BITS


def test_floods_too_little(tmp_path: Path) -> None:
    """Below 40 bits whatever the signature says, or below what the signature says."""
    made = program("private")
    s, bits = made.signature, made.flooding_bits

    def written(flooding: int, promised: float) -> Path:
        fields = {**json.loads(s.to_bytes()), "statistical_bits": promised}
        return changed(
            tmp_path / "p", made, signature=json.dumps(fields), flooding_bits=str(flooding)
        )

    least = bits - int(s.statistical_bits - STATISTICAL_BITS)
    assert statistical_bits(s.parameters, COMPONENTS, 3, least - 1, SHOWN) < 40
    refused(written(least - 1, 40.0), "flooding hides 39.* bits, expected at least 40")
    refused(written(1, 40.0), "flooding hides .* bits, expected at least 40")
    refused(written(bits - 1, s.statistical_bits), "flooding hides")
    refused(written(bits, s.statistical_bits + 0.01), "flooding hides")
    refused(written(bits, 39.9), "contradict")
    refused(written(10**6, 40.0), "larger than the modulus")
    refused(written(-bits, 40.0), "larger than the modulus|flooding")
    loaded = load_program(written(bits, s.statistical_bits))
    assert isinstance(loaded, CoefficientProgram) and loaded.flooding_bits == bits


def test_responses_that_contradict_the_flooding(tmp_path: Path) -> None:
    private, plain = program("private"), program("plain")
    none = changed(tmp_path / "p", private, flooding_bits="0")
    refused(none, "flooding of 0 bits, where the signature promises private answers")
    some = changed(tmp_path / "p", plain, flooding_bits="59")
    refused(some, "flooding of 59 bits, where the signature promises plain answers")
    refused(resigned(tmp_path / "p", private, response="plain"), "contradict")
    refused(
        resigned(tmp_path / "p", private, response="plain", statistical_bits=0.0),
        "flooding of .* bits, where the signature promises plain",
    )
    refused(resigned(tmp_path / "p", plain, response="private", statistical_bits=50.0))


# ---------------------------------------------------------------------------- anything at all


def sound_or_refused(path: Path) -> None:
    try:
        loaded = load_program(path)
    except HEError as error:
        assert type(error) is ModelFileError and "\n" not in str(error)
    else:
        assert isinstance(loaded, CoefficientProgram)
        check(loaded)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_value_in_a_programs_signature(
    made: CoefficientProgram, tmp_path: Path, data: st.DataObject
) -> None:
    fields = json.loads(made.signature.to_bytes())
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    sound_or_refused(changed(tmp_path / "p", made, signature=json.dumps(fields)))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_damage_gives_one_kind_of_error_or_a_sound_program(
    made: CoefficientProgram, tmp_path: Path, data: st.DataObject
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
    try:
        loaded = load_program(path)
    except HEError as error:
        assert type(error) is ModelFileError and "\n" not in str(error)
    else:
        check(loaded)  # type: ignore[arg-type]
