"""LightGCN's softmax: each item of a user against all that the user does not have.

Batches are of users, with all of their items: one propagation through the graph, the dearest part
of a step, serves thousands of interactions. The items of the other users in the batch come for
nothing; further ones are drawn uniformly. An item that is likely to be there is no better negative
than another, so the logarithm of that probability is taken off its logit, as in
`losses.contrastive`. With the whole catalogue there is nothing to correct.
Shapes: B users, S items of all of them, N negatives, C candidates, I items, U users.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ensue.data.histories import Histories
from ensue.losses.contrastive import batch_softmax_loss
from ensue.models.graph.lightgcn import LightGCN
from ensue.nn.jagged import row_numbers
from ensue.training.bags import UserObjective
from ensue.training.objective import Batch


class GraphSoftmaxObjective(UserObjective):
    """The softmax over the catalogue, or over what is drawn of it. An example is a user."""

    def __init__(
        self, model: LightGCN, histories: Histories, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(model, histories, batch_size=batch_size, seed=seed)
        model.observe_(histories)
        self._num_items, self._num_drawn = model.num_items, model.config.num_negatives or 0
        counts = torch.bincount(self._items, minlength=model.num_items + 1)[1:]
        self.log_q = self._log_q(counts.double()).float() if self._num_drawn else None

    def _log_q(self, counts: Tensor) -> Tensor:
        """Return the log of the probability that each item is among the candidates [I].

        It is not if no user of a batch of B out of U has it, C(U - counts, B) / C(U, B), nor a
        draw.

        Args:
            counts: of the users of each item [I].
        """
        num_users = torch.tensor(self.num_examples, dtype=counts.dtype)
        others = num_users - min(self.batch_size, self.num_examples)
        absent = torch.lgamma(num_users - counts + 1) + torch.lgamma(others + 1)
        absent -= torch.lgamma((others - counts + 1).clamp(min=0)) + torch.lgamma(num_users + 1)
        absent += self._num_drawn * math.log1p(-1 / max(2, self._num_items))
        return (-absent.clamp(max=0).expm1()).log()

    def extra(self, epoch: int, number: int) -> Tensor:
        """Return items [N] drawn uniformly, from 1 on; none where the catalogue is whole."""
        generator = self.generator(epoch, number + 1)
        return torch.randint(1, self._num_items + 1, (self._num_drawn,), generator=generator)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of the interactions of the users."""
        users, items, offsets, drawn = batch
        of_users, of_items = model.layers()
        columns, log_q = items - 1, None
        if self.log_q is not None:
            candidates, places = torch.unique(torch.cat([items, drawn]) - 1, return_inverse=True)
            columns = places[: len(items)]
            of_items = of_items[candidates]
            log_q = self.log_q.to(candidates.device)[candidates]
        return batch_softmax_loss(
            model.scaled_users(of_users[users - 1]),
            model.scaled_items(of_items),
            torch.stack([row_numbers(offsets, len(items)), columns]),
            temperature=model.config.temperature,
            log_q=log_q,
        )
