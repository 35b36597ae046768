"""A party's own records from its own files: CSV, npy, IDX and folders of images.

Each reader returns a `Table`. Everything that is wrong with a file is said in one `DataError`,
which only the party that owns the file ever sees.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mpc_training.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".tif", ".tiff")
_MAX_FAULTS = 5
_IDX_BYTES = 8


@dataclass(frozen=True)
class Table:
    """Records as read.

    features: (n, …) of any real dtype. labels: int64 (n,) or None. ids: one for each record, or
    None. names: of the columns of a CSV file, else None.
    """

    features: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None = None
    ids: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None


def read_csv(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    identifier: str | None = None,
) -> Table:
    """A CSV file with a header line; features float64 (n, columns), in the order of `columns`.

    columns: which are features; by default all but `label` and `identifier`. label: a column of
    whole numbers from 0. identifier: a column that names records.

    Raises `DataError` that lists missing columns, or the first few cells that are no numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    if len(rows) < 2:
        raise DataError(f"{path}: expected a header line and records, found {len(rows)} lines")
    header = [name.strip() for name in rows[0]]
    special = [name for name in (label, identifier) if name is not None]
    wanted = [name for name in header if name not in special] if columns is None else list(columns)
    missing = [name for name in (*wanted, *special) if name not in header]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header)}: correct "
            "the header or the settings"
        )
    ragged = [k for k, row in enumerate(rows[1:], 2) if len(row) != len(header)]
    if ragged:
        raise DataError(f"{path}, line {ragged[0]}: expected {len(header)} cells as in its header")
    places = [header.index(name) for name in wanted]
    features = _numbers(path, rows, places, header)
    labels = None
    if label is not None:
        column = _numbers(path, rows, [header.index(label)], header)[:, 0]
        labels = _whole(f"{path}, column {label}", column)
    ids = None
    if identifier is not None:
        ids = tuple(row[header.index(identifier)].strip() for row in rows[1:])
    return Table(features, labels, ids, tuple(wanted))


def _numbers(
    path: Path, rows: list[list[str]], places: list[int], header: list[str]
) -> npt.NDArray[np.float64]:
    found = np.empty((len(rows) - 1, len(places)))
    faults = []
    for k, row in enumerate(rows[1:]):
        for j, place in enumerate(places):
            try:
                found[k, j] = float(row[place])
            except ValueError:
                found[k, j] = math.nan
            if not math.isfinite(found[k, j]):
                faults.append(f"line {k + 2}, column {header[place]}: {row[place]!r}")
    if faults:
        shown = "; ".join(faults[:_MAX_FAULTS])
        more = f" and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise DataError(f"{path}: expected finite numbers, found {shown}{more}: clean the file")
    return found


def _whole(what: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    whole = values.astype(np.int64)
    if values.ndim != 1 or (whole != values).any() or (whole < 0).any():
        raise DataError(f"{what}: expected labels 0, 1, 2 … as one whole number a record")
    return whole


def read_array(path: Path) -> npt.NDArray[Any]:
    """An .npy file, or an IDX file of unsigned bytes. Raises `DataError`."""
    try:
        array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _read_idx(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: expected real numbers, found {array.dtype}: convert it")
    return np.asarray(array)


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    content = path.read_bytes()
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if content[:3] != bytes([0, 0, _IDX_BYTES]) or rank == 0 or len(content) < start:
        raise DataError(f"{path}: expected .csv, .npy or an IDX file of unsigned bytes")
    shape = tuple(int(side) for side in np.frombuffer(content[4:start], ">u4"))
    if math.prod(shape) != len(content) - start:
        raise DataError(f"{path}: its sizes {shape} do not match its {len(content)} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_labels(path: Path) -> npt.NDArray[np.int64]:
    """Labels from .npy or IDX. Raises `DataError`."""
    return _whole(str(path), read_array(path))


def read_images(folder: Path, classes: Sequence[str] | None = None) -> Table:
    """FOLDER/CLASS/IMAGE: features uint8 (n, channels, height, width), labels by class.

    classes: names in the order of their labels, which all parties must share; by default the
    folders' names in alphabetical order. Raises `DataError` for other classes, sizes or files.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: expected one folder a class in it")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    names = list(found if classes is None else classes)
    unknown = sorted(set(found) - set(names))
    if unknown or not names:
        raise DataError(f"{folder}: classes {', '.join(unknown) or 'none'}: expected {names}")
    pictures, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).glob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                pictures.append(_picture(path))
                labels.append(label)
    if not pictures:
        raise DataError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise DataError(f"{folder}: images of sizes {sorted(shapes)}: expected one size")
    return Table(np.stack(pictures), np.array(labels, np.int64))


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
            pixels = np.asarray(plain, np.uint8)
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path} is not an image that can be read: {error}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
