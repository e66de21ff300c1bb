"""What of a model's tables each worker has with a layout, and what it is told of the ids of a row.

Shapes: N workers; F columns, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ensue.distributed.balance import balance, worker_totals
from ensue.distributed.cluster import Workload
from ensue.distributed.packing import bits_of
from ensue.distributed.sizes import Layout, Sizes, Vocabulary

FLOAT_BYTES, KEY_BITS = 4, 64

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


class Told(NamedTuple):
    """What a worker is told of a row, on average.

    cells: columns, those twice whose full lengths it needs beside those of its own ids.
    length_bits, value_bits: of lengths and of ids.
    """

    cells: int = 0
    length_bits: int = 0
    value_bits: float = 0.0

    def plus(self, one: Vocabulary, sharers: int, id_bits: int) -> Told:
        """Return it with the columns of a vocabulary, whose ids are for `sharers` workers."""
        cells, lengths = one.columns, one.length_bits(sharers)
        if sharers > 1:  # a mean of a bag is over all of its ids
            cells += len(one.bags)
            lengths += sum(bits_of(longest) for longest in one.bags)
        values = id_bits * one.lookups / sharers
        return Told(self.cells + cells, self.length_bits + lengths, self.value_bits + values)


@dataclass(frozen=True)
class Shares:
    """What the workers have, and are told by one another.

    held: ranks of each vocabulary, those with some of its rows, or some columns of all.
    widths: [N] pooled numbers of a row that a worker has, or parts of the sums of.
    told: [N] what a worker is told of each row of another one.
    split: columns that several workers have rows of; split_bags: of these, bags.
    """

    layout: Layout
    held: tuple[tuple[int, ...], ...]
    widths: list[float]
    told: list[Told]
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
    is_split = layout == "hash" and num_workers > 1
    sharers = num_workers if layout == "hash" else 1  # by column all workers need all ids
    told = Told()
    for one in known if layout else ():
        told = told.plus(one, sharers, KEY_BITS if sizes.grows else one.id_bits(sharers))
    widths = [float(sizes.width)] * num_workers
    if layout == "column":
        widths = [
            sizes.num_fields * len(range(rank, sizes.dim, num_workers))
            + sizes.weights * len(range(rank, sizes.num_fields, num_workers))
            for rank in range(num_workers)
        ]
    return Shares(
        layout,
        held,
        widths,
        [told] * num_workers,
        split=sizes.num_fields if is_split else 0,
        split_bags=sum(len(one.bags) for one in known) if is_split else 0,
    )


def _by_field(sizes: Sizes, held: tuple[tuple[int, ...], ...], num_workers: int) -> Shares:
    widths, told = [0.0] * num_workers, [Told()] * num_workers
    split = split_bags = 0
    for ranks, one in zip(held, sizes.vocabularies, strict=True):
        split += one.columns if len(ranks) > 1 else 0
        split_bags += len(one.bags) if len(ranks) > 1 else 0
        bits = one.id_bits(len(ranks))
        for rank in ranks:
            widths[rank] += one.columns * (sizes.dim + sizes.weights)
            told[rank] = told[rank].plus(one, len(ranks), bits)
    return Shares("field", held, widths, told, split, split_bags)


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
