"""What every index of items gives: for queries, the items with the largest scores.

A query is what a model makes of a history (`SequenceModel.queries`), a vector that is matched with
a vector of each item. An index answers for many queries at once, exactly or nearly so.
Shapes: B queries, D width, I items, k answers.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Index(Protocol):
    """An index over items 1..I."""

    num_items: int

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids [B, k] and the scores [B, k] of the best items of queries [B, D].

        Best first; equal scores by ascending id. Where an index finds fewer than k items the rest
        of the row has id 0 and score -inf.
        """
        ...
