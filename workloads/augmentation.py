"""Images slightly turned, sized, slanted and moved, so that a network sees none of them twice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """How far an image may be distorted either way, each amount drawn uniformly.

    Attributes:
        degrees: angle of rotation.
        scaling: relative change of width and of height, each on its own.
        shear: slant, in pixels sideways for each pixel upwards.
        shift: movement across and down, each on its own, in half image widths.
        warp: movement of each of 5x5 points spread over the image, in half image widths, with
            bicubic interpolation between them.
    """

    degrees: float = 12.0
    scaling: float = 0.12
    shear: float = 0.1
    shift: float = 0.12
    warp: float = 0.0


def distorted(images: Tensor, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Each image distorted by amounts of its own, zero where it was drawn from outside.

    Args:
        images: float (count, channels, height, width).
        distortion: the bounds of the amounts.
        generator: the source of chance; equal states give equal images.

    Returns:
        Images of the same shape.
    """
    grid = functional.affine_grid(
        _maps(len(images), distortion, generator), list(images.shape), align_corners=False
    )
    if distortion.warp > 0:
        knots = distortion.warp * _uniform(generator, len(images), 2, 5, 5)
        moves = functional.interpolate(
            knots, size=images.shape[2:], mode="bicubic", align_corners=True
        )
        grid = grid + moves.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, align_corners=False)


def _maps(count: int, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Affine maps (count, 2, 3) from a place in the result to the place it is drawn from."""
    angle = math.radians(distortion.degrees) * _uniform(generator, count)
    across, down = 1 + distortion.scaling * _uniform(generator, 2, count)
    shear = distortion.shear * _uniform(generator, count)
    right, below = distortion.shift * _uniform(generator, 2, count)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos * across, shear - sin * down, right], 1)
    second = torch.stack([sin * across, cos * down, below], 1)
    return torch.stack([first, second], 1)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers drawn uniformly from [-1, 1)."""
    return 2 * torch.rand(*shape, generator=generator) - 1
