"""Networks that parties train on shares in demos, tests and benchmarks: ordinary nn.Sequential."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

CLASSES = 10


def logistic() -> nn.Sequential:
    """Multinomial logistic regression on 784 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES))


def mlp() -> nn.Sequential:
    """784-128-128-10 with ReLU: network A of SecureML, the one that every framework reports."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )


def lenet() -> nn.Sequential:
    """LeNet's shape: two 5x5 convolutions, each pooled to half, and two dense layers; 44,426
    weights.

    Pooling stands before ReLU, so that a quarter of the comparisons are left.
    """
    return nn.Sequential(
        nn.Conv2d(1, 8, 5),
        nn.AvgPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5),
        nn.AvgPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )


INPUT_SHAPE = (1, 28, 28)
NETWORKS: Mapping[str, Callable[[], nn.Sequential]] = MappingProxyType(
    {"logistic": logistic, "mlp": mlp, "lenet": lenet}
)
"""By the names that `mpc-training local --network` takes; all take images of `INPUT_SHAPE`."""
