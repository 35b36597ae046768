"""The network that every system runs: TenSEAL's tutorial CNN, its weights, and images to ask about.

Convolution 1→4 of 7×7 with stride 3, square, dense 256→64, square, dense 64→10. The weights in
`tutorial_cnn.npz` came from `fit`, the tutorial's own recipe; they are float32 arrays by layer,
"convolution.weight" … "output.bias", in torch's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from workloads.datasets import Dataset
from workloads.networks import tutorial_cnn

Array = npt.NDArray[np.float64]
Weights = Mapping[str, npt.NDArray[np.float32]]

WEIGHTS = Path(__file__).resolve().parent / "tutorial_cnn.npz"
_LAYERS = {"convolution": "0", "hidden": "3", "output": "5"}
"""The place of each layer in `tutorial_cnn()`."""


def weights() -> Weights:
    """The weights that came with the benchmark."""
    with np.load(WEIGHTS, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def module(values: Weights) -> nn.Sequential:
    """The network as a float32 torch module with these weights, ready to evaluate."""
    network = tutorial_cnn()
    network.load_state_dict(
        {_torch_name(name): torch.from_numpy(value) for name, value in values.items()}
    )
    return network.eval()


def clear_logits(values: Weights, images: Array) -> Array:
    """What every system should answer: float64 logits (count, 10) for images (count, 28, 28)."""
    with torch.inference_mode():
        answers = module(values).double()(torch.from_numpy(images)[:, None])
    return np.asarray(answers.numpy(), dtype=np.float64)


def write_task(path: Path, values: Weights, images: Array) -> None:
    """The .npz file that a system is told to prepare: weights, and float64 `images` to ask of."""
    np.savez(path, allow_pickle=False, images=images, **values)


def fit(training: Dataset, *, epochs: int = 10, seed: int = 73) -> Weights:
    """Train as the tutorial does: Adam, rate 0.001, batches of 64, no augmentation; ten seconds."""
    torch.manual_seed(seed)
    network = tutorial_cnn()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    images, labels = (
        torch.from_numpy(training.images),
        torch.from_numpy(training.labels),
    )
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), 64):
            batch = order[start : start + 64]
            optimiser.zero_grad()
            loss = functional.cross_entropy(network(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimiser.step()
    state = network.state_dict()
    return {
        f"{layer}.{part}": state[f"{place}.{part}"].numpy()
        for layer, place in _LAYERS.items()
        for part in ("weight", "bias")
    }


def _torch_name(name: str) -> str:
    layer, _, part = name.partition(".")
    return f"{_LAYERS[layer]}.{part}"
