"""Certificates by which parties know each other: made here, exchanged by people, compared by TLS.

A certificate is self-signed (ECDSA on P-256) and believed because the other party's people handed
it over, not because of its name: give it to them by a way on which nobody can swap it, or compare
`fingerprint` by telephone. The private key never leaves the machine that made it.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mpc_training.errors import CertificateError

VALID_DAYS = 825
_CLOCK_SKEW = timedelta(hours=1)
_MAX_BYTES = 2**16
_OTHERS = 0o077


@dataclass(frozen=True)
class KeyFiles:
    """What `make` wrote."""

    certificate: Path
    private_key: Path


def make(name: str, folder: Path, *, days: int = VALID_DAYS) -> KeyFiles:
    """Write NAME.certificate.pem and NAME.key.pem (mode 0600) into an existing folder.

    Raises `CertificateError` for a name that is not 1 to 60 letters, digits, '-' or '_', where a
    file exists (keys are never overwritten) or where it cannot be written.
    """
    if not (0 < len(name) <= 60 and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)):
        raise CertificateError(f"name {name!r}: expected 1 to 60 letters, digits, '-' or '_'")
    if not 1 <= days <= 3650:
        raise CertificateError(f"{days} days: expected 1 to 3650")
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files = KeyFiles(folder / f"{name}.certificate.pem", folder / f"{name}.key.pem")
    for path in (files.certificate, files.private_key):
        if path.exists():
            raise CertificateError(f"{path} exists: keys are never overwritten; name another")
    _write_new(files.private_key, private, 0o600)
    _write_new(files.certificate, built.public_bytes(Encoding.PEM), 0o644)
    return files


def read(path: Path) -> bytes:
    """The certificate in a PEM file, as DER. Raises `CertificateError`."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
        found = x509.load_pem_x509_certificate(content)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise CertificateError(
            f"{path} is not a certificate (PEM): ask its party for the file that "
            "`mpc-training keys` made"
        ) from None
    if datetime.now(UTC) > found.not_valid_after_utc:
        raise CertificateError(
            f"{path} ended on {found.not_valid_after_utc:%Y-%m-%d}: make new keys and exchange them"
        )
    return found.public_bytes(Encoding.DER)


def check_private(path: Path) -> None:
    """Refuse a private key that others may read. Raises `CertificateError`."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from None
    if os.name == "posix" and mode & _OTHERS:
        raise CertificateError(f"{path} can be read by others: chmod 600 it, or make new keys")


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER) in hexadecimal, in groups of four, to read out to people."""
    digits = sha256(certificate).hexdigest()
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise CertificateError(f"{path} exists: keys are never overwritten; name another") from None
    except OSError as error:
        raise CertificateError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise CertificateError(f"{path} cannot be written: {error.strerror}") from None
