"""An update of 100 million parameters by Clippy beside those of PyTorch's Adagrad.

    python -m benchmarks.clippy_speed [--parameters 100000000] [--rounds 9]

They take turns on one tensor each. Bar: at most 2.0 times the faster of Adagrad's fused and foreach
forms; the bytes that must move give 1.6.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import torch

from benchmarks._report import to_table, write_report
from ensue.optim.clippy import Clippy


def main() -> int:
    """Time the updates in turn, print a table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    grad = 0.1 * torch.randn(arguments.parameters)
    weights = [torch.randn(arguments.parameters).requires_grad_() for _ in range(3)]
    for weight in weights:
        weight.grad = grad
    adagrad: dict[str, Any] = {"lr": 0.05, "initial_accumulator_value": 0.1, "eps": 0}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "Adagrad, fused": torch.optim.Adagrad([weights[0]], fused=True, **adagrad),
        "Adagrad, foreach": torch.optim.Adagrad([weights[1]], foreach=True, **adagrad),
        "Clippy": Clippy([weights[2]], lr=0.05),
    }
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(arguments.rounds + 1):
        for name, optimizer in optimizers.items():
            started = time.perf_counter()
            optimizer.step()
            if turn > 0:  # the first makes the state
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = min(medians["Adagrad, fused"], medians["Adagrad, foreach"])
    factor = float(optimizers["Clippy"].state[weights[2]]["factor"])
    rows = [
        {"update": name, "s": value, "over Adagrad": value / base}
        for name, value in medians.items()
    ]
    print(to_table(rows))
    print(f"threads: {torch.get_num_threads()}; last factor {factor:.3f}")
    config = {**vars(arguments), "threads": torch.get_num_threads(), "factor": factor}
    print(write_report("clippy_speed", config, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
