"""LightGCN on Gowalla: the curve by epoch, and Recall@20 and NDCG@20 of the published split.

    python -m benchmarks.lightgcn [-o FOLDER] [--epochs 60] [--every 10] [--set name=value ...]
    python -m benchmarks.lightgcn --final-only

../shared/data/gowalla with the split of He et al., SIGIR 2020: their training part is its train and
valid together. Of these, a fifth of each user's items is drawn as a validation part, as their test
part was drawn. A first training, on the rest, is measured on it every few epochs: settings are
chosen by it. A second one, on both with the same settings, is measured once on test. Settings
are those of the preset "gowalla", and what `--set` says. `-o` keeps the runs; a second call goes on
where the first one stopped, and trains nothing again.
Published: LightGCN .1830 and .1554. Bars: .180 and .153, within an hour on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import ensue
from benchmarks._report import to_table, write_report
from ensue.config import parse_settings
from ensue.models.table import get_preset
from ensue.runs.item_training import Fit
from ensue.runs.run import Run

SOURCE = Path(__file__).resolve().parents[2] / "shared/data/gowalla"
HELD_OUT = 0.2  # of each user's items
METRICS = ("recall@20", "ndcg@20")
PUBLISHED = {"recall@20": 0.1830, "ndcg@20": 0.1554}


def main() -> int:
    """Train, print the curve and the final figures, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, help="folder that keeps dataset and runs")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every", type=int, default=10, help="epochs between validations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="settings")
    parser.add_argument("--final-only", action="store_true", help="without the first training")
    options = parser.parse_args()
    if not SOURCE.is_dir():
        print(f"skipped: {SOURCE} does not exist", file=sys.stderr)
        return 0
    settings: dict[str, Any] = {
        **get_preset("lightgcn", "gowalla"),
        "epochs": options.epochs,
        "validate_every": options.every,
        "seed": options.seed,
        **parse_settings(options.settings),
    }
    with TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        dataset = prepare(out / "gowalla")
        rows = [] if options.final_only else curve(trained("train", dataset, out, settings))
        rows.append(final(trained("train+validation", dataset, out, settings), dataset))
    print(to_table(rows))
    print(write_report("lightgcn", settings, rows))
    return 0


def prepare(folder: Path) -> ensue.Dataset:
    """Return the dataset that is in the folder, or make it there."""
    if (folder / "dataset.json").is_file():
        return ensue.Dataset(folder)
    rng = np.random.default_rng(0)
    owned: dict[str, list[str]] = {}
    for name in ("train", "valid"):
        with gzip.open(SOURCE / f"{name}.txt.gz", "rt") as file:
            for line in file:
                user, *items = line.split()
                owned.setdefault(user, []).extend(items)
    with TemporaryDirectory() as temporary:
        parts = {part: Path(temporary) / f"{part}.txt" for part in ("train", "validation")}
        with parts["train"].open("w") as train, parts["validation"].open("w") as validation:
            for user, items in owned.items():
                items = rng.permutation(items).tolist()
                count = round(HELD_OUT * len(items))
                print(user, *items[count:], file=train)
                if count:
                    print(user, *items[:count], file=validation)
        return ensue.prepare({**parts, "test": SOURCE / "test.txt.gz"}, out=folder)


def trained(fit: Fit, dataset: ensue.Dataset, out: Path, settings: dict[str, Any]) -> Run:
    """Return the run on these parts that is in the folder, or train it there."""
    folder = out / fit

    def show(epoch: int, metrics: dict[str, float]) -> None:
        figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in METRICS)
        print(f"epoch {epoch}  {figures}  {time.perf_counter() - started:.0f} s", flush=True)

    started = time.perf_counter()
    if (folder / "run.json").is_file():
        return ensue.load(folder)
    return ensue.train(
        "lightgcn",
        dataset,
        out=folder,
        fit=fit,
        resume=folder.is_dir(),
        on_validation=show,
        **settings,
    )


def curve(run: Run) -> list[dict[str, Any]]:
    """Return a row for each validation; seconds are of the training alone, from its start."""
    rows, seconds = [], 0.0
    for line in run.log():
        seconds += line["seconds"]
        if "validation" in line:
            rows.append(row("valid", line, seconds, line["validation"]))
    return rows


def final(run: Run, dataset: ensue.Dataset) -> dict[str, Any]:
    """Return the row of the test part."""
    log = run.log()
    seconds = sum(line["seconds"] for line in log)
    metrics = run.evaluate(dataset, ks=(20,), num_resamples=0).metrics
    for name in METRICS:
        print(f"{name} {metrics[name]:.4f}, published {PUBLISHED[name]:.4f}")
    return row("test", log[-1], seconds, metrics)


def row(
    part: str, line: dict[str, Any], seconds: float, metrics: dict[str, float]
) -> dict[str, Any]:
    """Return a row of the table, of an epoch that the log has a line of."""
    return {
        "measured on": part,
        "epoch": line["epoch"],
        "loss": line["loss"],
        **{name: metrics[name] for name in METRICS},
        "seconds": round(seconds),
        "seconds an epoch": line["seconds"],
        "peak memory GiB": line["peak_memory_bytes"] / 2**30,
    }


if __name__ == "__main__":
    sys.exit(main())
