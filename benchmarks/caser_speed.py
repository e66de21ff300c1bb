"""Windows that Caser trains on in a second, beside other ways to do the same.

    python -m benchmarks.caser_speed [--reference DIR]

Rows: Ensue's compiled kernels; the same model in plain tensor operations; and, with --reference,
the authors' program (a checkout of graytowne/caser_pytorch, not part of the project) with its own
sampler and step, on windows of the same kind. All take turns in one process, several rounds; the
table has medians. The data have the sizes of ML-1M. Bar: 80,000 windows/s on two cores at batch
512, d=50, L=5, T=3, float32, dense Adam.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks._report import to_table, write_report
from ensue.data.histories import Histories
from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.training.config import TrainingConfig
from ensue.training.loop import TrainingLoop
from ensue.training.objectives import WindowObjective

NUM_USERS, NUM_ITEMS, LENGTH = 6040, 3416, 133  # as many windows as the first 80% of ML-1M
BATCH_SIZE, ROUNDS, STEPS, WARM_UP = 512, 7, 128, 20

Step = Callable[[], None]


def main() -> None:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="a checkout of the authors' program")
    arguments = parser.parse_args()
    histories = make_histories()
    steps: dict[str, Step] = {}
    with TemporaryDirectory() as folder:
        steps["ensue"] = ensue_step(histories, Path(folder))
        plain = ensue_step(histories, Path(folder))
        steps["ensue, tensor operations"] = without_kernels(plain)
        if arguments.reference:
            steps["authors' program"] = reference_step(histories, arguments.reference)
        rates = measure(steps)
    first = statistics.median(rates["ensue"])
    rows = [
        {
            "program": name,
            "windows/s": round(statistics.median(values)),
            "lowest": round(min(values)),
            "highest": round(max(values)),
            "ensue is faster by": first / statistics.median(values),
        }
        for name, values in rates.items()
    ]
    config = {"batch": BATCH_SIZE, "dim": 50, "L": 5, "T": 3, "threads": torch.get_num_threads()}
    print(to_table(rows))
    print(write_report("caser_speed", config, rows))


def make_histories() -> Histories:
    """Return histories of the size of ML-1M; their content does not matter for speed."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, NUM_ITEMS + 1, NUM_USERS * LENGTH).astype(np.int32)
    ends = np.arange(NUM_USERS + 1) * LENGTH
    return Histories(items, np.maximum(ends - LENGTH, 0), ends)


def ensue_step(histories: Histories, folder: Path) -> Step:
    """Return a step of the training loop, with the making of its batch."""
    torch.manual_seed(0)
    model = Caser(CaserConfig(), num_users=NUM_USERS, num_items=NUM_ITEMS).train()
    objective = WindowObjective(model, histories, batch_size=BATCH_SIZE, seed=0)
    loop = TrainingLoop(model, objective, TrainingConfig(), directory=folder)
    epochs = (objective.batches(epoch) for epoch in itertools.count(1))
    batches = itertools.chain.from_iterable(epochs)

    def step() -> None:
        loop._step(next(batches))

    return step


def without_kernels(step: Step) -> Step:
    """Return the step in tensor operations alone."""

    def plain() -> None:
        with patch("ensue.nn.cpu_kernels.can_run", lambda *_: False):
            step()

    return plain


def reference_step(histories: Histories, checkout: Path) -> Step:
    """Return a step of the authors' program: its model, its negatives drawn one by one."""
    sys.path.insert(0, str(checkout))
    from caser import Caser as ReferenceCaser  # type: ignore[import-not-found]

    options: Any = argparse.Namespace(
        L=5, d=50, nv=4, nh=16, drop=0.5, ac_conv="relu", ac_fc="relu"
    )
    model = ReferenceCaser(NUM_USERS, NUM_ITEMS + 1, options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    allowed = [
        np.setdiff1d(np.arange(1, NUM_ITEMS + 1), histories[user])
        for user in range(1, NUM_USERS + 1)
    ]
    batches = reference_batches(histories)

    def step() -> None:
        users, windows, targets = next(batches)
        negatives = np.zeros((len(users), 3), dtype=np.int64)
        for row, user in enumerate(users):
            for column in range(3):
                negatives[row, column] = allowed[user][np.random.randint(len(allowed[user]))]
        items = torch.from_numpy(np.concatenate([targets, negatives], axis=1))
        user_column = torch.from_numpy(users)[:, None]
        logits = model(torch.from_numpy(windows), user_column, items)
        positive, negative = logits.split([3, 3], dim=1)
        loss = -torch.log(torch.sigmoid(positive)).mean()
        loss = loss - torch.log(1 - torch.sigmoid(negative)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def reference_batches(histories: Histories) -> Iterator[tuple[Any, Any, Any]]:
    """Yield users (from 0), windows and targets of random windows."""
    rng = np.random.default_rng(0)
    while True:
        users = rng.integers(0, NUM_USERS, BATCH_SIZE)
        starts = histories.starts[users + 1] + rng.integers(0, LENGTH - 7, BATCH_SIZE)
        items = histories.items[starts[:, None] + np.arange(8)].astype(np.int64)
        yield users, items[:, :5], items[:, 5:]


def measure(steps: dict[str, Step]) -> dict[str, list[float]]:
    """Return windows/s of each program, one number a round; programs take turns."""
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            for _ in range(WARM_UP):  # its tables back into the cache
                step()
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            rates[name].append(STEPS * BATCH_SIZE / (time.perf_counter() - started))
    return rates


if __name__ == "__main__":
    main()
