"""Index arithmetic on jagged rows: values one row after the other, and offsets between the rows.

```
values   [ 7 3 9 | 4 | 5 5 2 ]     offsets [0 3 4 7]     row r is values[offsets[r]:offsets[r + 1]]
```

A row with length zero is legal everywhere. Shapes: B rows, S values, N gathered values.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_numbers(offsets: Tensor, total: int | None = None) -> Tensor:
    """Return the row of every value [S], given offsets [B + 1].

    Args:
        total: S, where it is known: a GPU need not be waited for.

    >>> row_numbers(torch.tensor([0, 3, 3, 5])).tolist()
    [0, 0, 0, 2, 2]
    """
    rows = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return rows.repeat_interleave(offsets.diff(), output_size=total)


def take_rows(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return (positions [N] of the values of `rows` [B], index into `rows` [N] of each).

    >>> positions, source = take_rows(torch.tensor([0, 3, 4, 7]), torch.tensor([2, 0]))
    >>> positions.tolist(), source.tolist()
    ([4, 5, 6, 0, 1, 2], [0, 0, 0, 1, 1, 1])
    """
    lengths = offsets[rows + 1] - offsets[rows]
    taken = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    source = row_numbers(taken)
    shift = offsets[rows] - taken[:-1]
    return torch.arange(len(source), device=rows.device) + shift[source], source


def last_occurrences(rows: Tensor, values: Tensor, num_values: int) -> Tensor:
    """Return the last position of each distinct (row, value), ordered by row, then value.

    Args:
        rows: [S] row of each value.
        values: [S] integers below num_values.

    >>> last_occurrences(torch.tensor([0, 0, 0, 1]), torch.tensor([5, 2, 5, 5]), 6).tolist()
    [1, 2, 3]
    """
    keys, order = torch.sort(rows * num_values + values, stable=True)
    is_last = torch.ones_like(keys, dtype=torch.bool)
    is_last[:-1] = keys[1:] != keys[:-1]
    return order[is_last]
