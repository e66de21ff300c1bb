"""The objective of two towers: targets among those of the batch, and two views of other items.

The second task (Yao et al., CIKM 2021, arXiv:2007.12865) adds alpha times its loss. Its items are
drawn uniformly from the catalogue, without repeats, so that rare items take part as often as
popular ones; what the views hide is drawn once for a batch.
Each kind of draw has a generator of its own: without the second task the first sees the same.
Shapes: n queries, P targets, N negatives, C = P + N candidates, M items of the second task, S items
of histories, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.feature_masks import check_features, correlated_masks, draw_masks
from ensue.data.frequency import log_expected
from ensue.data.histories import Histories
from ensue.data.mutual_information import MutualInformation, discretize, mutual_information
from ensue.data.negatives import CatalogNegatives
from ensue.data.target_groups import Queries, TargetGroups, find_known, find_repeats
from ensue.errors import ConfigError
from ensue.losses.contrastive import batch_softmax_loss, spread_out_square, view_contrast
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.retrieval.two_tower_config import TwoTowerConfig
from ensue.training.objective import Batch, Objective

MASKED = ("cfm", "rfm", "no_complement")  # tasks that hide features


class TwoTowerObjective(Objective):
    """Batches of queries with targets; an example is a target."""

    def __init__(
        self, model: TwoTower, histories: Histories, *, batch_size: int, seed: int
    ) -> None:
        config = self.config = model.config
        self._groups = TargetGroups(
            histories,
            model.num_items,
            kind=config.history,
            size=config.num_targets,
            needs_history=not model.features.users,
        )
        super().__init__(self._groups.num_targets, seed=seed)
        self._size = max(1, batch_size // config.num_targets)
        self._num_items = model.num_items
        counts = histories.item_counts(model.num_items)
        self._negatives = CatalogNegatives(counts, by_popularity=False)
        self._known = histories.distinct_items(model.num_items)
        self._per_target = torch.from_numpy(counts / max(1, counts.sum())).float()
        self._masks = self._make_masks(model)
        model.observe_(histories)
        if model.frequency is not None:
            model.frequency.gap.fill_(max(1.0, model.num_items / batch_size))

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield users [n], history [S], offsets [n + 1], targets [P], owners [P], negatives [N],
        excluded pairs [2, X], items of the second task [M] and what its views hide [2, F].
        """
        rng = np.random.default_rng(self.generator_state(epoch))
        order = self._groups.order(rng)
        groups = rng.permutation(len(self._groups))
        for number in range(first, -(-len(groups) // self._size)):
            own = groups[number * self._size : (number + 1) * self._size]
            queries = self._groups.take(own, order, self.config.max_len)
            generator = self.generator(epoch, number + 1)
            negatives = self._negatives.draw(self.config.num_negatives, generator).numpy()
            yield [
                torch.from_numpy(array)
                for array in (
                    *queries,
                    negatives,
                    self._excluded(queries, np.concatenate([queries.targets, negatives])),
                    *self._draw_second(queries, epoch, number),
                )
            ]

    def count(self, batch: Batch) -> int:
        """Return the number of targets."""
        return len(batch[3])

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of the targets, and of the second task beside it."""
        config = self.config
        users, history, offsets, targets, owners, negatives, excluded, shown, is_masked = batch
        queries = model.encode(history, offsets, model.user_values.take(users))
        candidates = torch.cat([targets, negatives])
        vectors = self.item_vectors(model, candidates, shown, is_masked)
        places = torch.arange(len(targets), device=targets.device)
        loss = batch_softmax_loss(
            queries,
            vectors[0],
            torch.stack([owners, places]),
            temperature=config.temperature,
            excluded=excluded,
            log_q=self.log_q(model, candidates, targets),
        )
        if not self.has_second:
            return loss
        if config.ssl == "spread_out_square":
            return loss + config.alpha * spread_out_square(vectors[1])
        temperature = config.ssl_temperature or config.temperature
        second = view_contrast(vectors[1], vectors[-1], temperature=temperature)
        return loss + config.alpha * second

    def item_vectors(
        self, model: TwoTower, candidates: Tensor, shown: Tensor, is_masked: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the vectors of candidates [C, D], and of items of the second task [M, D].

        The latter are there twice where the task has two views, and not without a task.
        """
        config = self.config
        inputs = [model.item_input(candidates, feature_dropout=config.feature_dropout)]
        if self.has_second and config.ssl.startswith("spread_out"):
            inputs.append(model.item_input(shown))
        elif self.has_second:
            inputs += model.views(shown, is_masked, drop=config.value_dropout)
        return torch.split(model.item_tower(torch.cat(inputs)), [len(part) for part in inputs])

    @property
    def has_second(self) -> bool:
        """Whether there is a second task."""
        return self.config.ssl != "none" and self.config.alpha != 0

    def log_q(self, model: TwoTower, candidates: Tensor, targets: Tensor) -> Tensor | None:
        """Return log of how often each candidate is expected in such a batch [C]."""
        config = self.config
        if config.logq == "none":
            return None
        if model.frequency is None:
            per_target = self._per_target.to(candidates.device)[candidates]
            expected = per_target * len(targets)
        else:
            if model.training:
                model.frequency.observe_(targets)
            expected = model.frequency.probabilities(candidates)
        return log_expected(expected, num_uniform=config.num_negatives, num_ids=self._num_items)

    def _excluded(self, queries: Queries, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pairs of a query and a candidate that is no negative [2, X]."""
        if self.config.hits == "known":
            return find_known(queries, candidates, *self._known, self._num_items)
        if self.config.hits == "target":
            return find_repeats(queries, candidates, self._num_items)
        return np.zeros((2, 0), dtype=np.int64)

    def _draw_second(
        self, queries: Queries, epoch: int, number: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the items of the second task [M] (none without it), and what the views hide."""
        config = self.config
        if not self.has_second:
            return np.zeros(0, dtype=np.int64), np.zeros((2, len(self._masks)), dtype=np.bool_)
        rng = np.random.default_rng(self.generator_state(epoch, number + 1, 1))
        if config.ssl_items == "batch":
            shown = np.unique(queries.targets)
        else:
            size = min(config.ssl_batch_size or len(queries.targets), self._num_items)
            shown = 1 + rng.choice(self._num_items, size, replace=False)
        kind: Any = config.ssl if config.ssl in MASKED else "dropout"
        return shown.astype(np.int64), draw_masks(kind, self._masks, rng)

    def _make_masks(self, model: TwoTower) -> NDArray[np.bool_]:
        """Return what each feature as a seed hides [F, F].

        Raises:
            ConfigError: there is nothing to hide.
        """
        config, columns = self.config, model.features.items
        count = len(model.item_embedding.names)
        if config.ssl == "dropout" and not any(column.kind == "multi" for column in columns):
            raise ConfigError(
                "ssl=dropout leaves out values of features with several; the items have none. "
                "Use ssl=rfm or ssl=cfm."
            )
        if config.ssl in MASKED:
            check_features(count)
        if config.ssl != "cfm":
            return np.eye(count, dtype=np.bool_)
        return feature_masks(feature_information(model), config)


def feature_information(model: TwoTower) -> MutualInformation:
    """Return what the features of a model's items say about each other."""
    ids = "id" if model.item_embedding.ids is not None else None
    return mutual_information(discretize(model.item_values.table(), ids=ids))


def feature_masks(found: MutualInformation, config: TwoTowerConfig) -> NDArray[np.bool_]:
    """Return what each feature as a seed hides [F, F], as a config says."""
    return correlated_masks(found.table(config.information), config.num_correlated)
