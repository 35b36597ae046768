"""Features and labels from files that people have: .npy, CSV, IDX.

Nothing that is read is executed, and sizes are checked before anything is allocated for them.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from private_models.errors import InputError

MAX_CSV_BYTES = 1 << 30
_MALFORMED = (ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError)


def read_features(path: Path) -> npt.NDArray[Any]:
    """(rows, d) real values: .npy is mapped, not loaded; .csv may have a header.

    IDX images (…-idx3-ubyte) become rows of pixels in 0 to 1. Raises `InputError`.
    """
    array = _array(path)
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        raise InputError(
            f"{path}: expected rows of numbers, found {array.dtype} of shape {array.shape}"
        )
    if array.ndim > 2:
        array = array.reshape(len(array), -1)
    return array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else array


def picture_shape(path: Path) -> tuple[int, ...] | None:
    """(height, width) or (height, width, 3) of the rows of an IDX file or array of pictures."""
    shape = _array(path).shape[1:]
    return shape if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3) else None


def read_labels(path: Path) -> npt.NDArray[Any]:
    """(rows,) whole numbers or strings, from .npy, IDX, or one column of .csv or text."""
    array = _array(path)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise InputError(f"{path}: expected one label a row, found shape {array.shape}")
    whole = array.dtype.kind == "f" and bool((array == np.rint(array)).all())
    return array.astype(np.int64) if whole else np.asarray(array)


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: expected a file, or use `features` on pictures")
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        with path.open("rb") as file:
            start = file.read(4)
        if start[:3] == b"\0\0\x08":
            return read_idx(path)
        return _text(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _MALFORMED as error:
        raise InputError(f"{path}: not a file of numbers: {str(error)[:120]}") from None


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Bytes of any shape in the format of MNIST. Raises `InputError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if content[:3] != b"\0\0\x08":
        raise InputError(
            f"{path}: not an IDX file: expected pictures, .npy or IDX; for texts name --backbone "
            "minilm, and --column of a CSV file"
        )
    rank = content[3] if len(content) > 3 else 0
    sizes = content[4 : 4 + 4 * rank]
    shape = tuple(int(n) for n in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
    if not rank or len(shape) != rank or math.prod(shape) != len(content) - 4 - 4 * rank:
        raise InputError(f"{path}: the IDX header does not fit the file's length: fetch it anew")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_table(path: Path) -> list[list[str]]:
    """The lines of a CSV file that are not empty. Raises `InputError`."""
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise InputError(f"{path}: over {MAX_CSV_BYTES} bytes of text: convert it to .npy")
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a table in UTF-8: {str(error)[:120]}") from None


def _text(path: Path) -> npt.NDArray[Any]:
    rows = read_table(path)
    if rows and len(rows) > 1 and not _numeric(rows[0]) and _numeric(rows[1]):
        rows = rows[1:]
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(f"{path}: expected lines with equally many values, separated by commas")
    if all(_numeric(row) for row in rows):
        return np.array(rows, np.float64)
    return np.array(rows)


def _numeric(row: Sequence[str]) -> bool:
    try:
        [float(value) for value in row]
    except ValueError:
        return False
    return True
