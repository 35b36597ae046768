"""`workloads.networks` and `models`: shapes, sizes, polynomials throughout, what is shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from he_inference import from_torch, load_network
from he_inference.affine import affine_stages
from he_inference.expansion import expand
from he_inference.nn import Polynomial, Square
from he_inference.nodes import Activation
from workloads.datasets import mnist_sample
from workloads.models import (
    CRYPTONETS,
    MNIST_CNN,
    MNIST_DEEP,
    MNIST_QUADRATIC,
    MNIST_QUADRATIC_WIDE,
)
from workloads.networks import (
    ARCHITECTURES,
    cryptonets,
    mnist_cnn,
    mnist_deep,
    mnist_quadratic,
    mnist_quadratic_wide,
    relu_teacher,
    tutorial_cnn,
)

POLYNOMIAL = (nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d, nn.Linear, nn.Flatten, nn.ZeroPad2d)


@pytest.mark.parametrize("make", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_images_to_logits(make: Callable[[], nn.Sequential]) -> None:
    assert make()(torch.rand(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "relu-teacher"])
def test_served_networks_are_polynomial(name: str) -> None:
    network = ARCHITECTURES[name]()
    assert all(isinstance(module, (*POLYNOMIAL, Polynomial, Square)) for module in network)


@pytest.mark.parametrize("kernel", [7, 8])
def test_mnist_cnn_has_64_positions(kernel: int) -> None:
    network = mnist_cnn(maps=4, hidden=32, kernel=kernel)
    assert network[:3](torch.rand(2, 1, 28, 28)).shape == (2, 4, 8, 8)
    assert network[:6](torch.rand(2, 1, 28, 28)).shape == (2, 32)


def test_mnist_deep_has_64_positions_then_16() -> None:
    network = mnist_deep(maps=(3, 5), hidden=32)
    assert network[:3](torch.rand(2, 1, 28, 28)).shape == (2, 3, 8, 8)
    assert network[:6](torch.rand(2, 1, 28, 28)).shape == (2, 5, 4, 4)
    assert network[:10](torch.rand(2, 1, 28, 28)).shape == (2, 32)


@pytest.mark.parametrize(
    ("make", "norms"),
    [
        (mnist_cnn, [nn.BatchNorm2d, nn.BatchNorm1d]),
        (mnist_deep, [nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d]),
        (mnist_quadratic, [nn.BatchNorm2d]),
        (mnist_quadratic_wide, [nn.BatchNorm2d]),
    ],
)
def test_a_batchnorm_precedes_every_quadratic(
    make: Callable[[], nn.Sequential], norms: list[type[nn.Module]]
) -> None:
    modules = list(make())
    before = [modules[i - 1] for i, m in enumerate(modules) if isinstance(m, Polynomial)]
    assert [type(module) for module in before] == norms


@pytest.mark.parametrize("arguments", [{"maps": 0}, {"hidden": 0}, {"kernel": 5}])
def test_mnist_cnn_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Expected maps="):
        mnist_cnn(**arguments)


@pytest.mark.parametrize("arguments", [{"maps": (0, 8)}, {"maps": (8, 0)}, {"hidden": 0}])
def test_mnist_deep_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected maps="):
        mnist_deep(**arguments)


@pytest.mark.parametrize("arguments", [{"maps": 0}, {"kernel": 0}, {"margin": -1}, {"margin": 13}])
def test_mnist_quadratic_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Expected maps="):
        mnist_quadratic(**arguments)


@pytest.mark.parametrize(("kernel", "margin"), [(4, 3), (5, 2), (1, 0), (2, 9)])
def test_mnist_quadratic_multiplies_pixels_that_share_a_window(kernel: int, margin: int) -> None:
    """However many the maps: each pixel inside the margin, and each pair within a window, once."""
    side = 28 - 2 * margin
    reach = kernel - 1
    pairs = sum(
        (side - down) * (side - abs(across))
        for down in range(kernel)
        for across in range(-reach, kernel)
        if (down, across) >= (0, 0)
    )
    for maps in (kernel**2 * (kernel**2 + 1) // 2, 2 * kernel**4):
        torch.manual_seed(maps)
        module = mnist_quadratic(maps, kernel, margin).eval()
        network = from_torch(module, mnist_sample().images[:2])
        stages = affine_stages(network, [1e9] * len(network.nodes))
        assert len(expand(stages).monomials) == side**2 + pairs


def test_cryptonets_has_845_features() -> None:
    assert cryptonets()[:4](torch.rand(1, 1, 28, 28)).shape == (1, 845)


def test_tutorial_has_256_features() -> None:
    assert tutorial_cnn()[:3](torch.rand(1, 1, 28, 28)).shape == (1, 256)


def test_the_teacher_is_not_polynomial() -> None:
    assert any(isinstance(module, nn.ReLU) for module in relu_teacher())


@pytest.mark.parametrize(
    ("path", "right", "squares"),
    [
        (MNIST_CNN, 300, 2),
        (MNIST_DEEP, 299, 3),
        (CRYPTONETS, 300, 2),
        (MNIST_QUADRATIC, 298, 1),
        (MNIST_QUADRATIC_WIDE, 299, 1),
    ],
)
def test_shipped_networks_know_the_sample(path: Path, right: int, squares: int) -> None:
    network, sample = load_network(path), mnist_sample()
    assert (network.evaluate(sample.images).argmax(1) == sample.labels).sum() == right
    assert sum(isinstance(node, Activation) for node in network.nodes) == squares
