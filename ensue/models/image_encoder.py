"""A small convolutional encoder of images, and the head that its views are told apart with.

The head is left out afterwards: features are what comes before it (Chen et al., ICML 2020,
arXiv:2002.05709). Departure: where theirs are means over all places, here a linear layer reads
every place, since where a stroke is matters in small drawings.
Shapes: B images, C channels, H x W pixels, D width of the features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ensue.config import Config
from ensue.errors import ConfigError


class ImageEncoderConfig(Config):
    """The size of an encoder.

    channels: of each convolution, which halves height and width.
    dim: of the features. head_hidden, head_dim: of the head that is trained with it.
    """

    channels: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1)
    dim: int = Field(default=128, ge=1)
    head_hidden: int = Field(default=128, ge=1)
    head_dim: int = Field(default=64, ge=1)


class ImageEncoder(nn.Module):
    """Convolutions of stride 2, each normalized over the batch, and a linear layer.

    Args:
        image_shape: C, H, W.

    Raises:
        ConfigError: the images are smaller than the convolutions need.
    """

    def __init__(self, config: ImageEncoderConfig, *, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 2 ** (len(config.channels) - 1):
            raise ConfigError(
                f"channels={list(config.channels)} needs images of "
                f"{2 ** (len(config.channels) - 1)} pixels or more; got {height} x {width}."
            )
        layers: list[nn.Module] = []
        for number, size in enumerate(config.channels):
            kernel = 5 if number == 0 else 3
            layers += [
                nn.Conv2d(channels, size, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(size),
                nn.ReLU(),
            ]
            channels, height, width = size, -(-height // 2), -(-width // 2)
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * height * width, config.dim, bias=False)
        self.normalize = nn.BatchNorm1d(config.dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, D] of images [B, C, H, W] in 0..1."""
        images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.normalize(self.linear(self.convolutions(images).flatten(1)))
        return features


class ContrastiveModel(nn.Module):
    """An encoder of any kind, and a head on its features.

    Args:
        encoder: returns [B, dim].
        dim: of its features.
    """

    def __init__(self, encoder: nn.Module, *, dim: int, hidden: int, head_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.ReLU(), nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, head_dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return vectors [B, head_dim] of length 1."""
        return F.normalize(self.head(self.encoder(images)), dim=1)
