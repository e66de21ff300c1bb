"""How long an answer takes: the run itself, its graph in PyTorch, and its graph in onnxruntime.

    OMP_NUM_THREADS=1 python -m benchmarks.export_latency [--epochs 1] [--repeats 200]

SASRec (its preset for ML-1M) and Caser on ML-1M, trained for few epochs: weights do not change the
time. Each request is the stored history of a user, as a batch of 1 and of 64, on one thread; the
time is of all scores of the catalogue, in milliseconds for a batch, the median.
Needs the real data sets in ../shared/data, and the extra onnx.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ensue
from benchmarks._report import to_table, write_report
from ensue.runs.export.formats import GRAPH_FILES, require_onnx
from ensue.runs.export.parity import padded_inputs

SOURCE = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-1m" / "sequences.txt.gz"
# The loss is one that is trained quickly: it changes no layer.
SASREC = {"preset": "ml-1m", "loss": "bce", "num_negatives": 1}
SETTINGS: dict[str, dict[str, Any]] = {"sasrec": SASREC, "caser": {}}
BATCHES = (1, 64)


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    if not SOURCE.is_file():
        print(f"skipped: {SOURCE} is not there", file=sys.stderr)
        return 0
    require_onnx()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = ensue.prepare(SOURCE, Path(folder) / "data", split="leave-one-out")
        for model, settings in SETTINGS.items():
            out = Path(folder) / model
            run = ensue.train(model, dataset, out=out, **{**settings, "epochs": options.epochs})
            rows += measure(run, model, options.repeats)
            print(to_table(rows), flush=True)
    print(write_report("export_latency", vars(options), rows))
    return 0


def measure(run: ensue.Run, model: str, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each way to the scores of a run."""
    made = {form: run.export(form) for form in ("torch-export", "onnx")}
    computes = {form: GRAPH_FILES[form].read(export.file) for form, export in made.items()}
    names = [given["name"] for given in made["onnx"].info["inputs"]]
    rows: list[dict[str, Any]] = [
        {"model": model, "way": way, "parity": "" if way == "run" else parity_of(made[way])}
        for way in ("run", *computes)
    ]
    for size in BATCHES:
        rng = np.random.default_rng(0)
        users = rng.integers(1, run.model.num_users + 1, (repeats, size))
        batches = [run.recommender.histories.batch(own, run.model.max_len) for own in users]
        inputs = [padded_inputs(batch, names) for batch in batches]
        for row in rows:
            if row["way"] == "run":
                milliseconds = time_each(run.model.score, batches)
            else:
                milliseconds = time_each(computes[row["way"]], inputs)
            row[f"ms, {size} at a time"] = milliseconds
    return rows


def parity_of(export: Any) -> float:
    """Return the largest difference to the run's scores, measured at the export."""
    difference: float = export.info["parity"]["max_abs_difference"]
    return difference


def time_each(compute: Callable[[Any], Any], requests: list[Any]) -> float:
    """Return the median time of a call, in milliseconds, after some to get warm."""
    times = []
    with torch.no_grad():
        for request in [*requests[:10], *requests]:
            started = time.perf_counter()
            compute(request)
            times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[10:])


if __name__ == "__main__":
    sys.exit(main())
