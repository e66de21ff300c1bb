"""Caser's horizontal and vertical convolutions over a window of item vectors.

Tang and Wang, WSDM 2018, arXiv:1809.07426, equations 3 to 8. All heights and positions of the
horizontal filters are one matrix product: each filter is copied to every position it can take in a
block-structured matrix [L * D, P * H], P = L (L + 1) / 2. Maximum and activation are exchanged
(every activation offered is monotone), so the activation runs on L * H numbers instead of P * H.
Shapes: B batch, L window length, D width, H filters per height, K vertical filters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ensue.nn import cpu_kernels as kernels
from ensue.nn.activations import ACTIVATIONS, Activation


class WindowConvolutions(nn.Module):
    """Features of a window: vertical first [K * D] (filter-major), then horizontal [L * H].

    horizontal_weight holds the filters [H, h, D] of the heights h = 1..L, flat, one height after
    the other: they are always used together.

    Args:
        parts: which of h and v are used; a part that is not gives zeros (the paper's ablation).
    """

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

    @property
    def num_features(self) -> int:
        """Width of the output: K * D + L * H."""
        return self.num_vertical * self.dim + self.window * self.num_horizontal

    def forward(self, vectors: Tensor) -> Tensor:
        """Return features [B, K * D + L * H] of item vectors [B, L, D], oldest first."""
        if self.uses_vertical and self.uses_horizontal and kernels.can_run(vectors):
            return self._compiled(vectors)
        vertical = self._vertical(vectors) if self.uses_vertical else None
        horizontal = self._horizontal(vectors) if self.uses_horizontal else None
        if vertical is None:
            vertical = vectors.new_zeros(len(vectors), self.num_vertical * self.dim)
        if horizontal is None:
            horizontal = vectors.new_zeros(len(vectors), self.window * self.num_horizontal)
        return torch.cat([vertical, horizontal], dim=1)

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
        products = vectors.flatten(1) @ self._block()  # [B, P * H]
        positions = range(self.window, 0, -1)
        per_height = torch.split(products, [p * self.num_horizontal for p in positions], dim=1)
        best = [
            part.view(len(vectors), p, self.num_horizontal).max(dim=1).values
            for p, part in zip(positions, per_height, strict=True)
        ]
        return ACTIVATIONS[self.activation](torch.cat(best, dim=1) + self.horizontal_bias)

    def _compiled(self, vectors: Tensor) -> Tensor:
        """The same features by compiled kernels, in one pass behind the matrix product."""
        sizes = (self.window, self.dim, self.num_horizontal)
        block = _PlaceFilters.apply(self.horizontal_weight, *sizes)  # type: ignore[no-untyped-call]
        features: Tensor = _WindowFeatures.apply(  # type: ignore[no-untyped-call]
            vectors,
            vectors.flatten(1) @ block,
            self.vertical_weight,
            self.vertical_bias,
            self.horizontal_bias,
            list(ACTIVATIONS).index(self.activation),
        )
        return features

    def _block(self) -> Tensor:
        """The filters at every position they can take [L * D, P * H], in tensor operations."""
        columns = []
        for height in range(1, self.window + 1):
            filters = self.filters(height).flatten(1).T  # [h * D, H]
            for position in range(self.window - height + 1):
                below = self.window - height - position
                padding = (0, 0, position * self.dim, below * self.dim)
                columns.append(nn.functional.pad(filters, padding))
        return torch.cat(columns, dim=1)


class _PlaceFilters(torch.autograd.Function):
    """Flat filters to the block matrix; see `WindowConvolutions._block`."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, window: int, dim: int, num_filters: int) -> Tensor:
        ctx.sizes = window, dim, num_filters
        columns = window * (window + 1) // 2 * num_filters
        block = flat.new_zeros(window * dim, columns)
        source, target = kernels.arrays(flat, block)
        kernels.place_filters(source, *ctx.sizes, target)
        return block

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        window, dim, num_filters = ctx.sizes
        flat = grad.new_zeros(window * (window + 1) // 2 * dim * num_filters)
        source, target = kernels.arrays(grad, flat)
        kernels.place_filters_backward(source, *ctx.sizes, target)
        return flat, None, None, None


class _WindowFeatures(torch.autograd.Function):
    """Both kinds of features from the vectors and their products with the placed filters."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        products: Tensor,
        mix_weight: Tensor,
        mix_bias: Tensor,
        bias: Tensor,
        activation: int,
    ) -> Tensor:
        num_mixed = len(mix_weight) * vectors.shape[2]
        out = vectors.new_empty(len(vectors), num_mixed + len(bias))
        argmax = torch.empty(len(vectors), len(bias), dtype=torch.int32)
        inputs = kernels.arrays(vectors, products, mix_weight, mix_bias, bias)
        kernels.window_features(*inputs, activation, *kernels.arrays(out, argmax))
        ctx.save_for_backward(out, vectors, mix_weight, argmax)
        ctx.activation, ctx.num_products = activation, products.shape[1]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, vectors, mix_weight, argmax = ctx.saved_tensors
        num_filters, window = mix_weight.shape
        grads = (
            torch.zeros_like(vectors),
            grad.new_zeros(len(grad), ctx.num_products),
            grad.new_zeros(num_filters, window + 1),
            grad.new_zeros(argmax.shape[1]),
        )
        inputs = kernels.arrays(grad, out, vectors, mix_weight)
        kernels.window_features_backward(*inputs, ctx.activation, *kernels.arrays(argmax, *grads))
        to_vectors, to_products, to_mix, to_bias = grads
        return to_vectors, to_products, to_mix[:, :window], to_mix[:, window], to_bias, None


def _uniform(size: int, fan_in: int) -> Tensor:
    """Return numbers [size] drawn uniformly from +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return torch.empty(size).uniform_(-bound, bound)
