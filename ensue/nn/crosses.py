"""Products of features: factorization machines, pairwise dots, and cross layers.

Rendle, "Factorization Machines", ICDM 2010; Naumov et al., "Deep Learning Recommendation Model for
Personalization and Recommendation Systems", 2019, arXiv:1906.00091; Wang et al., "DCN V2: Improved
Deep & Cross Network", WWW 2021, arXiv:2008.13535 (Eq. 1 to 4), and of vectors, Wang et al., "Deep &
Cross Network for Ad Click Predictions", ADKDD 2017, arXiv:1708.05123.
Shapes: B rows, F fields, D width of a field, H width of all inputs, R rank, E experts.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ensue.nn import cpu_kernels as kernels
from ensue.nn.perceptron import linear_layer


def sum_of_pairs(vectors: Tensor) -> Tensor:
    """Return the sum of x_i * x_j, elementwise, over all pairs of fields i < j [B, D].

    Its sum over D is the second order of a factorization machine. By ((sum x)^2 - sum x^2) / 2 it
    takes F * D steps (Rendle 2010, Lemma 3.1). 0 of one field or none.

    >>> sum_of_pairs(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).tolist()
    [[23.0, 44.0]]

    Args:
        vectors: [B, F, D].
    """
    return 0.5 * (vectors.sum(dim=1).square() - vectors.square().sum(dim=1))


class _FieldSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(vectors)
        sums, squares = vectors.new_empty(2, len(vectors), vectors.shape[2])
        kernels.field_sums(*kernels.arrays(vectors, sums, squares))
        return sums, squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_sums: Tensor, to_squares: Tensor) -> Tensor:
        (vectors,) = ctx.saved_tensors
        grad = torch.empty(vectors.shape, dtype=vectors.dtype)
        kernels.field_sums_backward(*kernels.arrays(to_sums, to_squares, vectors, grad))
        return grad


def field_sums(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over the fields of vectors [B, F, D], and of their squares, [B, D] each."""
    if kernels.can_run(vectors):
        found: tuple[Tensor, Tensor] = _FieldSums.apply(vectors)  # type: ignore[no-untyped-call]
        return found
    return vectors.sum(dim=1), vectors.square().sum(dim=1)


class SumOfPairs(nn.Module):
    """`sum_of_pairs` as a module, so that another can take its place."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the sums of products [B, D] of vectors [B, F, D]."""
        return sum_of_pairs(vectors)


class PairwiseDots(nn.Module):
    """The product of every two of F fields: (1, 0), (2, 0), (2, 1), (3, 0), ... as in DLRM's code.

    num_pairs: F (F - 1) / 2.
    """

    lower: Tensor

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        first, second = torch.tril_indices(num_fields, num_fields, offset=-1)
        self.num_pairs = len(first)
        self.register_buffer("lower", first * num_fields + second, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the products [B, F (F - 1) / 2] of vectors [B, F, D]."""
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return products.flatten(1).index_select(1, self.lower)


class Cross(nn.Module):
    """x0 * (W x + b) + x, with W of full rank (Eq. 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = linear_layer(width, width)

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """Return [B, H] of x0 = start [B, H] and x [B, H]."""
        return _cross_with(start, self.linear(x), x)


class LowRankCross(nn.Module):
    """x0 * (U V^T x + b) + x (Eq. 2): 2 H R weights in place of H^2."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = linear_layer(rank, width)
        nn.init.kaiming_uniform_(self.down.weight, nonlinearity="linear")

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """Return [B, H] of x0 = start [B, H] and x [B, H]."""
        return _cross_with(start, self.up(self.down(x)), x)


class VectorCross(nn.Module):
    """x0 * (w . x) + b + x (Wang et al., 2017, Eq. 3): 2 H weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.kaiming_uniform_(self.down.weight, nonlinearity="linear")

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """Return [B, H] of x0 = start [B, H] and x [B, H]."""
        return _cross_with(start, self.down(x), x) + self.bias


class CrossMixture(nn.Module):
    """A mixture of low-rank crosses (Eq. 3 and 4), weighted by a softmax over x:

    x0 * sum_e g_e(x) (U_e tanh(C_e tanh(V_e^T x)) + b) + x.

    The softmax adds up to 1, so b is outside of the sum; the products with all U_e are one.
    """

    def __init__(self, width: int, rank: int, *, num_experts: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, num_experts * rank, bias=False)
        self.cores = nn.Parameter(torch.randn(num_experts, rank, rank) / rank**0.5)
        self.up = nn.Linear(num_experts * rank, width)
        self.gate = nn.Linear(width, num_experts, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, nonlinearity="linear")
        bound = (3 / rank) ** 0.5  # as wide as that of one expert, for the gates add up to 1
        nn.init.uniform_(self.up.weight, -bound, bound)
        nn.init.zeros_(self.up.bias)

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """Return [B, H] of x0 = start [B, H] and x [B, H]."""
        inner = torch.tanh(self.down(x)).view(x.shape[0], *self.cores.shape[:2])
        inner = torch.tanh(torch.einsum("ber,eqr->beq", inner, self.cores))
        gates = self.gate(x).softmax(dim=1)
        mixed = (gates[..., None] * inner).flatten(1)
        return _cross_with(start, self.up(mixed), x)


class CrossNetwork(nn.Module):
    """Cross layers one after the other: l of them hold products of up to l + 1 inputs.

    width: H.

    Args:
        rank: None is full.
        num_experts: of each layer; more than one needs a rank.
        normalize: a LayerNorm behind the last one.
        kind: a "vector" of weights in each layer, in place of a "matrix".
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        *,
        rank: int | None = None,
        num_experts: int = 1,
        normalize: bool = False,
        kind: Literal["matrix", "vector"] = "matrix",
    ) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(
            VectorCross(width) if kind == "vector" else _cross(width, rank, num_experts=num_experts)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width) if normalize else nn.Identity()

    def forward(self, start: Tensor) -> Tensor:
        """Return [B, H] of inputs [B, H]."""
        x = start
        for layer in self.layers:
            x = layer(start, x)
        out: Tensor = self.norm(x)
        return out


def _cross_with(start: Tensor, update: Tensor, x: Tensor) -> Tensor:
    """Return start * update + x."""
    # Not addcmul: its backward pass makes four products, two of them with its factor of 1.
    return (start * update).add_(x)


def _cross(width: int, rank: int | None, *, num_experts: int) -> nn.Module:
    if rank is None:
        return Cross(width)
    if num_experts == 1:
        return LowRankCross(width, rank)
    return CrossMixture(width, rank, num_experts=num_experts)
