"""Bytes that a worker sends in a step of training, for each way to share out embedding tables.

Substitution is that of Rong et al., "Distributed Equivalent Substitution Training for Large-Scale
Recommender Systems", SIGIR 2020, arXiv:1909.04823; the formulas are derived here, not quoted. Those
of row-wise, table-wise and data-parallel tables are the sizes of TorchRec's planner (Ivchenko et
al., RecSys 2022).
A ring or an exchange of a tensor of X bytes sends X (N - 1) / N from each worker, an all-reduce
twice that. Every formula is of one worker; where numbers of ids are means, so is what it gives.
Shapes: N workers, b rows of each, B = N b; F columns, D width of a vector, n ids of a row; C
numbers of a row that are summed over the workers; e bytes of a number that travels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ensue.distributed.traffic import all_reduce_bytes

Part = Literal["ids", "forward", "backward", "dense"]
Collective = Literal["all_to_all", "reduce_scatter", "all_gather", "all_reduce", "servers"]
Schedule = Literal["scatter", "all_reduce"]

PARTS: tuple[Part, ...] = ("ids", "forward", "backward", "dense")
KEY_BYTES, LENGTH_BYTES, FLOAT_BYTES = 8, 4, 4
SIZE_BYTES = 8  # how long a message of ids is
WEIGHT_BYTES = 8  # of a sum of label weights, made in float64
NUM_WISHES = 2  # what a worker says of stopping and saving, as numbers beside its losses


class Split(NamedTuple):
    """A batch that is split over workers.

    num_workers: N. num_rows: b, of each. wire_bytes: e.
    """

    num_workers: int
    num_rows: int
    wire_bytes: int = 4

    @property
    def to_others(self) -> float:
        """(N - 1) / N, the share that is for other workers."""
        return (self.num_workers - 1) / self.num_workers


class Transfer(NamedTuple):
    """What a worker sends for one purpose by one kind of collective.

    num_bytes: of all rounds. rounds: collectives that wait for one another.
    """

    part: Part
    collective: Collective
    num_bytes: float
    rounds: int = 1


Transfers = tuple[Transfer, ...]


def sent(transfers: Iterable[Transfer], part: Part | None = None) -> float:
    """Return the bytes of some transfers, of one part or of all."""
    return sum(one.num_bytes for one in transfers if part in (None, one.part))


def rounds(transfers: Iterable[Transfer], part: Part | None = None) -> int:
    """Return how many collectives wait for one another, of one part or of all."""
    return sum(one.rounds for one in transfers if part in (None, one.part))


def key_exchange(split: Split, ids_per_row: float, num_fields: float) -> Transfers:
    """Return 4 b F r + 8 b n r: how many ids each column of a row has, then the ids.

    r = (N - 1) / N. Every scheme but replicated tables needs it; it may run one batch ahead. It is
    what 64 bits an id and 32 a length send; `packed_ids` is what is sent.
    """
    rows = split.num_rows * split.to_others
    return (
        Transfer("ids", "all_to_all", LENGTH_BYTES * num_fields * rows),
        Transfer("ids", "all_to_all", KEY_BYTES * ids_per_row * rows),
    )


def packed_ids(num_rows: int, cells: int, length_bits: int, value_bits: float) -> float:
    """Return the bytes of a message with the ids of b rows for one other worker.

    It has a byte for each of G' columns, then lengths and ids in as few bits as they need.

    Args:
        cells: G', columns that the worker has rows of, those twice whose full lengths it is told.
        length_bits, value_bits: of a row, in the lengths of these columns and in their ids.
    """
    if not cells:
        return 0
    bits = (num_rows * length_bits, num_rows * value_bits)
    return cells + sum(math.ceil(one / 8) for one in bits)


def ids_sent(messages: float, num_others: int) -> Transfers:
    """Return 8 (N - 1) and the messages: how long each is, then all of them."""
    return (
        Transfer("ids", "all_to_all", SIZE_BYTES * num_others),
        Transfer("ids", "all_to_all", messages),
    )


def label_weights(split: Split, num_tasks: int) -> Transfers:
    """Return 16 M r: the sum of the weights of a batch's labels, which losses are divided by.

    It is an all-reduce that travels with the ids.
    """
    return _reduced("ids", split.num_workers, num_tasks, WEIGHT_BYTES)


def sums(split: Split, width: int, schedule: Schedule = "scatter") -> Transfers:
    """Return 2 B C e r: the sum over workers of partial results [B, C], and what goes back.

    "scatter" gives each worker the sums of its own rows, and all of them the gradients of all rows.
    "all_reduce" gives all workers all sums: they all go on with all rows, and know the gradients.
    """
    # B r = b (N - 1), in whole numbers.
    one_way = split.num_rows * (split.num_workers - 1) * width * split.wire_bytes
    if schedule == "all_reduce":
        return (Transfer("forward", "all_reduce", 2 * one_way),)
    return (
        Transfer("forward", "reduce_scatter", one_way),
        Transfer("backward", "all_gather", one_way),
    )


def des_lr(split: Split, schedule: Schedule = "scatter") -> Transfers:
    """Return 2 B e r: the sum of a row's weights, one number."""
    return sums(split, 1, schedule)


def des_fm(split: Split, dim: int, schedule: Schedule = "scatter") -> Transfers:
    """Return 2 B (D + 1) e r: the sum of the vectors, and one number for squares and weights."""
    return sums(split, dim + 1, schedule)


def des_first_layer(split: Split, hidden: int, schedule: Schedule = "scatter") -> Transfers:
    """Return 2 B h e r: what the first layer, of width h, makes of the columns of each worker."""
    return sums(split, hidden, schedule)


def des_deepfm(split: Split, dim: int, hidden: int, schedule: Schedule = "scatter") -> Transfers:
    """Return 2 B (D + 1 + h) e r: factorization machine and first layer in one buffer."""
    return sums(split, dim + 1 + hidden, schedule)


def des_dots(split: Split, num_vectors: int, schedule: Schedule = "scatter") -> Transfers:
    """Return 2 B (V (V - 1) / 2) e r: the products of all pairs of V vectors, by column."""
    return sums(split, num_vectors * (num_vectors - 1) // 2, schedule)


def des_crosses(split: Split, num_layers: int, rank: int) -> Transfers:
    """Return 4 B L C e r: L cross layers of DCN-V2 of low rank C, their inputs shared by column.

    A layer multiplies its sums with columns that every worker holds a part of, so all workers need
    the sums of all rows, forward, and those of their gradients, backward: an all-reduce each way.
    """
    one_way = 2 * split.num_rows * (split.num_workers - 1) * rank * split.wire_bytes
    return (
        Transfer("forward", "all_reduce", num_layers * one_way, num_layers),
        Transfer("backward", "all_reduce", num_layers * one_way, num_layers),
    )


def des_dcn_v1(
    split: Split, num_layers: int, hidden: int, *, layer_by_layer: bool = False
) -> Transfers:
    """Return 2 B (L + 1 + h) e r: L cross layers of DCN, their output, and a deep network's layer.

    A layer is x' = x_0 (x . w) + b + x. By induction x_l = a_l x_0 + c_l, where a_l is a number of
    the row and c_l is of no row, so that x_l . w_l needs x_0 . w_l alone: all sums are of x_0, and
    one round is enough.

    Args:
        layer_by_layer: layers as they are written, one round each. As in `des_crosses` a sum is
            then needed everywhere, forward and backward: 2 B (2 L + 1 + h) e r.
    """
    if not layer_by_layer:
        return sums(split, num_layers + 1 + hidden)
    return des_crosses(split, num_layers, 1) + sums(split, 1 + hidden)


def row_wise(split: Split, width: int) -> Transfers:
    """Return 2 B F D e r: pooled vectors of F D = `width` numbers, rows spread by hash."""
    return sums(split, width)


def table_wise(split: Split, width: float, own: float | None = None) -> Transfers:
    """Return 2 b F D e r: pooled vectors of F D = `width` numbers, from their owners and back.

    Args:
        own: of these numbers, those that the worker holds; None is F D / N.
    """
    own = width / split.num_workers if own is None else own
    number = split.num_rows * split.wire_bytes
    return (
        Transfer("forward", "all_to_all", (split.num_workers - 1) * own * number),
        Transfer("backward", "all_to_all", (width - own) * number),
    )


def spread(split: Split, width: int, own: float | None = None) -> Transfers:
    """Return 2 b D e r: D = `width` numbers of own rows to the owners of columns, and back.

    Args:
        own: of these numbers, those of the worker's own columns; None is D / N.
    """
    forward, backward = table_wise(split, width, own)
    return (
        backward._replace(part="forward"),
        forward._replace(part="backward"),
    )


def replicated(split: Split, num_weights: float) -> Transfers:
    """Return 2 W e r: the gradient of a whole table of W weights, whatever the batch."""
    return _reduced("dense", split.num_workers, num_weights, split.wire_bytes)


def replicated_rows(split: Split, unique_ids: float, num_tables: int, numbers: int) -> Transfers:
    """Return (N - 1) U (8 T + w e): the gradients of looked-up rows alone, to all others.

    U is that of the worker with the most, which the others fill up to; before that, all tell how
    many they have.

    Args:
        num_tables: T, each with a row for an id. numbers: w, weights of an id in all of them.
    """
    others, rows = split.num_workers - 1, unique_ids * (KEY_BYTES * num_tables)
    values = unique_ids * numbers * split.wire_bytes
    return (
        Transfer("dense", "all_gather", others * KEY_BYTES * num_tables, num_tables),
        Transfer("dense", "all_gather", others * (rows + values), 2 * num_tables),
    )


def unpooled(split: Split, ids_per_row: float, dim: int) -> Transfers:
    """Return 2 b n D e r: every id's vector to the worker of the row, and its gradient back."""
    one_way = split.num_rows * ids_per_row * dim * split.wire_bytes * split.to_others
    return (
        Transfer("forward", "all_to_all", one_way),
        Transfer("backward", "all_to_all", one_way),
    )


def parameter_server(unique_ids: float, numbers_of_id: int, wire_bytes: int = 4) -> Transfers:
    """Return 2 U w e + 16 U: rows pulled from servers and gradients pushed, each id of U once.

    Of one worker, both directions; with each message go the ids. Every server carries the mirror
    image of its share of all workers.

    Args:
        numbers_of_id: w, D + 1 for a vector and a weight.
    """
    rows = unique_ids * numbers_of_id * wire_bytes
    return (
        Transfer("ids", "servers", 2 * KEY_BYTES * unique_ids, 0),  # travel with the rows
        Transfer("forward", "servers", rows),
        Transfer("backward", "servers", rows),
    )


def dense_gradients(
    split: Split, num_parameters: float, *, local: float = 0, schedule: Schedule = "scatter"
) -> Transfers:
    """Return 2 (P - P') e r: the all-reduce of the gradients of P weights that all workers hold.

    Args:
        local: P', weights that stay with the columns they belong to, as those of a first layer.
        schedule: with "all_reduce" all workers have the same gradients, and nothing is sent.
    """
    if schedule == "all_reduce":
        return ()
    return _reduced("dense", split.num_workers, num_parameters - local, split.wire_bytes)


def gradients_everywhere(split: Split, numbers: float) -> Transfers:
    """Return 2 X e r: an all-reduce of X gradients of what workers use each for its columns."""
    return _reduced("backward", split.num_workers, numbers, split.wire_bytes)


def _reduced(part: Part, num_workers: int, numbers: float, num_bytes: int) -> Transfers:
    """Return an all-reduce of some numbers; a ring passes on as many for each worker."""
    if numbers <= 0:
        return ()
    sent_bytes = all_reduce_bytes(math.ceil(numbers), num_bytes, num_workers)
    return (Transfer(part, "all_reduce", sent_bytes),)
