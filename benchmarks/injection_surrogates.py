"""One reply of each surrogate that is not trained by steps on users, on Gowalla.

    python -m benchmarks.injection_surrogates [--epochs 50] [--threads 2]

Data as in benchmarks.injection_speed. A reply trains from scratch with the fake users, finds the
loss of the attack, and differentiates it. The last row is a step of the autoencoder as the authors'
code has it, with matrices [users, items], forward and backward, beside the same step here.
Each row is measured in a process of its own, compiled code ready.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._report import to_table, write_report
from benchmarks.injection_speed import NUM_FAKES, SOURCE, TARGETS, load_clicks
from ensue.audit.clicks import Clicks
from ensue.audit.item_ae import ItemAe, ItemAeConfig, ItemAeProblem, initial_parameters
from ensue.audit.learned import OuterConfig, Surrogate, copied_users
from ensue.audit.wrmf_als import WrmfAls, WrmfAlsConfig
from ensue.training.log import peak_memory_bytes


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=50, help="of the autoencoder")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not SOURCE.is_file():
        print(f"skipped: {SOURCE} is not there", file=sys.stderr)
        return 0
    found: list[dict[str, Any]] = []
    for name in ("wrmf-als", "item-ae-partial", "item-ae", "item-ae, a step"):
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (name, arguments.epochs, arguments.threads)))
        print(found[-1], flush=True)
    print(to_table(found))
    print(write_report("injection_surrogates", vars(arguments), found))
    return 0


def measure(name: str, epochs: int, threads: int) -> dict[str, Any]:
    """Return a row of the table."""
    torch.set_num_threads(threads)
    real = load_clicks()
    dense = float("nan")
    if name == "item-ae, a step":
        seconds, dense = time_steps(real)
    else:
        makers: dict[str, Callable[..., Surrogate]] = {
            "wrmf-als": partial(WrmfAls, config=WrmfAlsConfig()),
            "item-ae": partial(ItemAe, config=ItemAeConfig(epochs=epochs)),
            "item-ae-partial": partial(
                ItemAe, config=ItemAeConfig(epochs=epochs, tracked_epochs=0)
            ),
        }
        make = makers[name]
        few = Clicks.from_rows([np.arange(3)] * 4, 6)
        make(few, np.array([5]), seed=0, num_fakes=1).reply(np.zeros((1, 6), np.bool_))
        seconds = time_reply(make(real, TARGETS, seed=0, num_fakes=NUM_FAKES), real)
    peak = peak_memory_bytes(torch.device("cpu"))
    return {"what": name, "seconds": seconds, "dense": dense, "peak GB": peak / 1e9}


def time_reply(surrogate: Surrogate, real: Clicks) -> float:
    """Return seconds of a reply."""
    fakes = copied_users(real, NUM_FAKES, OuterConfig(), seed=0)
    started = time.perf_counter()
    surrogate.reply(fakes)
    return time.perf_counter() - started


def time_steps(real: Clicks) -> tuple[float, float]:
    """Return seconds of the gradient of a step, here and in dense form, after checking them.

    Raises:
        AssertionError: they differ.
    """
    config = ItemAeConfig()
    generator = torch.Generator().manual_seed(0)
    parameters = initial_parameters(real.num_users, config.hidden, generator)
    items = torch.randperm(real.num_items, generator=generator)[: config.batch_items]
    problem = ItemAeProblem(real, [items], parameters, config=config)
    table = torch.from_numpy(real.dense(np.arange(real.num_users))).float()
    found = [torch.empty_like(p) for p in parameters]
    leaves = [p.clone().requires_grad_() for p in parameters]
    ours = best_of(lambda: problem.gradient(0, parameters, found))
    expected: list[Tensor] = []

    def take_dense() -> None:
        expected[:] = torch.autograd.grad(dense_loss(leaves, table[:, items], config), leaves)

    theirs = best_of(take_dense)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-4
    return ours, theirs


def dense_loss(parameters: list[Tensor], clicks: Tensor, config: ItemAeConfig) -> Tensor:
    """Return the loss of a batch of items, given all their cells [N, B]."""
    value = clicks.T
    for weight, bias in zip(parameters[:-1:2], parameters[1:-1:2], strict=True):
        value = torch.tanh(value @ weight + bias)
    scores = parameters[-1][:, :-1] @ value.T + parameters[-1][:, -1:]
    weights = torch.where(clicks > 0, config.weight, 1.0)
    return (weights * (clicks - scores).square()).sum()


def best_of(run: Callable[[], None], rounds: int = 3) -> float:
    """Return the seconds of the fastest of some runs; the first one warms up."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


if __name__ == "__main__":
    sys.exit(main())
