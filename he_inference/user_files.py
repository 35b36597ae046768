"""Files that a user names: read and written whole, and checked before any work is done."""

import os
from pathlib import Path
from secrets import token_hex

from he_inference.errors import InputError

SECRET_BEGINS = b"STVCSECRET"


def check_output(path: Path, *read: Path) -> None:
    """Refuse, before any work is done, a file that cannot or should not be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: {path.parent} is not a folder")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: no permission to write in {path.parent}")
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected the name of a file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not an ordinary file: name another to write")
    if path.resolve() in [other.resolve() for other in read]:
        raise InputError(f"{path} is named twice, and would be overwritten: name another to write")
    if path.is_file() and first_bytes(path, len(SECRET_BEGINS)) == SECRET_BEGINS:
        raise InputError(f"{path} is a secret key, which is never overwritten: name another")


def first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def write(path: Path, data: bytes) -> None:
    """All of it or nothing: whatever interrupts this, nobody finds half a file."""
    target = path.resolve()
    part = target.with_name(f".{token_hex(8)}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
