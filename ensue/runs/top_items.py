"""The best items of many rows of scores, in a few passes over memory for all rows together.

Shapes: B rows, N columns, k answers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 64  # columns compared at a time
FEW, SHORT = 8, 1 << 14  # rows, and columns of each, that are quicker one by one


def top_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the columns [B, k] and values [B, k] of each row's largest scores [B, N].

    Best first, ties by ascending column. Scores of -inf are left out: where fewer than k remain,
    the rest of the row has column 0 and -inf, as in `ensue.indexes.base.Index`. No score is NaN.

    >>> scores = torch.tensor([[-torch.inf, 1.0, 3.0, 3.0, -torch.inf]])
    >>> top_items(scores, k=4)[0].tolist()
    [[2, 3, 1, 0]]
    """
    num_rows, width = scores.shape
    kept = min(k, width)
    if num_rows < FEW and width <= SHORT:
        return _select_each(scores.numpy(), k)
    if width // BLOCK < 4 * kept:  # most of a row would be looked at again
        columns, values, is_exact = _select(scores, kept)
    else:
        columns, values, is_exact = _select_of_blocks(scores, kept)
    for row in (~is_exact).nonzero().flatten().tolist():  # few: or scores tied at the last place
        columns[row], values[row] = _select_row(scores[row], kept)
    columns.masked_fill_(values == -torch.inf, 0)
    if kept < k:
        columns = torch.cat([columns, columns.new_zeros(num_rows, k - kept)], dim=1)
        values = torch.cat([values, values.new_full((num_rows, k - kept), -torch.inf)], dim=1)
    return columns, values


def _select_each(scores: NDArray[np.float32], k: int) -> tuple[Tensor, Tensor]:
    """Return what `top_items` does, row by row: NumPy starts a small piece of work sooner."""
    columns = np.zeros((len(scores), k), dtype=np.int64)
    values = np.full((len(scores), k), -np.inf, dtype=scores.dtype)
    kept = min(k, scores.shape[1])
    for row, own in enumerate(scores):
        least = np.partition(own, len(own) - kept)[len(own) - kept]
        best = np.flatnonzero(own >= least if least > -np.inf else own > least)  # ascending
        best = best[np.argsort(-own[best], kind="stable")][:kept]
        columns[row, : len(best)], values[row, : len(best)] = best, own[best]
    return torch.from_numpy(columns), torch.from_numpy(values)


def _select(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return columns and values of the k largest scores, and whether no other equals the last."""
    columns = torch.topk(scores, k).indices.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    least = values[:, -1:]
    is_exact = ((scores >= least).sum(dim=1) == k) | (least[:, 0] == -torch.inf)
    return columns.gather(1, order), values, is_exact


def _select_of_blocks(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_select` returns, which then reads only the k blocks with the largest maxima.

    No other block holds a score above the least of their maxima, and so above the k-th score.
    """
    num_rows, width = scores.shape
    num_blocks = width // BLOCK
    first_of_rest = num_blocks * BLOCK
    maxima = scores[:, :first_of_rest].view(num_rows, num_blocks, BLOCK).amax(dim=2)
    blocks = torch.topk(maxima, k).indices.sort(dim=1).values
    in_blocks = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)
    rest = torch.arange(first_of_rest, width).expand(num_rows, -1)
    columns = torch.cat([in_blocks, rest], dim=1)  # ascending
    places, values, is_exact = _select(scores.gather(1, columns), k)
    least = values[:, -1:]
    num_reaching = (maxima >= least).sum(dim=1)
    num_chosen = (maxima.gather(1, blocks) >= least).sum(dim=1)
    is_exact &= (num_reaching == num_chosen) | (least[:, 0] == -torch.inf)
    return columns.gather(1, places), values, is_exact


def _select_row(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return columns and values of the k largest of scores [N], the smallest columns where tied."""
    least = torch.topk(scores, k).values[-1]
    columns = (scores >= least).nonzero().squeeze(1)  # ascending
    values, order = scores[columns].sort(descending=True, stable=True)
    return columns[order[:k]], values[:k]
