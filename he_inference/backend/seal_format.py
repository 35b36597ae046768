"""SEAL 4's serialised objects, written and taken apart as bytes.

So that foreign bytes never reach SEAL's own reader: `wire` turns them into checked arrays, and
what SEAL loads are headers written here around those arrays. Only what this process's SEAL has
just written is taken apart.

Layout (seal/serialization.h, ciphertext.cpp, kswitchkeys.cpp of SEAL 4): every object is a 16-byte
header (magic, header size, version 4.3, compression 0 none | 2 Zstandard, total size u64), then its
members; residues are uint64[size, primes, N] in an array object with a header of its own.
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import zstandard

from he_inference.errors import ParameterError
from he_inference.wire import Residues, Seeded

ParmsId = Sequence[int]

_HEADER = struct.Struct("<2sBBBBHQ")
_MAGIC, _MAJOR, _MINOR = b"\x5e\xa1", 4, 3
_CIPHERTEXT = struct.Struct("<4QBQQQdQ")
_PLAINTEXT = struct.Struct("<4QQd")
_ARRAY_HEADER = _HEADER.size + 8
_BLAKE2XB = 1


def _object(members: bytes) -> bytes:
    size = _HEADER.size + len(members)
    return _HEADER.pack(_MAGIC, _HEADER.size, _MAJOR, _MINOR, 0, 0, size) + members


def _array(residues: Residues) -> bytes:
    data = np.ascontiguousarray(residues, dtype="<u8").tobytes()
    return _object(struct.pack("<Q", residues.size) + data)


def ciphertext(
    parms_id: ParmsId, residues: Residues, scale: float, *, ntt: bool, seed: bytes = b""
) -> bytes:
    """residues: (polynomials, primes, N); with a seed one polynomial, the other SEAL draws."""
    polynomials = 2 if seed else residues.shape[0]
    primes, degree = residues.shape[1:]
    members = _CIPHERTEXT.pack(*parms_id, ntt, polynomials, degree, primes, scale, 1)
    tail = _object(bytes([_BLAKE2XB]) + seed) if seed else b""
    return _object(members + _array(residues) + tail)


def switching_keys(parms_id: ParmsId, keys: Mapping[int, Sequence[Seeded]], count: int) -> bytes:
    """keys: digits of every key by its index, of `count` possible indices."""
    parts = [struct.pack("<4QQ", *parms_id, count)]
    for index in range(count):
        digits = keys.get(index, ())
        parts.append(struct.pack("<Q", len(digits)))
        parts.extend(
            ciphertext(parms_id, digit.residues[None], 1.0, ntt=True, seed=digit.seed)
            for digit in digits
        )
    return _object(b"".join(parts))


def plaintext(parms_id: ParmsId, residues: Residues) -> bytes:
    """residues: (primes, N), already transformed: the form in which SEAL keeps a secret key."""
    return _object(_PLAINTEXT.pack(*parms_id, residues.size, 1.0) + _array(residues))


def _members(data: bytes) -> bytes:
    """Members of an object that this process's SEAL wrote, decompressed."""
    if not data.startswith(_MAGIC) or (data[3], data[4]) != (_MAJOR, _MINOR):
        raise ParameterError(
            f"this SEAL writes version {data[3]}.{data[4]} of its format, expected "
            f"{_MAJOR}.{_MINOR}: install a release of TenSEAL that this project was tested with"
        )
    if data[5] == 0:
        return data[_HEADER.size :]
    # SEAL writes a stream, without its length.
    return zstandard.ZstdDecompressor().decompressobj().decompress(data[_HEADER.size :])


def read_ciphertext(data: bytes) -> Residues:
    """(polynomials, primes, N) of a ciphertext without a seed."""
    members = _members(data)
    *_, polynomials, degree, primes, _, _ = _CIPHERTEXT.unpack_from(members)
    start = _CIPHERTEXT.size + _ARRAY_HEADER
    flat = np.frombuffer(members, "<u8", polynomials * degree * primes, start)
    return flat.reshape(polynomials, primes, degree)


def read_seeded(data: bytes) -> Seeded:
    """A seeded ciphertext."""
    return _read_seeded(_members(data))


def _read_seeded(members: bytes) -> Seeded:
    *_, degree, primes, _, _ = _CIPHERTEXT.unpack_from(members)
    start = _CIPHERTEXT.size + _ARRAY_HEADER
    residues = np.frombuffer(members, "<u8", degree * primes, start).reshape(primes, degree)
    generator_at = start + residues.nbytes + _HEADER.size
    if members[generator_at] != _BLAKE2XB:
        raise ParameterError(
            f"this SEAL draws from generator {members[generator_at]}, expected {_BLAKE2XB} "
            "(Blake2xb): install a release of TenSEAL that is built with it"
        )
    return Seeded(residues, members[generator_at + 1 : generator_at + 65])


def read_switching_key(data: bytes, index: int) -> tuple[Seeded, ...]:
    """The digits of the one key of a key set; all other indices must be empty."""
    members = _members(data)
    at = struct.calcsize("<4QQ") + 8 * index
    (count,) = struct.unpack_from("<Q", members, at)
    at += 8
    digits = []
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", members, at + 8)
        digits.append(_read_seeded(members[at + _HEADER.size : at + size]))
        at += size
    return tuple(digits)


def read_plaintext(data: bytes, primes: int) -> Residues:
    """(primes, N) of a transformed plaintext."""
    members = _members(data)
    flat = np.frombuffer(members, "<u8", -1, _PLAINTEXT.size + _ARRAY_HEADER)
    return flat.reshape(primes, -1)
