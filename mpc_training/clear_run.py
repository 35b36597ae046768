"""The same run on plain numbers: what a run on shares is held against, by whoever has all data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpc_training.batches import Batches
from mpc_training.clear import Clear
from mpc_training.fixed_point import ACTIVATION_BITS, GRADIENT_BITS, Array
from mpc_training.local_parties import Piece
from mpc_training.network import Network
from mpc_training.run import Run
from mpc_training.training import Trainer

_BLOCK = 1000


def train_in_the_clear(run: Run, pieces: Sequence[Piece], divisor: float) -> Array:
    """The weights (size,) that the same loop finds on plain numbers, in the same batches."""
    clear, recipe = Clear(), run.recipe
    first = run.network.first_weights(np.random.default_rng([run.seed]))
    trainer = Trainer.start(clear, run.network, first)
    batches = Batches(tuple(len(piece.labels) for piece in pieces), recipe.batch, run.seed)
    total = batches.steps * recipe.epochs
    for step in range(total if run.steps is None else min(total, run.steps)):
        chosen = list(zip(pieces, batches.rows(step), strict=True))
        x = np.concatenate([piece.features[rows] for piece, rows in chosen]) / divisor
        labels = np.concatenate([piece.labels[rows] for piece, rows in chosen])
        y = np.eye(run.network.classes)[labels]
        x = x.reshape(len(x), *run.network.input_shape)
        trainer.step(
            clear.public(x, ACTIVATION_BITS),
            clear.public(y, GRADIENT_BITS),
            recipe.rate(step, batches.steps),
            recipe.momentum,
        )
    return np.asarray(trainer.weights.parts[0])


def accuracy(
    network: Network, weights: Array, images: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> float:
    """The share of images whose label a network in the clear finds, on float64."""
    clear = Clear()
    trainer = Trainer.start(clear, network, weights)
    right = 0
    for start in range(0, len(labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        x = clear.public(images[part].reshape(-1, *network.input_shape), ACTIVATION_BITS)
        right += int((trainer.logits(x).parts[0].argmax(1) == labels[part]).sum())
    return right / len(labels)
