"""CIFAR-10 as JPEG pictures of 32 x 32: from an archive, or from a folder for each class.

    train/airplane/0000.jpg …, test/airplane/0000.jpg …

The pictures are lossy copies of the original ones, so that results on them name "CIFAR-10 (JPEG)".
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from workloads.datasets import FOLDER_VARIABLE, DatasetError, known_places

ARCHIVE = "cifar10-jpeg.tar.gz"
ARCHIVE_SHA256 = "45b041e867f5a40f79bfde38d3dd1fd511103d50068c1afecf6445e25234d4db"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SIDE = 32
_REMEDY = (
    f"Name a folder with {ARCHIVE}, or with train/CLASS/*.jpg and test/CLASS/*.jpg, as an argument "
    f"or in {FOLDER_VARIABLE}."
)


@dataclass(frozen=True)
class Pictures:
    """Labelled colour pictures, in the order of their class and name.

    Attributes:
        pixels: uint8 (count, 32, 32, 3). labels: int64 (count,), places in `CLASSES`.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class PictureSplits:
    """What to train on, and what to judge by."""

    train: Pictures
    test: Pictures


def cifar10(folder: Path | str | None = None) -> PictureSplits:
    """50,000 training and 10,000 test pictures, or as many as a folder of folders holds.

    Looked for in `folder`, else in the folder that SOTTOVOCE_DATA names, else in `data` in the
    project, then in `shared/data` beside it.

    Raises:
        DatasetError: not found, or not what it should be.
    """
    given = folder or os.environ.get(FOLDER_VARIABLE)
    places = [Path(given).expanduser()] if given else known_places()
    for place in places:
        if (place / ARCHIVE).is_file():
            return _splits(_from_archive(place / ARCHIVE))
        if (place / "train" / CLASSES[0]).is_dir():
            return _splits(_from_folders(place))
    raise DatasetError(f"CIFAR-10 (JPEG) is not in {', '.join(map(str, places))}. {_REMEDY}")


def _from_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names, as train/CLASS/NAME, and contents."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != ARCHIVE_SHA256:
        raise DatasetError(f"{path}: expected sha256 {ARCHIVE_SHA256}; found {found}. {_REMEDY}")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as files:
        for member in files:
            file = files.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name.removeprefix("./"), file.read()


def _from_folders(place: Path) -> Iterator[tuple[str, bytes]]:
    for split in ("train", "test"):
        for path in (place / split).glob("*/*.jpg"):
            yield path.relative_to(place).as_posix(), path.read_bytes()


def _splits(files: Iterator[tuple[str, bytes]]) -> PictureSplits:
    found: dict[str, list[tuple[str, NDArray[np.uint8]]]] = {"train": [], "test": []}
    for name, content in files:
        split, label, _ = name.split("/", 2)
        if split in found and label in CLASSES:
            found[split].append((name, _decoded(name, content)))
    return PictureSplits(_pictures(found["train"]), _pictures(found["test"]))


def _decoded(name: str, content: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DatasetError(f"{name}: cannot be read as a JPEG: {error}. {_REMEDY}") from None
    if pixels.shape != (SIDE, SIDE, 3):
        raise DatasetError(f"{name}: expected {SIDE} x {SIDE} in colour, found {pixels.shape}")
    return pixels


def _pictures(named: list[tuple[str, NDArray[np.uint8]]]) -> Pictures:
    if not named:
        raise DatasetError(f"CIFAR-10 (JPEG): no pictures for training or none to test. {_REMEDY}")
    named.sort(key=lambda pair: pair[0])
    labels = [CLASSES.index(name.split("/")[1]) for name, _ in named]
    return Pictures(np.stack([pixels for _, pixels in named]), np.array(labels, np.int64))
