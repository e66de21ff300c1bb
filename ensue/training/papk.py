"""Training on pAp@k itself: what users go on to take, against the best of what they do not.

The surrogates are those of `losses.papk`. Of any model, user by user: the history is cut in two
(`training.cuts`), the model scores the catalogue for what lies before the cut, and the items behind
it are the positives. All items that the user never takes are the negatives, or a sample of them in
a large catalogue: of N out of I items the best k N / I stand for the best k.
Only the scores of the positives and negatives that the loss counts pass a gradient on: a model that
can score chosen items alone (`PairScorer`) scores these a second time, with a gradient.
Shapes: B users of a batch, P positives, N negatives, I items.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories
from ensue.losses.papk import PapkConfig, PapkForm, papk_loss
from ensue.losses.pointwise import negative_loss, positive_loss
from ensue.losses.reduce import masked_mean
from ensue.models.base import Model
from ensue.nn.growing_items import see_items_
from ensue.protocols import PairScorer
from ensue.training.cuts import NONE, Cut, CutObjective, Reading
from ensue.training.objective import Batch

ANY_ITEMS = 200  # negatives of a step of binary cross-entropy, where a model scores chosen items
WHOLE = 32  # a product with this many times the vectors is as fast as one with chosen ones
ALL_ITEMS = 50_000  # a catalogue up to which all items that a user does not take are negatives


class PapkObjective(CutObjective):
    """A user's history up to a cut against what follows. An example is a user."""

    def __init__(
        self, model: Model, histories: Histories, config: PapkConfig, *, batch_size: int, seed: int
    ) -> None:
        own: Reading = getattr(model.config, "history", "before")
        reading = config.history or own
        super().__init__(model, histories, reading=reading, batch_size=batch_size, seed=seed)
        self.config = config
        drawn = config.num_negatives or (None if model.num_items <= ALL_ITEMS else 1000)
        self._num_drawn = None if drawn is None or drawn >= model.num_items else drawn
        self._warmup = config.warmup or ("bce" if isinstance(model, PairScorer) else "avg")
        self._form: PapkForm | Literal["bce"] = config.form

    def draw(self, users: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Return items [N] for the users of a batch together, or none for all items."""
        if self._num_drawn is None:
            return NONE
        return torch.randperm(self._num_items, generator=generator)[: self._num_drawn] + 1

    def start_epoch(self, model: Any, epoch: int, *, is_resumed: bool) -> dict[str, Any]:
        """Choose the surrogate of the epoch."""
        is_warming = epoch <= self.config.warmup_epochs
        self._form = self._warmup if is_warming else self.config.form
        return {"papk_form": self._form}

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean surrogate of the users who have a positive."""
        cut = Cut.of(batch)
        see_items_(model, cut.before.items, cut.positives)
        k, is_positive = self.config.k, cut.positives > 0
        if len(cut.drawn):
            k = max(1, round(k * len(cut.drawn) / self._num_items))
        read = _read_pairs if isinstance(model, PairScorer) else _read_all
        best = None if self._form == "bce" else k
        high, low, is_negative = read(model, cut, self._num_items, best)
        if self._form == "bce":
            positive = masked_mean(positive_loss(high), is_positive)
            return positive + masked_mean(negative_loss(low), is_negative)
        losses = papk_loss(
            high, low, k, form=self._form, is_positive=is_positive, is_negative=is_negative
        )
        return losses.sum() / is_positive.any(1).sum().clamp(min=1)


def _read_all(
    model: Any, cut: Cut, num_items: int, best: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores of the positives [B, P] and of items [B, N], and which items are negatives."""
    scores = model.score(cut.before)
    is_negative = cut.is_negative(num_items)
    high = scores.gather(1, cut.positives)
    if len(cut.drawn):
        return high, scores[:, cut.drawn], is_negative[:, cut.drawn]
    return high, scores, is_negative


def _read_pairs(
    model: PairScorer, cut: Cut, num_items: int, best: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same of the `best` negatives alone, or of any few items for None."""
    encoded, device = model.encode(cut.before), cut.positives.device
    items = cut.drawn if len(cut.drawn) else torch.arange(1, num_items + 1, device=device)
    if best is None:
        items = items[torch.randperm(len(items), device=device)[:ANY_ITEMS]]
        high, low = model.match_pairs(encoded, cut.positives), model.match(encoded, items)
        return high, low, cut.is_negative(num_items)[:, items]
    is_negative = cut.is_negative(num_items)
    is_negative = is_negative[:, items] if len(cut.drawn) else is_negative[:, 1:]
    best, num_positives = min(best, len(items)), cut.positives.shape[1]
    is_small = num_items <= WHOLE * (num_positives + best) and not len(cut.drawn)
    with torch.set_grad_enabled(is_small and getattr(model, "scores_by_product", False)):
        scores = model.match(encoded, items)
    places = scores.detach().masked_fill(~is_negative, -torch.inf).topk(best, dim=1).indices
    is_low = is_negative.gather(1, places)
    if scores.requires_grad:
        return scores.gather(1, (cut.positives - 1).clamp(min=0)), scores.gather(1, places), is_low
    logits = model.match_pairs(encoded, torch.cat([cut.positives, items[places]], dim=1))
    return logits[:, :num_positives], logits[:, num_positives:], is_low
