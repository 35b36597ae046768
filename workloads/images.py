"""Queries from files that people have: PNG and other pictures, npy arrays, IDX.

Pictures and uint8 arrays become floats in [0, 1]; float arrays are taken as they are. Nothing is
changed on the way: a picture of another size, with colours where one channel is asked for, with
transparency or with more than 8 bits a channel is refused and not converted.
"""

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from workloads.datasets import DatasetError, read_idx

Shape = tuple[int, ...]

MAX_FILE_BYTES = 1 << 30
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""What the file may hold, whatever its name says: Pillow knows others that run programs."""
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TokenError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow and numpy raise for files that are not what they should be."""


def read_images(paths: Sequence[Path], shape: Shape) -> npt.NDArray[np.float32]:
    """All queries in the files, float32 (count, *shape), in the order of the paths.

    A folder stands for the pictures in it, sorted by name. Raises `DatasetError` naming the file
    for one that cannot be read or holds another shape.
    """
    return read_named_images(paths, shape)[0]


def read_named_images(
    paths: Sequence[Path], shape: Shape
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """As `read_images`, and for every query the file that it is from, with [index] in an array."""
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise DatasetError(f"no pictures in {', '.join(map(str, paths))}")
    queries = [_read(file, shape) for file in files]
    names = [
        name for file, found in zip(files, queries, strict=True) for name in _names(file, found)
    ]
    return np.concatenate(queries), names


def _names(file: Path, queries: npt.NDArray[np.float32]) -> list[str]:
    if len(queries) == 1:
        return [file.name]
    return [f"{file.name}[{number}]" for number in range(len(queries))]


def _files(path: Path) -> list[Path]:
    try:
        if path.is_dir():
            return sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from None
    return [path]


def _read(path: Path, shape: Shape) -> npt.NDArray[np.float32]:
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_FILE_BYTES:
            raise DatasetError(f"{path}: expected a file of at most {MAX_FILE_BYTES} bytes")
        array = _decoded(path, shape)
    except UnidentifiedImageError:
        formats = ", ".join(_FORMATS)
        raise DatasetError(
            f"{path}: expected a picture ({formats}), found something else"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _MALFORMED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path}: not an image or array file: {reason}") from None
    return _shaped(path, _as_float(path, array), shape)


def _decoded(path: Path, shape: Shape) -> npt.NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, and of how old a file is
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if path.suffix.lower() in PICTURES:
            return _read_picture(path, shape)
        if path.suffix.lower() == ".npy":
            return _read_npy(path)
        content = path.read_bytes()
        if content[:2] != b"\0\0":  # as every IDX file begins
            raise DatasetError(
                f"{path}: not a picture, .npy or IDX file; save a table's numbers with numpy.save"
            )
        return read_idx(content, dimensions=3, name=str(path))


def _read_npy(path: Path) -> npt.NDArray[Any]:
    """Mapped, so that a shape which the file does not hold is refused and never allocated."""
    return np.lib.format.open_memmap(path, mode="r")  # which reads no pickles


def _read_picture(path: Path, shape: Shape) -> npt.NDArray[np.uint8]:
    """(1, channels, height, width)."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DatasetError(f"{path}: a picture cannot be a query of shape {shape}; give .npy")
    with Image.open(path, formats=_FORMATS) as picture:
        _check_picture(path, picture, shape)
        pixels = np.asarray(picture.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise DatasetError(f"{path}: transparent pixels, expected none; put it on its background")
    channels = pixels[..., : shape[0]]
    if not np.array_equal(pixels[..., :3], np.broadcast_to(channels, (*pixels.shape[:2], 3))):
        raise DatasetError(f"{path}: colours, expected shades of grey; convert the picture first")
    return channels.transpose(2, 0, 1)[None]


def _check_picture(path: Path, picture: Image.Image, shape: Shape) -> None:
    """What can be said before anything is decoded."""
    (width, height), (_, rows, columns) = picture.size, shape
    if (width, height) != (columns, rows):
        raise DatasetError(
            f"{path}: {width} x {height} pixels, expected {columns} x {rows}; scale the picture "
            "first"
        )
    if picture.mode not in _EIGHT_BITS:
        raise DatasetError(
            f"{path}: pixels of mode {picture.mode}, expected 8 bits a channel, grey or RGB; "
            "convert the picture first"
        )
    frames = getattr(picture, "n_frames", 1)
    if frames != 1:
        raise DatasetError(f"{path}: {frames} pictures in one file, expected 1")


def _as_float(path: Path, array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if array.dtype.kind != "f":
        raise DatasetError(f"{path}: dtype {array.dtype}, expected floats or uint8")
    with np.errstate(over="ignore"):  # infinite, and refused below
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise DatasetError(f"{path}: NaN, infinite or too large values, expected finite float32")
    return values


def _shaped(path: Path, array: npt.NDArray[np.float32], shape: Shape) -> npt.NDArray[np.float32]:
    """With a batch axis, and a channel axis where there is only one channel."""
    for candidate in (array, array[None], array[:, None] if array.ndim else array):
        if candidate.shape[1:] == shape and len(candidate):
            return candidate
    expected = ", ".join(map(str, shape))
    raise DatasetError(
        f"{path}: shape {array.shape}, expected ({expected}) or (count, {expected}) with at least "
        "one query"
    )
