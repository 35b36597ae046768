"""The only holder of the secret key."""

import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from he_inference import wire
from he_inference.backend.seal import KeyHolder
from he_inference.batch_signature import BatchSignature
from he_inference.coefficient_cipher import CoefficientCipher
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.errors import InputError, KeyFileError
from he_inference.network import check_batch, check_range
from he_inference.nodes import Array
from he_inference.packed_cipher import PackedCipher
from he_inference.progress import Progress
from he_inference.signatures import AnySignature
from he_inference.tickets import Tickets
from he_inference.wire import Residues

_SECRET_MAGIC = b"STVCSECRET1\n"
_DIGEST_BYTES = 16
_OTHERS = 0o077
"""Permission bits of everyone but a file's owner."""


class _Cipher(Protocol):
    """What a layout makes of queries and answers."""

    @property
    def max_queries(self) -> int:
        """That go in one message."""

    def evaluation_keys(self) -> bytes:
        """A message of them."""

    def encrypt(self, batch: Array, key_id: bytes, progress: Progress | None) -> Iterator[bytes]:
        """Checked queries → the parts of one message."""

    def decrypt(self, answer: bytes) -> Array:
        """An answer message → scores."""

    def close(self) -> None:
        """End what was started."""


class Client:
    """Makes and holds the keys, encrypts queries, decrypts answers.

    Guarantee: whoever sees only what this object gives out as bytes (a server, the network) learns
    nothing of what queries and answers hold, under the 128-bit parameters of the signature: only
    how many there were, when, and whether values were in the signature's input range.

    The guarantee ends where something *decrypted* reaches the evaluating server or anyone who
    colludes with it: scores give it the secret key within a few messages, labels more slowly (Li
    and Micciancio 2021; SECURITY.md). Rounding does not help.

    Use it as a context manager where it has processes of its own (batched layout): they end with
    it, and at the latest with this process.
    """

    def __init__(
        self,
        signature: AnySignature,
        *,
        secret: Residues | None = None,
        processes: int | None = None,
    ) -> None:
        """Draw a new secret key, or go on with one that `KeyHolder.secret` gave out.

        processes: that encrypt a batch side by side (batched layout only); see `BatchCipher`.
        """
        self.signature = signature
        self._keys = KeyHolder(signature.parameters, secret)
        tickets = Tickets(self._keys.secret)
        self._cipher = _cipher(signature, self._keys, tickets, processes)
        self._evaluation_keys: bytes | None = None
        self._key_id: bytes | None = None

    def evaluation_keys(self) -> bytes:
        """The keys that a server needs to evaluate; they do not decrypt. Made once per object.

        A client that was loaded makes new ones, with another key id, for the same secret.
        """
        if self._evaluation_keys is None:
            self._evaluation_keys = self._cipher.evaluation_keys()
            self._key_id = wire.key_id(self._evaluation_keys)
        return self._evaluation_keys

    @property
    def key_id(self) -> str:
        """The name under which a server knows this client's evaluation keys."""
        return self._known_key_id().hex()

    def _known_key_id(self) -> bytes:
        return self._key_id or wire.key_id(self.evaluation_keys())

    def check(self, x: npt.ArrayLike) -> Array:
        """Queries as float64, or `InputError` for those that `encrypt` would not take.

        Refused are another shape, values that are not finite, and values outside the range that
        the program was compiled for, which could overflow unnoticed.
        """
        batch = check_batch(x, self.signature.input_shape)
        check_range(batch, self.signature.input_range)
        return batch

    @property
    def max_queries(self) -> int:
        """That one message may hold."""
        return self._cipher.max_queries

    def encrypt(self, x: npt.ArrayLike, progress: Progress | None = None) -> bytes:
        """Queries (batch, *input_shape) → one message. Raises `InputError` as `check` does.

        progress: called with ciphertexts made so far and in all. Raises `EncryptionFailed` where a
        process that encrypts goes away.
        """
        return b"".join(self.encrypt_parts(x, progress))

    def encrypt_parts(self, x: npt.ArrayLike, progress: Progress | None = None) -> Iterator[bytes]:
        """As `encrypt`, the message in parts as they are made; refuses queries at once."""
        batch = self.check(x)
        if len(batch) > self.max_queries:
            raise InputError(
                f"{len(batch)} queries: at most {self.max_queries} go in one message; encrypt "
                "them in parts, or ask a service with he-inference query, which does"
            )
        return self._cipher.encrypt(batch, self._known_key_id(), progress)

    def decrypt(self, answer: bytes) -> Array:
        """An answer message → scores (batch, outputs), rounded to the signature's resolution.

        Digits beyond the resolution are noise. Raises `MessageError` for anything but an answer to
        a query of this key, with as many answers as there were queries, and `AnswerOverflow`
        where the network's answer did not fit the modulus.
        """
        resolution = self.signature.resolution
        return np.rint(self.decrypt_with_noise(answer) / resolution) * resolution

    def decrypt_with_noise(self, answer: bytes) -> Array:
        """As `decrypt`, with the meaningless digits."""
        return self._cipher.decrypt(answer)

    def close(self) -> None:
        """End processes that encrypt, if there are any. May be repeated; more are started anew."""
        self._cipher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, path: str | Path) -> None:
        """Write the secret key to a new file that only its owner may read (mode 0600).

        Raises `KeyFileError` if the file exists: keys are not overwritten.
        """
        head = _SECRET_MAGIC + self.signature.digest + self._known_key_id()
        data = head + self._keys.secret.tobytes()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise KeyFileError(f"{path} exists: keys are never overwritten; name another") from None
        except OSError as error:
            raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data + _digest(data))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.unlink(path)
            raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None

    @classmethod
    def load(
        cls, path: str | Path, signature: AnySignature, *, processes: int | None = None
    ) -> "Client":
        """Read a secret key that `save` wrote. Raises `KeyFileError`."""
        start = len(_SECRET_MAGIC)
        words = len(signature.parameters.primes) * signature.parameters.ring_degree
        data = _read_secret_file(path, start + 48 + 8 * words)
        digest, key_id = data[start : start + 32], data[start + 32 : start + 48]
        if digest != signature.digest:
            raise KeyFileError(
                f"{path} was made for signature {digest.hex()[:16]}…, not for "
                f"{signature.digest.hex()[:16]}…: make new keys for this program"
            )
        residues = np.frombuffer(data, "<u8", offset=start + 48)
        client = cls(signature, secret=residues.reshape(len(signature.parameters.primes), -1))
        client._key_id = key_id
        return client


def _cipher(
    signature: AnySignature, keys: KeyHolder, tickets: Tickets, processes: int | None
) -> _Cipher:
    if isinstance(signature, BatchSignature):
        from he_inference.batch_cipher import BatchCipher  # numba, which one query does without

        return BatchCipher(signature, keys, tickets, processes)
    if isinstance(signature, CoefficientSignature):
        return CoefficientCipher(signature, keys, tickets)
    return PackedCipher(signature, keys, tickets)


def _read_secret_file(path: str | Path, length: int) -> bytes:
    """The file without its digest, which is compared; refused where others may read it."""
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(length + _DIGEST_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
    if not data.startswith(_SECRET_MAGIC):
        raise KeyFileError(f"{path} is not a secret key of this version")
    if os.name == "posix" and mode & _OTHERS:
        raise KeyFileError(f"{path} can be read by others: chmod 600 it, or make new keys")
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not hmac.compare_digest(_digest(content), digest):
        raise KeyFileError(
            f"{path} is damaged, or made for other parameters: restore it, or make new keys"
        )
    if len(content) != length:
        raise KeyFileError(f"{path} was made for other parameters: make new keys for this program")
    return content


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
