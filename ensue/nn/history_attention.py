"""Attention of a candidate over a history: past values that resemble it count for more.

The activation unit of Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD
2018, arXiv:1706.06978: a weight for each past value, from a small network over it, the candidate
and their product; weights do not compete, so they are no softmax.
Departures: ReLU in place of Dice; no difference of the two among the inputs, for it is linear in
them; and the weighted sum is divided by the length of the history, with weights of 1 at the start:
it begins as the mean, and long histories do not outgrow short ones.
Histories lie one behind the other and are never padded. Shapes: B rows, S past values of all of
them, D width, A hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensue.nn.jagged import row_numbers
from ensue.nn.perceptron import rectified_layer


class HistoryAttention(nn.Module):
    """Weighted means of histories, the weights from what each row is about."""

    def __init__(self, dim: int, hidden_dim: int = 36) -> None:
        super().__init__()
        self.values = rectified_layer(dim, hidden_dim)
        self.products = nn.Linear(dim, hidden_dim, bias=False)
        self.targets = nn.Linear(dim, hidden_dim, bias=False)
        self.output = nn.Linear(hidden_dim, 1)
        nn.init.ones_(self.output.bias)

    def forward(self, values: Tensor, offsets: Tensor, targets: Tensor) -> Tensor:
        """Return [B, D]; 0 of an empty history.

        Args:
            values: [S, D]; offsets: [B + 1], as in nn.jagged.
            targets: [B, D].
        """
        rows = row_numbers(offsets, values.shape[0])
        weighted = values * self.weights(values, rows, targets)[:, None]
        pooled = values.new_zeros(targets.shape).index_add(0, rows, weighted)
        return pooled / offsets.diff().clamp(min=1)[:, None]

    def weights(self, values: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Return the weight of each past value [S], given the row [S] that it is of."""
        products = values * targets.index_select(0, rows)
        # What the target says by itself is computed once for a row, not for each value of it.
        own = self.targets(targets).index_select(0, rows)
        hidden = torch.relu(self.values(values) + self.products(products) + own)
        weight: Tensor = self.output(hidden)
        return weight.squeeze(1)
