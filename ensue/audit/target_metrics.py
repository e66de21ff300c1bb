"""Where a model ranks the targets of an attack, for real users.

After the authors' protocol (Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876): items of the user's
history are no candidates, so that a target among them is never hit. Departures: all real users
count, not those with test items alone; the mean rank counts every place exactly, and leaves out
pairs of a user and a target of theirs. `truncated_rank` is the authors' statistic: I, the number of
items, stands for a place beyond the first 100, and for a target that the user has.

Shapes: U real users, S targets, I items. Items are columns 0 to I - 1.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.data.context import ContextSchema
from ensue.data.dataset import Dataset
from ensue.errors import RunError
from ensue.evaluation.evaluator import inference, users_of_a_block
from ensue.evaluation.ranks import Jagged, rank_block
from ensue.progress import track
from ensue.protocols import Scorer

TRUNCATED_AT = 100
OWNED = -1  # in place of a rank


@dataclass(frozen=True)
class TargetMetrics:
    """Of some targets together, and of each.

    hit_rate: share of the users with a target among their first k unseen items.
    mean_rank: 0 the best; None where every user has every target. truncated_rank: see above.
    by_target: the same of each target alone, in the order of `ranks`.
    """

    hit_rate: float
    mean_rank: float | None
    truncated_rank: float
    by_target: list[dict[str, Any]]


def target_ranks(
    model: Scorer,
    dataset: Dataset,
    targets: NDArray[np.int64],
    *,
    num_users: int | None = None,
    progress: bool = False,
) -> NDArray[np.int64]:
    """Return the rank [U, S] of each target for users 1 to U: 0 the best, OWNED for a seen one.

    The history is what `ensue evaluate` gives the model before the test part. Equal scores are
    ordered by ascending id, as there. What a model reads of a request's context is unknown.

    Args:
        targets: [S] columns.
        num_users: U, the real users of a poisoned dataset; None is all.

    Raises:
        RunError: a score is NaN.
    """
    total = dataset.num_users if num_users is None else num_users
    histories = dataset.histories("train+validation", getattr(model, "context", ContextSchema()))
    items = (targets + 1).astype(np.int32)
    size = users_of_a_block(dataset.num_items)
    ranks = np.empty((total, len(targets)), dtype=np.int64)
    with (
        inference(model) as device,
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        track("rank targets", total, unit="users", enabled=progress) as advance,
    ):
        for first in range(1, total + 1, size):
            users = np.arange(first, min(first + size, total + 1))
            batch = histories.batch(np.resize(users, size), model.max_len)
            scores = model.score(batch.to(device))[: len(users)]
            rows, offsets = histories.rows(users)
            block = rank_block(
                scores.float().cpu().contiguous().numpy(),
                Jagged(np.tile(items, len(users)), np.arange(len(users) + 1) * len(items)),
                Jagged(histories.items[rows], offsets),
                k=1,
                pool=pool,
            )
            if block.num_candidates.min() < 0:
                raise RunError(
                    f"scores must be numbers; {type(model).__name__} gave NaN. "
                    "Train it again, with a lower learning rate if its loss grew."
                )
            ranks[first - 1 : first - 1 + len(users)] = block.ranks.reshape(len(users), -1) - 1
            advance(len(users))
    return ranks


def hits(ranks: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Return whether each user has a target among their first k unseen items [U].

    >>> hits(np.array([[0, 9], [OWNED, 3]]), k=3).tolist()
    [True, False]
    """
    return ((ranks != OWNED) & (ranks < k)).any(axis=1)


def target_metrics(ranks: NDArray[np.int64], num_items: int, *, k: int) -> TargetMetrics:
    """Return the metrics of targets whose ranks [U, S] are known.

    >>> target_metrics(np.array([[0, 200], [2, OWNED]]), 300, k=1).mean_rank
    67.33333333333333
    """
    by_target = []
    for ranked in ranks.T:
        own = _of(ranked[:, None], num_items, k)
        by_target.append({**own, "owners": int((ranked == OWNED).sum())})
    return TargetMetrics(**_of(ranks, num_items, k), by_target=by_target)


def _of(ranks: NDArray[np.int64], num_items: int, k: int) -> dict[str, Any]:
    unseen = ranks[ranks != OWNED]
    is_far = (ranks == OWNED) | (ranks >= TRUNCATED_AT)
    return {
        "hit_rate": float(hits(ranks, k).mean()),
        "mean_rank": float(unseen.mean()) if len(unseen) else None,
        "truncated_rank": float(np.where(is_far, num_items, ranks).mean()),
    }
