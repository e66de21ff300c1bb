r"""The workloads of the network benchmark in TorchRec, on gloo and processors.

    PYTHON -m benchmarks._network_torchrec --workload fm-many --sharding table_wise|row_wise \
        [--tuned]

`DistributedModelParallel` over an `EmbeddingBagCollection` with a table for each column, all in the
given sharding, Adagrad within the backward pass of FBGEMM's kernels; the head in
`DistributedDataParallel` with PyTorch's Adagrad. Columns lie ready as `KeyedJaggedTensor` wants
them. FBGEMM's vectors have multiples of 4 numbers, so the weight of a value is the first of the 8
(16) numbers of its vector and not one more, and LR has vectors of 4; the pairs are those of the
columns' sums. That is as few bytes as TorchRec can send for the same work.

With --tuned the collectives are those of `benchmarks.network.collectives`, which use gloo better
than TorchRec does by itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.network.collectives import all_to_all_single, reduce_scatter_tensor
from benchmarks.network.head import Head, summed_loss
from benchmarks.network.meter import WARM_UP, measure
from benchmarks.network.workloads import WORKLOADS, Batch, Workload, make_batch

RATE, EPS = 0.05, 1e-8


def main() -> int:
    """Train, and print what a step costs."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--sharding", choices=("table_wise", "row_wise"), required=True)
    parser.add_argument("--tuned", action="store_true", help="with better collectives")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")
    if arguments.tuned:
        for function in (all_to_all_single, reduce_scatter_tensor):
            setattr(dist, function.__name__, function)
    model, head = make_model(workload, arguments.sharding)
    optimizer = torch.optim.Adagrad(head.parameters(), lr=RATE, eps=EPS)
    rank, number = dist.get_rank(), arguments.steps + WARM_UP
    batches = [make_batch(workload, rank, step) for step in range(number)]
    source = itertools.cycle([(columns(workload, batch), batch) for batch in batches])

    def step() -> float:
        (values, lengths), batch = next(source)
        logits = model(values, lengths, batch.numbers)
        loss = summed_loss(logits, batch.labels)
        (loss / len(batch.labels)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    result = measure(step, batch=workload.batch, steps=arguments.steps)
    print(json.dumps(result), flush=True)
    dist.destroy_process_group()
    return 0


def width_of(workload: Workload) -> int:
    """Return the numbers of a vector: a multiple of 4."""
    return max(4, workload.dim)


class Model(nn.Module):
    """The tables and the head."""

    def __init__(self, workload: Workload, tables: nn.Module, head: Head) -> None:
        super().__init__()
        self.tables, self.head = tables, head
        self._names = names(workload)
        self._has_weights = workload.model != "dnn"

    def forward(self, values: Tensor, lengths: Tensor, numbers: Tensor) -> Tensor:
        """Return the logits [B] of columns one after the other."""
        from torchrec import KeyedJaggedTensor

        rows = KeyedJaggedTensor(keys=self._names, values=values, lengths=lengths)
        pooled = self.tables(rows).values()
        by_column = pooled.view(len(numbers), len(self._names), -1)
        vectors, sums = by_column[:, :, 1:], by_column.sum(dim=1)
        terms = sums[:, 0] if self._has_weights else sums.new_zeros(len(sums))
        if self.head.has_pairs:
            terms = terms - vectors.square().sum(dim=(1, 2)) / 2
        logits: Tensor = self.head(terms, sums[:, 1:], pooled, numbers)
        return logits


def make_model(workload: Workload, sharding: str) -> tuple[nn.Module, Head]:
    """Return the model, sharded over the processes, and its head."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.sharding_plan import (
        construct_module_sharding_plan,
        row_wise,
        table_wise,
    )
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

    tables = [
        EmbeddingBagConfig(
            name=name,
            embedding_dim=width_of(workload),
            num_embeddings=size,
            feature_names=[name],
        )
        for name, size in zip(names(workload), workload.sizes, strict=True)
    ]
    collection = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    adagrad = {"optimizer": EmbOptimType.EXACT_ADAGRAD, "learning_rate": RATE, "eps": EPS}
    sharder: Any = EmbeddingBagCollectionSharder(fused_params=adagrad)
    owners = balanced(workload.sizes, dist.get_world_size())
    generators = {
        table.name: row_wise(compute_kernel="fused")
        if sharding == "row_wise"
        else table_wise(rank=owner, compute_kernel="fused")
        for table, owner in zip(tables, owners, strict=True)
    }
    plan = construct_module_sharding_plan(
        collection, generators, sharder=sharder, local_size=1, device_type="cpu"
    )
    head = Head(workload)
    model = DistributedModelParallel(
        Model(workload, collection, head),
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan({"tables": plan}),
        sharders=[sharder],
    )
    return model, head


def balanced(sizes: tuple[int, ...], size: int) -> list[int]:
    """Return the worker of each table: as many tables each, dealt out from the largest on."""
    order = sorted(range(len(sizes)), key=lambda table: -sizes[table])
    owners = [0] * len(sizes)
    for place, table in enumerate(order):
        owners[table] = place % size
    return owners


def names(workload: Workload) -> list[str]:
    """Return the names of the columns."""
    return [f"c{column}" for column in range(len(workload.sizes))]


def columns(workload: Workload, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return values, numbered in each column by themselves, and lengths, column by column."""
    lengths = batch.lengths
    column = torch.arange(lengths.shape[1]).repeat(len(lengths))
    column = column.repeat_interleave(lengths.reshape(-1))
    order = column.argsort(stable=True)
    first = torch.tensor([0, *itertools.accumulate(workload.sizes[:-1])])
    return (batch.ids - first[column])[order], lengths.T.reshape(-1).contiguous()


if __name__ == "__main__":
    sys.exit(main())
