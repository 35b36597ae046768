"""What private heads are measured on: features, labels, a test set, and public features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import head_features
from workloads.datasets import DatasetError, mnist

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
PUBLIC_ROWS = 10_000
TEXT_PUBLIC_ROWS = 1000


@dataclass(frozen=True)
class HeadTask:
    """Rows scaled to a mean norm of 1 by the public ones.

    Attributes:
        name: for tables. features (n, d), labels (n,): private. test_features, test_labels.
        public: (m, d) features that are public, disjoint from the private ones; no labels.
        unit: what rows were divided by.
    """

    name: str
    features: Features
    labels: Labels
    test_features: Features
    test_labels: Labels
    public: Features
    unit: float = 1.0

    @property
    def classes(self) -> range:
        return range(int(self.labels.max()) + 1)


def synthetic(rows: int = 50_000, width: int = 512, classes: int = 10, draw: int = 1) -> HeadTask:
    """Gaussian classes in a space whose directions fall off as 1/√k, like those of a backbone.

    draw: of the class means and the rows.
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
    return set_aside(
        "MNIST pixels", rows, splits.train.labels, test, splits.test.labels, PUBLIC_ROWS
    )


def cifar() -> HeadTask:
    """CIFAR-10 (JPEG) through EfficientNet-Lite0: 40,000 private rows, 10,000 public ones."""
    (rows, labels), (test, test_labels) = head_features.cifar_features()
    name = "CIFAR-10 (JPEG), EfficientNet-Lite0 128 px"
    return set_aside(name, rows, labels, test, test_labels, PUBLIC_ROWS)


def text() -> HeadTask:
    """Food reviews through MiniLM: 3,000 private rows, 1,000 public ones, 1,000 to test."""
    (rows, labels), (test, test_labels) = head_features.text_features()
    name = "food reviews, all-MiniLM-L6-v2"
    return set_aside(name, rows, labels, test, test_labels, TEXT_PUBLIC_ROWS)


def _or_reason(make: Callable[[], HeadTask]) -> Callable[[], HeadTask | str]:
    """The task, or why it cannot be had here."""

    def made() -> HeadTask | str:
        try:
            return make()
        except (DatasetError, ImportError) as error:
            return str(error)

    return made


TASKS: Mapping[str, Callable[[], HeadTask | str]] = {
    "synthetic": _or_reason(synthetic),
    "cifar": _or_reason(cifar),
    "mnist": _or_reason(mnist_pixels),
    "text": _or_reason(text),
}


def set_aside(
    name: str, rows: Features, labels: Labels, test: Features, test_labels: Labels, count: int
) -> HeadTask:
    """The first `count` of the training rows in an order drawn once are public."""
    order = np.random.default_rng(0).permutation(len(rows))
    public, private = order[:count], order[count:]
    return _scaled(name, rows[private], labels[private], test, test_labels, rows[public])


def _scaled(
    name: str, rows: Any, labels: Labels, test: Any, test_labels: Labels, public: Any
) -> HeadTask:
    unit = np.float32(np.linalg.norm(public, axis=1).mean())
    return HeadTask(name, rows / unit, labels, test / unit, test_labels, public / unit, float(unit))
