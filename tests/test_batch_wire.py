"""`he_inference.batch_wire`: what is written is read back, and nothing else is ever read."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings

from he_inference import batch_wire, wire
from he_inference.backend import seal as backend
from he_inference.backend import seal_format
from he_inference.backend.residues import packing
from he_inference.batch_format import BatchFormat
from he_inference.batch_wire import Batch, Readable
from he_inference.cost import SEED_BYTES
from he_inference.errors import MessageError, WrongProgram
from he_inference.parameters import ParametersLiteral
from he_inference.wire import Kind, Residues, Seeded
from tests.conftest import resealed

RNG = np.random.default_rng(0)
FORM = BatchFormat(
    digest=bytes(range(32)),
    parameters=ParametersLiteral(4096, (28, 26), 20).resolve(),
    features=5,
    outputs=2,
    components=3,
)
MNIST = replace(
    FORM, parameters=ParametersLiteral(8192, (26,) * 7, 21).resolve(), features=784, outputs=10,
    components=5,
)  # fmt: skip
PRIVATE = replace(FORM, seeded_keys=3, response_bits=(19, 25))
TICKET = bytes(range(100, 132))
KEY_ID = bytes(range(200, 216))
QUERIES = 1000
HEADER = 4 + 2 + 2 + 32
POLYNOMIAL = (28 + 26) * 4096 // 8
EACH = SEED_BYTES + POLYNOMIAL


def residues(polynomials: int) -> Residues:
    """(polynomials, primes, N), uniform, with both ends of the range among them."""
    rows = [RNG.integers(0, p, (polynomials, 4096), dtype=np.uint64) for p in FORM.primes]
    stacked = np.stack(rows, axis=1)
    stacked[:, :, 0] = 0
    stacked[:, :, -1] = np.array(FORM.primes, dtype=np.uint64) - 1
    return stacked


CIPHERTEXTS = tuple(Seeded(c, RNG.bytes(SEED_BYTES)) for c in residues(FORM.features))
ANSWER = Batch(TICKET, QUERIES, residues(6).reshape(2, 3, 2, 4096))
CUT = Batch(TICKET, QUERIES, residues(2).transpose(1, 0, 2)[:1].repeat(2, axis=0))
QUERY = b"".join(batch_wire.write_query(FORM, KEY_ID, TICKET, QUERIES, CIPHERTEXTS))
KEYS = CIPHERTEXTS[:3]
KEYS_MESSAGE = batch_wire.write_keys(PRIVATE, KEYS)


class Message(NamedTuple):
    """A sound message, and what reads such ones; shape: where it names its own."""

    kind: Kind
    form: BatchFormat
    whole: bytes
    reader: Callable[[BatchFormat, Readable], Batch]
    shape: int = HEADER + wire.TICKET_BYTES

    @property
    def body(self) -> int:
        return self.shape + 16

    def read(self, message: bytes) -> Batch:
        return self.reader(self.form, io.BytesIO(message))


def answer_message(form: BatchFormat, batch: Batch) -> Message:
    whole = b"".join(batch_wire.write_answer(form, batch))
    return Message(Kind.BATCH_ANSWER, form, whole, batch_wire.read_answer)


MESSAGES: dict[str, Message] = {
    "query": Message(
        Kind.BATCH_QUERY, FORM, QUERY, batch_wire.read_query,
        HEADER + wire.KEY_ID_BYTES + wire.TICKET_BYTES,
    ),
    "plain answer": answer_message(FORM, ANSWER),
    "private answer": answer_message(PRIVATE, CUT),
}  # fmt: skip
SHAPE = 1000
"""Added to offsets that are counted from where a message names its shape."""
every_kind = pytest.mark.parametrize("kind", list(MESSAGES))


def refused(kind: str, message: bytes, because: str) -> None:
    with pytest.raises(MessageError, match=because) as caught:
        MESSAGES[kind].read(message)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- bits


@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 2**32))
def test_packing_is_that_of_wire(bits: int, groups: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, 64 * groups, dtype=np.uint64)
    values[seed % 64] = (1 << bits) - 1
    packed = packing.pack(values, bits).tobytes()
    assert packed == wire.pack(values, bits)
    for dtype in (np.uint32, np.uint64) if bits <= 32 else (np.uint64,):
        target = np.empty(len(values), dtype)
        assert packing.unpack(packed, bits, target) == values.max()
        assert np.array_equal(target, values)


# ---------------------------------------------------------------------------- round trips


def test_queries_are_read_back_and_their_seeds_expanded_as_in_seal() -> None:
    batch = MESSAGES["query"].read(QUERY)
    assert (batch.key_id, batch.ticket, batch.queries) == (KEY_ID, TICKET, QUERIES)
    assert (batch.residues.shape, batch.residues.dtype) == ((5, 2, 2, 4096), np.uint64)
    assert_expanded_as_in_seal(CIPHERTEXTS, batch.residues)


def assert_expanded_as_in_seal(ciphertexts: tuple[Seeded, ...], read: Residues) -> None:
    for ciphertext, found in zip(ciphertexts, read, strict=True):
        name = backend._parms_ids(FORM.parameters)[-1]
        c0, seed = ciphertext.residues[None], ciphertext.seed
        data = seal_format.ciphertext(name, c0, 1.0, ntt=True, seed=seed)
        context = backend._context(FORM.parameters, 2)
        loaded = backend._loaded(seal.Ciphertext(), context, data)
        assert np.array_equal(found, seal_format.read_ciphertext(backend._saved(loaded)))


def test_answers_are_read_back() -> None:
    message = MESSAGES["plain answer"]
    batch = message.read(message.whole)
    assert (batch.key_id, batch.ticket, batch.queries) == (b"", TICKET, QUERIES)
    assert np.array_equal(batch.residues, ANSWER.residues)
    assert batch.residues.dtype == np.uint64


@settings(max_examples=40)
@given(st.integers(1, 28), st.integers(1, 28), st.integers(0, 2**32))
def test_private_answers_are_read_back_up_to_the_bits_cut(low: int, high: int, seed: int) -> None:
    """Nearest multiple of 2^cut, but for the few values above the largest one that fits."""
    form, prime = replace(PRIVATE, outputs=1, response_bits=(low, high)), FORM.primes[0]
    values = np.random.default_rng(seed).integers(0, prime, (1, 2, 4096), dtype=np.uint64)
    values[..., 0], values[..., -1] = 0, prime - 1
    message = answer_message(form, Batch(TICKET, QUERIES, values))
    assert len(message.whole) == form.answer_bytes
    batch = message.read(message.whole)
    assert (batch.key_id, batch.ticket, batch.queries) == (b"", TICKET, QUERIES)
    assert (batch.residues.shape, batch.residues.dtype) == ((1, 2, 4096), np.uint64)
    assert batch.residues.max() < prime
    for before, after, cut in zip(values[0], batch.residues[0], form.cut_bits, strict=True):
        distance = (after.astype(np.int64) - before.astype(np.int64)) % prime
        distance = np.minimum(distance, prime - distance)
        top = before >= np.uint64((1 << 28) - ((1 << cut) // 2)) if cut else before > prime
        assert (distance[~top] <= (1 << cut) // 2).all()
        assert (distance <= (1 << cut if cut else 0)).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_any_bits_of_a_private_answer_are_residues(seed: int) -> None:
    """Bits that are kept may stand for more than the prime: what is read is below it."""
    message = bytearray(MESSAGES["private answer"].whole)
    start, end = MESSAGES["private answer"].body, len(message) - wire.CHECKSUM_BYTES
    noise = np.random.default_rng(seed).bytes(end - start) if seed else b"\xff" * (end - start)
    message[start:end] = noise
    batch = MESSAGES["private answer"].read(resealed(bytes(message)))
    assert batch.residues.max() < FORM.primes[0]


def test_lengths() -> None:
    query, plain, private = (MESSAGES[kind] for kind in MESSAGES)
    assert len(QUERY) == FORM.query_bytes == query.body + 5 * EACH + wire.CHECKSUM_BYTES
    assert len(plain.whole) == FORM.answer_bytes
    assert len(plain.whole) == plain.body + 6 * POLYNOMIAL + wire.CHECKSUM_BYTES
    assert len(private.whole) == PRIVATE.answer_bytes
    assert len(private.whole) == private.body + 2 * 44 * 4096 // 8 + wire.CHECKSUM_BYTES
    assert len(KEYS_MESSAGE) == PRIVATE.key_bytes == HEADER + 3 * EACH + wire.CHECKSUM_BYTES
    assert FORM.key_bytes == HEADER + wire.CHECKSUM_BYTES
    assert MNIST.query_bytes == 784 * (64 + 7 * 26 * 8192 // 8) + query.body + wire.CHECKSUM_BYTES
    assert MNIST.query_bytes / 4096 < 40_000
    assert MNIST.answer_bytes / 4096 < 2_300


def test_memory_is_used_again() -> None:
    memory = batch_wire.query_memory(FORM)
    memory[:] = 7
    batch = batch_wire.read_query(FORM, io.BytesIO(QUERY), into=memory, threads=3)
    assert batch.residues is memory
    assert np.array_equal(memory, MESSAGES["query"].read(QUERY).residues)
    with pytest.raises(MessageError, match=r"no room .* of shape \(4, "):
        batch_wire.read_query(FORM, io.BytesIO(QUERY), into=memory[:4])


def test_a_query_is_written_as_ciphertexts_come() -> None:
    asked: list[int] = []

    def ciphertexts() -> object:
        for number, ciphertext in enumerate(CIPHERTEXTS):
            asked.append(number)
            yield ciphertext

    parts = batch_wire.write_query(FORM, KEY_ID, TICKET, QUERIES, ciphertexts())  # type: ignore[arg-type]
    assert len(next(parts)) == MESSAGES["query"].body and asked == []
    assert len(next(parts)) == EACH and asked == [0]
    assert len(list(parts)) == FORM.features


class Trickle:
    """A stream that gives less than it is asked for."""

    def __init__(self, message: bytes, pieces: list[int]) -> None:
        self._inner, self._pieces, self._at = io.BytesIO(message), pieces, 0
        self.given = 0

    def read(self, size: int, /) -> bytes:
        self._at += 1
        piece = self._inner.read(min(size, self._pieces[self._at % len(self._pieces)]))
        self.given += len(piece)
        return piece


@settings(max_examples=20)
@given(st.lists(st.integers(1, 1 << 16), min_size=1, max_size=5).filter(lambda p: max(p) > 999))
def test_pieces_of_any_size(pieces: list[int]) -> None:
    batch = batch_wire.read_query(FORM, Trickle(QUERY, pieces))
    assert np.array_equal(batch.residues[3, 0], CIPHERTEXTS[3].residues)


def test_the_packed_form_is_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_wire, "_TASK_BYTES", 1)
    form = replace(FORM, features=100)
    repeated = (CIPHERTEXTS[i % 5] for i in range(100))
    message = b"".join(batch_wire.write_query(form, KEY_ID, TICKET, QUERIES, repeated))
    memory, stream = batch_wire.query_memory(form), io.BytesIO(message)
    tracemalloc.start()
    batch_wire.read_query(form, stream, into=memory, threads=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * EACH


# ---------------------------------------------------------------------------- hostile bytes


@every_kind
@settings(max_examples=60)
@given(st.data())
def test_truncated_anywhere(kind: str, data: st.DataObject) -> None:
    message = MESSAGES[kind].whole
    end = data.draw(st.integers(0, len(message) - 1) | st.integers(0, MESSAGES[kind].body + 1))
    refused(kind, message[:end], f"truncated: expected {len(message)} bytes, found {end}$")


@every_kind
@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit(kind: str, data: st.DataObject) -> None:
    message = bytearray(MESSAGES[kind].whole)
    at = data.draw(st.integers(0, len(message) - 1) | st.integers(0, MESSAGES[kind].body))
    message[at] ^= 1 << data.draw(st.integers(0, 7))
    if MESSAGES[kind].body - 16 > at >= HEADER:  # key id and ticket: the checksum alone finds it
        return refused(kind, bytes(message), "damaged on the way")
    with pytest.raises(MessageError):
        MESSAGES[kind].read(bytes(message))


@every_kind
@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_random_bytes(kind: str, message: bytes) -> None:
    refused(kind, message, ".")
    refused(kind, MESSAGES[kind].whole[:HEADER] + message, ".")


@every_kind
def test_anything_behind_the_end(kind: str) -> None:
    message = MESSAGES[kind].whole
    refused(kind, message + b"\0", f"too long: expected {len(message)} bytes")


@every_kind
def test_an_endless_stream_is_read_no_further_than_a_message(kind: str) -> None:
    message = MESSAGES[kind].whole
    stream = Trickle(message + bytes(1 << 20), [1 << 20])
    with pytest.raises(MessageError, match="too long"):
        MESSAGES[kind].reader(MESSAGES[kind].form, stream)
    assert stream.given == len(message) + 1


@every_kind
@pytest.mark.parametrize(
    ("at", "value", "because"),
    [
        (0, b"ZIP!", "not a message of this protocol"),
        (4, b"\x09\x00", "protocol version 9: this release speaks version 1"),
        (6, b"\x01\x00", r"expected a message of kind BATCH_\w+, found EVALUATION_KEYS"),
        (6, b"\xff\xff", "found 65535"),
        (8, b"\xaa" * 32, "for signature aaaaaaaaaaaaaaaa…"),
        (SHAPE, struct.pack("<I", 0), "a batch of 0 queries: expected 1 to 2048"),
        (SHAPE, struct.pack("<I", 2049), "a batch of 2049 queries: expected 1 to 2048"),
        (SHAPE + 4, struct.pack("<I", 2**32 - 1), "4294967295 ciphertexts, expected (5|2)"),
        (SHAPE + 8, struct.pack("<H", 7), "7 polynomials of each, expected (1|2|3)"),
        (SHAPE + 10, struct.pack("<H", 3), "3 primes, expected (1|2)"),
        (SHAPE + 12, struct.pack("<I", 8192), "8192 coefficients, expected 4096"),
        (SHAPE + 4, bytes(12), "0 ciphertexts, .*; 0 polyn.*; 0 primes, .*; 0 coefficients, "),
    ],
)
def test_a_foreign_head_costs_nothing(
    kind: str, at: int, value: bytes, because: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by what stands in the first hundred bytes, before room is made for the rest."""
    message = MESSAGES[kind].whole
    if at >= SHAPE:
        at += MESSAGES[kind].shape - SHAPE
    foreign = resealed(message[:at] + value + message[at + len(value) :])
    stream = Trickle(foreign, [1 << 20])
    tracemalloc.start()
    with pytest.raises(MessageError, match=because):
        MESSAGES[kind].reader(MESSAGES[kind].form, stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream.given <= MESSAGES[kind].body
    assert peak < 1 << 16


def test_the_other_kind() -> None:
    for answer in ("plain answer", "private answer"):
        whole = MESSAGES[answer].whole
        refused("query", whole, "expected a message of kind BATCH_QUERY, found BATCH_ANSWER")
        refused(answer, QUERY, "expected a message of kind BATCH_ANSWER, found BATCH_QUERY")
        refused(answer, KEYS_MESSAGE, "expected a message of kind BATCH_ANSWER, found EVALUATION")


def test_private_and_plain_answers_are_not_mistaken_for_each_other() -> None:
    plain, private = MESSAGES["plain answer"], MESSAGES["private answer"]
    refused(
        "private answer", plain.whole, "3 polynomials of each, expected 2; 2 primes, expected 1"
    )
    refused(
        "plain answer", private.whole, "2 polynomials of each, expected 3; 1 primes, expected 2"
    )


@every_kind
def test_for_another_program(kind: str) -> None:
    message = MESSAGES[kind]
    other = replace(message.form, digest=bytes(32))
    with pytest.raises(WrongProgram, match="fetch the signature again"):
        message.reader(other, io.BytesIO(message.whole))


@settings(max_examples=40)
@given(st.sampled_from(["query", "plain answer"]), st.integers(0, 4), st.integers(0, 1), st.data())
def test_a_residue_that_is_none(
    kind: str, ciphertext: int, prime: int, data: st.DataObject
) -> None:
    bits, modulus = FORM.primes[prime].bit_length(), FORM.primes[prime]
    value = data.draw(st.integers(modulus, (1 << bits) - 1))
    place = data.draw(st.integers(0, 4095))
    at = MESSAGES[kind].body + ciphertext * (EACH if kind == "query" else POLYNOMIAL)
    at += (SEED_BYTES if kind == "query" else 0) + (28 * 512 if prime else 0)
    message = bytearray(MESSAGES[kind].whole)
    row = wire.unpack(bytes(message[at : at + bits * 512]), bits)
    row[place] = value
    message[at : at + bits * 512] = wire.pack(row, bits)
    because = f"a residue of {value} is not below its prime {modulus}"
    refused(kind, resealed(bytes(message)), because)


@every_kind
def test_damage_that_looks_sound_is_noticed(kind: str) -> None:
    message = bytearray(MESSAGES[kind].whole)
    message[MESSAGES[kind].body + SEED_BYTES + 1] ^= 1
    refused(kind, bytes(message), "damaged on the way")


# ---------------------------------------------------------------------------- what is not written


def write(
    ciphertexts: tuple[Seeded, ...],
    ticket: bytes = TICKET,
    queries: int = QUERIES,
    key_id: bytes = KEY_ID,
) -> list[bytes]:
    return list(batch_wire.write_query(FORM, key_id, ticket, queries, ciphertexts))


def test_a_wrong_seed_is_not_written() -> None:
    for length in (0, 63, 65):
        wrong = Seeded(CIPHERTEXTS[0].residues, bytes(length))
        with pytest.raises(MessageError, match=f"a seed of {length} bytes: expected 64"):
            write((wrong, *CIPHERTEXTS[1:]))
        with pytest.raises(MessageError, match=f"a seed of {length} bytes: expected 64"):
            batch_wire.write_keys(PRIVATE, (wrong, *KEYS[1:]))


def test_a_wrong_polynomial_is_not_written() -> None:
    for cut in (np.s_[:1], np.s_[:, :64], np.s_[None]):
        wrong = Seeded(CIPHERTEXTS[0].residues[cut], bytes(SEED_BYTES))
        with pytest.raises(MessageError, match=r"of shape .*: expected \(2, 4096\)"):
            write((wrong, *CIPHERTEXTS[1:]))
        with pytest.raises(MessageError, match=r"of shape .*: expected \(2, 4096\)"):
            batch_wire.write_keys(PRIVATE, (wrong, *KEYS[1:]))


def test_a_wrong_batch_is_not_written() -> None:
    with pytest.raises(MessageError, match="a batch of 4 ciphertexts: expected 5"):
        write(CIPHERTEXTS[:4])
    with pytest.raises(MessageError, match="more than 5 ciphertexts"):
        write((*CIPHERTEXTS, CIPHERTEXTS[0]))
    with pytest.raises(MessageError, match="a ticket of 3 bytes: expected 32"):
        write(CIPHERTEXTS, ticket=b"abc")
    for key_id in (b"", KEY_ID[:-1], KEY_ID + b"x"):
        with pytest.raises(MessageError, match=f"a key id of {len(key_id)} bytes: expected 16"):
            write(CIPHERTEXTS, key_id=key_id)
    for queries in (0, 2049):
        with pytest.raises(MessageError, match=f"{queries} queries: expected 1 to 2048"):
            write(CIPHERTEXTS, queries=queries)
    for part in (ANSWER.residues[:1], ANSWER.residues[:, :2]):
        with pytest.raises(MessageError, match="expected"):
            list(batch_wire.write_answer(FORM, replace(ANSWER, residues=part)))
    for wrong in (ANSWER.residues, CUT.residues[:1], CUT.residues[:, :1], CUT.residues[..., :64]):
        with pytest.raises(MessageError, match=r"expected \(2, 2, 4096\)"):
            list(batch_wire.write_answer(PRIVATE, replace(CUT, residues=wrong)))
    with pytest.raises(MessageError, match=r"expected \(2, 3, 2, 4096\)"):
        list(batch_wire.write_answer(FORM, CUT))


# ---------------------------------------------------------------------------- keys


def refused_keys(message: bytes, because: str, form: BatchFormat = PRIVATE) -> None:
    with pytest.raises(MessageError, match=because) as caught:
        batch_wire.read_keys(form, message)
    assert "\n" not in str(caught.value)


def test_keys_are_read_back_and_their_seeds_expanded_as_in_seal() -> None:
    found = batch_wire.read_keys(PRIVATE, KEYS_MESSAGE)
    assert (found.shape, found.dtype) == ((3, 2, 2, 4096), np.uint64)
    assert_expanded_as_in_seal(KEYS, found)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(0, 2**32))
def test_any_keys_are_read_back(count: int, seed: int) -> None:
    rng, form = np.random.default_rng(seed), replace(PRIVATE, seeded_keys=count)
    rows = [rng.integers(0, p, (count, 4096), dtype=np.uint64) for p in FORM.primes]
    keys = [Seeded(c0, rng.bytes(SEED_BYTES)) for c0 in np.stack(rows, axis=1)]
    message = batch_wire.write_keys(form, keys)
    assert len(message) == form.key_bytes
    assert message[HEADER : HEADER + SEED_BYTES] == keys[0].seed
    found = batch_wire.read_keys(form, message)
    assert np.array_equal(found[:, 0], np.stack([key.residues for key in keys]))
    assert (found[:, 1].max(axis=(0, 2)) < np.array(FORM.primes, np.uint64)).all()


def test_plain_answers_go_with_a_message_of_no_keys() -> None:
    message = batch_wire.write_keys(FORM, [])
    assert len(message) == FORM.key_bytes == HEADER + wire.CHECKSUM_BYTES
    assert batch_wire.read_keys(FORM, message).shape == (0, 2, 2, 4096)


@settings(max_examples=60)
@given(st.data())
def test_keys_of_another_length(data: st.DataObject) -> None:
    """Truncated or padded, with a checksum that fits and without."""
    whole = len(KEYS_MESSAGE)
    end = data.draw(st.integers(0, whole - 1) | st.integers(0, HEADER + 1))
    short, long = KEYS_MESSAGE[:end], KEYS_MESSAGE + bytes(data.draw(st.integers(1, 100)))
    refused_keys(short, "truncated")
    refused_keys(long, f"too long: expected {whole} bytes, found {len(long)}")
    refused_keys(resealed(long), f"too long: expected {whole} bytes, found {len(long)}")
    if end >= HEADER + wire.CHECKSUM_BYTES:
        refused_keys(resealed(short), f"truncated: expected {whole} bytes, found {end}")


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_in_keys(data: st.DataObject) -> None:
    message = bytearray(KEYS_MESSAGE)
    at = data.draw(st.integers(0, len(message) - 1) | st.integers(0, HEADER))
    message[at] ^= 1 << data.draw(st.integers(0, 7))
    refused_keys(bytes(message), ".")


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_random_bytes_as_keys(message: bytes) -> None:
    refused_keys(message, ".")
    refused_keys(KEYS_MESSAGE[:HEADER] + message, "truncated")


@settings(max_examples=30)
@given(st.integers(0, 2), st.integers(0, 1), st.integers(0, 4095), st.data())
def test_a_residue_of_keys_that_is_none(
    key: int, prime: int, place: int, data: st.DataObject
) -> None:
    modulus, bits = FORM.primes[prime], FORM.primes[prime].bit_length()
    value = data.draw(st.integers(modulus, (1 << bits) - 1))
    wrong = KEYS[key].residues.copy()
    wrong[prime, place] = value
    keys = [*KEYS[:key], Seeded(wrong, KEYS[key].seed), *KEYS[key + 1 :]]
    message = batch_wire.write_keys(PRIVATE, keys)
    assert message == resealed(message)
    refused_keys(message, f"a residue of {value} is not below its prime {modulus}")


def test_keys_of_another_kind_or_program() -> None:
    for message in MESSAGES.values():
        because = f"expected a message of kind EVALUATION_KEYS, found {message.kind.name}"
        refused_keys(message.whole, because)
    with pytest.raises(WrongProgram, match="fetch the signature again"):
        batch_wire.read_keys(replace(PRIVATE, digest=bytes(32)), KEYS_MESSAGE)


def test_keys_of_another_number() -> None:
    with pytest.raises(MessageError, match="2 ciphertexts: expected 3"):
        batch_wire.write_keys(PRIVATE, KEYS[:2])
    with pytest.raises(MessageError, match="more than 3 ciphertexts"):
        batch_wire.write_keys(PRIVATE, CIPHERTEXTS)
    for count, problem in ((2, "too long"), (4, "truncated")):
        refused_keys(KEYS_MESSAGE, problem, replace(PRIVATE, seeded_keys=count))


@pytest.mark.parametrize("length", [0, HEADER, HEADER + 16, 100_000])
def test_keys_that_do_not_come_cost_nothing(length: int) -> None:
    """Measured against the one length that they may have before room is made for them."""
    form = replace(PRIVATE, seeded_keys=1 << 20)
    tracemalloc.start()
    with pytest.raises(MessageError, match="truncated"):
        batch_wire.read_keys(form, KEYS_MESSAGE[:length])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 18
