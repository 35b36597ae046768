"""Messages of the batched layout: one batch of queries, one ciphertext per input feature.

    query    = header · key id · ticket · shape · polynomials · checksum
    answer   = header · ticket · shape · polynomials · checksum
    keys     = header · polynomials · checksum
    header   = as in `wire`: "STVC" · version u16 · kind u16 · digest of the signature (32 bytes)
    key id   = 16 bytes, the name of the keys that the query goes with, as in `wire`
    ticket   = 32 bytes chosen by the client, returned by the server
    shape    = queries u32 · ciphertexts u32 · polynomials of each u16 · primes u16 · N u32
    checksum = BLAKE2b-128 of all that precedes it

A query has one ciphertext per feature: the seed of c1, and c0. A plain answer has one per output:
all components c_0 … c_d. Residues stand in the NTT domain, packed with as many bits as their prime
has. A private answer has c0 and c1 for every output: coefficients modulo the first prime, without
the low bits that only noise reaches. Keys are seeded ciphertexts in the order of `read_keys`.
All integers are little-endian.

A batch is large (some 150 MB), so it is written as parts and read from a stream, and neither end
ever holds the packed form of a whole one. The header and the shape are compared with the one form
that the message may have before anything is allocated for the rest; every residue is checked to be
below its prime.

A plain answer is not cut. In the NTT domain every bit of a residue counts, so low bits cannot be
left off. Nor can primes: to leave some out without dividing is exact as long as scale · answer fits
the others, and then such primes would not have been needed in the query either. Private answers are
divided by all primes but one, which is why they are twenty times smaller.
"""

import hashlib
import hmac
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import numpy as np

from he_inference import wire
from he_inference.backend import seeds
from he_inference.backend.residues import packing
from he_inference.batch_format import SHAPE, BatchFormat
from he_inference.cost import SEED_BYTES
from he_inference.errors import MessageError
from he_inference.parameters import Parameters
from he_inference.processors import processors
from he_inference.wire import Kind, Residues, Seeded

_SHAPE_NAMES = ("ciphertexts", "polynomials of each", "primes", "coefficients")
_TASK_BYTES = 1 << 21
"""About what a thread decodes at a time."""
_TASKS_AHEAD = 2
"""Read for every thread beyond what it works on."""


class Readable(Protocol):
    """A stream of bytes: a file, a pipe, the body of a request."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end only."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of queries, or of answers to them.

    queries: how many; slots from there on hold nothing that was asked.
    residues: of queries (features, 2, primes, N), of plain answers (outputs, components, primes,
        N), in the NTT domain; of private answers (outputs, 2, N), coefficients modulo the first
        prime; uint64, every one below its prime.
    key_id: of the keys that go with queries; empty in answers.
    """

    ticket: bytes
    queries: int
    residues: Residues
    key_id: bytes = b""


def write_query(
    form: BatchFormat,
    key_id: bytes,
    ticket: bytes,
    queries: int,
    ciphertexts: Iterable[Seeded | bytes],
) -> Iterator[bytes]:
    """The parts of a message, one for each ciphertext as it comes, or as `pack_seeded` packed it.

    Raises `MessageError` where what is given does not have the form that is promised.
    """
    if len(key_id) != wire.KEY_ID_BYTES:
        raise MessageError(f"a key id of {len(key_id)} bytes: expected {wire.KEY_ID_BYTES}")
    bodies = _write_seeded(form, ciphertexts)
    return _parts(form, Kind.BATCH_QUERY, key_id, ticket, queries, bodies)


def write_answer(form: BatchFormat, answer: Batch) -> Iterator[bytes]:
    """The parts of a message, one for each output. Raises `MessageError` as `write_query` does."""
    if answer.residues.shape != form.residues:
        raise MessageError(
            f"an answer of residues {answer.residues.shape}: expected {form.residues}"
        )
    write = _write_cut if form.private else _write_polynomials
    bodies = (write(form, output) for output in answer.residues)
    return _parts(form, Kind.BATCH_ANSWER, b"", answer.ticket, answer.queries, bodies)


def _write_polynomials(form: BatchFormat, polynomials: Residues) -> bytes:
    return b"".join(_write_polynomial(form.parameters, polynomial) for polynomial in polynomials)


def _write_cut(form: BatchFormat, polynomials: Residues) -> bytes:
    """(2, N) coefficients modulo the first prime, rounded to the bits that are kept."""
    rows = zip(polynomials, form.cut_bits, form.response_bits, strict=True)
    return b"".join(
        packing.pack(wire.shift_down(row, cut, bits), bits).tobytes() for row, cut, bits in rows
    )


def write_keys(form: BatchFormat, ciphertexts: Iterable[Seeded]) -> bytes:
    """A message of one client's keys, in the order of `read_keys`."""
    head = wire.header(Kind.EVALUATION_KEYS, form.digest)
    bodies = _write_seeded(form, ciphertexts)
    return b"".join(_with_checksum(head, bodies, form.seeded_keys))


def _parts(
    form: BatchFormat,
    kind: Kind,
    key_id: bytes,
    ticket: bytes,
    queries: int,
    bodies: Iterable[bytes],
) -> Iterator[bytes]:
    if len(ticket) != wire.TICKET_BYTES:
        raise MessageError(f"a ticket of {len(ticket)} bytes: expected {wire.TICKET_BYTES}")
    _check_queries(form, queries)
    header = wire.header(kind, form.digest)
    shape = form.shape(kind)
    return _with_checksum(header + key_id + ticket + SHAPE.pack(queries, *shape), bodies, shape[0])


def _with_checksum(head: bytes, bodies: Iterable[bytes], ciphertexts: int) -> Iterator[bytes]:
    checksum = hashlib.blake2b(head, digest_size=wire.CHECKSUM_BYTES)
    yield head
    count = 0
    for count, body in enumerate(bodies, 1):
        if count > ciphertexts:
            raise MessageError(f"a batch of more than {ciphertexts} ciphertexts")
        checksum.update(body)
        yield body
    if count != ciphertexts:
        raise MessageError(f"a batch of {count} ciphertexts: expected {ciphertexts}")
    yield checksum.digest()


def _write_seeded(form: BatchFormat, ciphertexts: Iterable[Seeded | bytes]) -> Iterator[bytes]:
    for ciphertext in ciphertexts:
        packed = ciphertext
        if isinstance(packed, Seeded):
            packed = pack_seeded(form.parameters, packed)
        if len(packed) != form.seeded_bytes:
            raise MessageError(f"a ciphertext of {len(packed)} bytes: expected {form.seeded_bytes}")
        yield packed


def pack_seeded(parameters: Parameters, ciphertext: Seeded) -> bytes:
    """Seed and residues as they stand in a message. Raises `MessageError` for another form."""
    if len(ciphertext.seed) != SEED_BYTES:
        raise MessageError(f"a seed of {len(ciphertext.seed)} bytes: expected {SEED_BYTES}")
    return ciphertext.seed + _write_polynomial(parameters, ciphertext.residues)


def _write_polynomial(parameters: Parameters, residues: Residues) -> bytes:
    expected = (len(parameters.data_primes), parameters.ring_degree)
    if residues.shape != expected:
        raise MessageError(f"a polynomial of shape {residues.shape}: expected {expected}")
    rows = zip(residues, parameters.data_primes, strict=True)
    return b"".join(packing.pack(row, prime.bit_length()).tobytes() for row, prime in rows)


def read_query(
    form: BatchFormat, stream: Readable, *, into: Residues | None = None, threads: int | None = None
) -> Batch:
    """A batch of queries, their seeds expanded; the stream must end with it.

    into: an array from `query_memory` to be filled and returned, of which the content is lost;
        without it a new one, of which nothing is touched before its bytes have arrived.
    threads: as many as this process may use processors, unless given; each takes a few MB.
    Raises `MessageError` for anything but a whole and sound message, as soon as it is noticed.
    """
    incoming = _Incoming(stream, form.query_bytes)
    key_id, ticket, queries = _read_head(form, Kind.BATCH_QUERY, incoming, wire.KEY_ID_BYTES)
    residues = query_memory(form) if into is None else into
    if residues.shape != (form.features, 2, len(form.primes), form.degree):
        raise MessageError(f"no room for this batch in an array of shape {residues.shape}")
    _decode(form, incoming, residues, threads or processors())
    incoming.finish()
    return Batch(ticket, queries, residues, key_id)


def read_keys(form: BatchFormat, message: bytes) -> Residues:
    """The seeded ciphertexts of a client's keys, expanded: uint64 (seeded_keys, 2, primes, N).

    The first is an encryption of zero; then, for s², s³ … in turn, for each prime, one of that
    power modulo this prime and of zero modulo the others. That they are so only their owner knows.
    Raises `MessageError` for anything but a whole and sound message.
    """
    if len(message) >= wire.HEADER_BYTES:
        wire.check_header(message, Kind.EVALUATION_KEYS, form.digest)
    if len(message) != form.key_bytes:
        problem = "truncated" if len(message) < form.key_bytes else "too long"
        raise MessageError(
            f"the evaluation keys message is {problem}: expected {form.key_bytes} bytes, found "
            f"{len(message)}"
        )
    incoming = _Incoming(BytesIO(message), form.key_bytes)
    incoming.take(wire.HEADER_BYTES)
    residues = np.empty((form.seeded_keys, 2, len(form.primes), form.degree), np.uint64)
    for target in residues:
        _read_seeded(form, incoming.take(form.seeded_bytes), target[None])
    incoming.finish()
    return residues


def query_memory(form: BatchFormat) -> Residues:
    """Room for one batch of queries, which a server that reads one at a time may use each time.

    For the system to provide it can take as long as expanding all seeds.
    """
    return np.empty((form.features, 2, len(form.primes), form.degree), np.uint64)


def _decode(form: BatchFormat, incoming: "_Incoming", residues: Residues, threads: int) -> None:
    """Read on while threads take apart what has arrived."""
    each = form.seeded_bytes
    at_once = max(1, _TASK_BYTES // each)
    working: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, form.features, at_once):
            targets = residues[first : first + at_once]
            data = incoming.take(len(targets) * each)
            working.append(pool.submit(_read_seeded, form, data, targets))
            if len(working) > threads * (1 + _TASKS_AHEAD):
                working.popleft().result()
        for task in working:
            task.result()


def _read_seeded(form: BatchFormat, data: bytes, targets: Residues) -> None:
    view, each = memoryview(data), form.seeded_bytes
    for number, (c0, c1) in enumerate(targets):
        ciphertext = view[number * each : (number + 1) * each]
        _read_polynomial(form, ciphertext[SEED_BYTES:], c0)
        seeds.expand(ciphertext[:SEED_BYTES], form.primes, c1)


def _read_polynomial(form: BatchFormat, data: memoryview, target: Residues) -> None:
    at = 0
    for row, prime in zip(target, form.primes, strict=True):
        bits = prime.bit_length()
        largest = packing.unpack(data[at:], bits, row)
        if largest >= prime:
            raise MessageError(f"a residue of {largest} is not below its prime {prime}")
        at += bits * form.degree // 8


def read_answer(form: BatchFormat, stream: Readable) -> Batch:
    """A batch of answers; the stream must end with it. Raises `MessageError` for anything else."""
    incoming = _Incoming(stream, form.answer_bytes)
    _, ticket, queries = _read_head(form, Kind.BATCH_ANSWER, incoming, 0)
    residues = np.empty(form.residues, np.uint64)
    for output in residues:
        if form.private:
            _read_cut(form, incoming, output)
            continue
        for component in output:
            data = memoryview(incoming.take(form.polynomial_bytes))
            _read_polynomial(form, data, component)
    incoming.finish()
    return Batch(ticket, queries, residues)


def _read_cut(form: BatchFormat, incoming: "_Incoming", target: Residues) -> None:
    """The reverse of `_write_cut`, up to the bits cut."""
    prime = np.uint64(form.primes[0])
    for row, cut, bits in zip(target, form.cut_bits, form.response_bits, strict=True):
        packing.unpack(incoming.take(bits * form.degree // 8), bits, row)
        row <<= np.uint64(cut)
        row %= prime


def _read_head(
    form: BatchFormat, kind: Kind, incoming: "_Incoming", key_id_bytes: int
) -> tuple[bytes, bytes, int]:
    """Key id, ticket and number of queries of a message that promises the right form."""
    wire.check_header(incoming.take(wire.HEADER_BYTES), kind, form.digest)
    key_id, ticket = incoming.take(key_id_bytes), incoming.take(wire.TICKET_BYTES)
    queries, *shape = SHAPE.unpack(incoming.take(SHAPE.size))
    both = zip(_SHAPE_NAMES, shape, form.shape(kind), strict=True)
    faults = [
        f"{found} {name}, expected {wanted}" for name, found, wanted in both if found != wanted
    ]
    if faults:
        raise MessageError(f"a batch of another shape than the program's: {'; '.join(faults)}")
    _check_queries(form, queries)
    return key_id, ticket, queries


def _check_queries(form: BatchFormat, queries: int) -> None:
    slots = form.parameters.slots
    if not 1 <= queries <= slots:
        raise MessageError(f"a batch of {queries} queries: expected 1 to {slots}")


class _Incoming:
    """Takes a message of a known length from a stream, and sums it up."""

    def __init__(self, stream: Readable, length: int) -> None:
        self._stream, self._length, self._read = stream, length, 0
        self._checksum = hashlib.blake2b(digest_size=wire.CHECKSUM_BYTES)

    def take(self, size: int) -> bytes:
        data = self._exactly(size)
        self._checksum.update(data)
        return data

    def finish(self) -> None:
        """Compare the checksum; nothing may follow it."""
        expected = self._checksum.digest()
        if not hmac.compare_digest(self._exactly(wire.CHECKSUM_BYTES), expected):
            raise MessageError(
                "the message was damaged on the way: its checksum differs; send it again"
            )
        if self._stream.read(1):
            raise MessageError(f"the message is too long: expected {self._length} bytes")

    def _exactly(self, size: int) -> bytes:
        """The next bytes, however small the pieces they come in."""
        pieces, missing = [], size
        while missing:
            piece = self._stream.read(missing)
            if not piece:
                found = self._read + size - missing
                raise MessageError(
                    f"the message is truncated: expected {self._length} bytes, found {found}"
                )
            pieces.append(piece)
            missing -= len(piece)
        self._read += size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
