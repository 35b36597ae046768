"""`workloads.augmentation`: distortions are drawn within their bounds and repeat with the seed."""

from __future__ import annotations

import pytest
import torch

from workloads.augmentation import Distortion, distorted
from workloads.datasets import mnist_sample

NONE = Distortion(degrees=0, scaling=0, shear=0, shift=0, warp=0)
IMAGES = torch.from_numpy(mnist_sample().images[:64])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centres(images: torch.Tensor) -> torch.Tensor:
    """Mean positions (count, 2) of the ink, in pixels."""
    positions = torch.arange(28.0)
    weights = images / images.sum((2, 3), keepdim=True)
    across, down = ((weights.sum(axis) * positions).sum(2) for axis in (2, 3))
    return torch.cat([across, down], 1)


def test_no_distortion_changes_nothing() -> None:
    # Places are computed to float32 rounding, about 28·2⁻²³ pixels.
    assert (distorted(IMAGES, NONE, seeded()) - IMAGES).abs().max() < 28 * 2.0**-21


@pytest.mark.parametrize("distortion", [Distortion(), Distortion(warp=0.1)])
def test_equal_seeds_give_equal_images(distortion: Distortion) -> None:
    first, again, other = (distorted(IMAGES, distortion, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_each_image_is_distorted_on_its_own() -> None:
    same = IMAGES[:1].repeat(2, 1, 1, 1)
    first, second = distorted(same, Distortion(), seeded())
    assert not torch.equal(first, second)


def test_shift_moves_by_up_to_its_bound() -> None:
    """0.1 half widths are 1.4 pixels; with 64 images both ways, some move nearly as far."""
    moved = distorted(IMAGES, Distortion(degrees=0, scaling=0, shear=0, shift=0.1), seeded())
    distance = (centres(moved) - centres(IMAGES)).abs()
    assert 1.2 < distance.max() < 1.4 + 1e-3


def test_values_stay_within_those_of_the_images() -> None:
    found = distorted(IMAGES, Distortion(warp=0.1), seeded())
    assert found.shape == IMAGES.shape and found.min() >= 0 and found.max() <= 1 + 2.0**-20
