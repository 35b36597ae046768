"""Messages between client and server: the only reader of foreign bytes.

    message  = header · body · checksum
    header   = "STVC" · version u16 · kind u16 · digest of the signature (32 bytes)
    checksum = BLAKE2b-128 of all that precedes it

All integers are little-endian. Once the signature is known every length is known, so a message is
measured against the one length that it may have before anything is allocated. Residues are packed
with as many bits as their prime has, and every one is checked to be below its prime. The checksum
finds damage, not malice: against people in between use TLS.
"""

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from he_inference.cost import SEED_BYTES, key_primes
from he_inference.errors import MessageError, WrongProgram
from he_inference.parameters import Parameters
from he_inference.signature import Signature

Residues = npt.NDArray[np.uint64]

MAGIC = b"STVC"
VERSION = 1
MAX_QUERIES = 1024
"""Queries that one message may carry."""
KEY_ID_BYTES = 16
TICKET_BYTES = 32
"""Chosen by the client, returned by the server: by it a client knows an answer to its query."""
CHECKSUM_BYTES = 16
_HEADER = struct.Struct("<4sHH32s")
HEADER_BYTES = _HEADER.size
COUNT = struct.Struct("<I")


class Kind(IntEnum):
    EVALUATION_KEYS = 1
    QUERY = 2
    ANSWER = 3
    BATCH_QUERY = 4
    BATCH_ANSWER = 5


class Seeded(NamedTuple):
    """A ciphertext of which one polynomial is drawn from a seed.

    residues: (primes, N), the polynomial that is not. seed: 64 bytes.
    """

    residues: Residues
    seed: bytes


@dataclass(frozen=True)
class Query:
    """Encrypted inputs, the name of the keys that go with them, and a ticket that returns."""

    key_id: bytes
    ticket: bytes
    ciphertexts: tuple[Seeded, ...]


@dataclass(frozen=True)
class Answer:
    """Answers to a query's ciphertexts, with its ticket.

    polynomials: (2, N) coefficients modulo the first prime for each.
    """

    ticket: bytes
    polynomials: tuple[Residues, ...]


SwitchingKey = tuple[Seeded, ...]
"""One evaluation key: a seeded ciphertext per digit."""


def write_keys(signature: Signature, keys: Sequence[SwitchingKey]) -> bytes:
    """All evaluation keys in the order of `KeyPlan.levels`."""
    parts: list[bytes] = []
    for level, digits in zip(signature.keys.levels, keys, strict=True):
        parts.append(write_seeded(digits, key_primes(signature.parameters, level)))
    return sealed(Kind.EVALUATION_KEYS, signature.digest, parts)


def read_keys(signature: Signature, message: bytes) -> list[SwitchingKey]:
    """The reverse of `write_keys`; raises `MessageError`."""
    parameters = signature.parameters
    sizes = [
        (level, seeded_bytes(key_primes(parameters, level), parameters.ring_degree))
        for level in signature.keys.levels
    ]
    length = sum(n * size for n, size in sizes)
    body = opened(Kind.EVALUATION_KEYS, signature.digest, message, length)
    reader = Reader(body, parameters.ring_degree)
    return [reader.seeded(level, key_primes(parameters, level)) for level in signature.keys.levels]


def envelope_bytes(kind: Kind) -> int:
    """Bytes of a message around its ciphertexts or keys."""
    answer = TICKET_BYTES + COUNT.size
    before = {Kind.QUERY: KEY_ID_BYTES + answer, Kind.ANSWER: answer}
    return _HEADER.size + before.get(kind, 0) + CHECKSUM_BYTES


def claimed_key_id(query: bytes) -> bytes:
    """The key id that a query carries, *unchecked*: a label for logs and look-ups.

    Shorter than `KEY_ID_BYTES` where the message is truncated.
    """
    return query[_HEADER.size : _HEADER.size + KEY_ID_BYTES]


def key_id(message: bytes) -> bytes:
    """The name of a set of evaluation keys: a digest of their message, so nobody can take it."""
    return hashlib.sha256(message).digest()[:KEY_ID_BYTES]


class QueryForm(Protocol):
    """What the form of query messages depends on: a signature."""

    @property
    def digest(self) -> bytes:
        """Of the signature."""

    @property
    def parameters(self) -> Parameters:
        """Of the encryption."""

    @property
    def query_primes(self) -> tuple[int, ...]:
        """Modulo which queries are encrypted."""

    @property
    def query_ciphertexts(self) -> int:
        """Of each query."""


def write_query(form: QueryForm, query: Query) -> bytes:
    queries = len(query.ciphertexts) // form.query_ciphertexts
    body = write_seeded(query.ciphertexts, form.query_primes)
    parts = (query.key_id, query.ticket, COUNT.pack(queries), body)
    return sealed(Kind.QUERY, form.digest, parts)


def read_query(form: QueryForm, message: bytes) -> Query:
    """The reverse of `write_query`; raises `MessageError`."""
    primes, degree = form.query_primes, form.parameters.ring_degree
    before = KEY_ID_BYTES + TICKET_BYTES
    fixed, each = before + COUNT.size, seeded_bytes(primes, degree)
    count = counted(message, Kind.QUERY, form.digest, before) * form.query_ciphertexts
    body = opened(Kind.QUERY, form.digest, message, fixed + count * each)
    ciphertexts = Reader(body[fixed:], degree).seeded(count, primes)
    return Query(bytes(body[:KEY_ID_BYTES]), bytes(body[KEY_ID_BYTES:before]), ciphertexts)


def write_answer(signature: Signature, answer: Answer) -> bytes:
    """The polynomials' low bits are still on; they are cut here."""
    parts = [answer.ticket, COUNT.pack(len(answer.polynomials))]
    for polynomials in answer.polynomials:
        for polynomial, cut, bits in zip(
            polynomials, signature.cut_bits, signature.response_bits, strict=True
        ):
            parts.append(pack(shift_down(polynomial, cut, bits), bits))
    return sealed(Kind.ANSWER, signature.digest, parts)


def read_answer(signature: Signature, message: bytes) -> Answer:
    """The reverse of `write_answer`, up to the bits cut; raises `MessageError`."""
    degree, prime = signature.parameters.ring_degree, signature.parameters.data_primes[0]
    each = sum(signature.response_bits) * degree // 8
    count = counted(message, Kind.ANSWER, signature.digest, TICKET_BYTES)
    fixed = TICKET_BYTES + COUNT.size
    body = opened(Kind.ANSWER, signature.digest, message, fixed + count * each)
    reader = Reader(body[fixed:], degree)
    answers = []
    for _ in range(count):
        pair = [
            (reader.packed(bits) << np.uint64(cut)) % np.uint64(prime)
            for cut, bits in zip(signature.cut_bits, signature.response_bits, strict=True)
        ]
        answers.append(np.stack(pair))
    return Answer(bytes(body[:TICKET_BYTES]), tuple(answers))


def shift_down(values: Residues, cut: int, bits: int) -> Residues:
    """Drop low bits, rounding; the largest values stay below 2^bits.

    Halves go to the even side: always up, they would be a mean error, large where ζ is near 1.
    """
    if cut == 0:
        return values
    odd = (values >> np.uint64(cut)) & np.uint64(1)
    rounded: Residues = (values + odd + np.uint64((1 << (cut - 1)) - 1)) >> np.uint64(cut)
    return np.minimum(rounded, np.uint64((1 << bits) - 1))


def sealed(kind: Kind, digest: bytes, parts: Sequence[bytes]) -> bytes:
    """A message of this body; digest: of the signature."""
    message = b"".join((header(kind, digest), *parts))
    return message + _checksum(message)


def _checksum(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


def header(kind: Kind, digest: bytes) -> bytes:
    """How a message of this kind begins; digest: of the signature."""
    return _HEADER.pack(MAGIC, VERSION, kind, digest)


def check_header(message: bytes, kind: Kind, digest: bytes) -> None:
    """Raises `MessageError` for a message that does not begin so."""
    if len(message) < HEADER_BYTES:
        raise MessageError(f"a message of {len(message)} bytes is truncated before its header ends")
    magic, version, found, other = _HEADER.unpack_from(message)
    if magic != MAGIC:
        raise MessageError(f"not a message of this protocol: expected {MAGIC!r}, found {magic!r}")
    if version != VERSION:
        raise MessageError(f"protocol version {version}: this release speaks version {VERSION}")
    if not hmac.compare_digest(other, digest):
        raise WrongProgram(
            f"the message is for signature {other.hex()[:16]}…, this side has "
            f"{digest.hex()[:16]}…: fetch the signature again and make new keys"
        )
    if found != kind:
        name = Kind(found).name if found in list(Kind) else str(found)
        raise MessageError(f"expected a message of kind {kind.name}, found {name}")


def counted(message: bytes, kind: Kind, digest: bytes, offset: int) -> int:
    """How many queries a message says it carries, at this place in its body."""
    check_header(message, kind, digest)
    start = _HEADER.size + offset
    if len(message) < start + COUNT.size + CHECKSUM_BYTES:
        raise MessageError(f"a message of {len(message)} bytes is truncated before its count")
    count = int(COUNT.unpack_from(message, start)[0])
    if not 1 <= count <= MAX_QUERIES:
        raise MessageError(f"a message with {count} queries: expected 1 to {MAX_QUERIES}")
    return count


def opened(kind: Kind, digest: bytes, message: bytes, length: int) -> memoryview:
    """The body of a message of exactly this length, its checksum compared."""
    check_header(message, kind, digest)
    expected = _HEADER.size + length + CHECKSUM_BYTES
    if len(message) != expected:
        problem = "truncated" if len(message) < expected else "too long"
        raise MessageError(
            f"the {kind.name.lower().replace('_', ' ')} message is {problem}: expected {expected} "
            f"bytes, found {len(message)}"
        )
    view = memoryview(message)
    if not hmac.compare_digest(_checksum(view[:-CHECKSUM_BYTES]), view[-CHECKSUM_BYTES:]):
        raise MessageError(
            "the message was damaged on the way: its checksum differs; send it again"
        )
    return view[_HEADER.size : -CHECKSUM_BYTES]


def seeded_bytes(primes: Sequence[int], degree: int) -> int:
    return SEED_BYTES + sum(p.bit_length() for p in primes) * degree // 8


def write_seeded(ciphertexts: Sequence[Seeded], primes: Sequence[int]) -> bytes:
    """Each one's seed, then its residues, packed for all ciphertexts at a time."""
    residues = np.stack([ciphertext.residues for ciphertext in ciphertexts])
    if residues.shape[1] != len(primes):
        raise MessageError(f"residues modulo {residues.shape[1]} primes: expected {len(primes)}")
    columns = [np.array([list(ciphertext.seed) for ciphertext in ciphertexts], np.uint8)]
    for row, prime in zip(residues.swapaxes(0, 1), primes, strict=True):
        packed = pack(row.reshape(-1), prime.bit_length())
        columns.append(np.frombuffer(packed, np.uint8).reshape(len(ciphertexts), -1))
    return np.concatenate(columns, axis=1).tobytes()


class Reader:
    """Takes a body apart from front to back; its length was checked before."""

    def __init__(self, body: memoryview, degree: int) -> None:
        self._body, self._degree, self._at = body, degree, 0

    def packed(self, bits: int) -> Residues:
        return unpack(self.take(bits * self._degree // 8), bits)

    def seeded(self, count: int, primes: Sequence[int]) -> tuple[Seeded, ...]:
        """So many ciphertexts; every residue is below its prime."""
        data = self.take(count * seeded_bytes(primes, self._degree))
        each = np.frombuffer(data, np.uint8).reshape(count, -1)
        residues = np.empty((count, len(primes), self._degree), np.uint64)
        at = SEED_BYTES
        for row, prime in zip(residues.swapaxes(0, 1), primes, strict=True):
            size = prime.bit_length() * self._degree // 8
            packed = np.ascontiguousarray(each[:, at : at + size])
            row[:] = unpack(packed.data, prime.bit_length()).reshape(count, -1)
            if row.max() >= prime:
                raise MessageError(f"a residue of {row.max()} is not below its prime {prime}")
            at += size
        return tuple(map(Seeded, residues, (bytes(seed) for seed in each[:, :SEED_BYTES])))

    def take(self, length: int) -> memoryview:
        part = self._body[self._at : self._at + length]
        self._at += length
        return part


class _Lanes(NamedTuple):
    """Where 64 values of so many bits lie in as many 64-bit words as they have bits.

    word, shift: (64,), where each begins. first: for each word, the first value that begins in it;
    one does in every word. over: values that go on in the next word.
    """

    word: npt.NDArray[np.intp]
    shift: Residues
    first: npt.NDArray[np.intp]
    over: npt.NDArray[np.intp]


@cache
def _lanes(bits: int) -> _Lanes:
    word, shift = np.divmod(np.arange(64) * bits, 64)
    first = np.searchsorted(word, np.arange(bits))
    return _Lanes(word, shift.astype(np.uint64), first, np.flatnonzero(shift + bits > 64))


def pack(values: Residues, bits: int) -> bytes:
    """Values below 2^bits, as many as a multiple of 64, → bits/8 bytes each, little-endian."""
    lanes, at = values.reshape(-1, 64), _lanes(bits)
    words = np.bitwise_or.reduceat(lanes << at.shift, at.first, axis=1)
    words[:, at.word[at.over] + 1] |= lanes[:, at.over] >> (np.uint64(64) - at.shift[at.over])
    return words.astype("<u8", copy=False).tobytes()


def unpack(data: bytes | memoryview, bits: int) -> Residues:
    """The reverse of `pack`."""
    words, at = np.frombuffer(data, dtype="<u8").reshape(-1, bits), _lanes(bits)
    lanes = words[:, at.word] >> at.shift
    lanes[:, at.over] |= words[:, at.word[at.over] + 1] << (np.uint64(64) - at.shift[at.over])
    lanes &= np.uint64((1 << bits) - 1)
    return lanes.reshape(-1)
