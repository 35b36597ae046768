"""Queries from files that people have: PNG and other pictures, npy arrays, IDX.

Pictures and uint8 arrays become floats in [0, 1]; float arrays are taken as they are. Nothing is
changed on the way: a picture of another size, with colours where one channel is asked for, with
transparency or with more than 8 bits a channel is refused and not converted.

Arrays and IDX files are mapped into memory and may be of any length: only the queries of one batch
are ever copied out of them. No file stays open from one batch to the next.
"""

import mmap
import struct
import warnings
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from workloads.datasets import DatasetError, read_idx

Shape = tuple[int, ...]

MAX_FILE_BYTES = 1 << 30
"""Of a picture, which is read whole; arrays are mapped, and may be longer than memory."""
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


class ImageStream:
    """Queries in files, in the order of the paths, read as they are asked for.

    A path is a picture, a .npy array of one or many queries, an IDX file, or a folder, which stands
    for the pictures in it, sorted by name. What the headers say is checked at once, so that most
    mistakes are found before any work is done; what follows them is read, and refused, in its turn.

    Attributes:
        skipped: names of what lies in the folders and is no picture, with / after a folder's.
    """

    skipped: tuple[str, ...]

    def __init__(self, paths: Sequence[Path], shape: Shape) -> None:
        """Look at the header of every file.

        Args:
            paths: at least one.
            shape: of a query; (channels, height, width) with 1 or 3 channels for pictures.

        Raises:
            DatasetError: no paths, or one that cannot be read, a folder without pictures, a header
                that is damaged or speaks of another shape or dtype; the message names the file.
        """
        if not paths:
            raise DatasetError("no files to read queries from: name at least one")
        self._shape = shape
        self._files: list[_File] = []
        skipped: list[str] = []
        for path in paths:
            files, others = _found(path)
            self._files.extend(_looked_at(file, shape) for file in files)
            skipped.extend(others)
        self._starts = list(accumulate((file.count for file in self._files), initial=0))
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        """Queries in all files together, at least 1."""
        return self._starts[-1]

    def names(self) -> Iterator[str]:
        """For every query the name of its file, with [index] where that holds several."""
        for file in self._files:
            if file.count == 1:
                yield file.path.name
            else:
                yield from (f"{file.path.name}[{number}]" for number in range(file.count))

    def batches(self, size: int) -> Iterator[tuple[npt.NDArray[np.float32], list[str]]]:
        """All queries, `size` at a time across the borders of files; the last may be fewer.

        It can be called again, and then reads everything again.

        Args:
            size: at least 1; what is more than `len(self)` costs no memory.

        Returns:
            An iterator of finite float32 (at most size, *shape), each an array of its own, with
            their names. It raises `DatasetError` naming the file where the next queries are in one
            that is damaged, that changed since its header was read, or that holds transparency,
            colours where they were not asked for, or values that are not finite.

        Raises:
            DatasetError: a size below 1.
        """
        if size < 1:
            raise DatasetError(f"Expected size={size} >= 1")
        return self._batches(size)

    def _batches(self, size: int) -> Iterator[tuple[npt.NDArray[np.float32], list[str]]]:
        names = self.names()
        for start in range(0, len(self), size):
            batch = self._room(min(size, len(self) - start))
            self._fill(batch, start)
            yield batch, list(islice(names, len(batch)))

    def _room(self, count: int) -> npt.NDArray[np.float32]:
        try:
            return np.empty((count, *self._shape), np.float32)
        except MemoryError:
            raise DatasetError(
                f"{count} queries of shape {self._shape} do not fit into memory: take fewer at once"
            ) from None

    def _fill(self, batch: npt.NDArray[np.float32], start: int) -> None:
        """Write the queries from number `start` on into the batch, file by file."""
        done = 0
        while done < len(batch):
            place = bisect_right(self._starts, start + done) - 1
            file, first = self._files[place], start + done - self._starts[place]
            count = min(file.count - first, len(batch) - done)
            file.read_into(batch[done : done + count], first)
            done += count


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
    stream = ImageStream(paths, shape)
    return next(stream.batches(len(stream)))


@dataclass(frozen=True)
class _File:
    """A file that holds `count` queries of a shape, as far as its header can tell."""

    path: Path
    shape: Shape
    count: int

    def read_into(self, batch: npt.NDArray[np.float32], first: int) -> None:
        """Its queries from number `first` on, as many as the batch (count, *shape) has room for."""
        with _refusals_of(self.path):
            queries = _decoded(self.path, self.shape)
            if len(queries) != self.count:
                raise DatasetError(
                    f"{self.path}: changed while it was read, from {self.count} queries to "
                    f"{len(queries)}"
                )
            _to_floats(self.path, queries[first : first + len(batch)], batch, first)


def _looked_at(path: Path, shape: Shape) -> _File:
    """The file, of which no more than the header is read."""
    with _refusals_of(path):
        size = path.stat().st_size
        if not path.is_file():
            raise DatasetError(f"{path}: expected a file, found something else")
        if not _is_picture(path):
            return _File(path, shape, len(_mapped(path, shape)))
        if size > MAX_FILE_BYTES:
            raise DatasetError(
                f"{path}: {size} bytes, expected a picture of at most {MAX_FILE_BYTES} bytes"
            )
        with _opened_picture(path, shape):
            return _File(path, shape, 1)


def _found(path: Path) -> tuple[list[Path], list[str]]:
    """The files that a path stands for, and the names of what is passed over."""
    with _refusals_of(path):
        if not path.is_dir():
            return [path], []
        entries = sorted(path.iterdir())
        pictures = [entry for entry in entries if _is_picture(entry)]
        others = [entry for entry in entries if not _is_picture(entry)]
        if not pictures:
            raise DatasetError(
                f"no pictures in {path} ({', '.join(PICTURES)}): arrays and IDX files are taken "
                "where they are named themselves"
            )
        return pictures, [f"{entry.name}/" if entry.is_dir() else entry.name for entry in others]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


@contextmanager
def _refusals_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the file is a `DatasetError` of one line that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, and of how old a file is
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
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


def _decoded(path: Path, shape: Shape) -> npt.NDArray[Any]:
    """(count, *shape); an array's values are still in the file."""
    return _pixels(path, shape) if _is_picture(path) else _mapped(path, shape)


def _mapped(path: Path, shape: Shape) -> npt.NDArray[Any]:
    """(count, *shape) of an array or IDX file, no values of which were read."""
    if path.suffix.lower() == ".npy":
        return _queries(path, _mapped_npy(path), shape)
    return _queries(path, _mapped_idx(path), shape, counted=True)


def _mapped_npy(path: Path) -> npt.NDArray[Any]:
    """Mapped, so that a shape which the file does not hold is refused and never allocated."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # which reads no pickles
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: not a whole .npy array of numbers: {reason}") from None
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DatasetError(f"{path}: dtype {array.dtype}, expected floats or uint8")
    return array


def _mapped_idx(path: Path) -> npt.NDArray[np.uint8]:
    """(count, height, width)."""
    with path.open("rb") as file:
        start = file.read(2)
        if start == b"\x1f\x8b":
            raise DatasetError(f"{path}: compressed by gzip; decompress it first, with gunzip")
        if start != b"\0\0":  # as every IDX file begins
            raise DatasetError(
                f"{path}: not a picture, .npy or IDX file; save a table's numbers with numpy.save"
            )
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return read_idx(content, dimensions=3, name=str(path))


def _queries(
    path: Path, array: npt.NDArray[Any], shape: Shape, *, counted: bool = False
) -> npt.NDArray[Any]:
    """With a batch axis, which `counted` has already, and a channel axis if there is only one."""
    taken = (shape, shape[1:]) if shape[:1] == (1,) else (shape,)
    fits = array.shape[1:] in taken or (array.shape in taken and not counted)
    if fits and array.ndim and array.size:  # neither a bare number nor no query at all
        return array.reshape(-1, *shape)
    expected = ", ".join(map(str, shape))
    raise DatasetError(
        f"{path}: shape {array.shape}, expected ({expected}) or (count, {expected}) with at least "
        "one query"
    )


def _pixels(path: Path, shape: Shape) -> npt.NDArray[np.uint8]:
    """(1, channels, height, width)."""
    with _opened_picture(path, shape) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise DatasetError(f"{path}: transparent pixels, expected none; put it on its background")
    channels = pixels[..., : shape[0]]
    if not np.array_equal(pixels[..., :3], np.broadcast_to(channels, (*pixels.shape[:2], 3))):
        raise DatasetError(f"{path}: colours, expected shades of grey; convert the picture first")
    return channels.transpose(2, 0, 1)[None]


@contextmanager
def _opened_picture(path: Path, shape: Shape) -> Iterator[Image.Image]:
    """The picture, checked as far as can be before anything is decoded."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DatasetError(f"{path}: a picture cannot be a query of shape {shape}; give .npy")
    with Image.open(path, formats=_FORMATS) as picture:
        _check_picture(path, picture, shape)
        yield picture


def _check_picture(path: Path, picture: Image.Image, shape: Shape) -> None:
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


def _to_floats(
    path: Path, values: npt.NDArray[Any], batch: npt.NDArray[np.float32], first: int
) -> None:
    """Write uint8 or floats (count, *shape), the first of which is number `first`, into a batch."""
    if values.dtype == np.uint8:
        np.divide(values, np.float32(255), out=batch, dtype=np.float32)
        return
    with np.errstate(over="ignore"):  # infinite, and refused below
        batch[:] = values
    finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
    if not finite.all():
        raise DatasetError(
            f"{path}: NaN, infinite or too large values in query {first + int(finite.argmin())}, "
            "expected finite float32"
        )
