"""Exact ranks of held-out items among the whole catalogue, by counting instead of sorting.

The rank of a target is 1 + the number of candidates with a larger score + the number of candidates
with an equal score and a smaller id. Items of the user's history ("seen") are no candidates; a
target among them has no rank, here 0. Column 0 of the scores is padding and never read.

A row of scores is read once, in tiles that stay in cache: copied, its seen items set to NaN (which
compares false with everything, so they are counted nowhere), compared with the score of every
target, and merged into the user's top items.

Shapes: B users of a block, I items, S targets or seen items of all users of the block, K cut-off.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ensue.nn.selection import sort_

TILE = 2048  # scores: 8 KiB, so that a tile and its targets stay in the first-level cache
NUM_PARTS = 8  # pieces of work in a block, more than threads because users differ
SCAN = 64  # scores compared at once with the worst of the top items


@dataclass(frozen=True)
class Jagged:
    """Items of B users, one user after the other.

    items: [S] int32; user b has items[offsets[b]:offsets[b + 1]].
    offsets: [B + 1] int64.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class BlockRanks:
    """What is known of the rankings of B users.

    ranks: [S] int64, one for each target; 0 for a target that is no candidate.
    top: [B, K] int32, the first K items of each ranking; 0 where it is shorter.
    num_candidates: [B] int64, the length of each ranking; -1 where a score is NaN.
    """

    ranks: NDArray[np.int64]
    top: NDArray[np.int32]
    num_candidates: NDArray[np.int64]


def rank_block(
    scores: NDArray[np.float32],
    targets: Jagged,
    seen: Jagged,
    *,
    k: int,
    pool: ThreadPoolExecutor,
) -> BlockRanks:
    """Return the ranks of the targets and the top k items of each of B users.

    Args:
        scores: [B, I + 1], left as it is.
        targets: each user's distinct items, in any order.
        seen: each user's items that are no candidates, in any order, repeated or not.
        pool: threads that share the users; the result does not depend on their number.
    """
    num_users = len(scores)
    result = BlockRanks(
        ranks=np.empty(len(targets.items), dtype=np.int64),
        top=np.zeros((num_users, k), dtype=np.int32),
        num_candidates=np.empty(num_users, dtype=np.int64),
    )

    def rank(first: int, last: int) -> None:
        _rank_users(
            first,
            last,
            scores,
            targets.items,
            targets.offsets,
            seen.items,
            seen.offsets,
            result.ranks,
            result.top,
            result.num_candidates,
        )

    size = -(-num_users // NUM_PARTS)
    jobs = [
        pool.submit(rank, first, min(first + size, num_users))
        for first in range(0, num_users, size)
    ]
    for job in jobs:
        job.result()
    return result


@njit(nogil=True, cache=True)
def _rank_users(  # type: ignore[no-untyped-def]
    first, last, scores, targets, target_offsets, seen, seen_offsets, ranks, top, num_candidates
):
    """Fill ranks, top and num_candidates of users first, first + 1, ..., last - 1."""
    num_columns = scores.shape[1]
    tile = np.empty(TILE, dtype=np.float32)
    top_scores = np.empty(top.shape[1], dtype=np.float32)
    for b in range(first, last):
        row = scores[b]
        own = targets[target_offsets[b] : target_offsets[b + 1]]
        own_ranks = ranks[target_offsets[b] : target_offsets[b + 1]]
        own_seen = seen[seen_offsets[b] : seen_offsets[b + 1]].copy()
        sort_(own_seen)
        for j in range(len(own)):
            place = np.searchsorted(own_seen, own[j])
            own_ranks[j] = 0 if place < len(own_seen) and own_seen[place] == own[j] else 1
        num_ranked, num_top, next_seen, has_nan = 0, 0, 0, False
        for start in range(1, num_columns, TILE):
            part = tile[: min(TILE, num_columns - start)]
            has_nan |= _copy(row[start:], part)
            next_seen, num_hidden = _hide(part, start, own_seen, next_seen)
            num_ranked += len(part) - num_hidden
            for j in range(len(own)):
                if own_ranks[j] > 0:
                    own_ranks[j] += _num_ahead(part, own[j] - start, row[own[j]])
            num_top = _merge_top(part, start, top[b], top_scores, num_top)
        num_candidates[b] = -1 if has_nan else num_ranked


@njit(nogil=True, cache=True)
def _copy(row, part):  # type: ignore[no-untyped-def]
    """Copy the head of `row` to `part`; return whether it holds a NaN."""
    num_nan = 0
    for i in range(len(part)):
        part[i] = row[i]
        num_nan += row[i] != row[i]
    return num_nan > 0


@njit(nogil=True, cache=True)
def _hide(part, start, seen, next_seen):  # type: ignore[no-untyped-def]
    """Set the seen items of a tile to NaN; return (first seen item behind it, number hidden).

    `seen` is sorted; its items from `next_seen` on lie in this tile or behind it.
    """
    num_hidden = 0
    while next_seen < len(seen) and seen[next_seen] < start + len(part):
        if next_seen == 0 or seen[next_seen] != seen[next_seen - 1]:
            num_hidden += 1
        part[seen[next_seen] - start] = np.nan
        next_seen += 1
    return next_seen, num_hidden


@njit(nogil=True, cache=True)
def _num_ahead(part, place, score):  # type: ignore[no-untyped-def]
    """Return how many scores of a tile rank ahead of an item with `score` at `place`.

    `place` is negative or beyond the tile where the item lies in another one.
    """
    place = min(max(place, 0), len(part))
    smaller_ids, larger_ids = part[:place], part[place:]
    count = 0
    for i in range(len(smaller_ids)):
        count += smaller_ids[i] >= score
    for i in range(len(larger_ids)):  # the item itself among them: not larger than itself
        count += larger_ids[i] > score
    return count


@njit(nogil=True, cache=True)
def _merge_top(part, start, top, top_scores, num_top):  # type: ignore[no-untyped-def]
    """Merge a tile into the best items so far, best first; return how many there are.

    Items come in ascending id, so an item enters only with a score larger than the last one's.
    """
    k = len(top)
    for begin in range(0, len(part), SCAN):
        scan = part[begin : begin + SCAN]
        if num_top == k:
            num_better = 0
            for i in range(len(scan)):
                num_better += scan[i] > top_scores[k - 1]
            if num_better == 0:
                continue
        for i in range(len(scan)):
            score = scan[i]
            if score != score or (num_top == k and not score > top_scores[k - 1]):
                continue
            place = min(num_top, k - 1)
            while place > 0 and score > top_scores[place - 1]:
                top[place], top_scores[place] = top[place - 1], top_scores[place - 1]
                place -= 1
            top[place], top_scores[place] = start + begin + i, score
            num_top = min(num_top + 1, k)
    return num_top
