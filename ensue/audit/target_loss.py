"""How far targets are from the top of real users' lists: the loss of an attack, and their ranks.

L_adv of Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876, as in the authors' code: the
cross-entropy of a softmax over all items, with all targets equally likely; items a user has seen
are not left out. Ranks count unseen items only, equal scores by ascending column.
Scores are made for a block of users at a time, in one buffer.
Shapes: U users, I items, D width, S targets, B users of a block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.audit.clicks import Clicks

_BLOCK = 256  # users; their scores of some ten thousand items stay in cache
_compile: Any = numba.njit(cache=True, nogil=True)


class TargetLoss(NamedTuple):
    """L_adv, a sum over users; how targets rank; and the gradients of L_adv.

    hit_rate: share of all users with a target among their k best unseen items. mean_rank: over
    pairs of a user and a target that is unseen, 0 the best; the number of items if there is none.
    to_users: [U, D]. to_items: [I, D].
    """

    loss: float
    hit_rate: float
    mean_rank: float
    to_users: Tensor
    to_items: Tensor


@torch.no_grad()
def target_loss(
    users: Tensor, items: Tensor, seen: Clicks, targets: NDArray[np.int64], *, k: int
) -> TargetLoss:
    """Return loss, ranks and gradients for scores users [U, D] . items [I, D].

    A bias of the items is one more column of theirs, beside ones of the users; a bias of the users
    changes nothing here.

    Args:
        seen: items of the same users.
        targets: [S] distinct columns.
    """
    to_users, to_items = torch.empty_like(users), torch.zeros_like(items)
    ranks = np.empty((len(users), len(targets)), np.int64)
    columns = torch.from_numpy(targets)
    buffer = users.new_empty(min(_BLOCK, len(users)), len(items))
    loss = 0.0
    for first in range(0, len(users), _BLOCK):
        block = users[first : first + _BLOCK]
        last = first + len(block)
        scores = torch.mm(block, items.T, out=buffer[: len(block)])
        offsets = seen.offsets[first : last + 1]
        _rank(scores.numpy(), offsets, seen.columns, targets, ranks[first:last])
        of_targets = scores[:, columns].double().mean(dim=1)
        top = scores.amax(dim=1, keepdim=True)
        totals = scores.sub_(top).exp_().sum(dim=1, keepdim=True)
        loss += float((totals.double().log() + top.double()).sum() - of_targets.sum())
        slopes = scores.div_(totals)  # now the derivative by the scores
        slopes[:, columns] -= 1 / len(targets)
        torch.mm(slopes, items, out=to_users[first:last])
        to_items.addmm_(slopes.T, block)
    found = ranks[ranks >= 0]
    mean_rank = float(found.mean()) if len(found) else float(len(items))
    is_hit = ((ranks >= 0) & (ranks < k)).any(axis=1)
    hit_rate = float(is_hit.mean()) if len(users) else 0.0
    return TargetLoss(loss, hit_rate, mean_rank, to_users, to_items)


@_compile
def _rank(  # type: ignore[no-untyped-def]
    scores, offsets, seen, targets, ranks
):
    """Set ranks [B, S] of the targets among unseen items of scores [B, I]; -1 if seen."""
    for b in range(len(scores)):
        row = scores[b]
        own = seen[offsets[b] : offsets[b + 1]]
        for s in range(len(targets)):
            target = targets[s]
            value, rank = row[target], 0
            for i in range(target):
                rank += row[i] >= value
            for i in range(target + 1, len(row)):
                rank += row[i] > value
            for column in own:
                if column == target:
                    rank = -1
                    break
                rank -= row[column] > value or (row[column] == value and column < target)
            ranks[b, s] = rank
