"""Rectified layers one after the other, as every ranking model has them.

Weights are drawn as in He et al., ICCV 2015, so that a deep one neither swells nor fades; biases
start at zero. Shapes: B rows, H width, U users, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.nn.dropout import Dropout

BLOCK_CELLS = 1 << 20  # numbers of a hidden layer of pairs that are made at a time


class Perceptron(nn.Module):
    """Linear layers, each with ReLU and dropout behind it; without layers it is the identity.

    width: H of what comes out.
    """

    def __init__(self, width: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        widths = [width, *hidden]
        self.width = widths[-1]
        self.layers = nn.ModuleList(rectified_layer(one, other) for one, other in pairwise(widths))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, H] of rows [B, width]."""
        for layer in self.layers:
            x = self.dropout(F.relu(layer(x), inplace=True))
        return x


class TaskTowers(nn.Module):
    """A perceptron and a linear output for each task, all of tensors of their own."""

    def __init__(
        self, width: int, hidden: Sequence[int], *, num_tasks: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(Perceptron(width, hidden, dropout) for _ in range(num_tasks))
        last = hidden[-1] if hidden else width
        self.outputs = nn.ModuleList(linear_layer(last, 1) for _ in range(num_tasks))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the output of each task [B, M], given what each of the M towers reads [B, H]."""
        columns = [
            output(tower(x))
            for output, tower, x in zip(self.outputs, self.towers, inputs, strict=True)
        ]
        return torch.cat(columns, dim=1)


def rectified_layer(width: int, size: int) -> nn.Linear:
    """Return a layer [width] to [size] that ReLU comes behind."""
    layer = nn.Linear(width, size)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def linear_layer(width: int, size: int) -> nn.Linear:
    """Return a layer [width] to [size] whose outputs are of the scale of its inputs."""
    layer = nn.Linear(width, size)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
    nn.init.zeros_(layer.bias)
    return layer


def add_pair_scores_(
    scores: Tensor, of_users: Tensor, of_items: Tensor, behind: Callable[[Tensor], Tensor]
) -> Tensor:
    """Add to scores [U, I] what a perceptron makes of every pair, and return them.

    The first layer of a pair is a sum, so it is computed for users and for items apart.

    Args:
        of_users, of_items: what they add to the first layer, [U, H] and [I, H].
        behind: the layers behind it, [U, n, H] to [U, n].
    """
    size = max(1, BLOCK_CELLS // max(1, of_users.numel()))
    for first in range(0, len(of_items), size):
        block = of_users[:, None] + of_items[first : first + size]
        scores[:, first : first + size] += behind(block)
    return scores
