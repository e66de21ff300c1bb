"""EASE: the linear item-item model with zero diagonal, in closed form.

Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019, arXiv:1905.03375. With X the
binary user-item matrix and P the inverse of X'X + l2 * identity,

    weights(i, j) = -P(i, j) / P(j, j) for i != j,  0 on the diagonal

and the score of j is the sum of weights(i, j) over the distinct items i of the history. Departure:
a history without a known item gets the items in order of popularity.
Shapes: B batch, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from pydantic import Field
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer

from ensue.config import Config
from ensue.data.cooccurrence import Incidence, count_common_, map_item_blocks
from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import ConfigError
from ensue.models.base import FittedModel
from ensue.nn.jagged import last_occurrences, row_numbers

_BYTES_PER_CELL = 16  # while fitting: the matrix and its inverse, float64


class EASEConfig(Config):
    """max_items: largest catalog that is tried; memory grows with its square, time with its cube.

    l2: the larger it is, the more users it takes to believe that two items belong together.
    """

    l2: float = Field(default=500.0, gt=0.0)
    max_items: int = Field(default=20_000, ge=1)


class EASE(FittedModel):
    """Row i of `weights` [I + 1, I + 1] is what item i of a history adds to the scores."""

    Config = EASEConfig
    weights: Tensor
    popularity: Tensor

    def __init__(self, config: EASEConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        if num_items > config.max_items:
            raise ConfigError(
                f"EASE takes at most max_items={config.max_items} items; got {num_items}, "
                f"which need about {_BYTES_PER_CELL * num_items**2 / 1e9:.1f} GB to fit. "
                f"Set max_items={num_items} to try it, or use item-knn."
            )
        self.register_buffer("popularity", torch.zeros(num_items + 1))
        self.register_buffer("weights", UninitializedBuffer())

    def fit_(self, histories: Histories) -> None:
        """Solve for the weights."""
        incidence = Incidence.from_histories(histories, self.num_items)
        gram = np.zeros((self.num_items + 1, self.num_items + 1))
        map_item_blocks(
            lambda first, last: _gram_rows_(first, last, incidence, gram), self.num_items
        )
        matrix = torch.from_numpy(gram)
        matrix.diagonal().add_(self.config.l2)
        torch.linalg.cholesky(matrix, out=matrix)
        torch.cholesky_inverse(matrix, out=matrix)
        matrix.div_(-matrix.diagonal().clone())
        matrix.fill_diagonal_(0.0)
        self.weights = matrix.float()
        self.popularity = torch.from_numpy(histories.item_counts(self.num_items)).float()

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return the summed weights of the history's distinct items [B, I + 1]."""
        rows = row_numbers(batch.offsets)
        distinct = last_occurrences(rows, batch.items, self.num_items + 1)
        starts = torch.searchsorted(rows[distinct], torch.arange(len(batch), device=rows.device))
        scores = F.embedding_bag(batch.items[distinct], self.weights, starts, mode="sum")
        is_blank = ~scores.any(dim=1, keepdim=True)
        return scores + is_blank * self.popularity


@njit(cache=True, nogil=True)
def _gram_rows_(first: int, last: int, incidence: Any, gram: Any) -> None:
    """Write rows first..last - 1 of X'X into gram [I + 1, I + 1], which is zero on entry."""
    touched = np.empty(gram.shape[1], np.int32)
    for item in range(first, last):
        count_common_(item, incidence, gram[item], touched)
