"""Any frozen `nn.Module` as a backbone for arrays."""

from collections.abc import Sequence

import numpy as np
import torch

from private_models.backbones.extraction import Backbone
from private_models.errors import InputError


def module_backbone(module: torch.nn.Module, name: str) -> Backbone:
    """For arrays of one shape, which the module takes in batches, as float32.

    name: of the architecture and how inputs are prepared; part of the cache's digest, beside the
    weights. The module gives (batch, d), or (batch, d, height, width), which is averaged.
    """
    return Backbone(name, module, _stacked)


def _stacked(inputs: Sequence[object]) -> torch.Tensor:
    try:
        return torch.from_numpy(np.stack([np.asarray(x, np.float32) for x in inputs]))
    except (ValueError, TypeError) as error:
        raise InputError(f"expected arrays of numbers of one shape: {error}") from None
