"""Caser's horizontal and vertical convolutions over a window of item vectors.

Tang and Wang, WSDM 2018, arXiv:1809.07426, equations 3 to 8. In tensor operations all heights and
positions of the horizontal filters are one matrix product: each filter is copied to every position
it can take in a block-structured matrix [L * D, P * H], P = L (L + 1) / 2. Compiled, all heights
are one product for each position: a quarter less arithmetic, in one buffer. Maximum and activation
are exchanged (every activation offered is monotone), so that the activation runs on L * H numbers.
Shapes: B batch, L window length, D width, H filters per height, K vertical filters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ensue.nn import cpu_kernels as kernels
from ensue.nn.activations import ACTIVATIONS, Activation
from ensue.nn.dropout import Dropout


class WindowConvolutions(nn.Module):
    """Features of a window: vertical first [K * D] (filter-major), then horizontal [L * H].

    horizontal_weight holds the filters [H, h, D] of the heights h = 1..L, flat, one height after
    the other: they are always used together.

    placed: the filters at their positions, as `freeze_` left them; None of weights that may change.

    Args:
        parts: which of h and v are used; a part that is not gives zeros (the paper's ablation).
    """

    placed: Tensor | None

    def __init__(
        self,
        window: int,
        dim: int,
        *,
        num_horizontal: int,
        num_vertical: int,
        activation: Activation,
        parts: str = "vh",
    ) -> None:
        super().__init__()
        self.window, self.dim = window, dim
        self.num_horizontal, self.num_vertical = num_horizontal, num_vertical
        self.activation: Activation = activation
        self.uses_vertical, self.uses_horizontal = "v" in parts, "h" in parts
        fan_ins = [height * dim for height in range(1, window + 1)]
        self.horizontal_weight = nn.Parameter(
            torch.cat([_uniform(num_horizontal * fan_in, fan_in) for fan_in in fan_ins])
        )
        self.horizontal_bias = nn.Parameter(
            torch.cat([_uniform(num_horizontal, fan_in) for fan_in in fan_ins])
        )
        self.vertical_weight = nn.Parameter(
            _uniform(num_vertical * window, window).view(num_vertical, window)
        )
        self.vertical_bias = nn.Parameter(_uniform(num_vertical, window))
        self.register_buffer("placed", None, persistent=False)

    @property
    def num_features(self) -> int:
        """Width of the output: K * D + L * H."""
        return self.num_vertical * self.dim + self.window * self.num_horizontal

    def forward(self, vectors: Tensor, dropout: Dropout) -> Tensor:
        """Return features [B, K * D + L * H] of item vectors [B, L, D], oldest first.

        Args:
            dropout: applied to the features.
        """
        if self.uses_vertical and self.uses_horizontal and kernels.can_run(vectors):
            return self._compiled(vectors, dropout)
        vertical = self._vertical(vectors) if self.uses_vertical else None
        horizontal = self._horizontal(vectors) if self.uses_horizontal else None
        if vertical is None:
            vertical = vectors.new_zeros(vectors.shape[0], self.num_vertical * self.dim)
        if horizontal is None:
            horizontal = vectors.new_zeros(vectors.shape[0], self.window * self.num_horizontal)
        return dropout(torch.cat([vertical, horizontal], dim=1))

    def freeze_(self) -> None:
        """Keep the filters at their positions, in place of making them anew for each batch."""
        self.placed = self._at_positions()

    def filters(self, height: int) -> Tensor:
        """Return the horizontal filters [H, h, D] of a height, a view."""
        per_row = self.num_horizontal * self.dim
        first = per_row * (height * (height - 1) // 2)
        flat = self.horizontal_weight[first : first + per_row * height]
        return flat.view(self.num_horizontal, height, self.dim)

    def _vertical(self, vectors: Tensor) -> Tensor:
        """Weighted sums of the window's vectors, one per filter (Eq. 6 to 8): no activation."""
        sums = self.vertical_weight @ vectors + self.vertical_bias[:, None]  # [B, K, D]
        return sums.flatten(1)

    def _horizontal(self, vectors: Tensor) -> Tensor:
        """The maximum of each filter over its positions (Eq. 3 to 5)."""
        placed = self._at_positions() if self.placed is None else self.placed
        products = vectors.flatten(1) @ placed.flatten(0, 1).T
        sizes = self._sizes()
        at_positions = products.view(vectors.shape[0], sum(sizes), self.num_horizontal)
        by_height = torch.split(at_positions, sizes, dim=1)
        best = torch.cat([of_height.max(dim=1).values for of_height in by_height], dim=1)
        return ACTIVATIONS[self.activation](best + self.horizontal_bias)

    def _sizes(self) -> list[int]:
        """Return how many positions the filters of each height have."""
        return [self.window - height + 1 for height in range(1, self.window + 1)]

    def _at_positions(self) -> Tensor:
        """Return each filter at each of its positions, zero elsewhere [P, H, L * D]."""
        sizes, width = self._sizes(), self.window * self.dim
        placed = self.horizontal_weight.new_zeros(sum(sizes), self.num_horizontal, width)
        next_position = self.num_horizontal * width + self.dim  # one matrix and one item on
        for height, size in enumerate(sizes, start=1):
            shape = (size, self.num_horizontal, height * self.dim)
            start = sum(sizes[: height - 1]) * self.num_horizontal * width
            filters = self.filters(height).flatten(1)
            placed.as_strided(shape, (next_position, width, 1), start).copy_(filters)
        return placed

    def _compiled(self, vectors: Tensor, dropout: Dropout) -> Tensor:
        """The same features by compiled kernels around matrix products."""
        features: Tensor = _WindowFeatures.apply(  # type: ignore[no-untyped-call]
            vectors,
            self.horizontal_weight,
            self.vertical_weight,
            self.vertical_bias,
            self.horizontal_bias,
            list(ACTIVATIONS).index(self.activation),
            dropout,
        )
        return features


class _WindowFeatures(torch.autograd.Function):
    """Both kinds of features, dropped out; see `WindowConvolutions`."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        filters: Tensor,
        mix_weight: Tensor,
        mix_bias: Tensor,
        bias: Tensor,
        activation: int,
        dropout: Dropout,
    ) -> Tensor:
        batch_size, window, dim = vectors.shape
        num_filters = len(bias) // window
        placed = vectors.new_zeros(window * dim, window * num_filters)
        kernels.place_filters(*kernels.arrays(filters), window, dim, num_filters, placed.numpy())
        products = vectors.new_empty(batch_size, window * (window + 1) // 2 * num_filters)
        for part, weight, result in _positions(vectors, placed, products):
            torch.mm(part, weight, out=result)
        out = vectors.new_empty(batch_size, len(mix_weight) * dim + len(bias))
        argmax = torch.empty(batch_size, len(bias), dtype=torch.int32)
        threshold = dropout.threshold if dropout.training else 0
        noise = dropout.noise(out) if threshold else torch.empty(0, dtype=torch.uint8)
        noise = noise.view(-1, out.shape[1])
        drop = (noise.numpy(), threshold, np.float32(dropout.scale if threshold else 1))
        inputs = kernels.arrays(vectors, products, mix_weight, mix_bias, bias)
        kernels.window_features(*inputs, *drop, activation, *kernels.arrays(out, argmax))
        ctx.save_for_backward(out, vectors, placed, mix_weight, argmax)
        ctx.drop, ctx.activation = drop, activation
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, vectors, placed, mix_weight, argmax = ctx.saved_tensors
        (num_mixed, window), dim = mix_weight.shape, vectors.shape[2]
        to_vectors = torch.empty_like(vectors)
        num_positions = window * (window + 1) // 2
        to_products = grad.new_empty(len(grad), num_positions * (argmax.shape[1] // window))
        to_mix, to_bias = grad.new_zeros(num_mixed, window + 1), grad.new_zeros(argmax.shape[1])
        inputs = kernels.arrays(grad, out, vectors, mix_weight)
        grads = kernels.arrays(argmax, to_vectors, to_products, to_mix, to_bias)
        kernels.window_features_backward(*inputs, *ctx.drop, ctx.activation, *grads)
        to_placed = torch.zeros_like(placed)
        for part, weight, result in _positions(to_vectors, placed, to_products):
            part.addmm_(result, weight.T)
        for part, weight, result in _positions(vectors, to_placed, to_products):
            weight.addmm_(part.T, result)
        num_filters = len(to_bias) // window
        to_filters = grad.new_empty(num_positions * dim * num_filters)
        arrays = kernels.arrays(to_placed, to_filters)
        kernels.place_filters_backward(arrays[0], window, dim, num_filters, arrays[1])
        return (
            to_vectors,
            to_filters,
            to_mix[:, :window],
            to_mix[:, window],
            to_bias,
            None,
            None,
        )


def _positions(
    vectors: Tensor, placed: Tensor, products: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield views of what each position of the filters reads, weighs it with, and gives.

    At position i the filters see the window from vector i on, and heights up to L - i fit: the
    same filters as at position 0, in the upper left corner of their matrix.

    Args:
        vectors: [B, L, D].
        placed: [L * D, L * H], see `kernels.place_filters`.
        products: [B, P * H], by position.
    """
    _, window, dim = vectors.shape
    flat, num_filters, column = vectors.flatten(1), placed.shape[1] // window, 0
    for position in range(window):
        height, width = (window - position) * dim, (window - position) * num_filters
        yield (
            flat[:, position * dim :],
            placed[:height, :width],
            products[:, column : column + width],
        )
        column += width


def _uniform(size: int, fan_in: int) -> Tensor:
    """Return numbers [size] drawn uniformly from +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return torch.empty(size).uniform_(-bound, bound)
