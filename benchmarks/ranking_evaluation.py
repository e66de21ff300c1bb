"""Time and memory of exact ranking metrics: python -m benchmarks.ranking_evaluation

One binary task of random logits with 3% positives. Time is that of one thread's CPU, from the
first chunk to the figures, less that of making the rows; each case runs in a process of its own,
after a small one that loads compiled code. Memory is what the process takes beyond that.
"""

from __future__ import annotations

import os
import sys
import time
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from benchmarks._report import to_table, write_report
from benchmarks.evaluation import MIB, memory_bytes
from ensue.data.ranking.schema import Task
from ensue.evaluation.ranking.stream import RankingStream

CHUNK = 1 << 16


class Case(NamedTuple):
    """Rows, about 50 of them in a group where there are groups, and the limit on memory."""

    name: str
    num_rows: int
    has_groups: bool
    memory_mib: int


CASES = [
    Case("10 million rows", 10_000_000, False, 64),
    Case("10 million rows, in memory", 10_000_000, False, 2048),
    Case("10 million rows, GAUC and clusters", 10_000_000, True, 64),
]


def main() -> None:
    """Run every case, print the table and write the report."""
    config = {"load average before": round(os.getloadavg()[0], 1)}
    rows = []
    for case in CASES:
        with get_context("spawn").Pool(1) as process:
            rows.append(process.apply(measure, (case,)))
    print(to_table(rows))
    report = write_report("ranking_evaluation", config, rows)
    print(f"wrote {report}", file=sys.stderr)


def measure(case: Case) -> dict[str, Any]:
    """Return the row of one case."""
    run(case._replace(num_rows=1000))
    before = memory_bytes("VmRSS")
    adding, finishing = run(case)
    return {
        "case": case.name,
        "rows": case.num_rows,
        "limit, MiB": case.memory_mib,
        "take rows, s": adding,
        "figures, s": finishing,
        "rows/s": round(case.num_rows / (adding + finishing)),
        "memory, MiB": (memory_bytes("VmHWM") - before) / MIB,
    }


def run(case: Case) -> tuple[float, float]:
    """Return the seconds of CPU to take the rows, and to find the figures."""
    rng = np.random.default_rng(0)
    adding = 0.0
    task = Task("click", "binary")
    memory = case.memory_mib * MIB
    with RankingStream([task], has_groups=case.has_groups, memory_bytes=memory) as stream:
        for first in range(0, case.num_rows, CHUNK):
            size = min(CHUNK, case.num_rows - first)
            labels = (rng.random((size, 1)) < 0.03).astype(np.float32)
            logits = rng.standard_normal((size, 1), np.float32) + labels - np.float32(3)
            groups = rng.integers(1, 2 + case.num_rows // 50, size) if case.has_groups else None
            started = time.process_time()
            stream.add(labels, logits, groups=groups)
            adding += time.process_time() - started
        started = time.process_time()
        stream.results()
        return adding, time.process_time() - started


if __name__ == "__main__":
    main()
