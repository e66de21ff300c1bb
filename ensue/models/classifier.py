"""Plain classifiers: linear, with hidden layers, or with convolutions before them.

Any number of one shape are kept side by side, so that what is compared is trained in one pass:
they read the same examples, start alike and share nothing else.
Shapes: B batch, R classifiers, F features, K classes, D width of the last hidden layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.config import Config
from ensue.errors import ConfigError

KERNEL = 3  # of every convolution; max pooling by 2 follows


class ClassifierConfig(Config):
    """The shape of a classifier; without any layer it is linear, and starts at 0.

    channels: of each convolution (3 x 3, ReLU, max pooling by 2), for features [n, C, H, W].
    hidden: the width of each dense hidden layer (ReLU).
    """

    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()


class Classifiers(nn.Module):
    """R classifiers of one shape, all with the same first weights.

    Args:
        input_shape: of one example.
        generator: of the first weights.

    Raises:
        ConfigError: the examples are no images, or too small ones, for the convolutions.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        *,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_classifiers: int = 1,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._count, self._generator = num_classifiers, generator
        self.convolutions, self.convolution_biases = nn.ParameterList(), nn.ParameterList()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        if config.channels:
            input_shape = self._add_convolutions(config.channels, input_shape)
        width = math.prod(input_shape)
        for size in config.hidden:
            self.weights.append(self._draw((width, size), width))
            self.biases.append(self._draw((size,), width))
            width = size
        if config.channels or config.hidden:
            self.weights.append(self._draw((width, num_classes), width))
        else:
            self.weights.append(nn.Parameter(torch.zeros(num_classifiers, width, num_classes)))
        self.biases.append(nn.Parameter(torch.zeros(num_classifiers, num_classes)))

    @property
    def output_weights(self) -> Tensor:
        """The rows of the last layers [R, K, D]."""
        return self.weights[-1].transpose(1, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, R, K] of features [B, ...]."""
        x = features
        for number, (weight, bias) in enumerate(
            zip(self.convolutions, self.convolution_biases, strict=True)
        ):
            groups = 1 if number == 0 else self._count  # the first ones read the same channels
            x = F.conv2d(
                x, weight.flatten(0, 1), bias.flatten(), padding=KERNEL // 2, groups=groups
            )
            x = F.max_pool2d(F.relu(x), 2)
        is_shared = len(self.convolutions) == 0
        x = x.flatten(1) if is_shared else x.view(len(x), self._count, -1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number > 0:
                x = F.relu(x)
            x = torch.einsum("bf,rfh->brh" if is_shared else "brf,rfh->brh", x, weight) + bias
            is_shared = False
        return x

    def _add_convolutions(
        self, channels: tuple[int, ...], input_shape: tuple[int, ...]
    ) -> tuple[int, int, int]:
        """Add them, and return the shape that comes out."""
        smallest = 2 ** len(channels)
        if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
            raise ConfigError(
                f"channels={list(channels)} needs features [n, C, H, W] with H and W of {smallest} "
                f"or more; got {list(input_shape)} for one example."
            )
        incoming, height, width = input_shape
        for size in channels:
            fan_in = incoming * KERNEL**2
            self.convolutions.append(self._draw((size, incoming, KERNEL, KERNEL), fan_in))
            self.convolution_biases.append(self._draw((size,), fan_in))
            incoming, height, width = size, height // 2, width // 2
        return incoming, height, width

    def _draw(self, shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
        """Return R times the same uniform numbers in -1 to 1 over the root of fan_in."""
        one = (2 * torch.rand(shape, generator=self._generator) - 1) / max(1, fan_in) ** 0.5
        return nn.Parameter(one.repeat(self._count, *[1] * len(shape)))
