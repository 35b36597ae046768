"""`he_inference.batch_wire`: what is written is read back, and nothing else is ever read."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings

from he_inference import batch_wire, wire
from he_inference.backend import seal as backend
from he_inference.backend import seal_format
from he_inference.backend.residues import packing
from he_inference.batch_wire import Batch, BatchFormat, Readable
from he_inference.cost import SEED_BYTES
from he_inference.errors import MessageError, WrongProgram
from he_inference.parameters import ParametersLiteral
from he_inference.wire import Kind, Residues, Seeded

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
TICKET = bytes(range(100, 132))
QUERIES = 1000
HEADER = 4 + 2 + 2 + 32
SHAPE = HEADER + wire.TICKET_BYTES
BODY = SHAPE + 16
EACH = SEED_BYTES + (28 + 26) * 4096 // 8


def residues(polynomials: int) -> Residues:
    """(polynomials, primes, N), uniform, with both ends of the range among them."""
    rows = [RNG.integers(0, p, (polynomials, 4096), dtype=np.uint64) for p in FORM.primes]
    stacked = np.stack(rows, axis=1)
    stacked[:, :, 0] = 0
    stacked[:, :, -1] = np.array(FORM.primes, dtype=np.uint64) - 1
    return stacked


CIPHERTEXTS = tuple(Seeded(c, RNG.bytes(SEED_BYTES)) for c in residues(FORM.features))
ANSWER = Batch(TICKET, QUERIES, residues(6).reshape(2, 3, 2, 4096))
QUERY = b"".join(batch_wire.write_query(FORM, TICKET, QUERIES, CIPHERTEXTS))
MESSAGES: dict[Kind, tuple[bytes, Callable[[BatchFormat, Readable], Batch]]] = {
    Kind.BATCH_QUERY: (QUERY, batch_wire.read_query),
    Kind.BATCH_ANSWER: (b"".join(batch_wire.write_answer(FORM, ANSWER)), batch_wire.read_answer),
}
every_kind = pytest.mark.parametrize("kind", list(MESSAGES))


def read(kind: Kind, message: bytes, form: BatchFormat = FORM) -> Batch:
    return MESSAGES[kind][1](form, io.BytesIO(message))


def resealed(message: bytes) -> bytes:
    """The message with a checksum that fits it: what someone hostile would send."""
    body = message[: -wire.CHECKSUM_BYTES]
    return body + hashlib.blake2b(body, digest_size=wire.CHECKSUM_BYTES).digest()


def refused(kind: Kind, message: bytes, because: str) -> None:
    with pytest.raises(MessageError, match=because) as caught:
        read(kind, message)
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
    batch = read(Kind.BATCH_QUERY, QUERY)
    assert (batch.ticket, batch.queries) == (TICKET, QUERIES)
    assert (batch.residues.shape, batch.residues.dtype) == ((5, 2, 2, 4096), np.uint64)
    for ciphertext, found in zip(CIPHERTEXTS, batch.residues, strict=True):
        name = backend._parms_ids(FORM.parameters)[-1]
        c0, seed = ciphertext.residues[None], ciphertext.seed
        data = seal_format.ciphertext(name, c0, 1.0, ntt=True, seed=seed)
        context = backend._context(FORM.parameters, 2)
        loaded = backend._loaded(seal.Ciphertext(), context, data)
        assert np.array_equal(found, seal_format.read_ciphertext(backend._saved(loaded)))


def test_answers_are_read_back() -> None:
    batch = read(Kind.BATCH_ANSWER, MESSAGES[Kind.BATCH_ANSWER][0])
    assert (batch.ticket, batch.queries) == (TICKET, QUERIES)
    assert np.array_equal(batch.residues, ANSWER.residues)
    assert batch.residues.dtype == np.uint64


def test_lengths() -> None:
    assert len(QUERY) == FORM.query_bytes == BODY + 5 * EACH + wire.CHECKSUM_BYTES
    assert len(MESSAGES[Kind.BATCH_ANSWER][0]) == FORM.answer_bytes
    assert MNIST.query_bytes == 784 * (64 + 7 * 26 * 8192 // 8) + BODY + wire.CHECKSUM_BYTES
    assert MNIST.query_bytes / 4096 < 40_000
    assert MNIST.answer_bytes / 4096 < 2_300


def test_memory_is_used_again() -> None:
    memory = batch_wire.query_memory(FORM)
    memory[:] = 7
    batch = batch_wire.read_query(FORM, io.BytesIO(QUERY), into=memory, threads=3)
    assert batch.residues is memory
    assert np.array_equal(memory, read(Kind.BATCH_QUERY, QUERY).residues)
    with pytest.raises(MessageError, match=r"no room .* of shape \(4, "):
        batch_wire.read_query(FORM, io.BytesIO(QUERY), into=memory[:4])


def test_a_query_is_written_as_ciphertexts_come() -> None:
    asked: list[int] = []

    def ciphertexts() -> object:
        for number, ciphertext in enumerate(CIPHERTEXTS):
            asked.append(number)
            yield ciphertext

    parts = batch_wire.write_query(FORM, TICKET, QUERIES, ciphertexts())  # type: ignore[arg-type]
    assert len(next(parts)) == BODY and asked == []
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
    message = b"".join(batch_wire.write_query(form, TICKET, QUERIES, repeated))
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
def test_truncated_anywhere(kind: Kind, data: st.DataObject) -> None:
    message = MESSAGES[kind][0]
    end = data.draw(st.integers(0, len(message) - 1) | st.integers(0, BODY + 1))
    refused(kind, message[:end], f"truncated: expected {len(message)} bytes, found {end}$")


@every_kind
@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit(kind: Kind, data: st.DataObject) -> None:
    message = bytearray(MESSAGES[kind][0])
    at = data.draw(st.integers(0, len(message) - 1) | st.integers(0, BODY))
    message[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MessageError):
        read(kind, bytes(message))


@every_kind
@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_random_bytes(kind: Kind, message: bytes) -> None:
    refused(kind, message, ".")
    refused(kind, MESSAGES[kind][0][:HEADER] + message, ".")


@every_kind
def test_anything_behind_the_end(kind: Kind) -> None:
    message = MESSAGES[kind][0]
    refused(kind, message + b"\0", f"too long: expected {len(message)} bytes")


@every_kind
def test_an_endless_stream_is_read_no_further_than_a_message(kind: Kind) -> None:
    message = MESSAGES[kind][0]
    stream = Trickle(message + bytes(1 << 20), [1 << 20])
    with pytest.raises(MessageError, match="too long"):
        MESSAGES[kind][1](FORM, stream)
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
        (SHAPE + 8, struct.pack("<H", 7), "7 polynomials of each, expected (1|3)"),
        (SHAPE + 10, struct.pack("<H", 3), "3 primes, expected 2"),
        (SHAPE + 12, struct.pack("<I", 8192), "8192 coefficients, expected 4096"),
        (SHAPE + 4, bytes(12), "0 ciphertexts, .*; 0 polyn.*; 0 primes, .*; 0 coefficients, "),
    ],
)
def test_a_foreign_head_costs_nothing(
    kind: Kind, at: int, value: bytes, because: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by what stands in the first hundred bytes, before room is made for the rest."""
    message = MESSAGES[kind][0]
    foreign = resealed(message[:at] + value + message[at + len(value) :])
    stream = Trickle(foreign, [1 << 20])
    tracemalloc.start()
    with pytest.raises(MessageError, match=because):
        MESSAGES[kind][1](FORM, stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream.given <= BODY
    assert peak < 1 << 16


def test_the_other_kind() -> None:
    refused(
        Kind.BATCH_QUERY,
        MESSAGES[Kind.BATCH_ANSWER][0],
        "expected a message of kind BATCH_QUERY, found BATCH_ANSWER",
    )
    refused(Kind.BATCH_ANSWER, QUERY, "expected a message of kind BATCH_ANSWER, found BATCH_QUERY")


def test_for_another_program() -> None:
    with pytest.raises(WrongProgram, match="fetch the signature again"):
        read(Kind.BATCH_QUERY, QUERY, replace(FORM, digest=bytes(32)))


@settings(max_examples=40)
@given(st.sampled_from(list(MESSAGES)), st.integers(0, 4), st.integers(0, 1), st.data())
def test_a_residue_that_is_none(
    kind: Kind, ciphertext: int, prime: int, data: st.DataObject
) -> None:
    bits, modulus = FORM.primes[prime].bit_length(), FORM.primes[prime]
    value = data.draw(st.integers(modulus, (1 << bits) - 1))
    place = data.draw(st.integers(0, 4095))
    at = BODY + ciphertext * (EACH if kind is Kind.BATCH_QUERY else EACH - SEED_BYTES)
    at += (SEED_BYTES if kind is Kind.BATCH_QUERY else 0) + (28 * 512 if prime else 0)
    message = bytearray(MESSAGES[kind][0])
    row = wire.unpack(bytes(message[at : at + bits * 512]), bits)
    row[place] = value
    message[at : at + bits * 512] = wire.pack(row, bits)
    because = f"a residue of {value} is not below its prime {modulus}"
    refused(kind, resealed(bytes(message)), because)


@every_kind
def test_damage_that_looks_sound_is_noticed(kind: Kind) -> None:
    message = bytearray(MESSAGES[kind][0])
    message[BODY + SEED_BYTES + 1] ^= 1
    refused(kind, bytes(message), "damaged on the way")


# ---------------------------------------------------------------------------- what is not written


def write(
    ciphertexts: tuple[Seeded, ...], ticket: bytes = TICKET, queries: int = QUERIES
) -> list[bytes]:
    return list(batch_wire.write_query(FORM, ticket, queries, ciphertexts))


def test_a_wrong_seed_is_not_written() -> None:
    for length in (0, 63, 65):
        wrong = Seeded(CIPHERTEXTS[0].residues, bytes(length))
        with pytest.raises(MessageError, match=f"a seed of {length} bytes: expected 64"):
            write((wrong, *CIPHERTEXTS[1:]))


def test_a_wrong_polynomial_is_not_written() -> None:
    for cut in (np.s_[:1], np.s_[:, :64], np.s_[None]):
        wrong = Seeded(CIPHERTEXTS[0].residues[cut], bytes(SEED_BYTES))
        with pytest.raises(MessageError, match=r"of shape .*: expected \(2, 4096\)"):
            write((wrong, *CIPHERTEXTS[1:]))


def test_a_wrong_batch_is_not_written() -> None:
    with pytest.raises(MessageError, match="a batch of 4 ciphertexts: expected 5"):
        write(CIPHERTEXTS[:4])
    with pytest.raises(MessageError, match="more than 5 ciphertexts"):
        write((*CIPHERTEXTS, CIPHERTEXTS[0]))
    with pytest.raises(MessageError, match="a ticket of 3 bytes: expected 32"):
        write(CIPHERTEXTS, ticket=b"abc")
    for queries in (0, 2049):
        with pytest.raises(MessageError, match=f"{queries} queries: expected 1 to 2048"):
            write(CIPHERTEXTS, queries=queries)
    for part in (ANSWER.residues[:1], ANSWER.residues[:, :2]):
        with pytest.raises(MessageError, match="expected"):
            list(batch_wire.write_answer(FORM, replace(ANSWER, residues=part)))
