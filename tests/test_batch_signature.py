"""`he_inference.batch_signature`, `signatures`: what is read is what was written, or one error."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import he_inference
from he_inference.batch_format import BatchFormat
from he_inference.batch_signature import (
    MAX_COMPONENTS,
    MAX_MESSAGE_BYTES,
    MIN_STATISTICAL_BITS,
    BatchSignature,
)
from he_inference.errors import HEError, ModelFileError, ParameterError
from he_inference.lengths import lengths
from he_inference.parameters import ParametersLiteral
from he_inference.signature import MAX_BYTES, MAX_KEY_BYTES, Signature
from he_inference.signatures import read_signature
from tests.conftest import Party

PRIVATE = BatchSignature(
    identity=bytes(range(16)),
    parameters=ParametersLiteral(8192, (33, 33, 32), 17).resolve(),
    input_shape=(2, 3, 1),
    input_range=(-1.0, 1.0),
    input_scale=2.0**20,
    outputs=4,
    output_scale=2.0**21,
    components=5,
    response="private",
    response_bits=(19, 25),
    statistical_bits=41.5,
    precision_bits=8.25,
    resolution=2.0**-8,
)
PLAIN = replace(PRIVATE, response="plain", response_bits=(0, 0), statistical_bits=0.0)
BOTH = {"private": PRIVATE, "plain": PLAIN}
either = pytest.mark.parametrize("signature", BOTH.values(), ids=BOTH)


def altered(signature: BatchSignature, **changes: Any) -> bytes:
    return json.dumps({**json.loads(signature.to_bytes()), **changes}).encode()


def refused(data: bytes, because: str = ".") -> None:
    for read in (BatchSignature.from_bytes, read_signature):
        with pytest.raises(ModelFileError, match=because) as caught:
            read(data)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- to and fro


@either
def test_a_signature_is_what_it_was(signature: BatchSignature) -> None:
    for read in (BatchSignature.from_bytes, read_signature):
        again = read(signature.to_bytes())
        assert isinstance(again, BatchSignature)
        for field in fields(BatchSignature):
            assert getattr(again, field.name) == getattr(signature, field.name)
        assert again.to_bytes() == signature.to_bytes() and again.digest == signature.digest


def test_the_digest_stays_the_same() -> None:
    """Messages and key files of earlier releases carry it: whoever changes it raises VERSION."""
    assert PRIVATE.digest.hex()[:16] == "2fefcbfb3affebce"
    assert PLAIN.digest.hex()[:16] == "ab892dc82d8ab531"


@either
def test_every_field_is_in_the_digest(signature: BatchSignature) -> None:
    changes: dict[str, Any] = {
        "identity": bytes(16),
        "parameters": ParametersLiteral(8192, (33, 33, 33), 17).resolve(),
        "input_shape": (3, 2, 1),
        "input_range": (-1.0, 2.0),
        "input_scale": 2.0**21,
        "outputs": 5,
        "output_scale": 2.0**20,
        "components": 3,
        "response": "plain" if signature is PRIVATE else "private",
        "response_bits": (20, 25),
        "statistical_bits": 42.0,
        "precision_bits": 8.5,
        "resolution": 2.0**-9,
    }
    assert changes.keys() == {field.name for field in fields(BatchSignature)}
    digests = {replace(signature, **{name: value}).digest for name, value in changes.items()}
    assert len(digests | {signature.digest}) == len(changes) + 1


def test_a_signature_holds_no_weights() -> None:
    """All its numbers are layout, scales and sizes."""
    assert json.loads(PRIVATE.to_bytes()).keys() == {
        "format", "version", "layout", "identity", "parameters", "input_shape", "input_range",
        "input_scale", "outputs", "output_scale", "components", "response", "response_bits",
        "statistical_bits", "precision_bits", "resolution",
    }  # fmt: skip


def test_what_follows_from_the_fields() -> None:
    assert (PRIVATE.features, PRIVATE.needs_keys, PLAIN.needs_keys) == (6, True, False)
    assert (PRIVATE.seeded_keys, PLAIN.seeded_keys) == (1 + 3 * 3, 0)
    assert replace(PRIVATE, components=2).seeded_keys == 1
    assert PRIVATE.cut_bits == (33 - 19, 33 - 25) == BatchFormat.of(PRIVATE).cut_bits
    assert PRIVATE.security_bits == 128


@either
def test_lengths_are_those_of_messages(signature: BatchSignature) -> None:
    measured, form = lengths(signature), BatchFormat.of(signature)
    assert measured.max_queries == 4096 and measured.keys == form.key_bytes
    assert measured.query(1) == measured.query(4096) == form.query_bytes
    assert measured.answer(1) == measured.answer(4096) == form.answer_bytes
    assert measured.queries_in(form.query_bytes) == 4096


# ---------------------------------------------------------------------------- contradictions


NAN, INFINITE = float("nan"), float("inf")
FAULTS: list[dict[str, Any]] = [
    {"format": None},
    {"format": "sottovoce-network"},
    {"version": 2},
    {"version": "1"},
    {"layout": None},
    {"layout": "packed"},
    {"layout": "rows"},
    {"identity": "00"},
    {"identity": "00" * 17},
    {"identity": "zz" * 16},
    {"identity": 5},
    {"input_shape": []},
    {"input_shape": [6, 1]},
    {"input_shape": [0]},
    {"input_shape": [-2, -3, 1]},
    {"input_shape": [6.0]},
    {"input_shape": [True]},
    {"input_shape": [INFINITE]},
    {"input_shape": [2**40]},
    {"input_shape": 6},
    {"input_range": [1, 1]},
    {"input_range": [1, -1]},
    {"input_range": [0]},
    {"input_range": [NAN, 1]},
    {"input_range": [0, INFINITE]},
    {"input_range": [0, 10**400]},
    {"input_range": None},
    *({name: bad} for name in ("input_scale", "output_scale")
      for bad in (0, 0.5, -1.0, NAN, INFINITE, None, "x", 2.0**200, 10**400)),
    {"outputs": 0},
    {"outputs": -1},
    {"outputs": 2.0},
    {"outputs": 2**40},
    {"components": 1},
    {"components": 0},
    {"components": MAX_COMPONENTS + 1},
    {"components": 3.0},
    {"components": None},
    {"response": "secret"},
    {"response": None},
    {"response": ["private"]},
    {"response_bits": [5]},
    {"response_bits": [-1, 5]},
    {"response_bits": [19.0, 25]},
    {"response_bits": None},
    {"statistical_bits": NAN},
    {"statistical_bits": INFINITE},
    {"statistical_bits": None},
    {"precision_bits": None},
    {"precision_bits": NAN},
    {"resolution": 0},
    {"resolution": -1},
    {"resolution": 2.0**-61},
    {"resolution": NAN},
    {"resolution": INFINITE},
]  # fmt: skip


@either
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: repr(fault)[:50])
def test_signatures_that_contradict_themselves(
    signature: BatchSignature, fault: dict[str, Any]
) -> None:
    refused(altered(signature, **fault))


@either
def test_missing_fields(signature: BatchSignature) -> None:
    whole = json.loads(signature.to_bytes())
    for name in whole:
        data = json.dumps({k: v for k, v in whole.items() if k != name}).encode()
        if name == "parameters":
            with pytest.raises(HEError):
                BatchSignature.from_bytes(data)
        else:
            refused(data)


def test_private_answers_hide_something_and_plain_ones_promise_nothing() -> None:
    at_least = altered(PRIVATE, statistical_bits=MIN_STATISTICAL_BITS)
    assert BatchSignature.from_bytes(at_least).statistical_bits == MIN_STATISTICAL_BITS == 40
    for bits in (39.99, 0, -1):
        refused(altered(PRIVATE, statistical_bits=bits))
    for bits in ([0, 0], [0, 25], [19, 0], [34, 25], [19, 34]):
        refused(altered(PRIVATE, response_bits=bits))
    assert BatchSignature.from_bytes(altered(PRIVATE, response_bits=[33, 33])).cut_bits == (0, 0)
    for bits in ([1, 0], [19, 25]):
        refused(altered(PLAIN, response_bits=bits))
    refused(altered(PRIVATE, response="plain"))
    refused(altered(PLAIN, response="private"))
    # A private answer is modulo the first prime, a plain one modulo all of them.
    assert BatchSignature.from_bytes(altered(PLAIN, output_scale=2.0**40)).output_scale == 2.0**40
    refused(altered(PRIVATE, output_scale=2.0**40))


def test_limits_of_what_is_asked_for() -> None:
    """One ciphertext more than messages may hold; keys that would not be accepted."""
    row = 3 * 8 * 8192
    most = MAX_MESSAGE_BYTES // row
    for signature in BOTH.values():
        assert BatchSignature.from_bytes(altered(signature, input_shape=[most])).features == most
        refused(altered(signature, input_shape=[most + 1]), "more than is accepted")
        BatchSignature.from_bytes(altered(signature, outputs=most // 5))
        refused(altered(signature, outputs=most // 5 + 1), "more than is accepted")
    vast = ParametersLiteral(32768, (28,) * 29, 20).resolve()
    wide = replace(PRIVATE, parameters=vast, response_bits=(19, 25), components=9)
    keys = 2 * wide.seeded_keys * 29 * 8 * 32768
    assert (keys <= MAX_KEY_BYTES) == bool(_accepted(wide))


def _accepted(signature: BatchSignature) -> BatchSignature | None:
    try:
        return BatchSignature.from_bytes(signature.to_bytes())
    except ModelFileError:
        return None


def test_weak_parameters() -> None:
    """A server that offers insecure parameters is refused by every client."""
    weak = {**PRIVATE.parameters.to_json(), "ring_degree": 4096}
    for read in (BatchSignature.from_bytes, read_signature):
        with pytest.raises(ParameterError, match=r"modulo|over the 106 bits"):
            read(altered(PRIVATE, parameters=weak))


# ---------------------------------------------------------------------------- anything at all


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
)


@either
@given(data=st.data())
@settings(max_examples=150)
def test_any_value_in_any_field(signature: BatchSignature, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(json.loads(signature.to_bytes()))))
    changed = altered(signature, **{field: data.draw(JSON)})
    try:
        found = read_signature(changed)
    except HEError as error:
        assert type(error) in (ModelFileError, ParameterError)
        assert "\n" not in str(error)
    else:
        assert read_signature(found.to_bytes()).digest == found.digest


@given(st.binary(max_size=100))
def test_any_bytes_as_a_signature(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"5", b"\xff", b"[" * 100_000])
def test_what_is_no_signature(data: bytes) -> None:
    refused(data, "not a signature")


def test_oversized_signatures(tmp_path: Path) -> None:
    refused(b" " * (MAX_BYTES + 1), "at most")
    path = tmp_path / "s"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading all of it would not end
    with pytest.raises(ModelFileError, match="at most"):
        he_inference.load_signature(path)


# ---------------------------------------------------------------------------- which layout


def test_signatures_are_told_apart(shallow: Party) -> None:
    packed = shallow.compiled.signature
    assert isinstance(read_signature(packed.to_bytes()), Signature)
    assert isinstance(read_signature(PRIVATE.to_bytes()), BatchSignature)
    with pytest.raises(ModelFileError, match="of the packed layout: expected batched"):
        BatchSignature.from_bytes(packed.to_bytes())
    with pytest.raises(ModelFileError, match="of the batched layout: expected packed"):
        Signature.from_bytes(PRIVATE.to_bytes())


def test_one_layout_under_the_others_name(shallow: Party) -> None:
    packed = json.loads(shallow.compiled.signature.to_bytes())
    refused(json.dumps({**packed, "layout": "batched"}).encode(), "not a signature")
    with pytest.raises(ModelFileError, match="not a signature"):
        read_signature(altered(PRIVATE, layout="packed"))


def test_an_unknown_layout() -> None:
    with pytest.raises(ModelFileError, match="'rows' layout: this release knows packed, batched"):
        read_signature(altered(PRIVATE, layout="rows"))
    with pytest.raises(ModelFileError) as caught:
        read_signature(altered(PRIVATE, layout="\n" * 1000 + "x" * 1000))
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


@either
def test_signature_files(signature: BatchSignature, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(signature.to_bytes())
    assert he_inference.load_signature(path).digest == signature.digest
    with pytest.raises(ModelFileError, match="cannot be read"):
        he_inference.load_signature(tmp_path / "missing")
    path.write_bytes(signature.to_bytes()[:-1])
    with pytest.raises(ModelFileError, match=str(path)):
        he_inference.load_signature(path)
