"""How many users a second `ensue recommend --batch` answers, and in how much memory.

    python -m benchmarks.recommend_batch [--users 1000000] [--threads 2]

A Caser of the sizes of ML-1M (6,040 users, 3,416 items, histories of 165 items). The requests are
known users, drawn with replacement. Parquet to Parquet is measured with all of them, JSON lines and
scoring alone (of stored histories, with the choice of the best items) with a twentieth; each in a
new process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks._report import to_table, write_report
from benchmarks.recommend import make_run

NUM_USERS = 6040
SHARES = {"parquet": 1, "json-lines": 20, "scoring alone": 20}

# Start and load are not counted; memory is the peak of the process, before the job and after it.
MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch
import ensue
from ensue.runs.batch_tables import recommend_table
from ensue.runs.batches import recommend_file
from ensue.runs.top_items import top_items

kind, run, requests, out, threads, count = sys.argv[1:]
torch.set_num_threads(int(threads))
run = ensue.load(run)
run.recommend(users=["u1", "u2"])


def scoring():
    users = np.random.default_rng(0).integers(1, run.model.num_users + 1, int(count))
    with torch.no_grad():
        for start in range(0, len(users), 256):
            batch = run.recommender.histories.batch(users[start : start + 256], run.model.max_len)
            top_items(run.model.score(batch), 10)


def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


before, started = peak_mb(), time.perf_counter()
if kind == "parquet":
    recommend_table(run, requests, out)
elif kind == "json-lines":
    recommend_file(run, Path(requests), Path(out))
else:
    scoring()
seconds = time.perf_counter() - started
figures = {"users/s": int(count) / seconds, "MB when loaded": before, "MB at most": peak_mb()}
print(json.dumps(figures))
"""


def main() -> None:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    drawn = np.random.default_rng(0).integers(1, NUM_USERS + 1, options.users)
    users = [f"u{n}" for n in drawn]
    rows = []
    with TemporaryDirectory() as name:
        run = make_run(Path(name))
        for kind, share in SHARES.items():
            asked = users[: max(1, len(users) // share)]
            figures = measure(kind, run, asked, Path(name), options.threads)
            rows.append({"how": kind, "requests": len(asked), **figures})
    print(to_table(rows))
    print(write_report("recommend_batch", {"threads": options.threads}, rows))


def measure(kind: str, run: Path, users: list[str], folder: Path, threads: int) -> dict[str, float]:
    """Return what a new process measures."""
    requests = folder / f"{kind}.requests"
    if kind == "json-lines":
        requests.write_text("".join(f'{{"user": "{user}"}}\n' for user in users))
    else:
        pl.DataFrame({"user": users}).write_parquet(requests)
    arguments = [kind, run, requests, folder / f"{kind}.answers", threads, len(users)]
    called = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(called.stdout)
    return measured


if __name__ == "__main__":
    main()
