"""What of a model's tables the worker with the most has, for each layout.

Shapes: N workers; F columns, D width of a vector.
"""

from __future__ import annotations

from ensue.distributed.balance import balance, worker_totals
from ensue.distributed.cluster import Workload
from ensue.distributed.sizes import Layout, Sizes

FLOAT_BYTES = 4


def placed(sizes: Sizes, num_workers: int) -> list[tuple[int, ...]]:
    """Return the ranks that hold each vocabulary with the layout "field"."""
    rows = [one.rows for one in sizes.vocabularies]
    return balance(rows, [one.lookups for one in sizes.vocabularies], num_workers)


def pooled_widths(layout: Layout, sizes: Sizes, num_workers: int) -> list[float]:
    """Return how many of a row's pooled numbers each worker holds, or parts of the sums of, [N].

    Where a vocabulary is split, all that have a part of it have partial sums of its columns.
    """
    if layout == "column":
        return [
            sizes.num_fields * len(range(rank, sizes.dim, num_workers))
            + sizes.weights * len(range(rank, sizes.num_fields, num_workers))
            for rank in range(num_workers)
        ]
    widths = [0.0] * num_workers
    held = placed(sizes, num_workers)
    for ranks, vocabulary in zip(held, sizes.vocabularies, strict=True):
        for rank in ranks:
            widths[rank] += vocabulary.columns * (sizes.dim + sizes.weights)
    return widths


def group_bytes(sizes: Sizes, num_workers: int) -> float:
    """Return what all-reduces of weights that stay with columns send, of the worker with the most.

    Those of a split vocabulary are the same on all that have a part of it, who add up gradients.
    """
    of_column = FLOAT_BYTES * sizes.local / sizes.num_fields
    totals = [0.0] * num_workers
    held = placed(sizes, num_workers)
    for ranks, vocabulary in zip(held, sizes.vocabularies, strict=True):
        others = 1 - 1 / len(ranks)
        for rank in ranks:
            totals[rank] += 2 * vocabulary.columns * of_column * others
    return max(totals)


def table_bytes(layout: Layout, sizes: Sizes, workload: Workload, num_workers: int) -> float:
    """Return the memory of the tables of the worker with the most, with the optimizer's state."""
    of_number = FLOAT_BYTES * (1 + workload.state_numbers)
    of_row = sizes.row_bytes + FLOAT_BYTES * workload.row_state_numbers
    numbers, rows = of_number * sizes.num_weights, of_row * sizes.num_rows
    if not layout:
        # All of it; on one worker a step has the gradients of its rows alone.
        gradients = FLOAT_BYTES * sizes.num_weights if num_workers > 1 else 0
        return numbers + rows + gradients
    if layout == "hash":
        return (numbers + rows) / num_workers
    if layout == "column":  # every worker finds every row
        return numbers / num_workers + rows
    held = placed(sizes, num_workers)
    amounts = [one.rows * (one.numbers * of_number + of_row) for one in sizes.vocabularies]
    return max(worker_totals(held, amounts, num_workers))
