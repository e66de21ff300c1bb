"""Rows a second of a ranking model on a Criteo-shaped stream, beside TorchRec and plain PyTorch.

    python -m benchmarks.ranking_speed [--reference PYTHON] [--tables criteo|even] [--profile]

26 categorical and 13 numeric columns, batches of 4,096, vectors of 16 numbers, hidden layers of 512
and 256, Adagrad. Tables: the sizes of Criteo's columns, a million rows at most (5.6 million in
all), or 26 of 100,000 rows. Values follow Zipf's law; batches lie ready in memory. Programs:

- ensue: one stacked table, sparse gradients (`ensue.nn.sparse_rows`), Ensue's Adagrad;
- plain, sparse: 26 `nn.Embedding(sparse=True)`, PyTorch's Adagrad, fused for the tower;
- plain, dense: 26 `nn.Embedding`, PyTorch's fused Adagrad, as one writes it first;
- TorchRec, TorchRec's kernels: see `benchmarks._ranking_torchrec`, run by the interpreter
  --reference of an environment with it (`pip install --no-deps torchrec==1.8.0
  fbgemm-gpu-cpu==1.8.0` beside torch 2.13.0, then tensordict, iopath, torchmetrics,
  lightning-utilities, pyre-extensions, portalocker and pyvers).

All start from the same weights and must come to the same loss. Each is a process of its own; they
take turns, several rounds, and the table has medians: of the wall, and of the processor's time,
which other jobs of the machine disturb less.

Floor: the tower has 6 * (432 * 512 + 512 * 256 + 13 * 16 + 256) = 2.1 million operations a row, 8.7
billion a step: 0.11 s at the 80 billion a second of float32 products that one core (EPYC, AVX2)
reaches, nine tenths of the step of the fastest programs here: no table can make the step twice as
fast as one with sparse gradients. The tables need 26 * 4,096 rows of 64 bytes to be read, as much
again for the gradient, and 30,000 distinct rows of weights and of sums to be read and written: 21
MB, 2 ms at 10 GB/s. Bars: at least TorchRec's speed, and twice that of plain PyTorch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._ranking_stream import (
    BATCH,
    DIM,
    EPS,
    HIDDEN,
    NUMBERS,
    RATE,
    SIZES,
    Rows,
    Tower,
    loss_of,
    round_and_round,
    serve,
    start_table,
    stream,
)
from benchmarks._report import to_table, write_report
from ensue.nn.perceptron import Perceptron
from ensue.nn.sparse_rows import gather_rows_sparse
from ensue.optim.adagrad import Adagrad

ROUNDS, STEPS = 9, 4
PROFILE_STEPS = 30
REFERENCES = {"TorchRec": "collection", "TorchRec's kernels": "kernels"}


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="Python of an environment with TorchRec")
    parser.add_argument("--tables", choices=SIZES, default="criteo")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--profile", action="store_true", help="where Ensue's time goes")
    parser.add_argument("--serve", choices=("ensue", "sparse", "dense"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = SIZES[arguments.tables]
    if arguments.serve:
        serve(Ensue(sizes) if arguments.serve == "ensue" else Plain(sizes, arguments.serve))
    elif arguments.profile:
        rows = [row for threads in arguments.threads for row in profile(sizes, threads)]
        report("ranking_profile", arguments.tables, rows)
    else:
        programs = start_programs(arguments.tables, arguments.reference)
        rows = []
        for threads in arguments.threads:
            rows += compare(programs, threads, arguments.rounds)
        report("ranking_speed", arguments.tables, rows)
    return 0


def report(name: str, tables: str, rows: list[dict[str, Any]]) -> None:
    """Print the table and write the report."""
    print(to_table(rows))
    print(write_report(f"{name}_{tables}", {"tables": tables, "batch": BATCH}, rows))


class OwnTower(nn.Module):
    """The tower in Ensue's layers, which rectify in place, with the start of all programs."""

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        start = Tower(num_columns)
        self.numbers = Perceptron(NUMBERS, [DIM])
        self.layers = Perceptron(num_columns * DIM + DIM, HIDDEN)
        self.logit = start.logit
        self.numbers.layers[0].load_state_dict(start.numbers.state_dict())
        self.layers.layers.load_state_dict(start.layers.state_dict())

    def forward(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Return the logits [B]."""
        hidden = self.layers(torch.cat([vectors, self.numbers(numbers)], dim=1))
        logits: Tensor = self.logit(hidden)
        return logits.squeeze(1)


class Ensue:
    """A step with one stacked table and sparse gradients."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._source = round_and_round(stream(sizes))
        self._first = torch.tensor([0, *itertools.accumulate(sizes[:-1])])
        self._table = nn.Parameter(start_table(sizes))
        self._tower = OwnTower(len(sizes))
        self._of_table = Adagrad([self._table], lr=RATE, eps=EPS)
        self._of_tower = Adagrad(self._tower.parameters(), lr=RATE, eps=EPS)

    def __call__(self) -> float:
        """Take a step and return its loss."""
        rows: Rows = next(self._source)
        vectors = gather_rows_sparse(self._table, rows.codes + self._first)
        loss = loss_of(self._tower(vectors.flatten(1), rows.numbers), rows.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in (self._of_table, self._of_tower):
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        return loss.item()

    def profile(self, seconds: dict[str, float]) -> None:
        """Take a step and add the seconds of its parts."""
        now = time.perf_counter()

        def note(part: str) -> None:
            nonlocal now
            seconds[part] += time.perf_counter() - now
            now = time.perf_counter()

        rows: Rows = next(self._source)
        found = gather_rows_sparse(self._table, rows.codes + self._first)
        note("look-up")
        vectors = found.detach().flatten(1).requires_grad_()
        logits = self._tower(vectors, rows.numbers)
        note("tower, forward")
        loss = loss_of(logits, rows.labels)
        (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
        note("loss")
        logits.backward(grad)
        note("tower, backward")
        found.backward(_grad(vectors).view_as(found))  # type: ignore[no-untyped-call]
        note("gradient of the table")
        self._of_table.step()
        note("step of the table")
        self._of_tower.step()
        note("step of the tower")
        for optimizer in (self._of_table, self._of_tower):
            optimizer.zero_grad(set_to_none=False)
        note("clearing")


def _grad(vectors: Tensor) -> Tensor:
    assert vectors.grad is not None
    return vectors.grad


class Plain:
    """A step of PyTorch alone, a table for each column, with sparse or dense gradients."""

    def __init__(self, sizes: tuple[int, ...], kind: str) -> None:
        self._source = round_and_round(stream(sizes))
        self._tower = Tower(len(sizes))
        parts = torch.split(start_table(sizes), list(sizes))
        is_sparse = kind == "sparse"
        self._tables = [
            nn.Embedding(len(part), DIM, _weight=part.clone(), sparse=is_sparse) for part in parts
        ]
        tables = [table.weight for table in self._tables]
        others = list(self._tower.parameters())
        parameters = [others] if is_sparse else [[*tables, *others]]
        self._optimizers = [
            torch.optim.Adagrad(p, lr=RATE, eps=EPS, fused=True) for p in parameters
        ]
        if is_sparse:
            self._optimizers.append(torch.optim.Adagrad(tables, lr=RATE, eps=EPS))

    def __call__(self) -> float:
        """Take a step and return its loss."""
        rows: Rows = next(self._source)
        columns = rows.codes.T.contiguous()
        pairs = zip(self._tables, columns, strict=True)
        vectors = torch.cat([table(codes) for table, codes in pairs], dim=1)
        loss = loss_of(self._tower(vectors, rows.numbers), rows.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()


class Program:
    """A program in a process of its own, after its first steps; `loss` is that of the last one."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.loss = self._answer()["loss"]

    def run(self, threads: int, steps: int) -> dict[str, float]:
        """Return the seconds of these steps, of the wall and of the processor."""
        assert self._process.stdin is not None
        print(threads, steps, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer


def start_programs(tables: str, reference: Path | None) -> dict[str, Program]:
    """Return the programs by their names, ready to run."""
    own = [sys.executable, "-m", "benchmarks.ranking_speed", "--tables", tables, "--serve"]
    commands = {
        "ensue": [*own, "ensue"],
        "plain, sparse": [*own, "sparse"],
        "plain, dense": [*own, "dense"],
    }
    if reference:
        module = [str(reference), "-m", "benchmarks._ranking_torchrec"]
        commands |= {name: [*module, kind, tables] for name, kind in REFERENCES.items()}
    return {name: Program(command) for name, command in commands.items()}


def compare(programs: dict[str, Program], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each program; the programs take turns."""
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            answers[name].append(program.run(threads, STEPS))
            print(f"{name}, {threads} threads: {answers[name][-1]}", file=sys.stderr, flush=True)
    rows = [summarize(name, threads, answers) for name in programs]
    return [row | {"loss of step 3": programs[row["program"]].loss} for row in rows]


def summarize(
    name: str, threads: int, answers: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    """Return the row of a program; it is compared with the turn of Ensue in the same round."""
    own = answers[name]
    row: dict[str, Any] = {"program": name, "threads": threads}
    for kind in ("wall", "cpu"):
        row[f"rows/s, {kind}"] = STEPS * BATCH / statistics.median(a[kind] for a in own)
        pairs = zip(own, answers["ensue"], strict=True)
        row[f"ensue is faster by, {kind}"] = statistics.median(a[kind] / b[kind] for a, b in pairs)
    return row


def profile(sizes: tuple[int, ...], threads: int) -> list[dict[str, Any]]:
    """Return a row for each part of Ensue's step: median milliseconds, and the share of all."""
    torch.set_num_threads(threads)
    program = Ensue(sizes)
    steps: list[dict[str, float]] = []
    for _ in range(PROFILE_STEPS):
        seconds: dict[str, float] = defaultdict(float)
        program.profile(seconds)
        steps.append(seconds)
    medians = {part: statistics.median(s[part] for s in steps[3:]) for part in steps[0]}
    total = sum(medians.values())
    return [
        {"threads": threads, "part": part, "ms a step": 1e3 * value, "share": value / total}
        for part, value in medians.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
