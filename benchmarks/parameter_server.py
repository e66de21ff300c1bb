"""Training by a parameter server, for comparison: synchronous, deduplicated, on every worker.

    torchrun --nproc-per-node 2 -m benchmarks.parameter_server --workload fm-many [--steps 8]

Prints a line of JSON for each worker. Each of N workers is a server too, of the rows id = rank mod
N. In a step a worker finds the distinct ids of its rows, pulls their table rows from the servers,
computes, and pushes one gradient for each; a server adds up what the workers push and takes one
step of Adagrad for the rows of the global batch, so that the weights are those of a single process.
The tower is summed by an all-reduce. Nothing is spared that a good server has: ids are deduplicated
by hashing, messages to all servers are one collective, and sums and steps of rows are Ensue's own
kernels.

Ids are sent again with the gradients, as by servers without a memory of who pulled; with
--remember the servers keep them for that long, and 8 bytes an id are spared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from benchmarks.network.head import Head, fold, logits_of, summed_loss
from benchmarks.network.meter import WARM_UP, Exchange, measure
from benchmarks.network.workloads import WORKLOADS, Batch, Workload, make_batch, start_rows
from ensue.nn import cpu_kernels as kernels
from ensue.nn.row_sums import group_rows, row_sums
from ensue.optim.row_updates import adagrad_rows_

RATE, EPS = 0.05, 1e-8


def main() -> int:
    """Train, and print what a step costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--remember", action="store_true", help="send ids once a step")
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")
    exchange = Exchange(dist.get_rank(), dist.get_world_size())
    worker = Worker(workload, exchange, remember=arguments.remember)
    number = arguments.steps + WARM_UP
    batches = [make_batch(workload, exchange.rank, step) for step in range(number)]
    source = itertools.cycle(batches)
    result = measure(
        lambda: worker.step(next(source)),
        batch=workload.batch,
        steps=arguments.steps,
        exchange=exchange,
    )
    print(json.dumps(result), flush=True)
    dist.destroy_process_group()
    return 0


class Server:
    """The rows of one server, with Adagrad's sums.

    Rows are known by their place: id // N.
    """

    def __init__(
        self,
        workload: Workload,
        rank: int,
        size: int,
        *,
        rate: float = RATE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        ids = torch.arange(rank, workload.num_rows, size)
        self.rows = start_rows(workload, ids, dtype)
        self._sums = torch.zeros_like(self.rows)
        self._rate = rate

    def update(self, places: Tensor, grads: Tensor) -> None:
        """Take a step of Adagrad with the sum of the gradients [R, c] of each place [R]."""
        touched, sums = row_sums(places, grads)
        eps = (0.0, EPS)
        adagrad_rows_(self.rows, self._sums, touched, sums, rate=self._rate, eps=eps, decay=0.0)


class Worker:
    """A worker and the server beside it."""

    def __init__(
        self,
        workload: Workload,
        exchange: Exchange,
        *,
        remember: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.workload, self.exchange = workload, exchange
        self.server = Server(workload, exchange.rank, exchange.size, dtype=dtype)
        self.head = Head(workload).to(dtype)
        self._dtype, self._remember = dtype, remember
        self._optimizer = torch.optim.Adagrad(self.head.parameters(), lr=RATE, eps=EPS)

    def step(self, batch: Batch) -> float:
        """Train on this worker's rows of a global batch, and return their summed loss."""
        size = self.exchange.size
        distinct, index = group_rows(batch.ids)
        owners = distinct % size
        order = owners.argsort(stable=True)
        index = _inverse(order)[index]
        places = distinct[order] // size
        ask = owners.bincount(minlength=size).tolist()
        ones = [1] * size
        counts = self.exchange.all_to_all(torch.tensor(ask), ones, ones, purpose="counts").tolist()
        asked = self.exchange.all_to_all(places, ask, counts, purpose="pull ids")
        rows = self.exchange.all_to_all(
            self.server.rows.index_select(0, asked), counts, ask, purpose="pull rows"
        )
        loss = self._compute(rows.requires_grad_(), index, batch)
        assert rows.grad is not None
        if not self._remember:
            asked = self.exchange.all_to_all(places, ask, counts, purpose="push ids")
        grads = self.exchange.all_to_all(rows.grad, ask, counts, purpose="push gradients")
        self.server.update(asked, grads)
        self._update_head()
        return loss

    def _compute(self, rows: Tensor, index: Tensor, batch: Batch) -> float:
        """Set the gradients of the loss, which is divided by the rows of all workers."""
        loss, _ = batch_loss(self.head, rows, index, batch, self.workload)
        (loss / (len(batch.labels) * self.exchange.size)).backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _update_head(self) -> None:
        parameters = list(self.head.parameters())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        self.exchange.all_reduce_(flat, purpose="dense")
        parts = torch.split(flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad()


def _inverse(order: Tensor) -> Tensor:
    """Return the place of each number in a permutation."""
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places


class _BagSum(torch.autograd.Function):
    """The sums of rows in bags: PyTorch's, with a backward pass that sorts nothing."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(index, offsets)
        ctx.like = rows.detach()
        return F.embedding_bag(index, ctx.like, offsets, mode="sum", include_last_offset=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, offsets = ctx.saved_tensors
        into = torch.zeros_like(ctx.like)
        weights = grad.new_ones(1).expand(len(index))
        kernels.bag_sum_backward(*kernels.arrays(grad.contiguous(), index, offsets, weights, into))
        return into, None, None


def batch_loss(
    head: Head, rows: Tensor, index: Tensor, batch: Batch, workload: Workload
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of a batch and its logits [B].

    Args:
        rows: [U, c] of the table; index: [S], the row of each value of the batch.
    """
    folded = fold(rows, workload)
    # A model without a tower needs no sum of a column by itself.
    lengths = batch.lengths if workload.hidden else batch.lengths.sum(dim=1, keepdim=True)
    offsets = F.pad(lengths.reshape(-1).cumsum(0), (1, 0))
    bags = _BagSum.apply(folded, index, offsets)  # type: ignore[no-untyped-call]
    sums = bags.view(*lengths.shape, folded.shape[1])
    numbers, labels = batch.numbers.to(rows.dtype), batch.labels.to(rows.dtype)
    logits = logits_of(head, sums, numbers)
    return summed_loss(logits, labels), logits


if __name__ == "__main__":
    sys.exit(main())
