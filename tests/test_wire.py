"""`he_inference.wire`: what is written is read back, and nothing else is ever read."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from he_inference import wire
from he_inference.cost import SEED_BYTES, download_bytes, key_bytes, key_primes, upload_bytes
from he_inference.errors import MessageError, WrongProgram
from he_inference.parameters import ParametersLiteral
from he_inference.signature import KeyPlan, Signature
from he_inference.wire import Answer, Query, Residues, Seeded
from tests.conftest import resealed

HEADER = 4 + 2 + 2 + 32
ENVELOPE = HEADER + wire.CHECKSUM_BYTES
RNG = np.random.default_rng(0)


def a_signature(identity: int = 1) -> Signature:
    parameters = ParametersLiteral(4096, (36, 30), 40).resolve()
    return Signature(
        identity=bytes([identity]) * 16,
        parameters=parameters,
        input_shape=(3,),
        input_range=(0.0, 1.0),
        input_scale=2.0**20,
        gather=np.append(np.arange(3), np.full(parameters.slots - 3, -1)),
        output_slots=np.arange(2),
        output_scale=2.0**20,
        keys=KeyPlan(2, ((1, 1), (5, 2))),
        response_bits=(29, 34),
        precision_bits=10.0,
        resolution=2.0**-10,
    )


SIGNATURE = a_signature()
PRIMES = SIGNATURE.parameters.data_primes
DEGREE = SIGNATURE.parameters.ring_degree


def residues(primes: tuple[int, ...]) -> Residues:
    """Uniform, with both ends of the range among them."""
    rows = np.stack([RNG.integers(0, p, DEGREE, dtype=np.uint64) for p in primes])
    rows[:, 0], rows[:, -1] = 0, np.array(primes, dtype=np.uint64) - 1
    return rows


def seeded(primes: tuple[int, ...]) -> Seeded:
    return Seeded(residues(primes), RNG.bytes(SEED_BYTES))


def same(a: Seeded, b: Seeded) -> bool:
    return a.seed == b.seed and np.array_equal(a.residues, b.residues)


KEYS = [
    tuple(seeded(key_primes(SIGNATURE.parameters, level)) for _ in range(level))
    for level in SIGNATURE.keys.levels
]
TICKET = bytes(range(100, 132))
QUERY = Query(bytes(range(16)), TICKET, (seeded(PRIMES), seeded(PRIMES)))
ANSWER = Answer(TICKET, tuple(residues(PRIMES[:1] * 2) for _ in range(3)))

MESSAGES: dict[str, tuple[bytes, Callable[[Signature, bytes], object]]] = {
    "keys": (wire.write_keys(SIGNATURE, KEYS), wire.read_keys),
    "query": (wire.write_query(SIGNATURE, QUERY), wire.read_query),
    "answer": (wire.write_answer(SIGNATURE, ANSWER), wire.read_answer),
}
COUNT_AT = {"keys": 0, "query": 16 + 32, "answer": 32}
"""Behind the header: a key id and a ticket, or a ticket alone."""
every_kind = pytest.mark.parametrize("kind", MESSAGES)


# ---------------------------------------------------------------------------- bits


@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 2**32))
def test_packing_is_undone(bits: int, blocks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1 << bits, 64 * blocks, dtype=np.uint64)
    values[rng.integers(len(values))] = (1 << bits) - 1
    packed = wire.pack(values, bits)
    assert len(packed) == 8 * blocks * bits
    assert np.array_equal(wire.unpack(packed, bits), values)


@pytest.mark.parametrize("bits", range(1, 61))
def test_packing_is_little_endian_without_gaps(bits: int) -> None:
    """Against one large integer: value i in bits [i·bits, (i+1)·bits)."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, 128, dtype=np.uint64)
    whole = sum(int(v) << (bits * i) for i, v in enumerate(values))
    assert wire.pack(values, bits) == whole.to_bytes(16 * bits, "little")


def test_a_value_fills_its_bits_and_no_others() -> None:
    for bits in (1, 26, 31, 37, 60):
        for lane in (0, 1, 63):
            values = np.zeros(64, np.uint64)
            values[lane] = (1 << bits) - 1
            number = int.from_bytes(wire.pack(values, bits), "little")
            assert number == ((1 << bits) - 1) << (bits * lane)


# ---------------------------------------------------------------------------- to and fro


def test_keys() -> None:
    message, read = MESSAGES["keys"]
    found = read(SIGNATURE, message)
    assert all(
        same(a, b) for x, y in zip(KEYS, found, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert len(message) == ENVELOPE + key_bytes(SIGNATURE)


def test_queries() -> None:
    message, read = MESSAGES["query"]
    found = read(SIGNATURE, message)
    assert found.key_id == QUERY.key_id and found.ticket == TICKET
    assert all(same(a, b) for a, b in zip(QUERY.ciphertexts, found.ciphertexts, strict=True))
    assert len(message) == ENVELOPE + 16 + 32 + 4 + 2 * upload_bytes(SIGNATURE.parameters)


def test_answers_up_to_the_bits_cut() -> None:
    """Nearest multiple of 2^cut, but for the few values above the largest one that fits."""
    message, read = MESSAGES["answer"]
    assert len(message) == ENVELOPE + 32 + 4 + 3 * download_bytes(SIGNATURE)
    prime = PRIMES[0]
    parsed = read(SIGNATURE, message)
    assert parsed.ticket == TICKET
    for answer, found in zip(ANSWER.polynomials, parsed.polynomials, strict=True):
        assert (found < prime).all()
        for before, after, cut in zip(answer, found, SIGNATURE.cut_bits, strict=True):
            distance = (after.astype(np.int64) - before.astype(np.int64)) % prime
            distance = np.minimum(distance, prime - distance)
            top = before >= np.uint64((1 << prime.bit_length()) - (1 << cut - 1))
            assert (distance[~top] <= 1 << cut - 1).all()
            assert (distance <= 1 << cut).all()


def test_answers_without_a_cut_are_exact() -> None:
    whole = replace(SIGNATURE, response_bits=(36, 36))
    found = wire.read_answer(whole, wire.write_answer(whole, ANSWER)).polynomials
    assert all(np.array_equal(a, b) for a, b in zip(ANSWER.polynomials, found, strict=True))


@pytest.mark.parametrize("cut", range(1, 9))
def test_cutting_has_no_mean_error(cut: int) -> None:
    """Halves go up as often as down: a mean would add up in the slots whose root is near 1."""
    values = np.arange(1 << 10, dtype=np.uint64)
    found = wire.shift_down(values, cut, 12) << np.uint64(cut)
    errors = found.astype(np.int64) - values.astype(np.int64)
    assert errors.sum() == 0 and np.abs(errors).max() == 1 << cut - 1
    assert wire.shift_down(np.uint64([(1 << 10) - 1]), cut, 10 - cut) == (1 << 10 - cut) - 1


def test_programs_without_keys_have_a_message_too() -> None:
    keyless = replace(SIGNATURE, keys=KeyPlan(0, ()))
    message = wire.write_keys(keyless, [])
    assert wire.read_keys(keyless, message) == [] and len(message) == ENVELOPE


def test_the_key_id_is_a_digest_of_the_keys() -> None:
    message = MESSAGES["keys"][0]
    assert wire.key_id(message) == hashlib.sha256(message).digest()[:16]
    assert wire.key_id(message) != wire.key_id(message[:-1] + b"?")


# ---------------------------------------------------------------------------- refusals


@every_kind
@given(data=st.data())
@settings(max_examples=60)
def test_a_flipped_bit_is_found(kind: str, data: st.DataObject) -> None:
    message, read = MESSAGES[kind]
    at = data.draw(st.one_of(st.integers(0, ENVELOPE), st.integers(0, len(message) - 1)))
    damaged = bytearray(message)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MessageError):
        read(SIGNATURE, bytes(damaged))


@every_kind
@given(data=st.data())
@settings(max_examples=40)
def test_other_lengths_are_refused(kind: str, data: st.DataObject) -> None:
    """Truncated or padded, with a checksum that fits."""
    message, read = MESSAGES[kind]
    cut = data.draw(st.one_of(st.integers(1, 100), st.integers(1, len(message))))
    for other in (message[:-cut], message + bytes(cut)):
        with pytest.raises(MessageError):
            read(SIGNATURE, other)
        with pytest.raises(MessageError, match=r"truncated|too long"):
            read(SIGNATURE, resealed(other) if len(other) > ENVELOPE else other)


@every_kind
@given(noise=st.binary(max_size=300))
def test_noise_is_refused(kind: str, noise: bytes) -> None:
    message, read = MESSAGES[kind]
    for hostile in (
        noise,
        message[:HEADER] + noise,
        resealed(message[:HEADER] + noise + bytes(16)),
    ):
        with pytest.raises(MessageError):
            read(SIGNATURE, hostile)


@every_kind
@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"HTTP", "not a message of this protocol"),
        (4, struct.pack("<H", 2), "version 2: this release speaks version 1"),
        (6, struct.pack("<H", 77), "expected a message of kind .*, found 77"),
    ],
)
def test_headers(kind: str, offset: int, value: bytes, message: str) -> None:
    whole, read = MESSAGES[kind]
    hostile = resealed(whole[:offset] + value + whole[offset + len(value) :])
    with pytest.raises(MessageError, match=message):
        read(SIGNATURE, hostile)


@every_kind
def test_one_kind_is_not_read_as_another(kind: str) -> None:
    message, _ = MESSAGES[kind]
    for other, (_, read) in MESSAGES.items():
        if other != kind:
            with pytest.raises(MessageError, match="expected a message of kind"):
                read(SIGNATURE, message)


@every_kind
@pytest.mark.parametrize(
    "other",
    [
        a_signature(identity=2),
        replace(SIGNATURE, input_scale=2.0**21),
        replace(SIGNATURE, output_slots=np.arange(3)),
        replace(SIGNATURE, keys=KeyPlan(2, ((1, 1), (6, 2)))),
    ],
)
def test_messages_for_another_signature(kind: str, other: Signature) -> None:
    message, read = MESSAGES[kind]
    with pytest.raises(WrongProgram, match="fetch the signature again"):
        read(other, message)


@pytest.mark.parametrize("kind", ["keys", "query"])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("excess", [0, 1])
def test_residues_that_are_not_reduced(kind: str, row: int, excess: int) -> None:
    """A residue of its prime or more, with a checksum that fits: refused before SEAL sees it."""
    primes = PRIMES if kind == "query" else key_primes(SIGNATURE.parameters, 2)
    bad = seeded(primes)
    bad.residues[row, 1234] = primes[row] + excess
    if kind == "query":
        hostile = wire.write_query(
            SIGNATURE, Query(QUERY.key_id, TICKET, (QUERY.ciphertexts[0], bad))
        )
        read = wire.read_query
    else:
        hostile = wire.write_keys(SIGNATURE, [(KEYS[0][0], bad), *KEYS[1:]])
        read = wire.read_keys
    assert hostile == resealed(hostile)
    with pytest.raises(MessageError, match=f"{primes[row] + excess} is not below its prime"):
        read(SIGNATURE, hostile)


@pytest.mark.parametrize("kind", ["query", "answer"])
@pytest.mark.parametrize("count", [0, wire.MAX_QUERIES + 1, 2**32 - 1])
def test_counts_are_checked_before_anything_is_made(kind: str, count: int) -> None:
    whole, read = MESSAGES[kind]
    at = HEADER + COUNT_AT[kind]
    hostile = resealed(whole[:at] + struct.pack("<I", count) + whole[at + 4 :])
    with pytest.raises(MessageError, match=f"{count} queries: expected 1 to"):
        read(SIGNATURE, hostile)


@every_kind
def test_a_promise_of_much_allocates_nothing(kind: str) -> None:
    """The largest count there may be, and no bytes to go with it."""
    whole, read = MESSAGES[kind]
    at = HEADER + COUNT_AT[kind]
    short = whole[:at] + struct.pack("<I", wire.MAX_QUERIES) + bytes(64)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="truncated"):
            read(SIGNATURE, resealed(short))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16  # one ciphertext alone would take 64 kB
