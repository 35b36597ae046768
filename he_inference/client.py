"""The only holder of the secret key."""

import hashlib
import hmac
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from he_inference import wire
from he_inference.backend.seal import KeyHolder
from he_inference.errors import InputError, KeyFileError
from he_inference.network import check_batch
from he_inference.nodes import Array
from he_inference.program import Signature

_SECRET_MAGIC = b"STVCSECRET1\n"
_MAX_SECRET_BYTES = 1 << 26
_DIGEST_BYTES = 16


class Client:
    """Makes and holds the keys, encrypts queries, decrypts answers.

    Guarantee: whoever sees only what this object gives out as bytes (a server, the network) learns
    nothing of queries or answers but how many there were, under the 128-bit parameters of the
    signature, as long as *decrypted* answers are not shown to them (see SECURITY.md).
    """

    def __init__(self, signature: Signature, *, secret: bytes | None = None) -> None:
        """Draw a new secret key, or go on with one that `KeyHolder.secret` gave out."""
        self.signature = signature
        self._keys = KeyHolder(signature.parameters, secret)
        self._evaluation_keys: bytes | None = None
        self._key_id: bytes | None = None

    def evaluation_keys(self) -> bytes:
        """The keys that a server needs to evaluate; they do not decrypt. Made once per client."""
        if self._evaluation_keys is None:
            made = self._keys.evaluation_keys(self.signature.keys)
            self._evaluation_keys = wire.write_keys(self.signature, made)
            self._key_id = wire.key_id(self._evaluation_keys)
        return self._evaluation_keys

    @property
    def key_id(self) -> str:
        """The name under which a server knows this client's evaluation keys."""
        return self._known_key_id().hex()

    def _known_key_id(self) -> bytes:
        if self._key_id is None:
            self.evaluation_keys()
        if self._key_id is None:
            raise KeyFileError("there are no evaluation keys: make them with evaluation_keys()")
        return self._key_id

    def encrypt(self, x: npt.ArrayLike) -> bytes:
        """Queries (batch, *input_shape) → one message.

        Raises `InputError` for another shape, values that are not finite, or values outside the
        range that the program was compiled for (they could overflow unnoticed).
        """
        batch = check_batch(x, self.signature.input_shape)
        self._check_range(batch)
        if len(batch) > wire.MAX_QUERIES:
            raise InputError(f"{len(batch)} queries: at most {wire.MAX_QUERIES} go in one message")
        flat = np.concatenate([batch.reshape(len(batch), -1), np.zeros((len(batch), 1))], axis=1)
        slots = flat[:, self.signature.gather]
        scale = self.signature.input_scale
        ciphertexts = tuple(self._keys.encrypt(row, scale) for row in slots)
        return wire.write_query(self.signature, wire.Query(self._known_key_id(), ciphertexts))

    def _check_range(self, batch: Array) -> None:
        low, high = self.signature.input_range
        if batch.min() < low or batch.max() > high:
            raise InputError(
                f"values from {batch.min():.6g} to {batch.max():.6g}: this program was compiled "
                f"for {low:g} to {high:g}; scale the queries as in training"
            )

    def decrypt(self, answer: bytes) -> Array:
        """An answer message → scores (batch, outputs), rounded to the signature's resolution.

        Rounding removes most of the noise, which depends on the secret key: decryptions that
        others may see should come from here (Li and Micciancio 2021).
        """
        resolution = self.signature.resolution
        return np.rint(self.decrypt_with_noise(answer) / resolution) * resolution

    def decrypt_with_noise(self, answer: bytes) -> Array:
        """As `decrypt`, unrounded. Never show the result to anyone who may know the ciphertext."""
        slots = self.signature.output_slots
        scale = self.signature.output_scale
        answers = wire.read_answer(self.signature, answer)
        return np.stack([self._keys.decrypt(residues, scale)[slots] for residues in answers])

    def save(self, path: str | Path) -> None:
        """Write the secret key to a new file that only its owner may read (mode 0600).

        Raises `KeyFileError` if the file exists: keys are not overwritten.
        """
        data = b"".join(
            (_SECRET_MAGIC, self.signature.digest, self._known_key_id(), self._keys.secret)
        )
        data += _digest(data)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise KeyFileError(f"{path} exists: keys are never overwritten; name another") from None
        except OSError as error:
            raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    @classmethod
    def load(cls, path: str | Path, signature: Signature) -> "Client":
        """Read a secret key that `save` wrote. Raises `KeyFileError`."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(_MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
        if not data.startswith(_SECRET_MAGIC) or len(data) > _MAX_SECRET_BYTES:
            raise KeyFileError(f"{path} is not a secret key of this version")
        data, found = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if not hmac.compare_digest(_digest(data), found):
            raise KeyFileError(f"{path} is damaged: restore it from a copy, or make new keys")
        start = len(_SECRET_MAGIC)
        digest, key_id = data[start : start + 32], data[start + 32 : start + 48]
        if digest != signature.digest:
            raise KeyFileError(
                f"{path} was made for signature {digest.hex()[:16]}…, not for "
                f"{signature.digest.hex()[:16]}…: make new keys for this program"
            )
        client = cls(signature, secret=data[start + 48 :])
        client._key_id = key_id
        return client


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
