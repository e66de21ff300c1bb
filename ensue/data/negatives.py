"""Negatives: items a user does not have, or any items but the target, drawn without rejection.

A user with n distinct items s_1 < ... < s_n leaves I - n items. Draw r uniformly in 0..I - n - 1;
with g_k = s_k - k, the item is r + 1 + #{k : g_k <= r}: the r-th item of the complement.
Shapes: U users, I items, B batch, N negatives.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories


class UniformNegatives:
    """Draws items that do not occur in a user's history, each with the same probability.

    Memory: 4 bytes for each distinct (user, item) pair.
    """

    def __init__(self, histories: Histories, num_items: int) -> None:
        self.num_items = num_items
        self._offsets, distinct = histories.distinct_items(num_items)
        first = np.repeat(self._offsets[:-1], np.diff(self._offsets))
        rank = np.arange(len(distinct)) - first + 1  # k = 1..n within the user
        self._gaps = (distinct - rank).astype(np.int32)

    def draw(self, users: NDArray[np.int64], count: int, generator: torch.Generator) -> Tensor:
        """Return item ids [B, count] int64; 0 for a user who has every item."""
        uniform = torch.rand(len(users), count, dtype=torch.float64, generator=generator)
        out = np.empty((len(users), count), dtype=np.int64)
        _pick(uniform.numpy(), users, self._offsets, self._gaps, self.num_items, out)
        return torch.from_numpy(out)


class CatalogNegatives:
    """Draws items of the catalogue with replacement, whoever the user is.

    log_q: [I + 1] float32, log of the probability that one draw is the item; -inf for padding.

    Args:
        item_counts: [I + 1], interactions of each item.
        by_popularity: in proportion to the interactions, plus one so that each item can be drawn;
            otherwise uniformly.
    """

    def __init__(self, item_counts: NDArray[np.int64], *, by_popularity: bool) -> None:
        self.num_items = len(item_counts) - 1
        weights = item_counts + 1.0 if by_popularity else np.ones(len(item_counts))
        weights[0] = 0.0
        self._bounds = torch.from_numpy(np.cumsum(weights / weights.sum()))
        with np.errstate(divide="ignore"):
            self.log_q = torch.from_numpy(np.log(weights / weights.sum())).float()
        self._is_uniform = not by_popularity

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return item ids [N] int64."""
        if self._is_uniform:
            return torch.randint(1, self.num_items + 1, (count,), generator=generator)
        draws = torch.rand(count, dtype=torch.float64, generator=generator)
        return torch.searchsorted(self._bounds, draws, right=True).clamp_(max=self.num_items)

    def draw_others(self, targets: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return for each target [S] item ids [S, N], uniform over all other items.

        A catalogue of one item has no others: then it is 0, padding.
        """
        if self.num_items == 1:
            return torch.zeros(len(targets), count, dtype=torch.long)
        size = (len(targets), count)
        others = torch.randint(1, self.num_items, size, generator=generator)
        return others.add_(others >= targets[:, None])


@numba.njit(cache=True)
def _pick(
    uniform: NDArray[np.float64],
    users: NDArray[np.int64],
    offsets: NDArray[np.int64],
    gaps: NDArray[np.int32],
    num_items: int,
    out: NDArray[np.int64],
) -> None:
    """Fill out [B, N] with the item of the complement that each uniform number [B, N] selects."""
    for row in range(len(users)):
        first, last = offsets[users[row]], offsets[users[row] + 1]
        num_free = num_items - (last - first)
        for column in range(out.shape[1]):
            if num_free == 0:
                out[row, column] = 0
                continue
            draw = int(uniform[row, column] * num_free)
            low, high = first, last
            while low < high:
                middle = (low + high) // 2
                if gaps[middle] <= draw:
                    low = middle + 1
                else:
                    high = middle
            out[row, column] = draw + 1 + (low - first)
