"""AUC of synchronous training beside asynchronous training with measured staleness.

    python -m benchmarks.staleness [--workers 16] [--seeds 5] [--hours 12]

A DeepFM on a log of 20 columns whose truth drifts; all programs read the same rows in the same
order, and every row is scored before it is trained on, by the weights that train on it. The figure
is the mean of the hours' AUC.

- synchronous: one step of Adagrad with the rows of all workers, 128 of each.
- asynchronous: the parameter server takes a step with whatever a worker pushes. A worker pulls,
  computes on what it pulled, and pushes; meanwhile others push. Each batch takes a worker a time of
  its own, log-normal with mean 1 and deviation --spread, the clock jumps from push to push, and
  the steps between a pull and its push are counted: the measured staleness.
- sequential: as asynchronous with one worker alone: the steps are as small, and none is stale.

The rate of each is the best of a grid, over all hours of a seed that is not among the five. The
difference is of pairs of the same seed; its interval is Student's.
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._report import to_table, write_report
from benchmarks.network.head import Head
from benchmarks.network.workloads import Batch, Workload, make_batch
from benchmarks.parameter_server import EPS, Server, batch_loss
from ensue.evaluation.ranking.metrics import auc
from ensue.nn.row_sums import group_rows

LOG = Workload("deepfm", (200,) * 20, 1.0, 1, 0, 8, (32,), 128)
RATES = (0.00625, 0.0125, 0.025, 0.05, 0.1)
TUNING_SEED = 1000
STEPS_AN_HOUR = 6  # of the synchronous program
DRIFT_HOURS = 24  # of a whole turn of the truth
# Of Student's distribution with 1 to 9 degrees of freedom, at 97.5%.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Outcome(NamedTuple):
    """AUC, and the steps between pull and push of each batch."""

    auc: float
    staleness: list[int]


Program = Callable[[list[list[Batch]], float, int], Outcome]


def main() -> int:
    """Train, print the tables, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[16])
    parser.add_argument("--seeds", type=int, default=5, help="2 to 10")
    parser.add_argument("--hours", type=int, default=12)
    parser.add_argument("--spread", type=float, default=0.3)
    arguments = parser.parse_args()
    rows, gaps = [], []
    for workers in arguments.workers:
        found, gap = compare(workers, arguments.seeds, arguments.hours, arguments.spread)
        rows += found
        gaps += gap
        print(to_table(found), to_table(gap), sep="\n\n", flush=True)
    config = {**vars(arguments), "rows a worker and step": LOG.batch, "differences": gaps}
    print(write_report("staleness", config, rows))
    return 0


def compare(
    workers: int, seeds: int, hours: int, spread: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each program, and one for each difference from the synchronous one."""
    programs: dict[str, Program] = {
        "synchronous": synchronous,
        "asynchronous": lambda stream, rate, seed: asynchronous(
            stream, rate, workers=workers, spread=spread, seed=seed
        ),
        "sequential": lambda stream, rate, seed: asynchronous(
            stream, rate, workers=1, spread=0.0, seed=seed
        ),
    }
    tuning = make_stream(workers, hours, TUNING_SEED)
    rates = {
        name: max(RATES, key=lambda rate: program(tuning, rate, TUNING_SEED).auc)
        for name, program in programs.items()
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in programs}
    for seed in range(seeds):
        stream = make_stream(workers, hours, seed)
        for name, program in programs.items():
            outcomes[name].append(program(stream, rates[name], seed))
    rows = [_row(workers, name, rates[name], own) for name, own in outcomes.items()]
    others = [name for name in outcomes if name != "synchronous"]
    return rows, [_gap(workers, name, outcomes) for name in others]


def make_stream(workers: int, hours: int, seed: int) -> list[list[Batch]]:
    """Return the batches of all workers at each step."""
    steps = hours * STEPS_AN_HOUR
    turn = 2 * math.pi / (DRIFT_HOURS * STEPS_AN_HOUR)
    return [
        [make_batch(LOG, rank, step, seed=seed, angle=turn * step) for rank in range(workers)]
        for step in range(steps)
    ]


def synchronous(stream: list[list[Batch]], rate: float, seed: int) -> Outcome:
    """Train with the rows of all workers in a step; no batch is stale."""
    learner = Learner(rate)
    scores = []
    for batches in stream:
        batch = Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
        logits, grads = learner.gradients(batch)
        learner.update(grads)
        scores.append(logits)
    return Outcome(hourly_auc(stream, torch.cat(scores)), [0] * len(stream))


def asynchronous(
    stream: list[list[Batch]], rate: float, *, workers: int, spread: float, seed: int
) -> Outcome:
    """Train with every worker's gradient when it comes."""
    learner = Learner(rate)
    durations = _durations(spread, seed)
    pushes: list[tuple[float, int, int, Gradients]] = []
    scores, staleness, done = [], [], 0
    for number, batch in enumerate(batch for batches in stream for batch in batches):
        now = 0.0
        if number >= workers:  # a worker is free once its push is done
            now, _, pulled, grads = heapq.heappop(pushes)
            learner.update(grads)
            staleness.append(done - pulled)
            done += 1
        # What a worker computes depends on what it pulled alone: it may as well be done now.
        logits, grads = learner.gradients(batch)
        scores.append(logits)
        heapq.heappush(pushes, (now + next(durations), number, done, grads))
    return Outcome(hourly_auc(stream, torch.cat(scores)), staleness)


def _durations(spread: float, seed: int) -> Iterator[float]:
    """Yield log-normal times with mean 1 and this deviation."""
    variance = math.log1p(spread**2)
    rng = np.random.default_rng([seed, 1])
    while True:
        yield float(rng.lognormal(-variance / 2, math.sqrt(variance)))


class Gradients(NamedTuple):
    """ids [U] of the table, their gradients [U, c], and those of the head's parameters."""

    ids: Tensor
    rows: Tensor
    head: list[Tensor]


class Learner:
    """The weights, and Adagrad."""

    def __init__(self, rate: float) -> None:
        self._server = Server(LOG, 0, 1, rate=rate)
        self._head = Head(LOG)
        self._optimizer = torch.optim.Adagrad(self._head.parameters(), lr=rate, eps=EPS, fused=True)

    def gradients(self, batch: Batch) -> tuple[Tensor, Gradients]:
        """Return the logits [B] of a batch, and the gradients of its mean loss."""
        ids, index = group_rows(batch.ids)
        rows = self._server.rows.index_select(0, ids).requires_grad_()
        loss, logits = batch_loss(self._head, rows, index, batch, LOG)
        weights = list(self._head.parameters())
        grads = torch.autograd.grad(loss / len(batch.labels), [rows, *weights])
        return logits.detach(), Gradients(ids, grads[0], list(grads[1:]))

    def update(self, grads: Gradients) -> None:
        """Take a step of Adagrad."""
        self._server.update(grads.ids, grads.rows)
        for parameter, grad in zip(self._head.parameters(), grads.head, strict=True):
            parameter.grad = grad
        self._optimizer.step()


def hourly_auc(stream: list[list[Batch]], logits: Tensor) -> float:
    """Return the mean AUC of the hours, of logits in the order of the stream."""
    labels = torch.cat([batch.labels for batches in stream for batch in batches])
    rows = STEPS_AN_HOUR * sum(len(batch.labels) for batch in stream[0])
    pairs = zip(torch.split(labels, rows), torch.split(logits, rows), strict=True)
    found = [auc(own.numpy(), scores.numpy()) for own, scores in pairs]
    return statistics.fmean(value for value in found if value is not None)


def _row(workers: int, name: str, rate: float, outcomes: list[Outcome]) -> dict[str, Any]:
    staleness = np.concatenate([outcome.staleness for outcome in outcomes])
    values = [outcome.auc for outcome in outcomes]
    return {
        "workers": workers,
        "program": name,
        "rate": rate,
        "AUC": round(statistics.fmean(values), 5),
        "sd": statistics.stdev(values),
        "staleness, mean": float(staleness.mean()),
        "99%": float(np.quantile(staleness, 0.99)),
        "largest": int(staleness.max()),
    }


def _gap(workers: int, name: str, outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    pairs = zip(outcomes["synchronous"], outcomes[name], strict=True)
    gaps = [own.auc - other.auc for own, other in pairs]
    half = STUDENT[len(gaps) - 2] * statistics.stdev(gaps) / math.sqrt(len(gaps))
    mean = statistics.fmean(gaps)
    return {
        "workers": workers,
        "difference": f"synchronous - {name}",
        "AUC": mean,
        "95% from": mean - half,
        "to": mean + half,
        "seeds": len(gaps),
    }


if __name__ == "__main__":
    sys.exit(main())
