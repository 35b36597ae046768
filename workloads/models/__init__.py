"""Trained networks that ship with the project; see README.md beside this file."""

from pathlib import Path

MNIST_CNN = Path(__file__).parent / "mnist_cnn.safetensors"
