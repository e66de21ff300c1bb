"""The step of `benchmarks.ranking_speed` in TorchRec: the fused kernels of FBGEMM on a CPU.

    PYTHON -m benchmarks._ranking_torchrec collection|kernels criteo|even

"collection" is `FusedEmbeddingBagCollection` over a `KeyedJaggedTensor`, Adagrad within its
backward pass; "kernels" calls the table batch under it by itself. The tower's Adagrad is PyTorch's,
fused. Batches lie ready, column by column, as these want them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._ranking_stream import (
    BATCH,
    DIM,
    EPS,
    RATE,
    SIZES,
    Tower,
    loss_of,
    round_and_round,
    serve,
    start_table,
    stream,
)


def main() -> int:
    """Answer the lines of the benchmark."""
    warnings.filterwarnings("ignore")
    sizes = SIZES[sys.argv[2]]
    make = {"collection": collection, "kernels": kernels}[sys.argv[1]]
    embed, batches = make(sizes)
    tower = Tower(len(sizes))
    optimizer = torch.optim.Adagrad(tower.parameters(), lr=RATE, eps=EPS, fused=True)
    source = round_and_round(batches)

    def step() -> float:
        ids, numbers, labels = next(source)
        loss = loss_of(tower(embed(ids), numbers), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    serve(step)
    return 0


def collection(sizes: tuple[int, ...]) -> tuple[Callable[[Any], Tensor], list[Any]]:
    """Return what looks up a batch, and the batches."""
    from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

    names = [f"c{number}" for number in range(len(sizes))]
    tables = [
        EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=size, feature_names=[name])
        for name, size in zip(names, sizes, strict=True)
    ]
    module = FusedEmbeddingBagCollection(
        tables=tables,
        optimizer_type=torch.optim.Adagrad,
        optimizer_kwargs={"lr": RATE, "eps": EPS},
        device=torch.device("cpu"),
    )
    start = torch.split(start_table(sizes), list(sizes))
    for name, weight in module.state_dict().items():
        weight.copy_(start[names.index(name.split(".")[-2])])
    lengths = torch.ones(len(sizes) * BATCH, dtype=torch.int32)
    batches = [
        (
            KeyedJaggedTensor.from_lengths_sync(names, codes.T.reshape(-1), lengths),
            numbers,
            labels,
        )
        for codes, numbers, labels in stream(sizes)
    ]
    return lambda ids: module(ids).values(), batches


def kernels(sizes: tuple[int, ...]) -> tuple[Callable[[Any], Tensor], list[Any]]:
    """Return what looks up a batch, and the batches."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    place = EmbeddingLocation.HOST, ComputeDevice.CPU
    module: Any = SplitTableBatchedEmbeddingBagsCodegen(
        [(size, DIM, *place) for size in sizes],
        optimizer=EmbOptimType.EXACT_ADAGRAD,
        learning_rate=RATE,
        eps=EPS,
    )
    for weight, start in zip(
        module.split_embedding_weights(), torch.split(start_table(sizes), list(sizes)), strict=True
    ):
        weight.copy_(start)
    offsets = torch.arange(len(sizes) * BATCH + 1)
    batches = [(codes.T.reshape(-1), numbers, labels) for codes, numbers, labels in stream(sizes)]
    return lambda ids: module(ids, offsets), batches


if __name__ == "__main__":
    sys.exit(main())
