"""Second-order polynomial graph convolutions over a bipartite graph: the AL-GCN block of MEDRES.

Budhiraja, Hiranandani et al., "Rich-Item Recommendations for Rich-Users: Exploiting Dynamic and
Static Side Information", arXiv:2001.10495. With the normalized graph A of both sides,

    H = activation(X T0 + A X T1 + A^2 X T2 + b),

and T and b of each side its own, or shared by both. The paper's own equation was not at hand: this
is the most general one of second order, and a Laplacian in place of A is the same with other T.
It is evaluated from the right, X_a T0 + W (X_b T1 + W^T (X_a T2)): A^2 is never formed, and what is
propagated has the width of the output.
Shapes: n_a, n_b entities of the sides, F_a, F_b widths of their inputs, H output width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ensue.nn.activations import ACTIVATIONS, Activation
from ensue.nn.propagation import Adjacency


class SideWeights(nn.Module):
    """What makes the output of one side: T0, T1, ... in `theta`, as far as the degree, and b.

    theta: [F, H] each.

    own_width: F of the side itself, whose inputs T0 and T2 read.
    other_width: F of the other side, whose inputs T1 reads.
    """

    def __init__(self, own_width: int, other_width: int, width: int, degree: int) -> None:
        super().__init__()
        widths = (own_width, other_width, own_width)[: degree + 1]
        self.theta = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(w, width)) for w in widths
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def near(
        self,
        own: Tensor | None,
        other: Tensor | None,
        to_other: Callable[[Tensor, Tensor | None], Tensor],
    ) -> Tensor | None:
        """Return what the side reads of each entity of the other side, X_b T1 + W^T (X_a T2).

        Args:
            own, other: inputs of both sides; None is zero, as is what is returned then.
            to_other: the product with W^T, plus its second argument.
        """
        near = None
        if len(self.theta) > 1 and other is not None:
            near = other @ self.theta[1]
        if len(self.theta) > 2 and own is not None:
            near = to_other(own @ self.theta[2], near)
        return near

    def own(self, x: Tensor) -> Tensor:
        """Return what the inputs of the side itself add, X_a T0 + b."""
        return torch.addmm(self.bias, x, self.theta[0])


class GraphConvolution(nn.Module):
    """The block: outputs of both sides, given inputs of both. Both sides may be the same entities.

    Args:
        widths: F_a and F_b.
        width: H.
        degree: 0, a layer of its own for each entity; 1, with neighbors; 2, with theirs.
        is_shared: both sides have the same T and b; their inputs must be of one width.

    Raises:
        ValueError: the degree is none of these, or shared sides have different widths.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        width: int,
        *,
        degree: int = 2,
        activation: Activation = "relu",
        is_shared: bool = False,
    ) -> None:
        super().__init__()
        if degree not in (0, 1, 2):
            raise ValueError(f"GraphConvolution needs a degree of 0, 1 or 2; got {degree}")
        if is_shared and widths[0] != widths[1]:
            raise ValueError(f"sides that share weights need inputs of one width; got {widths}")
        self.degree, self.width = degree, width
        self.activation = ACTIVATIONS[activation]
        self.a = SideWeights(widths[0], widths[1], width, degree)
        self.b = self.a if is_shared else SideWeights(widths[1], widths[0], width, degree)

    def forward(self, graph: Adjacency, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [n_a, H] and [n_b, H] of inputs [n_a, F_a] and [n_b, F_b]."""
        to_a, to_b = graph.propagate, graph.propagate_back
        sums = []
        for side, own, other, to_own, to_other in (
            (self.a, x_a, x_b, to_a, to_b),
            (self.b, x_b, x_a, to_b, to_a),
        ):
            total, near = side.own(own), side.near(own, other, to_other)
            sums.append(self.activation(total if near is None else to_own(near, total)))
        return sums[0], sums[1]


class GraphConvolutions(nn.ModuleList):
    """Blocks one on the other, all of output width H; without any it is the identity."""

    def __init__(
        self,
        widths: tuple[int, int],
        width: int,
        *,
        num_layers: int,
        degree: int = 2,
        is_shared: bool = False,
    ) -> None:
        inputs = [widths, *[(width, width)] * num_layers]
        super().__init__(
            GraphConvolution(own, width, degree=degree, is_shared=is_shared)
            for own in inputs[:num_layers]
        )

    def forward(self, graph: Adjacency, x_a: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [n_a, H] and [n_b, H] of inputs [n_a, F_a] and [n_b, F_b]."""
        for block in self:
            x_a, x_b = block(graph, x_a, x_b)
        return x_a, x_b
