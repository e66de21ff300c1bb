"""Ranking distillation in training: the teacher's first items beside the student's own loss.

Tang and Wang, "Ranking Distillation", KDD 2018, arXiv:1809.07428.
Departures: the probes are drawn without replacement, as in the paper, once for all queries of a
batch instead of for each, so that their scores are one matrix product; those that the user has in
training are left out query by query. Ranks are estimated without gradient, with dropout as in the
student's forward pass.
Shapes: S queries of G users, K teacher items, E probes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from ensue.config import Config
from ensue.data.histories import Histories
from ensue.losses.ranking_distillation import (
    discrepancy_weights,
    distillation_of_items,
    estimated_ranks,
    geometric_weights,
    hybrid_weights,
    position_weights,
    reciprocal_weights,
    uniform_weights,
)
from ensue.nn import rank_kernels
from ensue.nn.cpu_kernels import arrays, can_run
from ensue.nn.embedding import dot_rows, gather_rows
from ensue.training.distillation.teachers import TeacherCache
from ensue.training.objective import Batch, QueryObjective

Weighting = Literal["hybrid", "position", "discrepancy", "uniform", "reciprocal", "geometric"]
MAX_SCORES = 1 << 20  # of probes, held at a time


class RankingDistillationConfig(Config):
    """Settings of ranking distillation; the defaults are the authors' program for Gowalla.

    num_teacher_items: K, how many of the teacher's first items are positives.
    weighting: how they count. "position": less and less down the teacher's ranking; "discrepancy":
        the more, the lower the student ranks them than the teacher (after the burn-in; as
        "position" before); "hybrid": the product; "uniform": 1 / K; "reciprocal": 1 / r;
        "geometric": a share of what the items above leave.
    position_scale: lambda of "position": how slowly the weights fall.
    discrepancy_scale: mu of "discrepancy": how fast they rise with the difference of the ranks.
    geometric_share: rho of "geometric".
    normalize: whether the product's weights are divided by their sum (the paper) or not (its
        program).
    ranks: how the student's ranks are found: from a sample of items, or exactly, which makes the
        scores of the whole catalogue.
    num_probes: items of the sample, for a batch.
    burn_in: epochs at the start in which weights depend on positions alone.
    beta: weight of distillation beside the student's loss, as in the authors' program.
    alpha: in place of beta, the share of distillation: (1 - alpha) own + alpha distilled.
    exclude: which items the teacher's ranking leaves out: the target, also what the user had
        before it, or all that the user has in training.
    """

    num_teacher_items: int = Field(default=10, ge=0)
    weighting: Weighting = "hybrid"
    position_scale: float = Field(default=1.0, gt=0)
    discrepancy_scale: float = Field(default=0.1, gt=0)
    geometric_share: float = Field(default=0.5, gt=0, lt=1)
    normalize: bool = False
    ranks: Literal["sampled", "exact"] = "sampled"
    num_probes: int = Field(default=100, ge=1)
    burn_in: int = Field(default=10, ge=0)
    beta: float = Field(default=1.0, ge=0)
    alpha: float | None = Field(default=None, ge=0, le=1)
    exclude: Literal["target", "seen_before", "all_train"] = "target"

    @model_validator(mode="after")
    def _one_spelling(self) -> RankingDistillationConfig:
        if self.alpha is not None and "beta" in self.model_fields_set:
            raise ValueError("takes alpha or beta, not both")
        return self

    @property
    def scales(self) -> tuple[float, float]:
        """The factors of the student's own loss and of distillation."""
        return (1.0, self.beta) if self.alpha is None else (1 - self.alpha, self.alpha)


class RankingTerm:
    """Adds the loss of ranking distillation to the student's own."""

    num_tensors = 5

    def __init__(
        self,
        config: RankingDistillationConfig,
        cache: TeacherCache,
        histories: Histories,
        num_items: int,
    ) -> None:
        self._config, self._num_items = config, num_items
        self._items = np.asarray(cache.items)  # rows of a memory map itself are found slower
        self._ends = histories.ends
        self._offsets, self._own = histories.distinct_items(num_items)
        self._static = _static_weights(config, cache.items.shape[1])

    def tensors(
        self, rows: NDArray[np.int64], epoch: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Return teacher items [S, K], probes [E], users [S], what they have [G, E], counts [S].

        Users are numbered 0..G - 1 within the batch; what they have is which of the probes. The
        counts are of the items that each query's user does not have in training. Without weights
        that depend on ranks the last four are empty.
        """
        items = torch.from_numpy(self._items[rows].astype(np.int64))
        nothing = torch.zeros(0, dtype=torch.long)
        if not self._is_dynamic or epoch <= self._config.burn_in or self._config.scales[1] == 0:
            return [items, nothing, nothing, nothing, nothing]
        if self._config.ranks == "exact":
            probes = np.arange(1, self._num_items + 1)
        else:
            order = torch.randperm(self._num_items, generator=generator).numpy()
            probes = order[: self._config.num_probes] + 1
        users, owner = self._users(rows)
        place = np.full(self._num_items + 1, -1, dtype=np.int32)
        place[probes] = np.arange(len(probes), dtype=np.int32)
        has = np.zeros((len(users), len(probes)), dtype=bool)
        rank_kernels.mark_owned(self._offsets, self._own, users, place, has)
        lengths = self._offsets[users + 1] - self._offsets[users]
        found = probes, owner, has, (self._num_items - lengths)[owner]
        return [items, *(torch.from_numpy(array) for array in found)]

    def _users(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the users of rows [S] in order, each once [G], and which is that of a row [S]."""
        users, owner = np.empty((2, len(rows)), dtype=np.int64)
        count = rank_kernels.group_rows(np.argsort(rows), rows, self._ends, users, owner)
        return users[:count], owner

    @property
    def _is_dynamic(self) -> bool:
        return self._config.weighting in ("hybrid", "discrepancy")

    def loss(
        self,
        model: Any,
        base: QueryObjective,
        queries: Tensor,
        batch: Batch,
        tensors: Batch,
    ) -> Tensor:
        """Return the student's own loss and that of distillation, each with its factor."""
        own_scale, scale = self._config.scales
        own = base.query_loss(model, queries, batch)
        items, probes, owner, has, num_others = tensors
        if scale == 0 or items.shape[1] == 0:
            return own if own_scale == 1 else own_scale * own
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.to(model.output_embedding.dtype)
            weights = self._static.to(items.device)
            if len(probes):
                ranks = self._ranks(model, queries, items, probes, (owner, has), num_others)
                dynamic = discrepancy_weights(ranks, self._config.discrepancy_scale)
                if self._config.weighting == "discrepancy":
                    weights = torch.ones_like(weights)
                weights = hybrid_weights(weights, dynamic, normalize=self._config.normalize)
            distilled = distillation_of_items(
                queries, model.output_embedding, model.output_bias, items, weights
            )
        return own_scale * own + scale * distilled

    def _ranks(
        self,
        model: Any,
        queries: Tensor,
        items: Tensor,
        probes: Tensor,
        owned: tuple[Tensor, Tensor],
        num_others: Tensor,
    ) -> Tensor:
        """Return the student's ranks of the teacher's items [S, K], 1 is best."""
        owner, has = owned
        table, bias = model.output_embedding, model.output_bias
        count = _compiled_above if can_run(queries, table) else _above
        with torch.no_grad():
            drawn = table.index_select(0, probes)
            above = torch.empty(items.shape, dtype=torch.long, device=items.device)
            num_left = torch.empty(len(items), dtype=torch.long, device=items.device)
            size = max(1, MAX_SCORES // len(probes))
            for first in range(0, len(queries), size):
                part = slice(first, min(first + size, len(queries)))
                scores = queries[part] @ drawn.T
                above[part], num_left[part] = count(
                    scores, probes, has, owner[part], queries[part], table, bias, items[part]
                )
        if self._config.ranks == "exact":
            return above.double() + 1
        return estimated_ranks(above, num_probes=num_left[:, None], num_others=num_others[:, None])


def _above(
    scores: Tensor,
    probes: Tensor,
    has: Tensor,
    owner: Tensor,
    queries: Tensor,
    table: Tensor,
    bias: Tensor | None,
    items: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return how many probes are above each item [S, K], but those that the user has, of how many.

    Args:
        scores: [S, E], the products of queries and probes; changed.
        has: [G, E], and owner [S], the row there of each query.
    """
    logits = dot_rows(queries, table, items)
    if bias is not None:
        scores += bias[probes]
        logits = logits + gather_rows(bias, items)
    place = items.new_full((len(table),), -1)  # of an item among the probes
    place[probes] = torch.arange(len(probes), device=items.device)
    # By rounding, another product may give an item's score as a little below itself.
    own = place[items]
    logits = torch.where(own >= 0, scores.gather(1, own.clamp(min=0)), logits)
    scores.masked_fill_(has[owner], -torch.inf)
    is_above, ones = torch.empty_like(scores), scores.new_ones(len(probes))
    # A product with ones adds 0s and 1s, exactly up to 2^24, in half the time of sums.
    counts = [torch.gt(scores, value[:, None], out=is_above) @ ones for value in logits.T]
    return torch.stack(counts, dim=1).long(), len(probes) - has.sum(dim=1)[owner]


def _compiled_above(
    scores: Tensor,
    probes: Tensor,
    has: Tensor,
    owner: Tensor,
    queries: Tensor,
    table: Tensor,
    bias: Tensor | None,
    items: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the same, in one pass over the scores."""
    above, num_left = items.new_empty(items.shape), items.new_empty(len(items))
    own_bias = scores.new_empty(0) if bias is None else bias
    tensors = scores, probes, has, owner, queries, table, own_bias, items, above, num_left
    rank_kernels.count_above(*arrays(*tensors))
    return above, num_left


def _static_weights(config: RankingDistillationConfig, num_items: int) -> Tensor:
    """Return the weights of the positions [K]; before ranks are known, for all weightings."""
    if config.weighting == "uniform":
        return uniform_weights(num_items)
    if config.weighting == "reciprocal":
        return reciprocal_weights(num_items)
    if config.weighting == "geometric":
        return geometric_weights(num_items, config.geometric_share)
    return position_weights(num_items, config.position_scale)
