"""Sliding windows over histories by index arithmetic: L items are read, the next T are targets.

```
history 1 2 3 4 5 6 7 8 9, L=5, T=3     [1 2 3 4 5 | 6 7 8]  [2 3 4 5 6 | 7 8 9]
history 7 8,               L=3, T=2     [0 0 0 | 7 8]           shorter than L + T: one window
history 8,                 L=3, T=2     [0 0 0 | 0 8]           a padded target is masked
```

Shapes: W windows, B batch, L window length, T targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensue.data.histories import Histories


class Windows:
    """All windows of L + T consecutive items of each history, step 1.

    A shorter history gives one padded window, an empty one none.

    Memory: 12 bytes a window.
    """

    def __init__(self, histories: Histories, *, length: int, num_targets: int) -> None:
        self._histories = histories
        self._span = length + num_targets
        self.length = length
        lengths = histories.lengths
        counts = np.where(lengths > 0, np.maximum(lengths - self._span + 1, 1), 0)
        self.users = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        first = np.cumsum(counts) - counts  # index of each user's first window
        last_row = histories.ends[self.users]
        from_end = first[self.users] + counts[self.users] - 1 - np.arange(len(self.users))
        self._ends = last_row - from_end  # row after the last target

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the interaction of the first real target of each window [B]."""
        first = self._ends[index] - (self._span - self.length)
        return np.maximum(first, self._histories.starts[self.users[index]])

    def gather(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (windows [B, L], targets [B, T]) of the windows `index` [B]; 0 is padding."""
        rows = self._ends[index, None] + np.arange(-self._span, 0)
        is_real = rows >= self._histories.starts[self.users[index], None]
        items = self._histories.items[np.maximum(rows, 0)] * is_real
        items = items.astype(np.int64)
        return items[:, : self.length], items[:, self.length :]
