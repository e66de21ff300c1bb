"""Train an encoder to predict a column: a head behind the codes, both trained.

The head is that of Zhao et al., Medical Image Analysis 71 (2021): a layer of 64 with ReLU. Classes
count alike.
Shapes: B rows, D width of the codes, C classes (1 of a number).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ensue.data.longitudinal.measurements import Inputs, Rows
from ensue.models.representation.lssl import LSSL
from ensue.nn.perceptron import Perceptron, linear_layer
from ensue.training.objective import Batch, ExampleObjective

HIDDEN, DROPOUT = 64, 0.2


class ProbeNetwork(nn.Module):
    """An encoder and a head."""

    def __init__(self, model: LSSL, num_outputs: int) -> None:
        super().__init__()
        self.model = model
        self.perceptron = Perceptron(model.config.dim, [HIDDEN], DROPOUT)
        self.out = linear_layer(HIDDEN, num_outputs)

    def forward(self, x: Inputs) -> Tensor:
        """Return [B, C]."""
        out: Tensor = self.out(self.perceptron(self.model.encode(x)))
        return out


class ProbeObjective(ExampleObjective):
    """Rows and what is to be predicted of them.

    Args:
        rows: all measurements, on the device of the network.
        numbers: [n], those to train on.
        targets: [n], classes, or numbers of float32.
        class_weights: [C], of classes.
    """

    def __init__(
        self,
        rows: Rows,
        numbers: NDArray[Any],
        targets: NDArray[Any],
        *,
        class_weights: Tensor | None,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(len(numbers), batch_size=batch_size, seed=seed)
        self._rows = rows
        self._numbers, self._targets = torch.from_numpy(numbers), torch.from_numpy(targets)
        self._weights = class_weights

    def make(self, index: NDArray[Any], generator: torch.Generator) -> Batch:
        """Return the rows [n] and their targets [n]."""
        return [self._numbers[index], self._targets[index]]

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        rows, targets = batch
        found = model(self._rows.take(rows))
        if self._weights is None:
            return F.mse_loss(found[:, 0], targets)
        return F.cross_entropy(found, targets, weight=self._weights.to(found.device))
