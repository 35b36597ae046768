"""`he_inference.coefficient_signature`: what is read is what was written, or one error."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from dataclasses import fields, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from he_inference import Client, coefficient_signature, wire
from he_inference.batch_signature import MIN_STATISTICAL_BITS
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.errors import HEError, ModelFileError, ParameterError
from he_inference.expansion import MAX_MONOMIALS, NONE
from he_inference.layouts.coefficients import MAX_CIPHERTEXTS, MAX_GROUP
from he_inference.lengths import lengths
from he_inference.parameters import ParametersLiteral
from he_inference.signatures import read_signature
from tests.test_batch_signature import JSON

PRIVATE = CoefficientSignature(
    identity=bytes(range(16)),
    parameters=ParametersLiteral(4096, (30, 42), 17).resolve(),
    input_shape=(2, 3, 1),
    input_range=(-1.0, 1.0),
    monomials=np.array([[NONE, 0], [NONE, 5], [0, 0], [0, 4], [2, 5]], np.int32),
    outputs=7,
    group=3,
    input_scale=2.0**10.25,
    output_scale=2.0**21.5,
    response="private",
    answer_bits=19,
    statistical_bits=41.5,
    precision_bits=8.2,
    resolution=2.0**-8,
)
PLAIN = replace(
    PRIVATE, response="plain", statistical_bits=0.0,
    parameters=ParametersLiteral(4096, (30,), 17).resolve(),
)  # fmt: skip
BOTH = {"private": PRIVATE, "plain": PLAIN}
either = pytest.mark.parametrize("signature", BOTH.values(), ids=BOTH)


def altered(signature: CoefficientSignature, **changes: Any) -> bytes:
    return json.dumps({**json.loads(signature.to_bytes()), **changes}).encode()


def refused(data: bytes, because: str = ".") -> None:
    for read in (CoefficientSignature.from_bytes, read_signature):
        with pytest.raises(ModelFileError, match=because) as caught:
            read(data)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def same(one: CoefficientSignature, other: CoefficientSignature) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(CoefficientSignature)
    )


# ---------------------------------------------------------------------------- to and fro


@either
def test_a_signature_is_what_it_was(signature: CoefficientSignature) -> None:
    for read in (CoefficientSignature.from_bytes, read_signature):
        again = read(signature.to_bytes())
        assert isinstance(again, CoefficientSignature) and same(again, signature)
        assert again.to_bytes() == signature.to_bytes() and again.digest == signature.digest


@given(
    st.lists(
        st.tuples(st.integers(-1, 10**6), st.integers(0, 10**6)).map(sorted),
        min_size=1, max_size=50,
    )
)  # fmt: skip
def test_any_monomials(rows: list[list[int]]) -> None:
    signature = replace(PRIVATE, monomials=np.array(rows, np.int32), input_shape=(10**6 + 1,))
    assert same(CoefficientSignature.from_bytes(signature.to_bytes()), signature)


def test_the_digest_stays_the_same() -> None:
    """Messages and key files carry it: whoever changes it raises VERSION."""
    assert PRIVATE.digest.hex()[:16] == "3161b104615df10b"
    assert PLAIN.digest.hex()[:16] == "4fc65a1e9f6a1eab"


def test_the_digest_does_not_depend_on_the_compressor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends must agree on it, and releases of zlib do not agree on what they write."""
    monkeypatch.setattr(zlib, "compress", lambda data, _: _stored(data))
    stored = replace(PRIVATE).to_bytes()
    monkeypatch.undo()
    assert stored != PRIVATE.to_bytes()
    assert CoefficientSignature.from_bytes(stored).digest == PRIVATE.digest


def _stored(data: bytes) -> bytes:
    packer = zlib.compressobj(0)
    return packer.compress(data) + packer.flush()


@either
def test_every_field_is_in_the_digest(signature: CoefficientSignature) -> None:
    changes: dict[str, Any] = {
        "identity": bytes(16),
        "parameters": ParametersLiteral(4096, (30, 41), 17).resolve(),
        "input_shape": (3, 2, 1),
        "input_range": (-1.0, 2.0),
        "monomials": PRIVATE.monomials[::-1],
        "outputs": 6,
        "group": 2,
        "input_scale": 2.0**11,
        "output_scale": 2.0**20,
        "response": "plain" if signature is PRIVATE else "private",
        "answer_bits": 20,
        "statistical_bits": 42.0,
        "precision_bits": 8.5,
        "resolution": 2.0**-9,
    }
    assert changes.keys() == {field.name for field in fields(CoefficientSignature)}
    digests = {replace(signature, **{name: value}).digest for name, value in changes.items()}
    assert len(digests | {signature.digest}) == len(changes) + 1


def test_a_signature_holds_no_weights() -> None:
    """All its numbers are layout, scales and sizes; of the compiler's, see `test_scales_show`."""
    assert json.loads(PRIVATE.to_bytes()).keys() == {
        "format", "version", "layout", "identity", "parameters", "input_shape", "input_range",
        "monomials", "outputs", "group", "input_scale", "output_scale", "response", "answer_bits",
        "statistical_bits", "precision_bits", "resolution",
    }  # fmt: skip


def test_what_follows_from_the_fields() -> None:
    assert (PRIVATE.private, PRIVATE.needs_keys, PLAIN.needs_keys) == (True, True, False)
    assert PRIVATE.query_primes == PRIVATE.parameters.data_primes[:1] == PLAIN.query_primes
    layout = PRIVATE.layout
    assert (layout.block, layout.queries, layout.answers) == (1365, 1, 3)
    assert PRIVATE.query_ciphertexts == 1 and PRIVATE.cut_bits == 11
    assert PRIVATE.security_bits == 128


@either
def test_lengths(signature: CoefficientSignature) -> None:
    measured = lengths(signature)
    assert measured.max_queries == wire.MAX_QUERIES == Client(signature).max_queries
    seeded = 64 + 30 * 4096 // 8
    zero = 64 + 72 * 4096 // 8 if signature.needs_keys else 0
    assert measured.keys == 56 + zero
    for count in (1, 5, 1024):
        assert measured.query(count) == 56 + 16 + 32 + 4 + count * seeded
        assert measured.answer(count) == 56 + 32 + 4 + count * (7 * 8 + 3 * 19 * 4096 // 8)
        assert measured.queries_in(measured.query(count)) == count
        assert measured.queries_in(measured.query(count) - 1) == count - 1


# ---------------------------------------------------------------------------- contradictions


NAN, INFINITE = float("nan"), float("inf")


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def pairs(*rows: tuple[int, int]) -> str:
    """As differences, column by column."""
    steps = np.diff(np.array(rows, np.int64), axis=0, prepend=0)
    return packed(np.ascontiguousarray(steps.astype("<i4").T).tobytes())


FAULTS: list[dict[str, Any]] = [
    {"format": "sottovoce-network"},
    {"version": 2},
    {"layout": "packed"},
    {"layout": "batched"},
    {"identity": "00"},
    {"identity": "zz" * 16},
    {"identity": 5},
    {"input_shape": []},
    {"input_shape": [6, 1]},
    {"input_shape": [5]},
    {"input_shape": [0]},
    {"input_shape": [-2, -3, 1]},
    {"input_shape": [6.0]},
    {"input_shape": [True]},
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
      for bad in (0, 0.5, -1.0, NAN, INFINITE, None, "x", 2.0**30, 10**400)),
    *({name: bad} for name in ("outputs", "group", "answer_bits")
      for bad in (0, -1, 2.0, 2**40, None, "x", True, NAN)),
    {"group": 8},
    {"answer_bits": 31},
    {"outputs": (1 << 16) + 1},
    {"outputs": 2, "group": 3},
    {"response": "secret"},
    {"response": None},
    {"response": ["private"]},
    *({"statistical_bits": bad} for bad in (NAN, INFINITE, None, -1, 1e-9, 39.99, "x")),
    *({"precision_bits": bad} for bad in (NAN, INFINITE, None, "x")),
    *({"resolution": bad} for bad in (0, -1, 2.0**-61, NAN, INFINITE, None)),
    {"monomials": None},
    {"monomials": 5},
    {"monomials": []},
    {"monomials": ""},
    {"monomials": "!"},
    {"monomials": "AAAA"},
    {"monomials": "\u00e9"},
    {"monomials": packed(b"")},
    {"monomials": packed(bytes(7))},
    {"monomials": packed(bytes(12))},
    {"monomials": base64.b64encode(zlib.compress(bytes(80))[:-3]).decode()},
    {"monomials": pairs((0, 6))},
    {"monomials": pairs((0, 0), (6, 0))},
    {"monomials": pairs((-2, 0))},
    {"monomials": pairs((0, -1))},
    {"monomials": pairs((2**31 - 1, 2**31 - 1))},
    {"monomials": packed(np.full(8, 2**31 - 1, "<i4").tobytes())},
    {"monomials": packed(np.full(8, -(2**31), "<i4").tobytes())},
    {"monomials": packed(bytes(8 * (MAX_MONOMIALS + 1)))},
]  # fmt: skip


@either
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: repr(fault)[:50])
def test_signatures_that_contradict_themselves(
    signature: CoefficientSignature, fault: dict[str, Any]
) -> None:
    refused(altered(signature, **fault))


def test_sound_monomials_by_hand() -> None:
    """That the faults above are what is refused, and not how they are made."""
    rows = ((NONE, 5), (0, 0), (3, 5), (NONE, 0))
    found = CoefficientSignature.from_bytes(altered(PRIVATE, monomials=pairs(*rows)))
    assert [tuple(row) for row in found.monomials.tolist()] == list(rows)
    most = CoefficientSignature.from_bytes(altered(PRIVATE, monomials=packed(bytes(
        8 * MAX_MONOMIALS))))  # fmt: skip
    assert len(most.monomials) == MAX_MONOMIALS


@either
def test_missing_fields(signature: CoefficientSignature) -> None:
    whole = json.loads(signature.to_bytes())
    for name in whole:
        data = json.dumps({k: v for k, v in whole.items() if k != name}).encode()
        with pytest.raises(HEError) as caught:
            CoefficientSignature.from_bytes(data)
        assert isinstance(caught.value, ModelFileError) or name == "parameters"


def test_private_answers_hide_something_and_plain_ones_promise_nothing() -> None:
    least = altered(PRIVATE, statistical_bits=MIN_STATISTICAL_BITS)
    assert CoefficientSignature.from_bytes(least).statistical_bits == MIN_STATISTICAL_BITS == 40
    refused(altered(PLAIN, statistical_bits=40))
    refused(altered(PRIVATE, response="plain"))
    refused(altered(PLAIN, response="private", statistical_bits=50))  # with a single prime
    refused(altered(PRIVATE, statistical_bits=0))


def test_weak_parameters() -> None:
    """All primes count, the special one too; a server that offers more is refused."""
    for data, special in (((42, 42), 17), ((42, 42), 22)):
        literal = ParametersLiteral(8192, data, special).resolve()
        weak = {**literal.to_json(), "ring_degree": 4096}
        total = sum(data) + special
        signature = altered(PRIVATE, parameters=weak)
        if total <= 106:
            assert read_signature(signature).parameters.total_bits <= 106
        else:
            with pytest.raises(ParameterError, match="over the 106 bits"):
                read_signature(signature)
    with pytest.raises(ParameterError, match="prime"):
        bad = {**PRIVATE.parameters.to_json(), "data_primes": [2**30 + 1, 2**40 + 1]}
        read_signature(altered(PRIVATE, parameters=bad))


def test_limits_of_what_is_asked_for() -> None:
    """Primes beyond exact arithmetic, queries of more ciphertexts than are summed, vast answers."""
    large = ParametersLiteral(8192, (43, 42), 17).resolve()
    refused(altered(PRIVATE, parameters=large.to_json()))
    large = ParametersLiteral(8192, (42, 43), 17).resolve()
    refused(altered(PRIVATE, parameters=large.to_json()))
    vast = ParametersLiteral(32768, (42, 42), 20).resolve().to_json()
    assert read_signature(altered(PRIVATE, parameters=vast, outputs=1 << 14, group=1))
    refused(altered(PRIVATE, parameters=vast, outputs=1 << 16, group=1), "more than is accepted")
    assert read_signature(altered(PRIVATE, outputs=5000, group=MAX_GROUP))
    refused(altered(PRIVATE, outputs=5000, group=MAX_GROUP + 1), "more than is accepted")
    rows = packed(bytes(8 * 4 * MAX_CIPHERTEXTS))  # blocks of 4 features
    assert read_signature(altered(PRIVATE, outputs=2000, group=1000, monomials=rows))
    rows = packed(bytes(8 * (4 * MAX_CIPHERTEXTS + 1)))
    refused(altered(PRIVATE, outputs=2000, group=1000, monomials=rows), "more than is accepted")


def test_monomials_that_unpack_to_gigabytes_allocate_nothing() -> None:
    """64 MB of zeros in some 64 kB: no more is unpacked than the largest signature holds."""
    bomb = altered(PRIVATE, monomials=packed(bytes(1 << 26)))
    assert len(bomb) < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="monomials of"):
            CoefficientSignature.from_bytes(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 8 * MAX_MONOMIALS
    assert coefficient_signature.MAX_OUTPUTS == 1 << 16


# ---------------------------------------------------------------------------- anything at all


@either
@given(data=st.data())
@settings(max_examples=150)
def test_any_value_in_any_field(signature: CoefficientSignature, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(json.loads(signature.to_bytes()))))
    changed = altered(signature, **{field: data.draw(JSON)})
    try:
        found = read_signature(changed)
    except HEError as error:
        assert type(error) in (ModelFileError, ParameterError)
        assert "\n" not in str(error)
    else:
        assert read_signature(found.to_bytes()).digest == found.digest


@given(st.binary(max_size=200))
def test_any_bytes_as_monomials(data: bytes) -> None:
    for text in (base64.b64encode(data).decode(), packed(data)):
        try:
            found = read_signature(altered(PRIVATE, monomials=text))
        except ModelFileError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(found, CoefficientSignature)
            assert NONE <= found.monomials.min() <= found.monomials.max() < 6


@given(st.data())
@settings(max_examples=60)
def test_a_flipped_bit_is_refused_or_another_signature(data: st.DataObject) -> None:
    whole = bytearray(PRIVATE.to_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = read_signature(bytes(whole))
    except HEError as error:
        assert type(error) in (ModelFileError, ParameterError)
    else:
        assert same(found, PRIVATE) or found.digest != PRIVATE.digest  # type: ignore[arg-type]


def test_one_layout_under_the_others_name() -> None:
    for layout in ("packed", "batched"):
        with pytest.raises(ModelFileError, match="not a signature"):
            read_signature(altered(PRIVATE, layout=layout))
