"""Which workers hold which vocabularies, so that none has much more to hold and to look up.

Longest processing time first: Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM Journal on
Applied Mathematics, 1969: the largest load is at most 4/3 - 1/(3 N) of the best possible one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace

from ensue.errors import UsageError

Placement = list[tuple[int, ...]]


def balance(
    rows: Sequence[int],
    lookups: Sequence[float],
    num_workers: int,
    *,
    split_above: float = 1.0,
) -> Placement:
    """Return for each vocabulary the ranks that hold it, in ascending order.

    It is one rank, but for giants: a vocabulary whose load is over `split_above` times the mean
    load of a worker lies on several ranks, its rows spread by hash over them. Where there are rows
    enough, no rank is without any. The same arguments give the same ranks.

    >>> balance([90, 5, 5, 5], [1, 1, 1, 1], 2)
    [(0, 1), (0,), (1,), (0,)]
    >>> balance([90, 5, 5, 5], [1, 1, 1, 1], 4)
    [(0, 1), (2,), (3,), (2,)]

    Args:
        rows: of each vocabulary. lookups: of each, in a row of the batch, or in the whole batch.
        split_above: inf splits none.

    Raises:
        UsageError: there are no workers, a number is negative, or there is not one of each.
    """
    loads = vocabulary_loads(rows, lookups)
    if num_workers < 1 or not split_above > 0:
        raise UsageError(
            "balance needs num_workers of 1 or more and split_above over 0; got "
            f"{num_workers} and {split_above}."
        )
    limit = split_above * sum(loads) / num_workers
    most = [min(num_workers, max(size, 1)) for size in rows]
    up = [_num_pieces(load, limit, top) for load, top in zip(loads, most, strict=True)]
    # 100 equal vocabularies on 1,024 workers: with 11 pieces of each, which are none over the
    # limit, some workers have two; with 10 of most and 11 of some, every worker has one.
    ways = [up, _fill(loads, up, limit)]
    placements = [_place(loads, pieces, num_workers) for pieces in ways]
    return min(placements, key=lambda held: round(max(worker_totals(held, loads, num_workers)), 9))


def _place(loads: Sequence[float], pieces: Sequence[int], num_workers: int) -> Placement:
    """Return the ranks of each vocabulary, the largest pieces first, each to the least loaded."""
    held: Placement = [()] * len(loads)
    # A load, how many vocabularies it is of, and the rank: those of no load are spread, too.
    workers = [(0.0, 0, rank) for rank in range(num_workers)]
    heapify(workers)
    for number in sorted(range(len(loads)), key=lambda n: (-loads[n] / pieces[n], n)):
        least = [heappop(workers) for _ in range(pieces[number])]
        held[number] = tuple(sorted(rank for _, _, rank in least))
        for load, count, rank in least:
            heappush(workers, (load + loads[number] / pieces[number], count + 1, rank))
    return held


def vocabulary_loads(rows: Sequence[int], lookups: Sequence[float]) -> list[float]:
    """Return what each vocabulary is of all rows plus what it is of all lookups, 2 in sum.

    Raises:
        UsageError: a number is negative, or there is not one of each.
    """
    if len(rows) != len(lookups):
        raise UsageError(
            f"balance needs rows and lookups of each vocabulary; got {len(rows)} and "
            f"{len(lookups)}."
        )
    wrong = [number for number in (*rows, *lookups) if not 0 <= number < math.inf]
    if wrong:
        raise UsageError(f"balance needs numbers of 0 or more; got {wrong[0]}.")
    return [a + b for a, b in zip(_shares(rows), _shares(lookups), strict=True)]


def worker_totals(
    held: Sequence[Sequence[int]], amounts: Sequence[float], num_workers: int
) -> list[float]:
    """Return what each worker holds, when vocabularies of these amounts lie where `balance` said.

    >>> worker_totals([(0, 1), (1,)], [8, 3], 3)
    [4.0, 7.0, 0.0]
    """
    totals = [0.0] * num_workers
    for ranks, amount in zip(held, amounts, strict=True):
        for rank in ranks:
            totals[rank] += amount / len(ranks)
    return totals


def _shares(numbers: Sequence[float]) -> list[float]:
    total = sum(numbers)
    return [number / total if total else 0.0 for number in numbers]


def _num_pieces(load: float, limit: float, most: int) -> int:
    """Return how many pieces of at most `limit` a load makes, `most` or fewer."""
    # Rounding makes no giants of equal loads of as many vocabularies as workers.
    if not load or load <= limit * (1 + 1e-9):
        return 1
    return min(most, math.ceil(load / limit - 1e-9))


def _fill(loads: Sequence[float], up: Sequence[int], limit: float) -> list[int]:
    """Return pieces of giants that are a bit over the limit, and as many as there are workers for.

    Giants begin with the number rounded down, 2 or more; the workers that are left go to those
    whose pieces are the largest.
    """
    pieces = [
        min(most, max(2, int(load / limit + 1e-9))) if most > 1 else 1
        for load, most in zip(loads, up, strict=True)
    ]
    giants = [(-loads[n] / pieces[n], n) for n, most in enumerate(up) if most > pieces[n]]
    if not giants:
        return pieces
    others = sum(load for load, most in zip(loads, up, strict=True) if most == 1)
    taken = sum(count for count, most in zip(pieces, up, strict=True) if most > 1)
    heapify(giants)
    for _ in range(int(sum(loads) / limit + 1e-9) - taken - math.ceil(others / limit - 1e-9)):
        number = giants[0][1]
        pieces[number] += 1
        if pieces[number] < up[number]:
            heapreplace(giants, (-loads[number] / pieces[number], number))
        else:
            heappop(giants)
        if not giants:
            break
    return pieces
