"""Every random ring element: AES-256 in counter mode under keys from the operating system.

    new_key()                     256 bits from the operating system
    agreed_key(ours, theirs, …)   what two ends of an authenticated connection both contributed to
    derive(key, label)            HKDF-SHA256: another key, independent of the first
    Generator(key).words(…)       ring elements at an address

A `Generator` is a function, not a tape: which words come out depends on the key and on the address
asked for, a pair (operation, lane). Two parties that hold a key and follow the same protocol ask
for the same addresses, however their other work is ordered. An address must be asked for once only,
by each holder: callers number operations upwards and never go back, except to repeat exactly what
was done before (resuming from a checkpoint).

Counter blocks (NIST SP 800-38A, section 6.5) are laid out so that addresses cannot overlap:

    operation u64 · lane u16 · block u48, big-endian

Guarantee: whoever does not hold the key cannot tell the words from uniform ones, as far as AES-256
is a pseudo-random permutation; 2^48 blocks a lane are never reached, as a request is bounded by
`MAX_BYTES`. Nothing here falls back on a weaker source.
"""

import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpc_training.errors import SettingsError

KEY_BYTES = 32
MAX_BYTES = 2**34
"""What one address may be asked for."""
MAX_LANE = 2**16 - 1
_ADDRESS = struct.Struct(">QH6x")


def new_key() -> bytes:
    """32 bytes from the operating system's generator."""
    return os.urandom(KEY_BYTES)


def derive(key: bytes, label: str) -> bytes:
    """A key for another purpose (HKDF, RFC 5869): 32 bytes, independent for each label."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=label.encode()).derive(key)


def agreed_key(contributions: Sequence[bytes], label: str) -> bytes:
    """The key of those who know all contributions, in an order that all of them know.

    Uniform to an outsider as long as one contribution is. Raises `SettingsError` for a contribution
    that is not `KEY_BYTES` long.
    """
    for contribution in contributions:
        _check_key(contribution)
    return derive(b"".join(contributions), label)


class Generator:
    """Ring elements under one key, by address."""

    def __init__(self, key: bytes) -> None:
        """key: 32 bytes. Raises `SettingsError` for another length: there is no weaker mode."""
        _check_key(key)
        self._algorithm = algorithms.AES256(key)

    def words(
        self, operation: int, lane: int, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint64
    ) -> npt.NDArray[Any]:
        """Unsigned integers of this shape, each uniform over its whole range.

        operation: 0 to 2^64 − 1; lane: 0 to 2^16 − 1; dtype: an unsigned integer type,
        little-endian everywhere. Raises `SettingsError` for an address or a size beyond that.
        """
        kind = np.dtype(dtype).newbyteorder("<")
        count = int(np.prod(shape, dtype=object)) * kind.itemsize
        if kind.kind != "u" or not 0 <= count <= MAX_BYTES:
            raise SettingsError(f"{count} bytes of {kind}: expected unsigned, up to {MAX_BYTES}")
        if not (0 <= operation < 2**64 and 0 <= lane <= MAX_LANE):
            raise SettingsError(f"address {operation}, lane {lane}: expected 64 and 16 bits")
        counter = modes.CTR(_ADDRESS.pack(operation, lane))
        stream = Cipher(self._algorithm, counter).encryptor().update(bytes(count))
        return np.frombuffer(stream, kind).reshape(shape)


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise SettingsError(f"a key of {len(key)} bytes: expected {KEY_BYTES}")
