"""Random views of images: what a self-supervised encoder is to see as the same thing.

Crop and resize, rotation, shear and a smooth (elastic) distortion are one resampling of the image;
then strokes are blurred, contrast is changed and a rectangle is erased. There is no flip: mirrored
digits and letters are others. Augmentations after Chen et al., ICML 2020, arXiv:2002.05709, less
those of color; the elastic one after Simard et al., ICDAR 2003.
Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ensue.config import Config

ELASTIC_KNOTS = 5  # of the distortion, in each direction
GAUSSIAN = (1.0, 4.0, 6.0, 4.0, 1.0)  # binomial, of a standard deviation of one pixel


class ImageViewsConfig(Config):
    """How far a view may be from its image; a value is the largest, drawn evenly below; 0 is none.

    crop: share of the side that is cut off, before the rest is resized; the same far outwards.
    rotation: degrees, to either side. shear: the same.
    stretch: of the sides against each other: a factor of 1 + stretch at most.
    elastic: standard deviation of the distortion at its knots, in shares of the side.
    blur: weight of the blurred image. contrast: of the brightness, 1 - contrast to 1 + contrast.
    gamma: brightness to the power of 1 + gamma at most, or one over that: thinner or thicker lines.
    erase: side of the rectangle that is erased, as a share of the image's.
    """

    crop: float = Field(default=0.2, ge=0, lt=1)
    rotation: float = Field(default=15.0, ge=0, le=180)
    shear: float = Field(default=15.0, ge=0, lt=90)
    stretch: float = Field(default=0.2, ge=0)
    elastic: float = Field(default=0.03, ge=0)
    blur: float = Field(default=1.0, ge=0, le=1)
    contrast: float = Field(default=0.3, ge=0, lt=1)
    gamma: float = Field(default=0.5, ge=0)
    erase: float = Field(default=0.3, ge=0, lt=1)


def make_views(images: Tensor, config: ImageViewsConfig, generator: torch.Generator) -> Tensor:
    """Return a random view of each of the images [B, C, H, W], which are in 0..1, as the views are.

    Pixels from outside an image are those at its border.
    """
    grid = F.affine_grid(_affine(len(images), config, generator), list(images.shape), False)
    if config.elastic:
        shape = (len(images), 2, ELASTIC_KNOTS, ELASTIC_KNOTS)
        knots = torch.randn(shape, generator=generator) * (2 * config.elastic)  # the side is 2 long
        shifts = F.interpolate(knots, images.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + shifts.permute(0, 2, 3, 1)
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    views = _blur(views, config.blur, generator)
    power = (1 + config.gamma) ** _uniform(len(images), -1, 1, generator)
    gain = 1 + config.contrast * _uniform(len(images), -1, 1, generator)
    views = (views.clamp(0, 1) ** power * gain).clamp(0, 1)
    return _erase(views, config.erase, generator)


def to_unit(images: Tensor) -> Tensor:
    """Return images as float32 in 0..1: bytes are divided by 255, others are so already."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _affine(count: int, config: ImageViewsConfig, generator: torch.Generator) -> Tensor:
    """Return the map [count, 2, 3] from places of a view to those of its image."""

    def draw(limit: float) -> Tensor:
        return limit * (2 * torch.rand(count, generator=generator) - 1)

    size = 1 - draw(config.crop)
    angle, shear = draw(math.radians(config.rotation)), torch.tan(draw(math.radians(config.shear)))
    ratio = (1 + config.stretch) ** (draw(1.0) / 2)
    cos, sin = size * torch.cos(angle), size * torch.sin(angle)
    rows = [
        torch.stack([cos * ratio, (cos * shear - sin) / ratio, draw(1.0) * config.crop], dim=1),
        torch.stack([sin * ratio, (sin * shear + cos) / ratio, draw(1.0) * config.crop], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _blur(images: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    if largest == 0:
        return images
    weight = _uniform(len(images), 0, largest, generator)
    line = torch.tensor(GAUSSIAN, dtype=images.dtype) / sum(GAUSSIAN)
    channels = images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, -1, -1)
    blurred = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)
    return images + weight * (blurred - images)


def _erase(images: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Return the images with a rectangle of each set to 0."""
    if largest == 0:
        return images
    inside = torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)
    for dim, length in ((2, images.shape[2]), (3, images.shape[3])):
        side = _uniform(len(images), 0, largest, generator)
        start = _uniform(len(images), 0, 1, generator) * (1 - side)
        place = (torch.arange(length) + 0.5) / length
        shape = [1, 1, 1, 1]
        shape[dim] = length
        place = place.view(shape)
        inside = inside & (place >= start) & (place < start + side)
    return images.masked_fill(inside, 0)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return numbers [count, 1, 1, 1]."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)
