"""A private head for MNIST's digits, as it ships with the project.

    python -m workloads.private_digits private_digits.safetensors      # a minute, on one core

epsilon 1, delta 1e-5, on 50,000 of the training images; 10,000 others are taken as public.
"""

import sys
from pathlib import Path

import numpy as np

from private_models import PrivateClassifier, PrivateHead
from private_models.backbones.orientations import orientations
from workloads.datasets import mnist

EPSILON, DELTA, PUBLIC_EVERY = 1.0, 1e-5, 6


def train() -> tuple[PrivateHead, float]:
    """The head, and its accuracy on the test images. Raises `DatasetError` without MNIST."""
    splits, backbone = mnist(), orientations()
    features = backbone.features(list(splits.train.images[:, 0]))
    public = np.arange(len(features)) % PUBLIC_EVERY == 0
    head = PrivateClassifier(
        EPSILON, DELTA, public_features=features[public], rows=int((~public).sum())
    )
    head.fit(features[~public], splits.train.labels[~public], classes=range(10))
    tests = backbone.features(list(splits.test.images[:, 0]))
    return head.head_, float(head.score(tests, splits.test.labels))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m workloads.private_digits FILE")
    made, accuracy = train()
    made.save(Path(sys.argv[1]))
    sys.stdout.write(f"{sys.argv[1]}: {accuracy:.2%} of the test images\n{made.statement}\n")
