"""Time and peak memory of `ensue prepare` on generated logs.

    python -m benchmarks.prepare                       # 20 million rows as CSV and as Parquet
    python -m benchmarks.prepare --large               # and 200 million rows with 4 GB

The logs have the columns and the shape of MovieLens 20M: rows by user, Zipf items, half-star
ratings. The large one has ten times as many users and items, and its rows come by time, so that
every chunk holds rows of most users. Generating is not timed; files are removed at the end. It
reads peak memory where Linux has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._report import to_table, write_report

CHUNK_ROWS = 5_000_000
GIB = 2**30

# Peak memory is the kernel's account (VmHWM) of the one process that does the work; it starts no
# other. getrusage is of no use here: a new process inherits the peak of the one that made it.
MEASURED = """
import json, sys, time
def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
start = time.perf_counter()
from ensue.data.prepare import prepare
imported = time.perf_counter()
import_bytes = peak_bytes()
options = json.loads(sys.argv[1])
data = prepare(options.pop("input"), options.pop("out"), **options)
print(json.dumps({
    "seconds": time.perf_counter() - imported,
    "import_seconds": imported - start,
    "peak_bytes": peak_bytes(),
    "import_bytes": import_bytes,
    "users": data.num_users,
    "items": data.num_items,
    "hash": data.info.hash,
}))
"""


def generate(num_rows: int, num_users: int, num_items: int, *, by_user: bool) -> Iterator[pa.Table]:
    """Yield a log in pieces, its rows by user or by time."""
    generator = np.random.default_rng(20200101)
    shares = 1 / np.arange(1, num_items + 1)
    cumulative = np.cumsum(shares / shares.sum())
    raw_items = generator.permutation(5 * num_items)[:num_items] + 1
    for first in range(0, num_rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, num_rows - first)
        place = np.sort(generator.random(count)) * count / num_rows + first / num_rows
        user_place = place if by_user else generator.random(count)
        time_place = generator.random(count) if by_user else place
        items = np.searchsorted(cumulative, generator.random(count)).clip(max=num_items - 1)
        yield pa.table(
            {
                "userId": (user_place * num_users).astype(np.int64) + 1,
                "movieId": raw_items[items],
                "rating": generator.integers(1, 11, count) / 2,
                "timestamp": (789_652_009 + time_place * 637_827_999).astype(np.int64),
            }
        )


def write_log(path: Path, pieces: Iterator[pa.Table]) -> None:
    """Write the pieces as CSV or Parquet, after the name of the file."""
    if path.suffix == ".parquet":
        writer = None
        for piece in pieces:
            writer = writer or pq.ParquetWriter(path, piece.schema)
            writer.write_table(piece, row_group_size=1 << 20)
        if writer:
            writer.close()
        return
    with path.open("wb") as file:
        for number, piece in enumerate(pieces):
            frame = pl.from_arrow(piece)
            assert isinstance(frame, pl.DataFrame)
            frame.write_csv(file, include_header=number == 0)


def measure(case: str, path: Path, num_rows: int, **options: Any) -> dict[str, Any]:
    """Return a row of the report for one run in a process of its own."""
    out = path.with_suffix(".dataset")
    settings = json.dumps({"input": str(path), "out": str(out), "overwrite": True, **options})
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, settings], check=True, capture_output=True, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        "case": case,
        "rows": num_rows,
        "file MB": round(path.stat().st_size / 1e6),
        "memory": options.get("memory", "2GB"),
        "seconds": result["seconds"],
        "rows/s": round(num_rows / result["seconds"]),
        "peak GiB": result["peak_bytes"] / GIB,
        "of it imports GiB": result["import_bytes"] / GIB,
        "users": result["users"],
        "items": result["items"],
        "hash": result["hash"][:12],
    }


def main() -> None:
    """Generate the logs, measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--large", action="store_true", help="also 200 million rows")
    parser.add_argument("--only-large", action="store_true")
    parser.add_argument("--no-report", action="store_true", help="print alone")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="ensue-prepare-") as name:
        folder = Path(name)
        if not arguments.only_large:
            csv, parquet = folder / "log.csv", folder / "log.parquet"
            for path in (csv, parquet):
                write_log(path, generate(arguments.rows, 138_493, 26_744, by_user=True))
            rows.append(measure("CSV", csv, arguments.rows))
            rows.append(
                measure("CSV, leave-one-out, 5-core", csv, arguments.rows, filters=["k-core=5"])
            )
            rows.append(measure("CSV in 500 MB", csv, arguments.rows, memory="500MB"))
            rows.append(measure("Parquet", parquet, arguments.rows))
            csv.unlink()
        if arguments.large or arguments.only_large:
            num_rows = 10 * arguments.rows
            large = folder / "large.parquet"
            write_log(large, generate(num_rows, 1_384_930, 267_440, by_user=False))
            rows.append(measure("Parquet, by time", large, num_rows, memory="4GB"))
    print(to_table(rows))
    if not arguments.no_report:
        config = {
            "rows": arguments.rows,
            "split": "leave-one-out",
            "columns": "user, item, rating, timestamp",
        }
        print(write_report("prepare", config, rows))


if __name__ == "__main__":
    main()
