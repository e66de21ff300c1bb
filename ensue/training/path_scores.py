"""What is remembered of each item's likely paths, from a stream of beam searches.

Gao et al., CIKM 2021, arXiv:2007.07203, section 3.2: the score of a path for an item is the sum
of its probabilities over the item's examples, with old ones decayed at each update; only the best
S paths of an item are kept, and a newcomer starts at the least score that is kept.
Departures: an item is updated once for all its examples of a batch; while an item has fewer than S
paths, newcomers start at 0.
Shapes: I items, S paths remembered of an item, n examples, B paths found for an example.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ensue.nn.selection import largest_places


class PathScores:
    """The scores of items 0..I.

    codes: [I + 1, S] int64, ascending in each row, behind -1 where there is room.
    scores: [I + 1, S] float32; 0 where there is room.
    """

    def __init__(self, num_items: int, *, size: int, decay: float) -> None:
        self.codes = np.full((num_items + 1, size), -1, dtype=np.int64)
        self.scores = np.zeros((num_items + 1, size), dtype=np.float32)
        self.decay = decay

    def add(self, items: Tensor, codes: Tensor, probabilities: Tensor) -> None:
        """Take note of paths found for examples of items [n]: codes, probabilities [n, B]."""
        keys = items.cpu().numpy().repeat(codes.shape[1])
        found, values = codes.flatten().cpu().numpy(), probabilities.flatten().double()
        order = np.lexsort((found, keys))
        sorted_values = values.cpu().numpy()[order]
        _merge(keys[order], found[order], sorted_values, self.decay, self.codes, self.scores)

    def state(self) -> dict[str, Tensor]:
        """Return all that was noted, for a checkpoint."""
        return {"codes": torch.from_numpy(self.codes), "scores": torch.from_numpy(self.scores)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take what `state` returned."""
        self.codes = tensors["codes"].numpy().copy()
        self.scores = tensors["scores"].numpy().copy()


@njit(cache=True, nogil=True)
def _merge(
    items: Any, codes: Any, values: Any, decay: float, own_codes: Any, own_scores: Any
) -> None:
    """Merge paths sorted by item, then code; the values of equal ones are summed in place."""
    first = 0
    while first < len(items):
        last, count = first, 0
        while last < len(items) and items[last] == items[first]:
            if count > 0 and codes[first + count - 1] == codes[last]:
                values[first + count - 1] += values[last]
            else:
                codes[first + count], values[first + count] = codes[last], values[last]
                count += 1
            last += 1
        new, item = slice(first, first + count), items[first]
        _merge_item(codes[new], values[new], decay, own_codes[item], own_scores[item])
        first = last


@njit(cache=True, nogil=True)
def _merge_item(new_codes: Any, sums: Any, decay: float, own_codes: Any, own_scores: Any) -> None:
    """Merge new paths into the row of one item, and keep the best; codes ascend in both.

    Of equal ones the smallest codes are kept.
    """
    size = len(own_codes)
    least = own_scores.min()  # 0 while there is room
    codes, scores = np.empty(size + len(new_codes), np.int64), np.empty(size + len(new_codes))
    count = new = 0
    for old in range(size):
        if own_codes[old] < 0:
            continue
        while new < len(new_codes) and new_codes[new] < own_codes[old]:
            codes[count], scores[count] = new_codes[new], decay * least + sums[new]
            new, count = new + 1, count + 1
        codes[count], scores[count] = own_codes[old], decay * own_scores[old]
        if new < len(new_codes) and new_codes[new] == own_codes[old]:
            scores[count] += sums[new]
            new += 1
        count += 1
    for rest in range(new, len(new_codes)):
        codes[count], scores[count] = new_codes[rest], decay * least + sums[rest]
        count += 1
    kept = largest_places(scores[:count], size)
    room = size - len(kept)
    for place in range(room):
        own_codes[place], own_scores[place] = -1, 0
    for n in range(len(kept)):
        own_codes[room + n], own_scores[room + n] = codes[kept[n]], scores[kept[n]]
