"""How long `ensue recommend` takes for one user: start, load, first answer, later answers.

    python -m benchmarks.recommend

A Caser of the sizes of ML-1M (6,040 users, 3,416 items, d=50), each measurement in new processes.
Bars: an answer in less than 150 ms of compute after load; `import ensue` in less than 1.5 s and
`ensue --help` in less than 0.7 s.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import ensue
from benchmarks._report import to_table, write_report
from tests.helpers import make_dataset

PROCESSES = 5

ANSWER = """
import json, sys, time
started = time.perf_counter()
import ensue
run = ensue.load(sys.argv[1])
run.recommender
loaded = time.perf_counter()
run.recommend(users=["u17"], k=10)
first = time.perf_counter()
times = []
for user in range(1, 201):
    before = time.perf_counter()
    run.recommend(users=[f"u{user}"], k=10)
    times.append(time.perf_counter() - before)
print(json.dumps({
    "load, s": loaded - started,
    "first answer, ms": 1e3 * (first - loaded),
    "later answers, ms": 1e3 * sorted(times)[100],
}))
"""


def main() -> None:
    """Print the table and write the report."""
    with TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        answers = [
            json.loads(call([sys.executable, "-c", ANSWER, str(run)])) for _ in range(PROCESSES)
        ]
    commands = {
        "import ensue, s": [sys.executable, "-c", "import ensue"],
        "ensue --help, s": [sys.executable, "-m", "ensue.cli.main", "--help"],
    }
    figures = {name: [answer[name] for answer in answers] for name in answers[0]}
    figures |= {
        name: [seconds(command) for _ in range(PROCESSES)] for name, command in commands.items()
    }
    bars = {"first answer, ms": 150, "import ensue, s": 1.5, "ensue --help, s": 0.7}
    rows = [
        {"what": name, "median": statistics.median(values), "bar": bars.get(name, "")}
        for name, values in figures.items()
    ]
    print(to_table(rows))
    print(write_report("recommend", {"processes": PROCESSES}, rows))


def make_run(folder: Path) -> Path:
    """Return a run of the sizes of ML-1M, trained for one epoch."""
    rng = np.random.default_rng(0)
    histories = [(rng.choice(3416, 165, replace=False) + 1).tolist() for _ in range(6040)]
    dataset = make_dataset(folder / "data", histories, num_items=3416)
    return ensue.train("caser", dataset, out=folder / "run", epochs=1).path


def call(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def seconds(command: list[str]) -> float:
    """Return the wall time of a command."""
    started = time.perf_counter()
    call(command)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
