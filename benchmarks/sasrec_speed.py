"""Seconds an epoch of SASRec, and what the losses cost over a large catalogue.

    python -m benchmarks.sasrec_speed [--reference PYTHON] [--large]

The first table: dim 64, 2 blocks, 2 heads, length 50, batches of 128 histories, softmax over the
whole catalogue, on ../shared/data/s3rec-beauty without its last two items a user. Rows: Ensue in
float32 and bfloat16; a plain loop (padded batches of similar length, dense logits); and, with
--reference, RecTools, run by the interpreter of an environment that has it
(`python -m venv rectools && rectools/bin/pip install "rectools[torch]==0.19.0"`). Programs take
turns, several rounds; the table has medians. Bar: 9 s an epoch.

The second (--large): a training step of 1,024 positions on 1,000,000 items, dim 64. Bars: with the
full softmax at most 1.5 GB above the parameters; with 3,000 sampled negatives 20 times as fast.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import ensue
from benchmarks._report import to_table, write_report
from ensue.data.histories import Histories
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from ensue.training.config import TrainingConfig
from ensue.training.log import peak_memory_bytes
from ensue.training.loop import TrainingLoop
from ensue.training.next_item import NextItemObjective

SOURCE = Path(__file__).resolve().parents[2] / "shared/data/s3rec-beauty/Beauty.txt.gz"
CONFIG = SASRecConfig(dim=64, num_blocks=2, num_heads=2, max_len=50, dropout=0.2)
ROUNDS = 3
LARGE_ITEMS, LARGE_POSITIONS, LARGE_STEPS = 1_000_000, 1024, 5

RECTOOLS = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import pandas as pd, torch
from pytorch_lightning import Trainer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
table = pd.read_csv(sys.argv[1])
table["weight"] = 1.0
table["datetime"] = pd.to_datetime(table["time"], unit="s")
trainer = lambda: Trainer(max_epochs=1, accelerator="cpu", devices=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
model = SASRecModel(n_factors=64, n_blocks=2, n_heads=2, session_max_len=50, batch_size=128,
    loss="softmax", dropout_rate=0.2, epochs=1, lr=1e-3, get_trainer_func=trainer)
started = time.perf_counter()
model.fit(Dataset.construct(table[["user_id", "item_id", "weight", "datetime"]]))
print(json.dumps({"seconds": time.perf_counter() - started, "threads": torch.get_num_threads()}))
"""


def main() -> int:
    """Print the tables and write the reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="Python of an environment with RecTools")
    parser.add_argument("--large", action="store_true", help="the second table")
    arguments = parser.parse_args()
    if arguments.large:
        report("sasrec_large_catalogue", measure_large())
        return 0
    if not SOURCE.is_file():
        print(f"skipped: {SOURCE} is not there", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        dataset = ensue.prepare(SOURCE, Path(folder) / "dataset", split="leave-one-out")
        histories = dataset.histories("train")
        epochs: dict[str, Callable[[], float]] = {
            "ensue": EnsueEpoch(histories, dataset.num_items, "float32"),
            "ensue, bfloat16": EnsueEpoch(histories, dataset.num_items, "bfloat16"),
            "plain loop": PlainEpoch(histories, dataset.num_items),
        }
        if arguments.reference:
            table = Path(folder) / "log.csv"
            write_csv(histories, table)
            epochs["RecTools"] = lambda: run_rectools(arguments.reference, table)
        report("sasrec_speed", measure_epochs(epochs))
    return 0


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the table and write the report."""
    print(to_table(rows))
    print(write_report(name, {"threads": torch.get_num_threads()}, rows))


def measure_epochs(epochs: dict[str, Callable[[], float]]) -> list[dict[str, Any]]:
    """Return a row for each program: seconds an epoch, programs taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(ROUNDS):
        for name, epoch in epochs.items():
            if name == "RecTools" and number > 0:
                continue  # minutes an epoch, and hundreds of times the differences between rounds
            seconds[name].append(epoch())
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    first = statistics.median(seconds["ensue"])
    return [
        {
            "program": name,
            "s an epoch": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "ensue is faster by": statistics.median(values) / first,
        }
        for name, values in seconds.items()
    ]


class EnsueEpoch:
    """An epoch of Ensue's training loop, with the making of its batches."""

    def __init__(self, histories: Histories, num_items: int, precision: str) -> None:
        torch.manual_seed(0)
        model = SASRec(CONFIG, num_users=histories.num_users, num_items=num_items).train()
        self._objective = NextItemObjective(model, histories, batch_size=128, seed=0)
        config = TrainingConfig(weight_decay=0.0, precision=precision)  # type: ignore[arg-type]
        self._loop = TrainingLoop(model, self._objective, config, directory=Path())
        self._numbers = itertools.count(1)
        for batch in itertools.islice(self._objective.batches(0), 5):
            self._loop._step(batch)

    def __call__(self) -> float:
        """Return the seconds of the next epoch."""
        started = time.perf_counter()
        for batch in self._objective.batches(next(self._numbers)):
            self._loop._step(batch)
        return time.perf_counter() - started


class PlainEpoch:
    """The same model and batches, with dense logits of every position: what one writes first."""

    def __init__(self, histories: Histories, num_items: int) -> None:
        torch.manual_seed(0)
        self._model = SASRec(CONFIG, num_users=histories.num_users, num_items=num_items).train()
        self._objective = NextItemObjective(self._model, histories, batch_size=128, seed=0)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=1e-3)

    def __call__(self) -> float:
        """Return the seconds of an epoch."""
        started = time.perf_counter()
        for items, targets, _ in self._objective.batches(1):
            logits: Tensor = self._model.encode(items) @ self._model.item_embedding.T
            logits[..., 0] = -torch.inf
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
            self._optimizer.zero_grad(set_to_none=False)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return time.perf_counter() - started


def write_csv(histories: Histories, path: Path) -> None:
    """Write the histories as a table of interactions; the time is the place in the history."""
    users, items = histories.flat()
    times = np.arange(len(users))
    rows = np.stack([users, items, times], axis=1)
    np.savetxt(path, rows, fmt="%d", delimiter=",", header="user_id,item_id,time", comments="")


def run_rectools(python: Path, table: Path) -> float:
    """Return the seconds of RecTools' fit of one epoch."""
    command = [str(python), "-c", RECTOOLS, str(table)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds: float = json.loads(output.splitlines()[-1])["seconds"]
    return seconds


def measure_large() -> list[dict[str, Any]]:
    """Return a row for each loss, each measured in a process of its own."""
    losses: dict[str, dict[str, Any]] = {
        "softmax": {"loss": "softmax"},
        "sampled_softmax, 3,000": {"loss": "sampled_softmax", "num_negatives": 3000},
    }
    rows: list[dict[str, Any]] = []
    for name, settings in losses.items():
        for optimizer in ("adam", "lazy_adam"):
            with get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure_large_step, (settings, optimizer))
            rows.append({"loss": name, "optimizer": optimizer} | row)
            first = next(r for r in rows if r["optimizer"] == optimizer)
            rows[-1]["faster by"] = first["s a step"] / rows[-1]["s a step"]
    return rows


def measure_large_step(settings: dict[str, Any], optimizer: str) -> dict[str, Any]:
    """Return seconds of a step, and the memory that training takes above the parameters."""
    rng = np.random.default_rng(0)
    length, num_users = 33, LARGE_POSITIONS // 32 * (LARGE_STEPS + 2)
    items = rng.integers(1, LARGE_ITEMS + 1, num_users * length).astype(np.int32)
    ends = np.arange(num_users + 1) * length
    histories = Histories(items, np.maximum(ends - length, 0), ends)
    config = SASRecConfig(dim=64, num_blocks=2, num_heads=2, max_len=32, **settings)
    model = SASRec(config, num_users=num_users, num_items=LARGE_ITEMS).train()
    objective = NextItemObjective(model, histories, batch_size=LARGE_POSITIONS // 32, seed=0)
    training = TrainingConfig(weight_decay=0.0, optimizer=optimizer)  # type: ignore[arg-type]
    loop = TrainingLoop(model, objective, training, directory=Path())
    before = peak_memory_bytes(torch.device("cpu"))
    seconds = []
    for batch in objective.batches(1):
        started = time.perf_counter()
        loop._step(batch)
        seconds.append(time.perf_counter() - started)
    return {
        "s a step": statistics.median(seconds[2:]),
        "MB above the parameters": (peak_memory_bytes(torch.device("cpu")) - before) / 1e6,
    }


if __name__ == "__main__":
    sys.exit(main())
