"""A step of Ensue's distributed training on the workloads of `benchmarks.network.workloads`.

    torchrun --nproc-per-node 2 -m benchmarks.des_step --workload fm-many --scheme des [--steps 8]

Prints a line of JSON for each worker. It is what `ensue train --distributed SCHEME` does in a step:
values go to the workers that have their rows while the batch before is computed; schemes are as
there, and "plan" takes what the plan of measured sizes and speeds says. Columns with several values
are means here and sums in the other programs, which is as much work and as many bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.network.meter import WARM_UP, measure
from benchmarks.network.workloads import WORKLOADS, Batch, Workload, make_batch
from ensue.config import make_config
from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingSchema, Task
from ensue.distributed.batch import SharedBatch
from ensue.distributed.config import DistributedConfig
from ensue.distributed.workers import Workers
from ensue.losses.multitask import task_losses
from ensue.models.ranking.table import build_ranker, get_ranker
from ensue.runs.train_shared import share_ranker
from ensue.training.config import TrainingConfig
from ensue.training.optimizers import make_optimizer, use_sparse_gradients_
from ensue.training.prefetch import prefetch

CONFIG = TrainingConfig(optimizer="adagrad", learning_rate=0.05, weight_decay=0.0)


def main() -> int:
    """Train, and print what a step costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--scheme", required=True)
    parser.add_argument("--schedule", default="scatter")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with Workers.start() as workers:
        config = DistributedConfig(schedule=arguments.schedule, layout=arguments.layout)
        trainer = Trainer(workload, workers, arguments.scheme, config)
        counter = Counter(workers)
        result = measure(
            trainer.step, batch=workload.batch, steps=arguments.steps, exchange=counter
        )
        trainer.close()
    print(json.dumps({**result, "scheme": arguments.scheme}), flush=True)
    return 0


class Counter:
    """What a worker has sent, as `benchmarks.network.meter` asks for it."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.seconds: dict[str, float] = {}  # of collectives: they are not timed here

    @property
    def sent(self) -> Mapping[str, float]:
        """Bytes by purpose."""
        return {name: float(value) for name, value in self._workers.traffic.sent.items()}

    def clear(self) -> None:
        """Forget what was counted."""
        self._workers.traffic.take()


class Trainer:
    """The training of one worker."""

    def __init__(
        self, workload: Workload, workers: Workers, scheme: Any, config: DistributedConfig
    ) -> None:
        self.workload, self.workers, self.schema = workload, workers, schema_of(workload)
        torch.manual_seed(0)
        settings = {"dim": workload.dim, "hidden": list(workload.hidden)}
        own = get_ranker(workload.model).model.Config
        settings = {name: value for name, value in settings.items() if name in own.model_fields}
        model = build_ranker(workload.model, make_config(own, settings), self.schema)
        lookups = dict.fromkeys(self.schema.vocabularies, float(workload.mean_length))
        self.ranker = share_ranker(model, workers, scheme, config, lookups)
        use_sparse_gradients_(self.ranker, CONFIG)
        self.optimizer = make_optimizer(self.ranker, CONFIG)
        self._ahead = prefetch(self._batches(), 1)

    def step(self) -> float:
        """Train on this worker's rows of a batch, and return the loss of all rows."""
        batch = next(self._ahead)
        losses = task_losses(self.ranker(batch), batch.labels, batch.weights, ["binary"])
        share = len(batch) / (self.workload.batch * self.workers.size)
        (losses.sum() * share).backward()  # type: ignore[no-untyped-call]
        loss = self.ranker.sum_gradients_((losses * share).detach())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return loss.item()

    def close(self) -> None:
        """End the thread that makes batches: all of them have made the same number."""
        self._ahead.close()

    def _batches(self) -> Iterator[SharedBatch]:
        """Yield batches after their values have gone to the workers that have their rows."""
        size, rank = self.workers.size, self.workers.rank
        total = size * self.workload.batch
        ranks = range(size) if self.ranker.is_redundant else [rank]
        made = [
            as_rows([make_batch(self.workload, one, step) for one in ranks], self.workload)
            for step in range(WARM_UP + 8)
        ]
        for batch in itertools.cycle(made):
            yield self.ranker.share_own(batch, total)


def schema_of(workload: Workload) -> RankingSchema:
    """Return the columns of a workload, and its task."""
    kind: Any = "categorical" if workload.mean_length == 1 else "multi"
    fields = [RankingColumn(f"c{n}", kind, size, f"c{n}") for n, size in enumerate(workload.sizes)]
    numbers = [RankingColumn(f"n{n}", "numeric", 1) for n in range(workload.numbers)]
    return RankingSchema((*fields, *numbers), (Task("label", "binary"),))


def as_rows(batches: list[Batch], workload: Workload) -> RankingBatch:
    """Return the rows of batches, with codes of each column in place of rows of one table."""
    lengths = torch.cat([batch.lengths for batch in batches]).long()
    ids = torch.cat([batch.ids for batch in batches])
    sizes = torch.tensor(workload.sizes)
    columns = torch.arange(len(sizes)).repeat(len(lengths)).repeat_interleave(lengths.flatten())
    codes = ids - (sizes.cumsum(0) - sizes)[columns] + 1
    labels = torch.cat([batch.labels for batch in batches])[:, None]
    numbers = torch.cat([batch.numbers for batch in batches])
    if workload.mean_length == 1:
        bags: tuple[Bag, ...] = ()
        categorical = codes.view(len(lengths), -1)
    else:
        order = columns.argsort(stable=True)
        parts = torch.split(codes[order], lengths.sum(dim=0).tolist())
        bags = tuple(Bag(own, _offsets(of)) for own, of in zip(parts, lengths.T, strict=True))
        categorical = codes.new_zeros(len(lengths), 0)
    return RankingBatch(categorical, bags, numbers, (), labels, torch.ones_like(labels))


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


if __name__ == "__main__":
    sys.exit(main())
