"""`workloads.networks`: shapes, sizes, and that the encrypted ones are polynomial throughout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from he_inference.nn import Polynomial, Square
from workloads.networks import ARCHITECTURES, cryptonets, mnist_cnn, relu_teacher, tutorial_cnn

POLYNOMIAL = (nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d, nn.Linear, nn.Flatten, nn.ZeroPad2d)


@pytest.mark.parametrize("make", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_images_to_logits(make: Callable[[], nn.Sequential]) -> None:
    assert make()(torch.rand(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize("make", [mnist_cnn, tutorial_cnn, cryptonets])
def test_served_networks_are_polynomial(make: Callable[[], nn.Sequential]) -> None:
    assert all(isinstance(module, (*POLYNOMIAL, Polynomial, Square)) for module in make())


@pytest.mark.parametrize("kernel", [7, 8])
def test_mnist_cnn_has_64_positions(kernel: int) -> None:
    network = mnist_cnn(maps=4, hidden=32, kernel=kernel)
    assert network[:3](torch.rand(2, 1, 28, 28)).shape == (2, 4, 8, 8)
    assert network[:6](torch.rand(2, 1, 28, 28)).shape == (2, 32)


def test_a_batchnorm_precedes_every_quadratic() -> None:
    modules = list(mnist_cnn())
    before = [modules[i - 1] for i, m in enumerate(modules) if isinstance(m, Polynomial)]
    assert [type(module) for module in before] == [nn.BatchNorm2d, nn.BatchNorm1d]


@pytest.mark.parametrize("arguments", [{"maps": 0}, {"hidden": 0}, {"kernel": 5}])
def test_mnist_cnn_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Expected maps="):
        mnist_cnn(**arguments)


def test_cryptonets_has_845_features() -> None:
    assert cryptonets()[:4](torch.rand(1, 1, 28, 28)).shape == (1, 845)


def test_tutorial_has_256_features() -> None:
    assert tutorial_cnn()[:3](torch.rand(1, 1, 28, 28)).shape == (1, 256)


def test_the_teacher_is_not_polynomial() -> None:
    assert any(isinstance(module, nn.ReLU) for module in relu_teacher())
