"""Trained networks that ship with the project; see README.md beside this file."""

from pathlib import Path

_FOLDER = Path(__file__).parent

MNIST_CNN = _FOLDER / "mnist_cnn.safetensors"
MNIST_DEEP = _FOLDER / "mnist_deep.safetensors"
CRYPTONETS = _FOLDER / "cryptonets.safetensors"
MNIST_QUADRATIC = _FOLDER / "mnist_quadratic.safetensors"
MNIST_QUADRATIC_WIDE = _FOLDER / "mnist_quadratic_wide.safetensors"
PRIVATE_DIGITS = _FOLDER / "private_digits.safetensors"
"""A `private_models.PrivateHead` on `orientations`; the others are networks."""
