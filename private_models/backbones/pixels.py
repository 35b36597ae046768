"""Grey pictures as they are, for digits and the like: a backbone that learnt nothing."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from private_models.backbones.extraction import Backbone
from private_models.errors import InputError

_LARGEST_SIDE = 64


def pixels(height: int = 28, width: int = 28) -> Backbone:
    """For grey pictures of one size: PIL images, or arrays (height, width) of bytes or of 0 to 1.

    Gives height·width values in 0 to 1. Raises `InputError` for sides outside 1 to 64.
    """
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE):
        raise InputError(f"{height} x {width} pixels: expected sides of 1 to {_LARGEST_SIDE}")

    def prepare(pictures: Sequence[object]) -> torch.Tensor:
        return torch.stack([_values(picture, (height, width)) for picture in pictures])

    probe = np.arange(height * width, dtype=np.uint16).astype(np.uint8).reshape(height, width)
    return Backbone(f"pixels, {height} x {width}", torch.nn.Flatten(), prepare, probe=[probe])


def _values(picture: object, shape: tuple[int, int]) -> torch.Tensor:
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("L"))
    if not isinstance(picture, np.ndarray):
        raise InputError(f"expected a grey picture or an array, found {type(picture).__name__}")
    grey = picture[0] if picture.ndim == 3 and len(picture) == 1 else picture
    if grey.shape != shape:
        raise InputError(f"expected a grey picture of {shape[0]} x {shape[1]}, found {grey.shape}")
    values = grey.astype(np.float32) / np.float32(255 if grey.dtype == np.uint8 else 1)
    if not (values.min() >= 0 and values.max() <= 1):  # which NaN is not
        raise InputError("expected bytes, or values in 0 to 1")
    return torch.from_numpy(values)
