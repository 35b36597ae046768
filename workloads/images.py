"""Queries from files that people have: PNG and other pictures, npy arrays, IDX.

Pictures and integer arrays become floats in [0, 1]; float arrays are taken as they are.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from workloads.datasets import DatasetError, read_idx

Shape = tuple[int, ...]

MAX_FILE_BYTES = 1 << 30
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def read_images(paths: Sequence[Path], shape: Shape) -> npt.NDArray[np.float32]:
    """All queries in the files, float32 (count, *shape), in the order of the paths.

    A folder stands for the pictures in it, sorted by name. Raises `DatasetError` naming the file
    for one that cannot be read or holds another shape.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise DatasetError(f"no pictures in {', '.join(map(str, paths))}")
    return np.concatenate([_read(file, shape) for file in files])


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
    return [path]


def _read(path: Path, shape: Shape) -> npt.NDArray[np.float32]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DatasetError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        if path.suffix.lower() in PICTURES:
            array = _read_picture(path, shape)
        elif path.suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            array = read_idx(path.read_bytes(), dimensions=3, name=str(path))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: not an image or array file: {error}") from None
    return _shaped(path, _as_float(path, array), shape)


def _read_picture(path: Path, shape: Shape) -> npt.NDArray[np.uint8]:
    """(1, channels, height, width) in the mode that the shape's channels ask for."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DatasetError(f"{path}: a picture cannot be a query of shape {shape}; give .npy")
    with Image.open(path) as picture:
        array = np.asarray(picture.convert("L" if shape[0] == 1 else "RGB"))
    return np.atleast_3d(array).transpose(2, 0, 1)[None]


def _as_float(path: Path, array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if array.dtype.kind != "f":
        raise DatasetError(f"{path}: dtype {array.dtype}, expected floats or uint8")
    return array.astype(np.float32)


def _shaped(path: Path, array: npt.NDArray[np.float32], shape: Shape) -> npt.NDArray[np.float32]:
    """With a batch axis, and a channel axis where there is only one channel."""
    for candidate in (array, array[None], array[:, None] if array.ndim else array):
        if candidate.shape[1:] == shape:
            return candidate
    expected = ", ".join(map(str, shape))
    raise DatasetError(
        f"{path}: shape {array.shape}, expected ({expected}) or (count, {expected}); "
        "scale the picture first"
    )
