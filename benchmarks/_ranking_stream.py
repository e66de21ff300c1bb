"""A Criteo-shaped stream, the tower over it, and programs that take turns on it.

Imports PyTorch and NumPy alone: the programs run in environments of their own. Each is a process
that prints a line of JSON for each line it reads, so that the programs can be timed in turns.
Shapes: B rows, C = 26 categorical, K = 13 numeric columns, D width.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# Distinct values of the 26 columns of Criteo's display advertising challenge.
# fmt: off
CRITEO = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on
SIZES: dict[str, tuple[int, ...]] = {
    "criteo": tuple(min(size, 1_000_000) for size in CRITEO),
    "even": (100_000,) * 26,
}
BATCH, NUMBERS, DIM, HIDDEN = 4096, 13, 16, (512, 256)
RATE, EPS = 0.01, 1e-8
NUM_BATCHES = 16  # the stream goes round them


class Rows(NamedTuple):
    """codes: [B, C] int64, of each column by itself. numbers: [B, K]. labels: [B]."""

    codes: Tensor
    numbers: Tensor
    labels: Tensor


def stream(sizes: tuple[int, ...]) -> list[Rows]:
    """Return batches whose values are Zipf's (exponent 1), spread over the table of each column."""
    rng = np.random.default_rng(0)
    counts = np.array(sizes)
    batches = []
    for _ in range(NUM_BATCHES):
        uniform = rng.random((BATCH, len(sizes)))
        rank = np.minimum(np.expm1(uniform * np.log1p(counts)).astype(np.int64), counts - 1)
        codes = rank * 2_654_435_761 % counts
        numbers = rng.standard_normal((BATCH, NUMBERS), dtype=np.float32)
        labels = (rng.random(BATCH) < 0.25).astype(np.float32)
        batches.append(Rows(*(torch.from_numpy(a) for a in (codes, numbers, labels))))
    return batches


def start_table(sizes: tuple[int, ...]) -> Tensor:
    """Return the same first vectors for every program [sum of sizes, D]."""
    generator = torch.Generator().manual_seed(0)
    return torch.empty(sum(sizes), DIM).uniform_(-0.05, 0.05, generator=generator)


class Tower(nn.Module):
    """Logits [B] of vectors [B, C * D] and numbers [B, K]: the same start in every program."""

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.numbers = nn.Linear(NUMBERS, DIM)
        widths = (num_columns * DIM + DIM, *HIDDEN)
        layers = [nn.Linear(a, b) for a, b in zip(widths, HIDDEN, strict=False)]
        self.layers = nn.ModuleList(layers)
        self.logit = nn.Linear(HIDDEN[-1], 1)

    def forward(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Return the logits [B]."""
        hidden = torch.cat([vectors, self.numbers(numbers).relu()], dim=1)
        for layer in self.layers:
            hidden = layer(hidden).relu()
        return self.logit(hidden).squeeze(1)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean log loss."""
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def serve(steps: Callable[[], float], *, warm_up: int = 3) -> None:
    """Answer each line "threads steps" with seconds of the wall and of the process.

    The first answer, unasked, is the loss of the last step of the warm-up.

    Args:
        steps: takes one step and returns its loss.
    """
    for _ in range(warm_up):
        loss = steps()
    print(json.dumps({"loss": loss}), flush=True)
    for line in sys.stdin:
        threads, number = map(int, line.split())
        torch.set_num_threads(threads)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(number):
            steps()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)


def round_and_round(batches: list[Any]) -> Iterator[Any]:
    """Yield the batches again and again."""
    while True:
        yield from batches
