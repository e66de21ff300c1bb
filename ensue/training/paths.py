"""The objective of Deep Retrieval, and what it does before each epoch: assign the items to paths.

Gao et al., CIKM 2021, arXiv:2007.07203: the likelihood of the items' paths and the softmax over
items are trained together, by gradients with the paths fixed; then the items are assigned anew by
what was noted on the way, and so on. The last epoch trains the final paths.
Departures: the likely paths of a random share of the examples are noted; the softmax is over the
whole catalogue or sampled, as the config's `loss` says.
Shapes: S real positions of a batch, E width of a query, J paths of an item, I items.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensue.data.histories import Histories
from ensue.losses.path_likelihood import path_loss
from ensue.models.retrieval.deep_retrieval import DeepRetrieval
from ensue.nn.path_layers import unpack_codes
from ensue.training.next_item import NextItemObjective
from ensue.training.objective import Batch
from ensue.training.path_assignment import (
    Candidates,
    Penalty,
    assign_paths,
    find_alpha,
    objective,
    path_sizes,
)
from ensue.training.path_scores import PathScores
from ensue.training.path_start import cluster_candidates

_ASSIGNMENT, _START, _NOTED = 1 << 20, 1 << 21, 1 << 22  # keys of generators, beside epochs


class PathObjective(NextItemObjective):
    """The next item by its paths and by the softmax; a batch also says whose paths are noted."""

    # Validation measures the softmax alone; the paths of an earlier epoch are trained less.
    keeps_last = True

    def __init__(
        self, model: DeepRetrieval, histories: Histories, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(model, histories, batch_size=batch_size, seed=seed)
        config = self._settings = model.config
        self._scores = PathScores(
            model.num_items,
            size=min(config.num_candidates, model.path_layers.num_paths),
            decay=config.decay,
        )
        self._counts = self._target_counts(histories, model.num_items)
        self._trains_paths = self._trains_encoder = True
        self._sums = torch.zeros(2, dtype=torch.float64)  # of the epoch: path loss, positions

    @staticmethod
    def _target_counts(histories: Histories, num_items: int) -> np.ndarray[Any, Any]:
        """Return how often each item 1..I is a target: all its events but first ones."""
        counts = histories.item_counts(num_items)
        firsts = histories.items[histories.starts[histories.lengths > 0]]
        return (counts - np.bincount(firsts, minlength=num_items + 1))[1:].astype(np.float64)

    def start_epoch(self, model: Any, epoch: int, *, is_resumed: bool) -> dict[str, Any]:
        """Assign the items to paths, by what the epochs before have noted."""
        config = self._settings
        self._trains_paths = epoch > 1 or config.start == "random"
        self._trains_encoder = config.joint_epochs is None or epoch <= config.joint_epochs
        if not self._trains_encoder:
            for parameter in model.encoder_parameters():
                parameter.requires_grad_(requires_grad=False)
                parameter.grad = None  # an optimizer goes on by momentum where a gradient is zero
        if is_resumed:
            return {}
        self._sums.zero_()
        if epoch == 1:
            return {}
        if epoch == 2 and config.start == "kmeans":
            return {"paths": self._cluster(model)}
        return {"paths": self._assign(model, self._candidates(), epoch)}

    def end_epoch(self) -> dict[str, Any]:
        """Return the mean of the path loss in the epoch, in nats."""
        total, count = self._sums.tolist()
        return {"path_loss": total / count} if count else {}

    def state(self) -> dict[str, Tensor]:
        """Return what was noted."""
        return {**self._scores.state(), "sums": self._sums}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take what `state` returned."""
        self._scores.load_state(tensors)
        self._sums = tensors["sums"].clone()

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield what `NextItemObjective` does, and behind it the positions to be noted [n]."""
        for number, batch in enumerate(super().batches(epoch, first=first), start=first):
            draws = torch.rand(len(batch[3]), generator=self.generator(epoch, number, _NOTED))
            is_noted = draws < self._settings.score_share
            yield [*batch, is_noted.nonzero().squeeze(1)]

    def queries(self, model: Any, batch: Batch) -> Tensor:
        """Return the queries of the real positions [S, E]."""
        return super().queries(model, batch[:-1])

    def query_loss(self, model: Any, queries: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of the real positions: of the softmax, of the paths, or of both."""
        *batch, noted = batch
        loss = queries.new_zeros(())
        if self._trains_encoder:
            loss = super().query_loss(model, queries, batch)
        if not self._trains_paths:
            return loss
        targets = batch[1].flatten()
        targets = targets[targets.nonzero().squeeze(1)]
        layers = model.path_layers
        with torch.autocast(queries.device.type, enabled=False):
            wide = queries.to(layers.node_embedding.dtype)
            choices = unpack_codes(model.paths[targets], depth=layers.depth, width=layers.width)
            of_paths = path_loss(layers, wide, choices)
            self._note(model, wide.detach()[noted], targets[noted])
        self._sums += torch.tensor([of_paths.item(), len(targets)], dtype=torch.float64)
        return loss + of_paths / len(targets)

    @torch.no_grad()
    def _note(self, model: DeepRetrieval, queries: Tensor, targets: Tensor) -> None:
        """Take note of the likely paths of queries [n, E], for the items that follow them [n]."""
        if len(targets):
            codes, log_p = model.path_layers.search(queries, self._settings.num_candidates)
            self._scores.add(targets, codes, log_p.exp())

    def _candidates(self) -> Candidates:
        return Candidates(self._scores.codes[1:], self._scores.scores[1:], self._counts)

    def _cluster(self, model: DeepRetrieval) -> dict[str, Any]:
        """Make paths of the item vectors, and return what the log says of them."""
        candidates = cluster_candidates(
            model.output_embedding.detach()[1:].float().cpu(),
            depth=self._settings.depth,
            width=self._settings.width,
            num_candidates=self._settings.num_candidates,
            generator=self.generator(_START),
        )
        return self._assign(model, candidates, epoch=2)

    def _assign(self, model: DeepRetrieval, candidates: Candidates, epoch: int) -> dict[str, Any]:
        """Assign the items anew, and return what the log says of it."""
        started, config = time.perf_counter(), self._settings
        before = model.paths[1:].cpu().numpy().copy()  # they are written to below
        seed = self.generator_state(epoch, _ASSIGNMENT)
        alpha = config.alpha
        if alpha is None:
            alpha = find_alpha(
                candidates,
                before,
                path_size=config.path_size,
                power=config.power,
                seed=seed,
                method=config.m_step,
            )
        penalty = Penalty(alpha, config.power)
        after = assign_paths(
            candidates,
            before,
            penalty,
            sweeps=config.sweeps,
            rng=np.random.default_rng(seed),
            method=config.m_step,
        )
        model.paths[1:] = torch.from_numpy(after).to(model.paths.device)
        sizes = path_sizes(after)
        return {
            "alpha": alpha,
            "objective_before": objective(candidates, before, penalty),
            "objective": objective(candidates, after, penalty),
            "moved": float((before != after).any(axis=1).mean()),
            "num_paths": len(sizes),
            "largest": int(sizes.max()),
            "seconds": time.perf_counter() - started,
        }
