"""Histories of several lengths side by side, in operations that a graph of any size can hold.

Items 0 are padding and may stand anywhere in a row. Nothing here looks at a value to decide what to
do next. Shapes: B batch, L length of the rows, T positions kept, W window.
"""

from __future__ import annotations

import torch
from torch import Tensor


def take_recent(items: Tensor, max_len: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the last `max_len` items of each row [B, T], where they stood [B, T], lengths [B].

    They begin at column 0, and 0 stands behind their end. T is one more than L, or `max_len`: a
    graph made for any T of 2 and more is wrong for a T of 1.

    Args:
        items: [B, L] int64.
        max_len: None is all of them.
    """
    is_real, ranks, counts = _count(items)
    if max_len is None:
        width, lengths = items.shape[1] + 1, counts
    else:
        width = 1 if max_len == 1 else torch.sym_min(items.shape[1] + 1, max_len)  # type: ignore[no-untyped-call]
        lengths = counts.clamp(max=max_len)
    places = ranks - (counts - lengths)[:, None]
    columns = torch.arange(items.shape[1], device=items.device).expand(items.shape)
    index = _place(columns, places, is_real, width)
    is_kept = torch.arange(width, device=items.device) < lengths[:, None]
    return items.gather(1, index) * is_kept, index, lengths


def last_window(items: Tensor, window: int) -> Tensor:
    """Return the last `window` items of each row [B, W], with 0 before a shorter history."""
    is_real, ranks, counts = _count(items)
    return _place(items, ranks - counts[:, None] + window, is_real, window)


def is_recent(items: Tensor, max_len: int | None) -> Tensor:
    """Return which of items [B, L] are among the last `max_len` of their row; None is all."""
    is_real, ranks, counts = _count(items)
    return is_real if max_len is None else is_real & (ranks >= counts[:, None] - max_len)


def _count(items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which of items [B, L] are no padding, the rank of each in its row, and lengths [B]."""
    is_real = items > 0
    ranks = is_real.long().cumsum(1)
    return is_real, ranks - 1, ranks[:, -1]


def _place(values: Tensor, places: Tensor, is_real: Tensor, width: int) -> Tensor:
    """Return values [B, L] at the columns `places` of [B, width], 0 elsewhere; others are left out.

    Args:
        places: [B, L], below `width`; a negative one is none.
        is_real: [B, L], false is none too.
    """
    places = torch.where(is_real & (places >= 0), places, width)  # one column more, for the rest
    return values.new_zeros(values.shape[0], width + 1).scatter(1, places, values)[:, :width]
