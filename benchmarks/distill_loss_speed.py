"""What distillation costs in the softmax over a catalogue: forward and backward, one thread.

    python -m benchmarks.distill_loss_speed

Hard labels, the fused loss with the teacher's best 20 items, and the same with logits and targets
of the whole batch. Variants take turns, so that other work on the machine meets all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks._report import to_table, write_report
from ensue.losses.distillation import (
    distillation_loss,
    full_softmax_distillation_loss,
    topk_distillation_loss,
)
from ensue.losses.full_softmax import full_softmax_loss
from ensue.losses.soft_targets import TopKTarget

POSITIONS, ITEMS, DIM, KEPT, ROUNDS = 1_100, 12_101, 64, 20, 15


def main() -> int:
    """Measure, print a table, and write the report."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    losses = make_losses()
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(ROUNDS):
        for name, loss in losses.items():
            started = time.perf_counter()
            torch.autograd.backward(loss())
            times[name].append(1e3 * (time.perf_counter() - started))
    rows = [
        {"loss": name, "best, ms": min(values), "median, ms": sorted(values)[ROUNDS // 2]}
        for name, values in times.items()
    ]
    print(to_table(rows))
    config = {"positions": POSITIONS, "items": ITEMS, "dim": DIM, "k": KEPT, "rounds": ROUNDS}
    print(write_report("distill_loss_speed", config, rows))
    return 0


def make_losses() -> dict[str, Callable[[], Tensor]]:
    """Return the losses, each of the same inputs."""
    queries = torch.randn(POSITIONS, DIM, requires_grad=True)
    table = (0.1 * torch.randn(ITEMS + 1, DIM)).requires_grad_()
    targets = torch.randint(1, ITEMS + 1, (POSITIONS,))
    ids = torch.rand(POSITIONS, ITEMS).topk(KEPT, dim=1).indices
    values = torch.full((POSITIONS, KEPT), 0.9 / KEPT)
    compact = TopKTarget(ids, values, torch.full((POSITIONS,), 0.1 / (ITEMS - KEPT)))
    of_items = TopKTarget(ids + 1, values, compact.remainder)

    def fused(tau: float) -> Callable[[], Tensor]:
        return lambda: full_softmax_distillation_loss(
            queries, table, targets, of_items, teacher_weight=0.5, temperature=tau
        )

    def closed_form(tau: float) -> Callable[[], Tensor]:
        return lambda: topk_distillation_loss(
            queries @ table[1:].T, targets - 1, compact, teacher_weight=0.5, temperature=tau
        ).sum()

    def dense(tau: float) -> Callable[[], Tensor]:
        return lambda: distillation_loss(
            queries @ table[1:].T,
            targets - 1,
            compact.dense(ITEMS),
            teacher_weight=0.5,
            temperature=tau,
        ).sum()

    losses: dict[str, Callable[[], Tensor]] = {
        "hard labels": lambda: full_softmax_loss(queries, table, targets)
    }
    for tau in (1.0, 2.0):
        losses[f"fused, temperature {tau:g}"] = fused(tau)
        losses[f"dense logits, compact target, temperature {tau:g}"] = closed_form(tau)
        losses[f"dense logits, dense target, temperature {tau:g}"] = dense(tau)
    return losses


if __name__ == "__main__":
    sys.exit(main())
