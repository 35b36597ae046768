"""A trained network in one .safetensors file: the weights, and the layers as JSON in its
metadata."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mpc_training.errors import DataError
from mpc_training.fixed_point import Array
from mpc_training.network import Network, read_network

_KEY = "mpc_training.network"


def write_model(path: Path, network: Network, weights: Array) -> None:
    """Write weights (network.size,) as float64. All or nothing. Raises `DataError`."""
    content = save(
        {"weights": np.ascontiguousarray(weights, np.float64)},
        {_KEY: json.dumps(network.describe())},
    )
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror}") from None


def read_model(path: Path) -> tuple[Network, Array]:
    """The reverse of `write_model`. Raises `DataError`, or `UnsupportedNetwork` for odd layers."""
    try:
        with safe_open(path, framework="np") as file:
            description = json.loads((file.metadata() or {})[_KEY])
            weights = np.asarray(file.get_tensor("weights"), np.float64)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a model that training wrote: {error}") from None
    network = read_network(description)
    if weights.shape != (network.size,) or not np.isfinite(weights).all():
        raise DataError(f"{path}: expected {network.size} finite weights, found {weights.shape}")
    return network, weights
