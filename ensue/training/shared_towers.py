"""The objective of two towers that several workers train together.

A worker makes the vectors of its own queries, of their targets, and of its share of all other items
of a batch. The vectors of items go to all workers, so that each query still is told apart from
every candidate of the whole batch; the gradients of the vectors come back as sums.
Shapes: N workers; n queries, P targets, C candidates, M items of the second task, S items of
histories, X excluded pairs; D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ensue.distributed.items import SharedItems
from ensue.distributed.uneven import gather_uneven, share_of
from ensue.losses.contrastive import batch_softmax_loss
from ensue.training.objective import Batch
from ensue.training.shared_items import Share, SharedObjective
from ensue.training.two_tower import TwoTowerObjective


class SharedTowers(SharedObjective[TwoTowerObjective]):
    """The queries of a worker against the targets of all."""

    def __init__(self, shared: SharedItems, whole: TwoTowerObjective) -> None:
        super().__init__(shared, whole, [["item_embedding.ids"], ["history_ids.ids"]])
        self._has_own_history = "history_ids.ids" in shared.tables

    def share(self, batch: Batch) -> Share:
        """Return own queries and their pairs, own items, and of all what the softmax must know.

        The last two are the number of vectors of items that each worker makes [N], and where those
        of candidates and of the second task then are among all [C + M].
        """
        users, history, offsets, targets, owners, negatives, excluded, shown, is_masked = batch
        rank, size = self.workers
        starts = torch.tensor([share_of(len(users), one, size).start for one in range(size)])
        edges = [*torch.searchsorted(owners, starts).tolist(), len(targets)]
        items = torch.cat([targets, negatives, shown])
        num_candidates = len(targets) + len(negatives)
        made = _dealt(edges, len(negatives), len(shown), size)
        mine = made[rank]
        is_candidate = mine < num_candidates
        own_items, own_shown = items[mine[is_candidate]], items[mine[~is_candidate]]

        queries = share_of(len(users), rank, size)
        first = int(offsets[queries.start])
        own_history = history[first : int(offsets[queries.stop])]
        of_targets = slice(edges[rank], edges[rank + 1])
        pairs = torch.stack([owners, torch.arange(len(targets))])[:, of_targets]
        is_own = (excluded[0] >= queries.start) & (excluded[0] < queries.stop)
        share = [
            users[queries],
            own_history,
            offsets[queries.start : queries.stop + 1] - first,
            own_items,
            own_shown,
            is_masked,
            targets,
            items[:num_candidates],
            _from_row(pairs, queries.start),
            _from_row(excluded[:, is_own], queries.start),
            mine[~is_candidate] - num_candidates,
            torch.tensor([len(one) for one in made]),
            torch.argsort(torch.cat(made)),
        ]
        read = torch.cat([own_items, own_shown])
        if not self._has_own_history:
            read = torch.cat([read, own_history])
        return Share(share, [read, own_history])

    def share_loss(self, model: Any, tensors: Sequence[Tensor], total: int) -> Tensor:
        """Return the loss of own targets and own items of the second task over the numbers of all.

        All candidates are negatives of a query, as in one process.
        """
        users, history, offsets, items, shown, is_masked, *of_all = tensors
        targets, candidates, pairs, excluded, own_seconds, counts, places = of_all
        config, workers = self._whole.config, self._shared.workers
        queries = model.encode(history, offsets, model.user_values.take(users))
        vectors = self._whole.item_vectors(model, items, shown, is_masked)
        own = torch.cat([vectors[0], *vectors[1:][-1:]])
        everyone = gather_uneven(own, counts.tolist(), workers).index_select(0, places)
        loss = batch_softmax_loss(
            queries,
            everyone[: len(candidates)],
            pairs,
            temperature=config.temperature,
            excluded=excluded,
            log_q=self._whole.log_q(model, candidates, targets),
        ) * (pairs.shape[1] / total)
        if not self._whole.has_second:
            return loss
        seconds = everyone[len(candidates) :]
        if config.ssl == "spread_out_square":
            return loss + config.alpha * _spread_out_square(vectors[1], seconds)
        second = batch_softmax_loss(
            vectors[1],
            seconds,
            torch.stack([torch.arange(len(own_seconds), device=own_seconds.device), own_seconds]),
            temperature=config.ssl_temperature or config.temperature,
        )
        return loss + config.alpha * second * (len(own_seconds) / len(seconds))


def _dealt(edges: Sequence[int], num_negatives: int, num_shown: int, size: int) -> list[Tensor]:
    """Return which vectors each worker makes, as numbers of targets, negatives and shown items.

    Args:
        edges: [N + 1], the targets of worker r are those from edges[r] to edges[r + 1].
    """
    num_targets = edges[-1]
    numbers = torch.arange(num_targets + num_negatives + num_shown)
    targets, negatives, shown = torch.split(numbers, [num_targets, num_negatives, num_shown])
    return [
        torch.cat(
            [
                targets[edges[rank] : edges[rank + 1]],
                negatives[share_of(num_negatives, rank, size)],
                shown[share_of(num_shown, rank, size)],
            ]
        )
        for rank in range(size)
    ]


def _from_row(pairs: Tensor, first: int) -> Tensor:
    """Return pairs [2, P] with queries counted from the first one of a worker."""
    return torch.stack([pairs[0] - first, pairs[1]])


def _spread_out_square(own: Tensor, everyone: Tensor) -> Tensor:
    """Return the part of own vectors [m, D] in `spread_out_square` of those of all [M, D]."""
    products = ((own.T @ own) * (everyone.T @ everyone)).sum()
    return (products - own.square().sum(dim=1).square().sum()) / max(1, len(everyone))
