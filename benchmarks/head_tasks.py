"""What private heads are measured on: features, labels, a test set, and public features."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workloads.datasets import mnist

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
PUBLIC_ROWS = 10_000
FEATURES_VARIABLE = "SOTTOVOCE_CIFAR_FEATURES"
"""Names a folder with train.npz and test.npz, each `X` (rows, d) and `y` (rows,), as extracted by
`private-models features` from CIFAR-10 (JPEG); the benchmark leaves it out without."""


@dataclass(frozen=True)
class HeadTask:
    """Rows scaled to a mean norm of 1 by the public ones.

    Attributes:
        name: for tables. features (n, d), labels (n,): private. test_features, test_labels.
        public: (m, d) features that are public, disjoint from the private ones.
    """

    name: str
    features: Features
    labels: Labels
    test_features: Features
    test_labels: Labels
    public: Features

    @property
    def classes(self) -> range:
        return range(int(self.labels.max()) + 1)


def synthetic(rows: int = 50_000, width: int = 512, classes: int = 10, draw: int = 0) -> HeadTask:
    """Gaussian classes in a space whose directions fall off as 1/√k, like those of a backbone.

    draw: of the class means and the rows; settings are tuned on another draw than is measured.
    """
    rng = np.random.default_rng([7, draw])
    scales = 1 / np.sqrt(1 + np.arange(width) / 16)
    means = rng.normal(size=(classes, width)) * scales * 0.165

    def drawn(count: int) -> tuple[Features, Labels]:
        labels = rng.integers(0, classes, count)
        noise = rng.normal(size=(count, width)) * scales
        return (means[labels] + noise + 0.3 * scales).astype(np.float32), labels

    private, labels = drawn(rows)
    test, test_labels = drawn(10_000)
    return _scaled("synthetic", private, labels, test, test_labels, drawn(PUBLIC_ROWS)[0])


def mnist_pixels() -> HeadTask:
    """MNIST's pixels: 50,000 private rows, 10,000 of the training images set aside as public."""
    splits = mnist()
    rows = splits.train.images.reshape(len(splits.train), -1)
    test = splits.test.images.reshape(len(splits.test), -1)
    order = np.random.default_rng(0).permutation(len(rows))
    public, private = order[:PUBLIC_ROWS], order[PUBLIC_ROWS:]
    return _scaled(
        "MNIST pixels", rows[private], splits.train.labels[private], test, splits.test.labels,
        rows[public],
    )  # fmt: skip


def cifar_features() -> HeadTask | None:
    """CIFAR-10 (JPEG) through EfficientNet-Lite0: 40,000 private rows, 10,000 public ones."""
    folder = os.environ.get(FEATURES_VARIABLE)
    if not folder:
        return None
    parts = []
    for name in ("train.npz", "test.npz"):
        with np.load(Path(folder) / name, allow_pickle=False) as archive:
            parts.append((archive["X"].astype(np.float32), archive["y"].astype(np.int64)))
    (rows, labels), (test, test_labels) = parts
    order = np.random.default_rng(0).permutation(len(rows))
    public, private = order[:PUBLIC_ROWS], order[PUBLIC_ROWS:]
    name = "CIFAR-10 (JPEG), EfficientNet-Lite0 128 px"
    return _scaled(name, rows[private], labels[private], test, test_labels, rows[public])


def _scaled(
    name: str, rows: Features, labels: Labels, test: Features, test_labels: Labels, public: Features
) -> HeadTask:
    unit = np.float32(np.linalg.norm(public, axis=1).mean())
    return HeadTask(name, rows / unit, labels, test / unit, test_labels, public / unit)
