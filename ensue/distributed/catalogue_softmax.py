"""The softmax over a catalogue whose items are divided among workers.

Each worker makes the logits of its own items for the queries of all, block by block as
`losses.full_softmax` does. What travels are the queries, and for each of them its largest logit,
the sum of exponentials and the logit of its target; back go the gradients of the queries. No
worker has the table, and no gradient of it is sent. The same division is known from language
models as vocabulary-parallel: Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053.
Shapes: N workers; s queries of one, S of all; D width; V_r rows of the table of a worker.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensue.distributed.shared_rows import SharedRows
from ensue.distributed.uneven import gather_uneven
from ensue.distributed.workers import Workers
from ensue.losses.full_softmax import Normalizer, check_shapes, softmax_pass


class _OtherWorkers:
    """Joins what workers know of their parts of the catalogue."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def highest(self, x: Tensor) -> Tensor:
        return self._workers.all_reduce_(x.clone(), purpose="forward", op="max")

    def total(self, x: Tensor) -> Tensor:
        return self._workers.all_reduce_(x.clone(), purpose="forward")


def catalogue_softmax_loss(
    queries: Tensor,
    table: SharedRows,
    targets: Tensor,
    counts: Sequence[int],
    *,
    bias: SharedRows | None = None,
) -> Tensor:
    """Return 1/N of the sum of -log softmax of the targets of all workers, a scalar.

    So the values of all workers add up to the loss, as their gradients do: that of `table.weight`
    is whole, that of a query is whole behind the backward pass, in which all take part. All must
    scale the loss alike.

    Args:
        queries: [s, D], of this worker.
        table: of the items; row 0 gets no gradient.
        targets: [S] item ids in 1..I, of the queries of all workers.
        counts: [N], number of queries of each.
        bias: added to the logits, divided as the table is.

    Raises:
        ValueError: the shapes do not belong together.
    """
    workers, rank = table.workers, table.workers.rank
    everyone = gather_uneven(queries, counts, workers)
    check_shapes("catalogue_softmax_loss", everyone, table.weight, targets)
    total = softmax_pass(
        everyone,
        table.weight,
        None if bias is None else bias.weight,
        ids=table.division.local(targets, rank)[:, None],
        amounts=torch.ones(len(targets), 1, dtype=table.dtype, device=table.device),
        normalizers=(Normalizer(1.0, 1.0),),
        others=_OtherWorkers(workers),
    )
    # The value of all, which each worker has; the gradient of its part of the catalogue.
    return total - total.detach() * (1 - 1 / workers.size)
