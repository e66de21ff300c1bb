"""Caser's horizontal and vertical convolutions over a window of item vectors.

Tang and Wang, WSDM 2018, arXiv:1809.07426, equations 3 to 8. All heights and positions of the
horizontal filters are one matrix product: each filter is copied to every position it can take in a
block-structured matrix [L * D, P * H], P = L (L + 1) / 2. Maximum and activation are exchanged
(every activation offered is monotone), so the activation runs on L * H numbers instead of P * H.
Shapes: B batch, L window length, D width, H filters per height, K vertical filters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class WindowConvolutions(nn.Module):
    """Features of a window: vertical first [K * D] (filter-major), then horizontal [L * H].

    Args:
        use_horizontal, use_vertical: a part that is not used gives zeros (the paper's ablation).
    """

    def __init__(
        self,
        window: int,
        dim: int,
        *,
        num_horizontal: int,
        num_vertical: int,
        activation: Callable[[Tensor], Tensor],
        parts: str = "vh",
    ) -> None:
        super().__init__()
        self.window, self.dim = window, dim
        self.num_horizontal, self.num_vertical = num_horizontal, num_vertical
        self.activation = activation
        self.parts = parts
        heights = range(1, window + 1)
        self.horizontal_weight = nn.ParameterList(
            _uniform((num_horizontal, height, dim), fan_in=height * dim) for height in heights
        )
        self.horizontal_bias = nn.ParameterList(
            _uniform((num_horizontal,), fan_in=height * dim) for height in heights
        )
        self.vertical_weight = _uniform((num_vertical, window), fan_in=window)
        self.vertical_bias = _uniform((num_vertical,), fan_in=window)
        self.register_buffer("_block_index", self._place_filters(), persistent=False)

    @property
    def num_features(self) -> int:
        """Width of the output: K * D + L * H."""
        return self.num_vertical * self.dim + self.window * self.num_horizontal

    def forward(self, vectors: Tensor) -> Tensor:
        """Return features [B, K * D + L * H] of item vectors [B, L, D], oldest first."""
        return torch.cat([self._vertical(vectors), self._horizontal(vectors)], dim=1)

    def _vertical(self, vectors: Tensor) -> Tensor:
        """Weighted sums of the window's vectors, one per filter (Eq. 6 to 8): no activation."""
        if "v" not in self.parts:
            return vectors.new_zeros(len(vectors), self.num_vertical * self.dim)
        sums = self.vertical_weight @ vectors + self.vertical_bias[:, None]  # [B, K, D]
        return sums.flatten(1)

    def _horizontal(self, vectors: Tensor) -> Tensor:
        """The maximum of each filter over its positions (Eq. 3 to 5)."""
        if "h" not in self.parts:
            return vectors.new_zeros(len(vectors), self.window * self.num_horizontal)
        products = vectors.flatten(1) @ self._block_weight()  # [B, P * H]
        positions = range(self.window, 0, -1)
        per_height = torch.split(products, [p * self.num_horizontal for p in positions], dim=1)
        maxima = [
            part.view(len(vectors), p, self.num_horizontal).max(dim=1).values
            for p, part in zip(positions, per_height, strict=True)
        ]
        bias = torch.cat(list(self.horizontal_bias))
        return self.activation(torch.cat(maxima, dim=1) + bias)

    def _block_weight(self) -> Tensor:
        """The filters at every position they can take [L * D, P * H]."""
        flat = torch.cat([weight.reshape(-1) for weight in self.horizontal_weight])
        num_columns = (self.window * (self.window + 1) // 2) * self.num_horizontal
        size = (self.window * self.dim, num_columns)
        placed: Tensor = _PlaceFilters.apply(flat, self._block_index, size)  # type: ignore[no-untyped-call]
        return placed

    def _place_filters(self) -> Tensor:
        """Return [2, M]: where (row 0, in the flattened block matrix) which weight (row 1) goes."""
        length, dim, filters = self.window, self.dim, self.num_horizontal
        num_columns = (length * (length + 1) // 2) * filters
        source, target = [], []
        first_weight = first_column = 0
        for height in range(1, length + 1):
            weight = torch.arange(filters * height * dim).view(filters, height * dim)
            for position in range(length - height + 1):
                row = position * dim + torch.arange(height * dim)
                column = first_column + position * filters + torch.arange(filters)
                target.append((row[None, :] * num_columns + column[:, None]).reshape(-1))
                source.append(first_weight + weight.reshape(-1))
            first_weight += weight.numel()
            first_column += (length - height + 1) * filters
        return torch.stack([torch.cat(target), torch.cat(source)])


class _PlaceFilters(torch.autograd.Function):
    """out.view(-1)[index[0]] = flat[index[1]]; a weight's gradient is the sum over its places."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.index, ctx.num_weights = index, len(flat)
        block = flat.new_zeros(size)
        block.view(-1).index_copy_(0, index[0], flat.index_select(0, index[1]))
        return block

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        placed = grad.reshape(-1).index_select(0, ctx.index[0])
        return grad.new_zeros(ctx.num_weights).index_add_(0, ctx.index[1], placed), None, None


def _uniform(shape: tuple[int, ...], *, fan_in: int) -> nn.Parameter:
    """A parameter drawn uniformly from +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
