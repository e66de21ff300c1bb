"""First-order Markov chain: what follows the last item, backed off to popularity.

Counted, not factorized, so it is the maximum-likelihood form of the FMC baseline of Rendle et al.,
"Factorizing personalized Markov chains", WWW 2010. With n(i, j) transitions from i to j, n(i) in
all and p(j) the share of j in the interactions (a Dirichlet prior of weight s = `smoothing`):

    P(j | i) = (n(i, j) + s p(j)) / (n(i) + s)

Without a last item, or with one that nothing ever followed, this is p(j).
Shapes: B batch, I items, N distinct transitions.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer

from ensue.config import Config
from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import FittedModel
from ensue.nn.jagged import take_rows


class MarkovConfig(Config):
    """smoothing: weight of popularity, in transitions."""

    smoothing: float = Field(default=10.0, gt=0.0)


class Markov(FittedModel):
    """Transition counts by rows: row i is columns[offsets[i]:offsets[i + 1]], counts likewise."""

    Config = MarkovConfig
    max_len = 1
    popularity: Tensor
    offsets: Tensor
    columns: Tensor
    counts: Tensor

    def __init__(self, config: MarkovConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.register_buffer("popularity", torch.zeros(num_items + 1))
        self.register_buffer("totals", torch.zeros(num_items + 1))
        self.register_buffer("offsets", torch.zeros(num_items + 2, dtype=torch.long))
        # How many transitions there are is known once they are counted or loaded.
        self.register_buffer("columns", UninitializedBuffer())
        self.register_buffer("counts", UninitializedBuffer())

    def fit_(self, histories: Histories) -> None:
        """Count the transitions between neighbors in the histories."""
        width = self.num_items + 1
        users, items = histories.flat()
        is_transition = users[1:] == users[:-1]
        pairs = items[:-1][is_transition].astype(np.int64) * width + items[1:][is_transition]
        pairs, counts = np.unique(pairs, return_counts=True)
        sources = pairs // width
        self.offsets = torch.from_numpy(np.searchsorted(sources, np.arange(width + 1)))
        self.columns = torch.from_numpy((pairs % width).astype(np.int32))
        self.counts = torch.from_numpy(counts).float()
        self.totals = torch.from_numpy(np.bincount(sources, counts, minlength=width)).float()
        shares = histories.item_counts(self.num_items) / max(1, len(items))
        self.popularity = torch.from_numpy(shares).float()

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return P(item | last item of the history) [B, I + 1]."""
        last = batch.padded(1)[:, 0]
        positions, source = take_rows(self.offsets, last)
        counts = torch.zeros(len(batch), self.num_items + 1, device=last.device)
        counts[source, self.columns[positions].long()] = self.counts[positions]
        smoothing = self.config.smoothing
        return (counts + smoothing * self.popularity) / (self.totals[last, None] + smoothing)
