"""What of a model's tables each worker has with a layout, and what it sends of the ids of a row.

Shapes: N workers; F columns, D width of a vector, n ids of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ensue.distributed.balance import balance, worker_totals
from ensue.distributed.cluster import Workload
from ensue.distributed.sizes import Layout, Sizes

FLOAT_BYTES = 4

Holders = dict[str, tuple[int, ...]]


def placed(
    rows: Mapping[str, int], lookups: Mapping[str, float], num_workers: int, *, may_split: bool
) -> Holders:
    """Return the ranks that hold each vocabulary with the layout "field".

    Args:
        rows: of each vocabulary. lookups: ids of it in a row of the batch; 1 where nothing is said.
        may_split: giant ones are with several workers.
    """
    loads = [lookups.get(name, 1.0) for name in rows]
    above = 1.0 if may_split else float("inf")
    held = balance(list(rows.values()), loads, num_workers, split_above=above)
    return dict(zip(rows, held, strict=True))


@dataclass(frozen=True)
class Shares:
    """What the workers have, and send to one another.

    held: ranks of each vocabulary, those with some of its rows, or some columns of all.
    widths: [N] pooled numbers of a row that a worker has, or parts of the sums of.
    ids: [N] ids of one of its rows that a worker sends, on average; cells: [N] lengths.
    split: columns that several workers have rows of; split_bags: of these, bags.
    """

    layout: Layout
    held: tuple[tuple[int, ...], ...]
    widths: list[float]
    ids: list[float]
    cells: list[float]
    split: int
    split_bags: int


def share(layout: Layout, sizes: Sizes, num_workers: int, *, may_split: bool) -> Shares:
    """Return what workers have with a layout; "" is all of it.

    Args:
        may_split: with the layout "field", giant vocabularies are with several workers.
    """
    known = sizes.vocabularies
    if layout == "field":
        rows = {one.name: one.rows for one in known}
        lookups = {one.name: one.lookups for one in known}
        held = tuple(placed(rows, lookups, num_workers, may_split=may_split).values())
        return _by_field(sizes, held, num_workers)
    held = (tuple(range(num_workers)),) * len(known)
    bags = sum(one.bags for one in known)
    n, fields, others = sizes.ids_per_row, sizes.num_fields, num_workers - 1
    if layout == "":
        ids = cells = 0.0
    elif layout == "column":  # all workers need all ids
        ids, cells = n * others, fields * others
    else:  # a mean of a bag is over all of its ids: whoever has some is told how many there are
        ids, cells = n * others / num_workers, (fields + bags) * others
    is_split = layout == "hash" and num_workers > 1
    widths = [float(sizes.width)] * num_workers
    if layout == "column":
        widths = [
            fields * len(range(rank, sizes.dim, num_workers))
            + sizes.weights * len(range(rank, fields, num_workers))
            for rank in range(num_workers)
        ]
    return Shares(
        layout,
        held,
        widths,
        [ids] * num_workers,
        [cells] * num_workers,
        split=fields if is_split else 0,
        split_bags=bags if is_split else 0,
    )


def _by_field(sizes: Sizes, held: tuple[tuple[int, ...], ...], num_workers: int) -> Shares:
    widths, own_ids, own_cells = ([0.0] * num_workers for _ in range(3))
    all_cells = split = split_bags = 0
    for ranks, one in zip(held, sizes.vocabularies, strict=True):
        is_split = len(ranks) > 1
        lengths = one.columns + (one.bags if is_split else 0)
        all_cells += lengths * len(ranks)
        split += one.columns if is_split else 0
        split_bags += one.bags if is_split else 0
        for rank in ranks:
            widths[rank] += one.columns * (sizes.dim + sizes.weights)
            own_ids[rank] += one.lookups / len(ranks)
            own_cells[rank] += lengths
    return Shares(
        "field",
        held,
        widths,
        [sizes.ids_per_row - own for own in own_ids],
        [all_cells - own for own in own_cells],
        split,
        split_bags,
    )


def local_held(sizes: Sizes, shares: Shares) -> float:
    """Return how many of the weights that stay with columns the worker with the most holds.

    Those of split columns are with all workers.
    """
    if not sizes.local:
        return 0.0
    if shares.layout == "column":
        return sizes.local * -(-sizes.dim // len(shares.widths)) / sizes.dim
    own = [0] * len(shares.widths)
    for ranks, one in zip(shares.held, sizes.vocabularies, strict=True):
        if len(ranks) == 1:
            own[ranks[0]] += one.columns
    return sizes.local * (max(own) + shares.split) / sizes.num_fields


def table_bytes(shares: Shares, sizes: Sizes, workload: Workload) -> float:
    """Return the memory of the tables of the worker with the most, with the optimizer's state."""
    num_workers = len(shares.widths)
    of_number = FLOAT_BYTES * (1 + workload.state_numbers)
    of_row = sizes.row_bytes + FLOAT_BYTES * workload.row_state_numbers
    numbers, rows = of_number * sizes.num_weights, of_row * sizes.num_rows
    if not shares.layout:
        # All of it; on one worker a step has the gradients of its rows alone.
        has_gradients = num_workers > 1 and workload.has_whole_gradients
        return numbers + rows + (FLOAT_BYTES * sizes.num_weights if has_gradients else 0)
    if shares.layout == "hash":
        return (numbers + rows) / num_workers
    if shares.layout == "column":  # every worker finds every row
        return numbers / num_workers + rows
    amounts = [one.rows * (one.numbers * of_number + of_row) for one in sizes.vocabularies]
    return max(worker_totals(shares.held, amounts, num_workers))
