"""`he_inference.coefficient_wire`: what is written is read back, and nothing else is ever read."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from he_inference import coefficient_wire, wire
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.coefficient_wire import CoefficientAnswer
from he_inference.cost import SEED_BYTES
from he_inference.errors import MessageError, WrongProgram
from he_inference.wire import Query, Residues, Seeded
from tests.conftest import resealed
from tests.test_coefficient_signature import PLAIN, PRIVATE

SIGNATURE = replace(PRIVATE, monomials=np.array([[-1, i % 6] for i in range(3000)], np.int32))
"""Of seven outputs, three to a ciphertext, and of three ciphertexts to a query."""
LAYOUT, PRIMES = SIGNATURE.layout, SIGNATURE.parameters.data_primes
DEGREE, PRIME = LAYOUT.degree, PRIMES[0]
HEADER = 4 + 2 + 2 + 32
RNG = np.random.default_rng(0)
TICKET, KEY_ID = bytes(range(100, 132)), bytes(range(16))


def residues(*shape: int, prime: int = PRIME) -> Residues:
    """Uniform, with both ends of the range among them."""
    found = RNG.integers(0, prime, shape, dtype=np.uint64)
    found[..., 0], found[..., -1] = 0, prime - 1
    return found


def seeded(primes: tuple[int, ...]) -> Seeded:
    rows = np.stack([residues(DEGREE, prime=prime) for prime in primes])
    return Seeded(rows, RNG.bytes(SEED_BYTES))


ZERO = seeded(PRIMES)
CIPHERTEXTS = tuple(seeded(PRIMES[:1]) for _ in range(2 * LAYOUT.queries))
ANSWER = CoefficientAnswer(
    TICKET, residues(2, LAYOUT.outputs), residues(2, LAYOUT.answers, DEGREE)
)  # fmt: skip
MESSAGES: dict[str, tuple[bytes, Callable[[CoefficientSignature, bytes], object]]] = {
    "keys": (coefficient_wire.write_keys(SIGNATURE, ZERO), coefficient_wire.read_keys),
    "query": (wire.write_query(SIGNATURE, Query(KEY_ID, TICKET, CIPHERTEXTS)), wire.read_query),
    "answer": (coefficient_wire.write_answer(SIGNATURE, ANSWER), coefficient_wire.read_answer),
}
COUNT_AT = {"query": HEADER + 16 + 32, "answer": HEADER + 32}
every_kind = pytest.mark.parametrize("kind", MESSAGES)


def refused(kind: str, message: bytes, because: str, kind_of: type = MessageError) -> None:
    with pytest.raises(MessageError, match=because) as caught:
        MESSAGES[kind][1](SIGNATURE, message)
    assert type(caught.value) is kind_of and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- to and fro


def test_keys() -> None:
    message, _ = MESSAGES["keys"]
    found = coefficient_wire.read_keys(SIGNATURE, message)
    assert found is not None and found.seed == ZERO.seed
    assert np.array_equal(found.residues, ZERO.residues)
    assert len(message) == HEADER + coefficient_wire.key_bytes(SIGNATURE) + 16
    assert coefficient_wire.key_bytes(SIGNATURE) == 64 + (30 + 42) * DEGREE // 8


def test_plain_programs_have_a_message_of_no_keys() -> None:
    message = coefficient_wire.write_keys(PLAIN, None)
    assert coefficient_wire.read_keys(PLAIN, message) is None and len(message) == HEADER + 16
    with pytest.raises(MessageError, match="too long"):
        body = message[:-16] + bytes(64) + bytes(16)
        coefficient_wire.read_keys(PLAIN, resealed(body))


def test_queries() -> None:
    message, _ = MESSAGES["query"]
    found = wire.read_query(SIGNATURE, message)
    assert (found.key_id, found.ticket) == (KEY_ID, TICKET)
    assert len(found.ciphertexts) == 6 == 2 * SIGNATURE.query_ciphertexts
    for one, other in zip(found.ciphertexts, CIPHERTEXTS, strict=True):
        assert one.seed == other.seed and np.array_equal(one.residues, other.residues)


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(0, 2**32))
def test_answers_up_to_the_bits_cut(bits: int, seed: int) -> None:
    """Outputs exactly; of polynomials the nearest multiple of 2^cut, but for the few values above
    the largest one that fits."""
    signature = replace(SIGNATURE, answer_bits=bits, identity=bytes(16))
    rng = np.random.default_rng(seed)
    sent = CoefficientAnswer(
        TICKET,
        rng.integers(0, PRIME, (1, LAYOUT.outputs), dtype=np.uint64),
        rng.integers(0, PRIME, (1, LAYOUT.answers, DEGREE), dtype=np.uint64),
    )
    message = coefficient_wire.write_answer(signature, sent)
    each = coefficient_wire.answer_bytes(signature)
    assert len(message) == HEADER + 32 + 4 + each + 16
    assert each == 8 * 7 + 3 * bits * DEGREE // 8
    found = coefficient_wire.read_answer(signature, message)
    assert found.ticket == TICKET and np.array_equal(found.outputs, sent.outputs)
    cut, before = signature.cut_bits, sent.polynomials
    distance = (found.polynomials.astype(np.int64) - before.astype(np.int64)) % PRIME
    distance = np.minimum(distance, PRIME - distance)
    top = before >= np.uint64((1 << 30) - ((1 << cut) // 2)) if cut else before > PRIME
    assert (distance[~top] <= (1 << cut) // 2).all()
    assert (distance <= (1 << cut if cut else 0)).all()
    assert (found.polynomials < PRIME).all()


def test_no_coefficient_of_c0_is_sent_but_the_outputs() -> None:
    """A message has no room for others: its length is theirs and that of c1."""
    message, _ = MESSAGES["answer"]
    at = HEADER + 36
    for number in range(2):
        start = at + number * coefficient_wire.answer_bytes(SIGNATURE)
        found = np.frombuffer(message[start : start + 56], "<u8")
        assert found.tolist() == ANSWER.outputs[number].tolist()


# ---------------------------------------------------------------------------- refusals


@every_kind
@given(data=st.data())
@settings(max_examples=60)
def test_a_flipped_bit_is_found(kind: str, data: st.DataObject) -> None:
    message, read = MESSAGES[kind]
    at = data.draw(st.one_of(st.integers(0, HEADER + 60), st.integers(0, len(message) - 1)))
    damaged = bytearray(message)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MessageError) as caught:
        read(SIGNATURE, bytes(damaged))
    assert "\n" not in str(caught.value)


@every_kind
@given(data=st.data())
@settings(max_examples=40)
def test_other_lengths_are_refused(kind: str, data: st.DataObject) -> None:
    """Truncated or padded, with a checksum that fits."""
    message, _ = MESSAGES[kind]
    cut = data.draw(st.one_of(st.integers(1, 100), st.integers(1, len(message))))
    refused(kind, message[:-cut], "truncated")
    refused(kind, message + bytes(cut), "too long")
    refused(kind, resealed(message + bytes(cut)), "too long")
    if len(message) - cut > HEADER + 100:
        refused(kind, resealed(message[:-cut]), "truncated")


@every_kind
@given(noise=st.binary(max_size=300))
def test_noise_is_refused(kind: str, noise: bytes) -> None:
    whole = MESSAGES[kind][0]
    for hostile in (noise, whole[:HEADER] + noise, resealed(whole[:HEADER] + noise + bytes(16))):
        refused(kind, hostile, ".")


@every_kind
@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"HTTP", "not a message of this protocol"),
        (4, struct.pack("<H", 2), "version 2: this release speaks version 1"),
        (6, struct.pack("<H", 77), "expected a message of kind .*, found 77"),
        (6, struct.pack("<H", 4), "expected a message of kind .*, found BATCH_QUERY"),
    ],
)
def test_headers(kind: str, offset: int, value: bytes, message: str) -> None:
    whole = MESSAGES[kind][0]
    refused(kind, resealed(whole[:offset] + value + whole[offset + len(value) :]), message)


@every_kind
def test_one_kind_is_not_read_as_another(kind: str) -> None:
    for other in MESSAGES:
        if other != kind:
            refused(other, MESSAGES[kind][0], "expected a message of kind")


@every_kind
@pytest.mark.parametrize(
    "change", [{"identity": bytes(16)}, {"group": 2}, {"answer_bits": 20}, {"monomials": None}]
)
def test_messages_for_another_signature(kind: str, change: dict[str, object]) -> None:
    change = {k: SIGNATURE.monomials[::-1] if v is None else v for k, v in change.items()}
    message, read = MESSAGES[kind]
    with pytest.raises(WrongProgram, match="fetch the signature again"):
        read(replace(SIGNATURE, **change), message)  # type: ignore[arg-type]


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("row", [0, 1])
def test_residues_of_keys_that_are_not_reduced(row: int, excess: int) -> None:
    wrong = ZERO.residues.copy()
    wrong[row, 1234] = PRIMES[row] + excess
    hostile = coefficient_wire.write_keys(SIGNATURE, Seeded(wrong, ZERO.seed))
    assert hostile == resealed(hostile)
    refused("keys", hostile, f"{PRIMES[row] + excess} is not below its prime {PRIMES[row]}")


@pytest.mark.parametrize("number", range(6))
def test_residues_of_queries_that_are_not_reduced(number: int) -> None:
    wrong = CIPHERTEXTS[number].residues.copy()
    wrong[0, 7] = PRIME
    ciphertexts = list(CIPHERTEXTS)
    ciphertexts[number] = Seeded(wrong, ciphertexts[number].seed)
    hostile = wire.write_query(SIGNATURE, Query(KEY_ID, TICKET, tuple(ciphertexts)))
    refused("query", hostile, f"{PRIME} is not below its prime {PRIME}")


@pytest.mark.parametrize("value", [PRIME, PRIME + 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("place", [(0, 0), (1, 6)])
def test_outputs_that_are_not_reduced(value: int, place: tuple[int, int]) -> None:
    outputs = ANSWER.outputs.copy()
    outputs[place] = value
    hostile = coefficient_wire.write_answer(SIGNATURE, replace(ANSWER, outputs=outputs))
    refused("answer", hostile, f"an output of {value} is not below its prime {PRIME}")


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_any_bits_of_an_answers_polynomials_are_residues(seed: int) -> None:
    """Bits that are kept may stand for more than the prime: what is read is below it."""
    message = bytearray(MESSAGES["answer"][0])
    start = HEADER + 36 + 56
    end = HEADER + 36 + coefficient_wire.answer_bytes(SIGNATURE)
    noise = np.random.default_rng(seed).bytes(end - start) if seed else b"\xff" * (end - start)
    message[start:end] = noise
    found = coefficient_wire.read_answer(SIGNATURE, resealed(bytes(message)))
    assert found.polynomials.max() < PRIME


@pytest.mark.parametrize("kind", COUNT_AT)
@pytest.mark.parametrize("count", [0, 1, 3, wire.MAX_QUERIES, wire.MAX_QUERIES + 1, 2**32 - 1])
def test_counts_are_checked_before_anything_is_made(kind: str, count: int) -> None:
    """Of two queries; those of another count are of another length."""
    whole, at = MESSAGES[kind][0], COUNT_AT[kind]
    hostile = resealed(whole[:at] + struct.pack("<I", count) + whole[at + 4 :])
    because = (
        f"{count} queries: expected 1 to"
        if not 1 <= count <= wire.MAX_QUERIES
        else ("truncated" if count > 2 else "too long")
    )
    tracemalloc.start()
    try:
        refused(kind, hostile, because)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(whole) + (1 << 16)
