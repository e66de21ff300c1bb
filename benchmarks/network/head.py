"""What stands on the tables of a workload's model: logits of sums of rows, and the log loss.

The same in the parameter server, in TorchRec's programs and in the asynchronous run, with the same
start. Imports PyTorch alone. Shapes: B rows, F columns, k width of the vectors, K numbers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.network.workloads import Workload


class Head(nn.Module):
    """A bias, the square of the summed vectors, and the tower, of what the model has."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bias = nn.Parameter(torch.zeros(()))
        deep = workload.model in ("deepfm", "dnn")
        first = len(workload.sizes) * workload.dim + workload.numbers
        widths = (first, *workload.hidden, 1) if deep else ()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.has_pairs = workload.model in ("fm", "deepfm")

    def forward(self, terms: Tensor, sums: Tensor, pooled: Tensor, numbers: Tensor) -> Tensor:
        """Return the logits [B].

        Args:
            terms: [B], the sum of the weights, less half the sum of the squared vectors of a
                factorization machine.
            sums: [B, k], of all vectors of a row. pooled: [B, F * k], of those of each column.
            numbers: [B, K].
        """
        logits: Tensor = self.bias + terms
        if self.has_pairs:
            logits = logits + sums.square().sum(dim=1) / 2
        if not self.layers:
            return logits
        hidden = torch.cat([pooled, numbers], dim=1)
        for layer in self.layers[:-1]:
            hidden = layer(hidden).relu()
        deep: Tensor = self.layers[-1](hidden)
        return logits + deep.squeeze(1)


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the log losses; the programs divide it by the rows of all workers."""
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


def fold(rows: Tensor, workload: Workload) -> Tensor:
    """Return rows [U, c] of a table as what is summed over a sample: terms, then vectors.

    A term is the weight, less half the squared vector for a factorization machine; a model without
    weights has terms of zero.
    """
    if workload.model == "lr":
        return rows
    if workload.model == "dnn":
        return torch.cat([rows.new_zeros(len(rows), 1), rows], dim=1)
    vectors = rows[:, 1:]
    terms = rows[:, :1] - vectors.square().sum(dim=1, keepdim=True) / 2
    return torch.cat([terms, vectors], dim=1)


def logits_of(head: Head, folded: Tensor, numbers: Tensor) -> Tensor:
    """Return the logits [B] of the sums [B, F or 1, 1 + k] of folded rows of each column."""
    vectors = folded[:, :, 1:]
    sums = folded.sum(dim=1)
    logits: Tensor = head(sums[:, 0], sums[:, 1:], vectors.flatten(1), numbers)
    return logits
