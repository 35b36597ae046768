"""Histograms of gradients' orientations, for digits and other small grey pictures.

In cells of 8 x 8 pixels, 4 apart: how much the grey grows in each of eight directions (Dalal and
Triggs 2005), square roots taken. Nothing was learnt, so nothing is owed to anybody's data; and
private linear heads on such features outdo private networks on pixels (Tramèr and Boneh 2021).
"""

import math

import torch
import torch.nn.functional as F

from private_models.backbones.extraction import Backbone
from private_models.backbones.pixels import pixels
from private_models.errors import InputError

DIRECTIONS, CELL, STEP, MARGIN = 8, 8, 4, 2


class _Orientations(torch.nn.Module):
    """Grey (batch, height, width) → (batch, directions · cells)."""

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        framed = F.pad(grey[:, None], (1, 1, 1, 1))
        across = framed[:, :, 1:-1, 2:] - framed[:, :, 1:-1, :-2]
        down = framed[:, :, 2:, 1:-1] - framed[:, :, :-2, 1:-1]
        angles = torch.arange(DIRECTIONS, device=grey.device) * (2 * math.pi / DIRECTIONS)
        cosines, sines = angles.cos().view(1, -1, 1, 1), angles.sin().view(1, -1, 1, 1)
        rising = torch.relu(across * cosines + down * sines)
        return F.avg_pool2d(rising, CELL, STEP, MARGIN).flatten(1).sqrt()


def orientations(height: int = 28, width: int = 28) -> Backbone:
    """For grey pictures of one size, as `pixels` takes them; 392 features for 28 x 28.

    Raises `InputError` for sides outside 8 to 64.
    """
    if min(height, width) < CELL:
        raise InputError(f"{height} x {width} pixels: expected sides of at least {CELL}")
    grey = pixels(height, width)
    name = f"orientations, {height} x {width}"
    return Backbone(name, _Orientations(), grey.prepare, probe=grey.probe)
