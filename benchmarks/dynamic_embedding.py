"""A growing table beside a static one, and how fast and how large it grows.

    python -m benchmarks.dynamic_embedding [--rows 10000000] [--ids 50000000] [--rounds 15]
    python -m benchmarks.dynamic_embedding --dims     growth and losses alone

Steps: look-ups of 4096 x 26 ids, the backward pass and Adagrad, on a table in which all `rows` ids
are live, beside `nn.EmbeddingBag(sparse=True)` with as many dense ids and `torch.optim.Adagrad` on
its sparse gradients. They take turns on the same ids, drawn uniformly or with weights falling as
1 / rank. Bar: at most 1.5 times the static step.

Growth: distinct ids through `admit_`, dim 8, with Adagrad's state in the rows. Bars: at most 60 s
for 50 million, and at most 1.4 times the payload in bytes: weights, state and the id itself. The
ratio to weights and state alone is given too.

Losses: of 200 steps of a small model on the two tables, with the same rows to begin with.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._report import to_table, write_report
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.hashing import mix_tensor, start_values
from ensue.nn.table_config import TableConfig

CONFIG = TableConfig.model_validate({"rule": {"name": "adagrad", "initial": 0.1}})
BATCH, FIELDS, LR = 4096, 26, 0.05
CHUNK = 1 << 18  # ids admitted at a time


def main() -> int:
    """Measure steps, growth and losses, print the tables, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--ids", type=int, default=50_000_000)
    parser.add_argument("--dims", type=int, nargs="*", default=[8, 16, 64])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    if arguments.ids:
        rows += growth(arguments.ids)
        print(to_table(rows), flush=True)
    for dim in arguments.dims:
        steps = time_steps(arguments.rows, dim, arguments.rounds)
        print(to_table(steps), flush=True)
        rows += steps
    rows += compare_losses()
    print(to_table(rows))
    config = {**vars(arguments), "threads": torch.get_num_threads()}
    name = "dynamic_embedding" if arguments.dims else "dynamic_embedding_growth"
    print(write_report(name, config, rows))
    return 0


def row(measure: str, value: float, unit: str, *, bar: float | str = "") -> dict[str, Any]:
    """Return a line of the report."""
    return {"measure": measure, "value": value, "unit": unit, "bar": bar}


def raw_ids(codes: Tensor) -> Tensor:
    """Return a 64-bit id for each code: spread over all numbers, and never twice the same."""
    return mix_tensor(codes + 1)


def fill(table: DynamicEmbedding, num_ids: int) -> float:
    """Admit ids 0 .. num_ids - 1, and return the seconds in `admit_`."""
    seconds = 0.0
    for first in range(0, num_ids, CHUNK):
        ids = raw_ids(torch.arange(first, min(first + CHUNK, num_ids)))
        started = time.perf_counter()
        table.admit_(ids)
        seconds += time.perf_counter() - started
    return seconds


def growth(num_ids: int) -> list[dict[str, Any]]:
    """Return seconds and bytes of a table that takes distinct ids."""
    fill(DynamicEmbedding(8, CONFIG), CHUNK)  # compiles
    resident = resident_bytes()
    table = DynamicEmbedding(8, CONFIG)
    working = time.process_time()
    seconds = fill(table, num_ids)
    working = time.process_time() - working
    payload = 4 * table.values.width
    sizes = {
        "allocated": sum(table.num_bytes().values()) / num_ids,
        "resident": (resident_bytes() - resident) / num_ids,
    }
    assert len(table) == num_ids
    name = f"{num_ids} ids at dim 8"
    lines = [
        row(f"{name}: admitted", seconds, "s", bar=60 * num_ids / 50_000_000),
        row(f"{name}: processor time, with making the ids", working, "s"),
    ]
    for kind, size in sizes.items():
        lines += [
            row(f"{name}: {kind}", size, "bytes a row"),
            row(f"{name}: {kind}, over weights, state, id", size / (payload + 8), "x", bar=1.4),
            row(f"{name}: {kind}, over weights, state", size / payload, "x"),
        ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [*lines, row(f"{name}: highest memory of the process", peak / 2**30, "GiB")]


def resident_bytes() -> int:
    """Return the memory of this process that is in use (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def time_steps(num_rows: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    """Return median seconds of a step on both tables, for ids drawn in two ways."""
    table = DynamicEmbedding(dim, CONFIG)
    fill(table, num_rows)
    static = nn.EmbeddingBag(num_rows, dim, mode="sum", sparse=True)
    adagrad = torch.optim.Adagrad(static.parameters(), lr=LR, initial_accumulator_value=0.1)
    offsets = torch.arange(BATCH * FIELDS + 1)
    grad = torch.randn(BATCH * FIELDS, dim)
    generator = torch.Generator().manual_seed(0)

    def dynamic_step(codes: Tensor, ids: Tensor) -> None:
        table.bag(ids, offsets, "sum").backward(grad)  # type: ignore[no-untyped-call]
        table.apply_gradients_(LR)

    def static_step(codes: Tensor, ids: Tensor) -> None:
        static(codes, offsets[:-1]).backward(grad)
        adagrad.step()
        adagrad.zero_grad()

    lines = []
    for kind, draw in (("uniform", uniform), ("skewed", skewed)):
        seconds: dict[str, list[float]] = {"static": [], "dynamic": []}
        for turn in range(rounds + 1):
            codes = draw(num_rows, generator)
            ids = raw_ids(codes)
            for name, step in (("static", static_step), ("dynamic", dynamic_step)):
                started = time.perf_counter()
                step(codes, ids)
                if turn > 0:
                    seconds[name].append(time.perf_counter() - started)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        case = f"step, {num_rows} rows, dim {dim}, {kind}"
        lines += [row(f"{case}: {name}", 1e3 * value, "ms") for name, value in medians.items()]
        ratio = medians["dynamic"] / medians["static"]
        lines.append(row(f"{case}: ratio", ratio, "x", bar=1.5))
    return lines


def uniform(num_rows: int, generator: torch.Generator) -> Tensor:
    """Return codes that are all as likely."""
    return torch.randint(0, num_rows, (BATCH * FIELDS,), generator=generator)


def skewed(num_rows: int, generator: torch.Generator) -> Tensor:
    """Return codes with a density that falls as 1 / rank, far from each other in memory."""
    ranks = (
        num_rows ** torch.rand(BATCH * FIELDS, generator=generator, dtype=torch.float64)
    ).long()
    return ranks * 7_368_787 % num_rows


def compare_losses(steps: int = 200, num_ids: int = 500) -> list[dict[str, Any]]:
    """Return how far the losses on both tables are from each other, at most."""
    generator = torch.Generator().manual_seed(0)
    table, static = (
        DynamicEmbedding(16, CONFIG),
        nn.EmbeddingBag(num_ids, 16, mode="sum", sparse=True),
    )
    codes = torch.arange(num_ids)
    with torch.no_grad():
        static.weight.copy_(
            start_values(
                raw_ids(codes),
                16,
                seed=CONFIG.seed,
                name=CONFIG.start,
                scale=CONFIG.start_scale,
                dtype=torch.float32,
            )
        )
    adagrad = torch.optim.Adagrad(static.parameters(), lr=LR, initial_accumulator_value=0.1)
    truth = torch.randn(num_ids, generator=generator)
    torch.manual_seed(0)
    heads = [nn.Linear(16, 1) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    dense = [torch.optim.Adagrad(head.parameters(), lr=0.1) for head in heads]
    offsets = torch.arange(0, 256 * 8 + 1, 8)
    all_losses: list[list[float]] = []
    for _ in range(steps):
        drawn = torch.randint(0, num_ids, (256 * 8,), generator=generator)
        labels = (truth[drawn].view(256, 8).sum(1) > 0).float()
        read: list[Callable[[], Tensor]] = [
            lambda drawn=drawn: static(drawn, offsets[:-1]),  # type: ignore[misc]
            lambda drawn=drawn: table.bag(raw_ids(drawn), offsets, "sum"),  # type: ignore[misc]
        ]
        losses = []
        for sums, head, optimizer in zip(read, heads, dense, strict=True):
            logits = head(sums()).squeeze(1)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        adagrad.step()
        adagrad.zero_grad()
        table.apply_gradients_(LR)
        all_losses.append(losses)
    worst = max(abs(one - other) for one, other in all_losses)
    return [
        row("loss of the first step", all_losses[0][1], "nats"),
        row(f"loss of step {steps}", all_losses[-1][1], "nats"),
        row("largest difference of two losses", worst, "nats", bar=1e-5),
    ]


if __name__ == "__main__":
    sys.exit(main())
