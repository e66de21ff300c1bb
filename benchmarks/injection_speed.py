"""One outer iteration of an attack by WRMF on Gowalla, beside the dense form of autograd.

    python -m benchmarks.injection_speed [--rounds 1] [--threads 2]

Training on ../shared/data/gowalla-15core (the authors' random split; 13,149 real and 131 fake
users, 14,007 items), 50 epochs of batches of 2,048 users, width 128; the gradient through all 350
steps; the next fake users. The dense form is that of the authors' code: matrices [batch, items],
each step in one graph. A graph of 350 steps does not fit into memory, hence the dense form takes
trainings of 1 and of 4 steps: a step is a third of the difference, and what remains is the loss of
the attack. That leaves out the second pass that a dense form with stored states would need.
Both take turns, each time in a process of its own; the table has medians.
Their gradients of 4 steps are compared item by item, and the median told. All items together would
tell of a few: Adam's first step is the sign of the gradient, whose derivative is some 1 / eps where
an element happens to be near 0, and in float32 such an element is rounding. In float64 they agree
to 1e-12 (tests/audit/test_wrmf_sgd.py).
Bars: 5 times as fast; at most 3 GB at the peak.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import time
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._report import to_table, write_report
from ensue.audit.clicks import Clicks
from ensue.audit.inner_steps import Adam
from ensue.audit.learned import OuterConfig, copied_users
from ensue.audit.projection import FakeUpdate
from ensue.audit.target_loss import target_loss
from ensue.audit.unroll import Unroll
from ensue.audit.wrmf_sgd import WrmfProblem, WrmfSgd, WrmfSgdConfig
from ensue.training.log import peak_memory_bytes

SOURCE = Path(__file__).resolve().parents[2] / "shared/data/gowalla-15core/random_split.txt.gz"
TARGETS = np.array([259, 2272, 3010, 6737, 7690])  # the authors' head
NUM_ITEMS = 14_007
NUM_FAKES = 131
CONFIG = WrmfSgdConfig()
FEW, MORE = 1, 4  # steps of the dense form


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not SOURCE.is_file():
        print(f"skipped: {SOURCE} is not there", file=sys.stderr)
        return 0
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "dense": []}
    for _ in range(arguments.rounds):
        for name, measure in (("ours", measure_ours), ("dense", measure_dense)):
            with get_context("spawn").Pool(1) as pool:
                found[name].append(pool.apply(measure, (arguments.threads,)))
            print(name, found[name][-1], flush=True)
    ours, dense = (
        {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for runs in found.values()
    )
    rows = [
        {"form": "Ensue, measured", "s an iteration": ours["seconds"], "peak GB": ours["GB"]},
        {"form": "dense, extrapolated", "s an iteration": dense["seconds"], "peak GB": dense["GB"]},
    ]
    print(to_table(rows))
    config = {
        **vars(arguments),
        "times as fast": round(dense["seconds"] / ours["seconds"], 1),
        "of these seconds ours trains": round(ours["training"], 2),
        "dense s a step": round(dense["step"], 3),
        "relative difference of gradients, median item": f"{dense['difference']:.1e}",
    }
    print(config)
    print(write_report("injection_speed", config, rows))
    return 0


class Timed(WrmfSgd):
    """The surrogate, with the seconds of its last training."""

    seconds = 0.0

    def train(self, fakes: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Train, and look at the clock."""
        started = time.perf_counter()
        trained = super().train(fakes)
        self.seconds = time.perf_counter() - started
        return trained


def measure_ours(threads: int) -> dict[str, float]:
    """Return seconds of an iteration, of the training in it, and the peak of memory."""
    torch.set_num_threads(threads)
    real = load_clicks()
    compile_kernels()
    fakes = copied_users(real, NUM_FAKES, OuterConfig(), seed=0)
    model = Timed(real, TARGETS, CONFIG, 0, num_fakes=NUM_FAKES)
    update = FakeUpdate(
        lr=1, momentum=0.95, threshold=0.05, is_normalized=True, limit=None, always=TARGETS[:0]
    )
    started = time.perf_counter()
    update.step(fakes, model.reply(fakes).gradient)
    seconds = time.perf_counter() - started
    peak = peak_memory_bytes(torch.device("cpu"))
    return {"seconds": seconds, "training": model.seconds, "GB": peak / 1e9}


def measure_dense(threads: int) -> dict[str, float]:
    """Return seconds and memory of 350 steps, and how far its gradient of 4 is from ours."""
    torch.set_num_threads(threads)
    real = load_clicks()
    fakes = copied_users(real, NUM_FAKES, OuterConfig(), seed=0)
    clicks = np.concatenate([real.dense(np.arange(real.num_users)), fakes])
    dense = torch.from_numpy(clicks).float()
    del clicks
    start, batches = make_start(len(dense))
    seconds, peaks = {}, {}
    for steps in (FEW, FEW, MORE):  # the first warms up
        started = time.perf_counter()
        gradient = dense_gradient(dense, start, batches[:steps])
        seconds[steps] = time.perf_counter() - started
        peaks[steps] = peak_memory_bytes(torch.device("cpu"))
    num_steps = CONFIG.epochs * len(batches)

    def all_steps(values: Mapping[int, float]) -> float:
        slope = (values[MORE] - values[FEW]) / (MORE - FEW)
        return values[FEW] + (num_steps - FEW) * slope

    expected = our_gradient(real, fakes, start, batches[:MORE])
    lengths, apart = expected.norm(dim=0), (gradient - expected).norm(dim=0)
    difference = float((apart / lengths)[lengths > 0].median())
    return {
        "seconds": all_steps(seconds),
        "GB": all_steps(peaks) / 1e9,
        "step": (seconds[MORE] - seconds[FEW]) / (MORE - FEW),
        "difference": difference,
    }


def dense_gradient(clicks: Tensor, start: tuple[Tensor, Tensor], batches: list[Tensor]) -> Tensor:
    """Return the gradient by the fake users, clicks[-F:], through all steps: [F, I]."""
    num_real = len(clicks) - NUM_FAKES
    fakes = clicks[num_real:].clone().requires_grad_()
    states = [(t.clone().requires_grad_(), torch.zeros_like(t), torch.zeros_like(t)) for t in start]
    for step, rows in enumerate(batches):
        users, items = states[0][0], states[1][0]
        batch = clicks[rows]
        is_fake = rows >= num_real
        batch[is_fake] = fakes[rows[is_fake] - num_real]
        weights = torch.where(batch.detach() > 0, CONFIG.weight, 1.0)
        loss = (weights * (batch - users[rows] @ items.T).square()).sum()
        gradients = torch.autograd.grad(loss, [users, items], create_graph=True)
        states = [
            adam(step, *state, gradient) for state, gradient in zip(states, gradients, strict=True)
        ]
    users, items = states[0][0], states[1][0]
    likely = torch.log_softmax(users[:num_real] @ items.T, dim=1)
    loss = -likely[:, torch.from_numpy(TARGETS)].mean(dim=1).sum()
    (gradient,) = torch.autograd.grad(loss, fakes)
    return gradient


def adam(
    step: int, value: Tensor, mean: Tensor, square: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a state after a step; where a square is 0, its root is made to have a derivative."""
    gradient = gradient + CONFIG.weight_decay * value
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient.square()
    first, second = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
    root = torch.where(square > 0, square, 1.0).div(second).sqrt() * (square > 0)
    return value - CONFIG.lr * (mean / first) / (root + 1e-8), mean, square


def our_gradient(
    real: Clicks, fakes: NDArray[np.bool_], start: tuple[Tensor, Tensor], batches: list[Tensor]
) -> Tensor:
    """Return what `dense_gradient` does."""
    rows = [batch.numpy() for batch in batches]
    problem = WrmfProblem(real, rows, start, weight=CONFIG.weight, weights="constant")
    problem.place(fakes)
    unroll = Unroll(problem, Adam(CONFIG.lr, CONFIG.weight_decay))
    users, items = unroll.train()
    found = target_loss(users[: real.num_users], items, real, TARGETS, k=50)
    to_users = torch.zeros_like(users)
    to_users[: real.num_users] = found.to_users
    to_fakes = torch.zeros(fakes.shape)
    unroll.pull_back([to_users, found.to_items], to_fakes)
    return to_fakes


def make_start(num_users: int) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Return users and items before the first step, and the batches of an epoch."""
    generator = torch.Generator().manual_seed(0)
    users, items = (
        CONFIG.init_std * torch.randn(size, CONFIG.dim, generator=generator)
        for size in (num_users, NUM_ITEMS)
    )
    order = torch.randperm(num_users, generator=generator)
    return (users, items), list(torch.split(order, CONFIG.batch_users))


def compile_kernels() -> None:
    """Take an iteration of a few users."""
    few = Clicks.from_rows([np.arange(3)] * 4, 6)
    config = WrmfSgdConfig(epochs=2)
    model = WrmfSgd(few, np.array([5]), config, 0, num_fakes=1)
    model.reply(np.zeros((1, 6), np.bool_))


def load_clicks() -> Clicks:
    """Return the training clicks of the authors' random split."""
    with gzip.open(SOURCE, "rt", encoding="utf-8") as lines:
        rows = [np.array(line.split("\t")[1].split(), np.int64) for line in lines]
    return Clicks.from_rows(rows, NUM_ITEMS)


if __name__ == "__main__":
    sys.exit(main())
