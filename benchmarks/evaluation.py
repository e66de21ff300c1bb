"""Time and memory of evaluating on the whole catalogue: python -m benchmarks.evaluation

The model is a matrix factorization with random vectors, so what is measured is the product with
all items, the ranks and the metrics. Each case runs in a process of its own; memory is what the
process takes beyond the model, code compiled at the first use included.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._report import to_table, write_report
from ensue.data.dataset import Dataset
from ensue.data.histories import HistoryBatch
from ensue.evaluation.evaluator import evaluate
from tests.helpers import make_dataset

MIB = 1 << 20


class Case(NamedTuple):
    """A random dataset, a model and the bar, which is on seconds or on MiB."""

    name: str
    num_users: int
    num_items: int
    history: int
    targets: int
    dim: int
    num_resamples: int
    bar: str


CASES = [
    Case("size of ML-1M, no intervals", 6040, 3416, 132, 33, 100, 0, "1 s"),
    Case("size of ML-1M, 1,000 resamples", 6040, 3416, 132, 33, 100, 1000, ""),
    Case("10,000 users, 1,000,000 items", 10_000, 1_000_000, 20, 5, 16, 0, "1536 MiB"),
]


class RandomFactors:
    """The inner product of random user and item vectors."""

    max_len: int | None = 1

    def __init__(self, num_users: int, num_items: int, dim: int) -> None:
        self.num_items = num_items
        self.users = torch.randn(num_users + 1, dim)
        self.items = torch.randn(num_items + 1, dim)

    def score(self, batch: HistoryBatch) -> Tensor:
        return self.users[batch.users] @ self.items.T


def main() -> None:
    """Run every case, print the table and write the report."""
    config = {
        "threads": torch.get_num_threads(),
        "load average before": round(os.getloadavg()[0], 1),  # other work slows all cases down
    }
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            make_random_dataset(Path(folder) / "data", case)
            with get_context("spawn").Pool(1) as process:
                rows.append(process.apply(measure, (Path(folder) / "data", case)))
    print(to_table(rows))
    report = write_report("evaluation", config, rows)
    print(f"wrote {report}", file=sys.stderr)


def make_random_dataset(path: Path, case: Case) -> None:
    """Write a dataset of `case.history` and then `case.targets` uniform items for each user."""
    rng = np.random.default_rng(0)
    length = case.history + case.targets
    items = rng.integers(1, case.num_items + 1, (case.num_users, length))
    ends = [(case.history, case.history)] * case.num_users
    make_dataset(path, items.tolist(), split=ends, num_items=case.num_items)


def measure(path: Path, case: Case) -> dict[str, Any]:
    """Return the row of one case: memory of a first evaluation, best time of three if short."""
    dataset = Dataset(path)
    model = RandomFactors(case.num_users, case.num_items, case.dim)
    before = memory_bytes("VmRSS")
    seconds: list[float] = []
    while not seconds or (len(seconds) < 4 and sum(seconds) < 20):
        started = time.perf_counter()
        evaluate(model, dataset, num_resamples=case.num_resamples)
        seconds.append(time.perf_counter() - started)
    return {
        "case": case.name,
        "users": case.num_users,
        "items": case.num_items,
        "targets per user": case.targets,
        "dim": case.dim,
        "first, s": seconds[0],
        "best, s": min(seconds),
        "memory above the model, MiB": (memory_bytes("VmHWM") - before) / MIB,
        "bar": case.bar,
    }


def memory_bytes(field: str) -> int:
    """Return VmRSS (now) or VmHWM (peak) of this process; Linux only."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
