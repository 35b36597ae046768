"""The networks that demos, tests and benchmarks run: torch modules, polynomial but for the teacher.

All take MNIST images, float (batch, 1, 28, 28) in [0, 1], and give logits, (batch, 10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from he_inference.nn import Polynomial, Square

CLASSES = 10


def mnist_cnn(maps: int = 16, hidden: int = 64, kernel: int = 7) -> nn.Sequential:
    """Convolution, quadratic, dense, quadratic, dense: two multiplications deep in ciphertexts.

    A stride of 3 gives 8x8 = 64 positions for a kernel of 8 (padding 1) as of 7 (no padding). One
    encrypted image is laid out as 64 taps by 64 positions, 4096 slots, so that a kernel of up to
    8x8 taps costs the server no more than a smaller one.

    Each quadratic follows a BatchNorm without gain and shift of its own: the quadratic has both.

    Raises:
        ValueError: maps or hidden is below one, or kernel is neither 7 nor 8.
    """
    if maps < 1 or hidden < 1 or kernel not in (7, 8):
        raise ValueError(
            f"Expected maps={maps} >= 1, hidden={hidden} >= 1 and kernel={kernel} in (7, 8)"
        )
    positions = 64
    return nn.Sequential(
        nn.Conv2d(1, maps, kernel, stride=3, padding=kernel - 7),
        nn.BatchNorm2d(maps, affine=False),
        Polynomial.quadratic(maps),
        nn.Flatten(),
        nn.Linear(maps * positions, hidden),
        nn.BatchNorm1d(hidden, affine=False),
        Polynomial.quadratic(hidden),
        nn.Linear(hidden, CLASSES),
    )


def mnist_deep(maps: tuple[int, int] = (16, 40), hidden: int = 64) -> nn.Sequential:
    """Convolution, convolution, dense, a quadratic after each, dense: three multiplications deep.

    8x8 positions, then 4x4, for kernels of 7x7 and 4x4. Made for the batched layout, whose server
    pays for each weight and position, times 2, 3, 5 and 9 from layer to layer as ciphertexts grow.

    Raises:
        ValueError: a number of maps or hidden is below one.
    """
    if min(*maps, hidden) < 1:
        raise ValueError(f"Expected maps={maps} >= 1 and hidden={hidden} >= 1")
    first, second = maps
    return nn.Sequential(
        nn.Conv2d(1, first, 7, stride=3),
        nn.BatchNorm2d(first, affine=False),
        Polynomial.quadratic(first),
        nn.Conv2d(first, second, 4, stride=2, padding=1),
        nn.BatchNorm2d(second, affine=False),
        Polynomial.quadratic(second),
        nn.Flatten(),
        nn.Linear(second * 16, hidden),
        nn.BatchNorm1d(hidden, affine=False),
        Polynomial.quadratic(hidden),
        nn.Linear(hidden, CLASSES),
    )


def mnist_quadratic(maps: int = 24, kernel: int = 4, margin: int = 3) -> nn.Sequential:
    """Convolution, quadratic, dense: a quadratic form in pixels that lie within one window.

    Whoever multiplies pixels before encrypting them makes it a linear form in their products. What
    that costs grows with the number of different products alone, not with the maps: so windows are
    small, move by one pixel, and the margin of the image, where hardly any digit reaches, is left
    out. A window of 4x4 gives 25 products for every pixel, which as many maps span.

    Raises:
        ValueError: maps or kernel is below one, margin is negative, or no position is left.
    """
    side = 28 - 2 * margin - kernel + 1
    if maps < 1 or kernel < 1 or margin < 0 or side < 1:
        raise ValueError(
            f"Expected maps={maps} >= 1, kernel={kernel} >= 1 and margin={margin} >= 0, which "
            f"leave {28 - kernel + 1} - 2 * margin >= 1 positions a side"
        )
    return nn.Sequential(
        nn.ZeroPad2d(-margin),
        nn.Conv2d(1, maps, kernel),
        nn.BatchNorm2d(maps, affine=False),
        Polynomial.quadratic(maps),
        nn.Flatten(),
        nn.Linear(maps * side * side, CLASSES),
    )


def mnist_quadratic_wide() -> nn.Sequential:
    """The same with windows of 5x5: 41 products for every pixel."""
    return mnist_quadratic(kernel=5, margin=2)


def tutorial_cnn() -> nn.Sequential:
    """The network of TenSEAL's tutorial 4, "Encrypted Convolution on MNIST", with bare squares."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 7, stride=3),
        Square(),
        nn.Flatten(),
        nn.Linear(256, 64),
        Square(),
        nn.Linear(64, CLASSES),
    )


def cryptonets() -> nn.Sequential:
    """The network of CryptoNets (Gilad-Bachrach et al. 2016) as it is evaluated: 845 features.

    Five maps of 13x13 positions, from a 5x5 convolution of stride 2 whose padding of one pixel
    stands above and to the left alone.
    """
    return nn.Sequential(
        nn.ZeroPad2d((1, 0, 1, 0)),
        nn.Conv2d(1, 5, 5, stride=2),
        Square(),
        nn.Flatten(),
        nn.Linear(845, 100),
        Square(),
        nn.Linear(100, CLASSES),
    )


def relu_teacher() -> nn.Sequential:
    """An ordinary ReLU network, never encrypted: the polynomial ones learn from its logits."""
    return nn.Sequential(
        *_relu_block(1, 16, stride=1),
        *_relu_block(16, 32, stride=2),
        *_relu_block(32, 32, stride=1),
        *_relu_block(32, 64, stride=2),
        *_relu_block(64, 64, stride=1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 7 * 7, CLASSES),
    )


def _relu_block(channels: int, maps: int, *, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, maps, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(maps), nn.ReLU()


ARCHITECTURES: Mapping[str, Callable[[], nn.Sequential]] = MappingProxyType(
    {
        "mnist-cnn": mnist_cnn,
        "tutorial-cnn": tutorial_cnn,
        "cryptonets": cryptonets,
        "mnist-deep": mnist_deep,
        "mnist-quadratic": mnist_quadratic,
        "mnist-quadratic-wide": mnist_quadratic_wide,
        "relu-teacher": relu_teacher,
    }
)
"""The networks by the name that a command line gives them."""
