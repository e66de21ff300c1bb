"""The objective of MEDRES: what a user goes on to take, against drawn items.

Budhiraja, Hiranandani et al., arXiv:2001.10495, train on pAp@k: that is the setting loss=papk, of
`training.papk`. Here each user of a batch has N items, drawn of those he never takes.
Shapes: B users of a batch, P positives, N negatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories
from ensue.data.negatives import UniformNegatives
from ensue.losses.pointwise import negative_loss, positive_loss
from ensue.losses.reduce import masked_mean
from ensue.models.graph.medres import Medres
from ensue.training.cuts import Cut, CutObjective
from ensue.training.objective import Batch


class MedresObjective(CutObjective):
    """Positives behind a cut against drawn items. An example is a user."""

    def __init__(self, model: Medres, histories: Histories, *, batch_size: int, seed: int) -> None:
        self.config = model.config
        reading = self.config.history
        super().__init__(model, histories, reading=reading, batch_size=batch_size, seed=seed)
        self._negatives = UniformNegatives(histories, model.num_items)

    def draw(self, users: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Return negatives [B, N] of the users; 0 for one who has every item."""
        return self._negatives.draw(users, self.config.num_negatives, generator)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of positives, and for "bce" that of negatives beside it.

        Positives and negatives weigh the same, however many there are of each.
        """
        cut = Cut.of(batch)
        encoded = model.encode(cut.before)
        candidates = torch.cat([cut.positives, cut.drawn], dim=1)
        is_real, num_positives = candidates > 0, cut.positives.shape[1]
        logits = model.match_pairs(encoded, candidates)
        high, low = logits[:, :num_positives], logits[:, num_positives:]
        is_high, is_low = is_real[:, :num_positives], is_real[:, num_positives:]
        if self.config.loss == "bce":
            positive = masked_mean(positive_loss(high), is_high)
            return positive + masked_mean(negative_loss(low), is_low)
        log_sum = low.masked_fill(~is_low, -torch.inf).logsumexp(dim=1, keepdim=True)
        return masked_mean(torch.logaddexp(high, log_sum) - high, is_high)
