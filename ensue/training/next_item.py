"""The objective of models of sequences: behind every event, the event that follows.

Logits are made for real positions only. Losses: the softmax over the whole catalogue; the softmax
over a sample, corrected (`losses.sampled_softmax`); gBCE and BCE against items drawn uniformly
for each position (`losses.gbce`), with logits that are counted from the log odds of a target among
its candidates: a constant, which no ranking depends on.
Shapes: B batch, T positions, S real positions of a batch, D width, N negatives, I items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensue.data.histories import Histories
from ensue.data.length_batches import LengthBatches
from ensue.data.negatives import CatalogNegatives
from ensue.losses.full_softmax import full_softmax_loss
from ensue.losses.gbce import gbce_beta, gbce_loss
from ensue.losses.sampled_softmax import sampled_softmax_loss
from ensue.models.sequence import SequenceModel
from ensue.nn.embedding import dot_rows, gather_rows
from ensue.nn.growing_items import see_items_
from ensue.training.objective import Batch, QueryObjective


class NextItemObjective(QueryObjective):
    """Every real position of a batch of histories against its next item.

    An example is a position. `batch_size` counts histories of mean length.
    """

    def __init__(
        self, model: SequenceModel, histories: Histories, *, batch_size: int, seed: int
    ) -> None:
        config = model.config
        self._batches = LengthBatches(
            histories, max_len=config.max_len, batch_size=batch_size, crop=config.crop
        )
        super().__init__(self._batches.num_targets, seed=seed)
        model.observe_(histories)
        self._config = config
        self._negatives = CatalogNegatives(
            histories.item_counts(model.num_items), by_popularity=config.negatives != "uniform"
        )
        self._beta = 1.0
        if config.loss == "gbce":
            self._beta = gbce_beta(config.num_negatives, model.num_items, config.calibration)
        # Of a target among its candidates. A model without biases would have to learn it first, by
        # making all queries alike, and stays so for many epochs.
        self._log_odds = float(np.log(self._beta / config.num_negatives))

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield items [B, T], targets [B, T], negatives ([N], [S, N] or none) and rows [S].

        Where the histories have context, that of the events and that of the requests come behind,
        both [B, T, C].
        """
        plan = self._batches.plan(np.random.default_rng(self.generator_state(epoch)))
        for number in range(first, len(plan)):
            rng = np.random.default_rng(self.generator_state(epoch, number + 1))
            rows, is_real = self._batches.rows(plan[number], rng)
            items, targets, *context = self._batches.take(rows, is_real)
            negatives = self._draw(targets, self.generator(epoch, number + 1))
            own_rows = rows[:, 1:][is_real[:, 1:]]
            yield (
                torch.from_numpy(items),
                torch.from_numpy(targets),
                negatives,
                torch.from_numpy(own_rows),
                *map(torch.from_numpy, context),
            )

    def count(self, batch: Batch) -> int:
        """Return the number of real positions."""
        return int(batch[1].count_nonzero())

    def rows(self, batch: Batch) -> Tensor:
        """Return the interaction that each query precedes [S]."""
        return batch[3]

    def queries(self, model: Any, batch: Batch) -> Tensor:
        """Return the queries of the real positions [S, D]."""
        items, targets, _, _, *context = batch
        see_items_(model, items[:, 0], targets)  # each event once
        if self._config.loss == "softmax":
            model.item_table()  # now, so that a growing one is read once, for the events as well
        positions = targets.flatten().nonzero().squeeze(1)
        queries: Tensor = model.encode(items, *context).flatten(0, 1).index_select(0, positions)
        return queries

    def query_loss(self, model: Any, queries: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of the real positions."""
        targets, negatives = batch[1].flatten(), batch[2]
        targets = targets[targets.nonzero().squeeze(1)]
        if self._config.loss == "softmax":
            table, bias = model.item_table()
            return full_softmax_loss(queries, table, targets, bias=bias) / len(targets)
        if self._config.loss == "sampled_softmax":
            return self._sampled_softmax(model, queries, targets, negatives).mean()
        candidates = torch.cat([targets[:, None], negatives], dim=1)
        logits = _candidate_logits(model, queries, candidates) + self._log_odds
        return gbce_loss(logits[:, 0], logits[:, 1:], beta=self._beta).mean()

    def _draw(self, targets: np.ndarray[Any, Any], generator: torch.Generator) -> Tensor:
        """Return the negatives of a batch."""
        config = self._config
        if config.loss == "softmax":
            return torch.zeros(0, dtype=torch.long)
        real = torch.from_numpy(targets[targets > 0])
        if config.loss != "sampled_softmax":
            return self._negatives.draw_others(real, config.num_negatives, generator)
        if config.negatives == "in_batch":
            return real
        return self._negatives.draw(config.num_negatives, generator)

    def _sampled_softmax(
        self, model: SequenceModel, queries: Tensor, targets: Tensor, negatives: Tensor
    ) -> Tensor:
        """Return the loss [S] of targets [S] against negatives [N] shared by all positions."""
        table, bias = model.output_embedding, model.output_bias
        positive = _candidate_logits(model, queries, targets[:, None]).squeeze(1)
        negative = queries @ gather_rows(table, negatives).to(queries.dtype).T
        if bias is not None:
            negative = negative + gather_rows(bias, negatives)
        log_q = self._negatives.log_q.to(targets.device) + float(np.log(len(negatives)))
        return sampled_softmax_loss(
            positive,
            negative,
            is_hit=negatives == targets[:, None],
            positive_log_q=log_q[targets],
            negative_log_q=log_q[negatives],
        )


def _candidate_logits(model: SequenceModel, queries: Tensor, candidates: Tensor) -> Tensor:
    """Return logits [S, C] of candidate ids [S, C] for queries [S, D], in float32.

    Rows looked up one by one gain nothing from a smaller type.
    """
    table, bias = model.output_embedding, model.output_bias
    with torch.autocast(queries.device.type, enabled=False):
        logits = dot_rows(queries.to(table.dtype), table, candidates)
        return logits if bias is None else logits + gather_rows(bias, candidates)
