"""Encoders and decoders of tables, images and volumes, each the mirror of the other.

The code is the output of a linear layer: after a tanh, as in the published network, codes sit at
the corners and the training is unstable. First weights are PyTorch's own, smaller than those of
`nn.perceptron`: from them an autoencoder of a table gets a tenth further. Convolutions are those
of Zhao et al., Medical Image Analysis 71 (2021), arXiv:2006.06930: kernel 3, ReLU and max-pooling
by 2; the way back is the nearest voxel and a convolution. Sizes need be no powers of 2.
Shapes: B rows, F features, D width of the code, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3


class Encoder(nn.Module):
    """Numbers [B, ...] as codes [B, D]; convolutions where they have two axes or three."""

    def __init__(
        self, shape: Sequence[int], dim: int, *, hidden: Sequence[int], channels: Sequence[int]
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        width = math.prod(shape)
        if channels and len(shape) > 1:
            self.convolutions = _convolutions([shape[0], *channels], axes=len(shape) - 1)
            width = channels[-1] * math.prod(_sizes(shape[1:], len(channels))[-1])
        self.hidden = rectified_layers([width, *hidden])
        self.code = nn.Linear([width, *hidden][-1], dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        pool = F.max_pool2d if x.dim() == 4 else F.max_pool3d
        for convolution in self.convolutions:
            x = pool(F.relu(convolution(x)), 2)
        return self.code(self.hidden(x.flatten(1)))


class Decoder(nn.Module):
    """Codes [B, D] as numbers [B, ...]."""

    def __init__(
        self, shape: Sequence[int], dim: int, *, hidden: Sequence[int], channels: Sequence[int]
    ) -> None:
        super().__init__()
        back = [dim, *hidden[::-1]]
        self.hidden = rectified_layers(back)
        self.convolutions = nn.ModuleList()
        self._sizes = _sizes(shape[1:], len(channels))
        self._inner = tuple(shape)
        if channels and len(shape) > 1:
            self._inner = (channels[-1], *self._sizes[-1])
            self.convolutions = _convolutions([*channels[::-1], shape[0]], axes=len(shape) - 1)
        self.out = nn.Linear(back[-1], math.prod(self._inner))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the numbers."""
        x = self.out(self.hidden(codes)).unflatten(1, self._inner)
        for convolution, size in zip(self.convolutions, self._sizes[-2::-1], strict=False):
            x = convolution(F.interpolate(F.relu(x), size=size, mode="nearest"))
        return x


def rectified_layers(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers from each width to the next, each with ReLU behind it."""
    pairs = ((nn.Linear(one, other), nn.ReLU()) for one, other in pairwise(widths))
    return nn.Sequential(*(module for pair in pairs for module in pair))


def _convolutions(channels: Sequence[int], *, axes: int) -> nn.ModuleList:
    layer = nn.Conv2d if axes == 2 else nn.Conv3d
    return nn.ModuleList(layer(a, b, KERNEL, padding=KERNEL // 2) for a, b in pairwise(channels))


def _sizes(shape: Sequence[int], num_stages: int) -> list[tuple[int, ...]]:
    """Return the size of an image before the first stage and behind each."""
    sizes = [tuple(shape)]
    for _ in range(num_stages):
        sizes.append(tuple(size // 2 for size in sizes[-1]))
    return sizes
