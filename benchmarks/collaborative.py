"""Models of the users of a log that read no order, on MovieLens-100k.

    python -m benchmarks.collaborative                 all of them, one seed
    python -m benchmarks.collaborative --only cml --seeds 3

Each user's first 70% trains, the next 10% chooses the epoch, the last 20% is ranked among the whole
catalogue without what was seen. Seconds are of the training, with its validations.
Data: ../shared/data (see its README files); it is not part of the project.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ensue
from benchmarks._report import to_table, write_report
from ensue.data.dataset import Dataset

SHARED = Path(__file__).parents[2] / "shared" / "data"
SETTINGS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "ease": {},
    "bpr": {"learning_rate": 0.005},
    "neumf": {"learning_rate": 0.002},
    "cml": {"learning_rate": 0.002},
    "mult_vae": {},
}
METRICS = ("hr@10", "ndcg@10", "recall@10", "map")


def main() -> int:
    """Train and evaluate each model, print a table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: {SHARED} does not exist", file=sys.stderr)
        return 0
    models = [arguments.only] if arguments.only else list(SETTINGS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = SHARED / "ml-100k" / "ml-100k.inter.gz"
        dataset = ensue.prepare(source, Path(folder) / "data", split="ratio:0.7,0.1,0.2")
        for model in models:
            for seed in range(arguments.seeds):
                rows.append(measure(dataset, Path(folder) / f"{model}-{seed}", model, seed))
                print(to_table(rows[-1:]), flush=True)
    print(to_table(rows))
    name = "_".join(filter(None, ["collaborative_ml-100k", arguments.only]))
    print(write_report(name, {"split": "ratio:0.7,0.1,0.2", "settings": SETTINGS}, rows))
    return 0


def measure(dataset: Dataset, out: Path, model: str, seed: int) -> dict[str, Any]:
    """Return the figures of one model."""
    started = time.perf_counter()
    settings = dict(SETTINGS[model])
    if model not in ("popularity", "ease"):
        settings["seed"] = seed
    run = ensue.train(model, dataset, out=out, **settings)
    seconds = time.perf_counter() - started
    found = run.evaluate(dataset, num_resamples=0).metrics
    log = run.log()
    return {
        "model": model,
        "seed": seed,
        **{metric: found[metric] for metric in METRICS},
        "best epoch": run.info.get("best_epoch") or "-",
        "epochs": len(log) or "-",
        "seconds": seconds,
        "s/epoch": sum(line["seconds"] for line in log) / len(log) if log else "-",
    }


if __name__ == "__main__":
    sys.exit(main())
