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

from ensue.nn import cpu_kernels as kernels


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
        activation: Callable[[Tensor], Tensor],
        parts: str = "vh",
    ) -> None:
        super().__init__()
        self.window, self.dim = window, dim
        self.num_horizontal, self.num_vertical = num_horizontal, num_vertical
        self.activation = activation
        self.parts = parts
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
        return torch.cat([self._vertical(vectors), self._horizontal(vectors)], dim=1)

    def filters(self, height: int) -> Tensor:
        """Return the horizontal filters [H, h, D] of a height, a view."""
        per_row = self.num_horizontal * self.dim
        first = per_row * (height * (height - 1) // 2)
        flat = self.horizontal_weight[first : first + per_row * height]
        return flat.view(self.num_horizontal, height, self.dim)

    def _vertical(self, vectors: Tensor) -> Tensor:
        """Weighted sums of the window's vectors, one per filter (Eq. 6 to 8): no activation."""
        if "v" not in self.parts:
            return vectors.new_zeros(len(vectors), self.num_vertical * self.dim)
        if kernels.can_run(vectors, self.vertical_weight):
            sums: Tensor = _Mix.apply(  # type: ignore[no-untyped-call]
                vectors, self.vertical_weight, self.vertical_bias
            )
        else:
            sums = self.vertical_weight @ vectors + self.vertical_bias[:, None]  # [B, K, D]
        return sums.flatten(1)

    def _horizontal(self, vectors: Tensor) -> Tensor:
        """The maximum of each filter over its positions (Eq. 3 to 5)."""
        if "h" not in self.parts:
            return vectors.new_zeros(len(vectors), self.window * self.num_horizontal)
        if kernels.can_run(vectors, self.horizontal_weight):
            sizes = (self.window, self.dim, self.num_horizontal)
            block = _PlaceFilters.apply(self.horizontal_weight, *sizes)  # type: ignore[no-untyped-call]
            products = vectors.flatten(1) @ block  # [B, P * H]
            maxima = _Pool.apply(  # type: ignore[no-untyped-call]
                products, self.horizontal_bias, self.window, self.num_horizontal
            )
            return self.activation(maxima)
        products = vectors.flatten(1) @ self._block()
        positions = range(self.window, 0, -1)
        per_height = torch.split(products, [p * self.num_horizontal for p in positions], dim=1)
        best = [
            part.view(len(vectors), p, self.num_horizontal).max(dim=1).values
            for p, part in zip(positions, per_height, strict=True)
        ]
        return self.activation(torch.cat(best, dim=1) + self.horizontal_bias)

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


class _Pool(torch.autograd.Function):
    """The maximum of each filter over its positions, plus its bias; the first one wins a tie."""

    @staticmethod
    def forward(ctx: Any, products: Tensor, bias: Tensor, window: int, num_filters: int) -> Tensor:
        out = products.new_empty(len(products), len(bias))
        ctx.argmax = torch.empty(out.shape, dtype=torch.int32)
        ctx.products_shape = products.shape
        source, biases, target, argmax = kernels.arrays(products, bias, out, ctx.argmax)
        kernels.pool(source, biases, window, num_filters, target, argmax)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_products = grad.new_empty(ctx.products_shape)
        grad_bias = grad.new_zeros(grad.shape[1])
        kernels.pool_backward(*kernels.arrays(grad, ctx.argmax, grad_products, grad_bias))
        return grad_products, grad_bias, None, None


class _Mix(torch.autograd.Function):
    """weight [K, L] @ vectors [B, L, D] + bias [K], as [B, K, D]."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, weight)
        out = vectors.new_empty(len(vectors), len(weight), vectors.shape[2])
        kernels.mix(*kernels.arrays(vectors, weight, bias, out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vectors, weight = ctx.saved_tensors
        grads = torch.zeros_like(vectors), torch.zeros_like(weight), grad.new_zeros(len(weight))
        kernels.mix_backward(*kernels.arrays(grad, vectors, weight, *grads))
        return grads


def _uniform(size: int, fan_in: int) -> Tensor:
    """Return numbers [size] drawn uniformly from +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return torch.empty(size).uniform_(-bound, bound)
