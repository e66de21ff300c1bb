"""Caser on the data of its paper: quality over seeds, and the ablation.

    python -m benchmarks.caser ml-1m                      author_pytorch and paper, three seeds
    python -m benchmarks.caser ml-1m --ablation           p, h, v, vh, pvh
    python -m benchmarks.caser gowalla                    d=50, L=5, T=1, three seeds
    python -m benchmarks.caser gowalla --baselines        the same protocol, Ensue's baselines

The protocol is the paper's: each user's first 80% trains, the last 20% is scored against the whole
catalogue, MAP is over whole lists. On ML-1M the number of epochs is chosen before, by training on
the first 70% with seed 0 and validating on the next 10%; the ablation takes 20 for every variant.
Data: ../shared/data (see its README files); it is not part of the project.
"""

from __future__ import annotations

import argparse
import gzip
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ensue
from benchmarks._report import to_table, write_report
from ensue.data.dataset import Dataset

SHARED = Path(__file__).parents[2] / "shared" / "data"
RANDOM_ORDERS = 4  # in which Gowalla's unordered part is listed
# The learning rate falls to zero over a number of epochs that is known.
EPOCHS = {"gowalla": 15}
METRICS = ("precision@1", "precision@5", "precision@10", "recall@1", "recall@5", "recall@10", "map")
PARTS = ("p", "h", "v", "vh", "pvh")

ABLATION_EPOCHS = 20
BASELINES = ("popularity", "markov", "item_knn", "ease", "bpr")
BPR_SETTINGS: dict[str, Any] = {
    "dim": 50,
    "epochs": 30,
    "batch_size": 1024,
    "learning_rate": 0.002,
}
PRESETS = {"ml-1m": ("author_pytorch", "paper"), "gowalla": ("gowalla",)}


def main() -> int:
    """Run the chosen benchmark, print a table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=list(PRESETS))
    parser.add_argument("--ablation", action="store_true", help="compare the parts of the model")
    parser.add_argument("--baselines", action="store_true", help="train these instead of Caser")
    parser.add_argument("--only", help="one of the presets of the data set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="in place of the number chosen as above")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: {SHARED} does not exist", file=sys.stderr)
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        orders = 1 if arguments.baselines else RANDOM_ORDERS
        dataset = prepare(arguments.dataset, Path(folder) / "dataset", orders)
        for model in BASELINES if arguments.baselines else ():
            settings = BPR_SETTINGS if model == "bpr" else {}
            figures = measure(dataset, Path(folder) / model, model=model, **settings)
            rows.append({"setting": model} | figures)
        for name, settings in () if arguments.baselines else plan(arguments):
            epochs = arguments.epochs or EPOCHS.get(arguments.dataset)
            if epochs is None and arguments.ablation:
                epochs = ABLATION_EPOCHS
            elif epochs is None:
                epochs = choose_epochs(dataset, Path(folder) / f"{name}-choice", **settings)
            runs = [
                measure(
                    dataset, Path(folder) / f"{name}-{seed}", epochs=epochs, seed=seed, **settings
                )
                for seed in range(1 if arguments.ablation else arguments.seeds)
            ]
            rows.append({"setting": name, "epochs": epochs} | summarize(runs))
            print(to_table(rows[-1:]), flush=True)
    kind = "ablation" if arguments.ablation else "baselines" if arguments.baselines else "quality"
    title = "_".join(filter(None, ["caser", kind, arguments.dataset, arguments.only]))
    config = {"protocol": "first 80% trains, last 20% tests, whole catalogue", **vars(arguments)}
    print(to_table(rows))
    print(write_report(title, config, rows))
    return 0


def plan(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the settings of each row of the table."""
    presets = PRESETS[arguments.dataset]
    if arguments.ablation:
        for parts in PARTS:
            yield parts, {"preset": presets[0], "parts": parts}
        return
    for preset in presets:
        if arguments.only in (None, preset):
            yield preset, {"preset": preset}


def choose_epochs(dataset: Dataset, out: Path, **settings: Any) -> int:
    """Return the best number of epochs on the validation part."""
    run = ensue.train("caser", dataset, out=out, patience=4, **settings)
    print(f"{out.name}: {run.info['best_epoch']} epochs", file=sys.stderr, flush=True)
    epochs: int = run.info["best_epoch"]
    return epochs


def prepare(name: str, out: Path, num_orders: int = RANDOM_ORDERS) -> Dataset:
    """Return the data set in the split of the paper; see `split_files` for the orders."""
    if name == "ml-1m":
        return ensue.prepare(SHARED / "ml-1m" / "sequences.txt.gz", out, split="ratio:0.7,0.1,0.2")
    return ensue.prepare(split_files(out.parent, num_orders), out, format="sequences")


def split_files(folder: Path, num_orders: int) -> dict[str, Path]:
    """Write the temporal split of Gowalla as one file of sequences for each part.

    The first 70% of each user carry no order in this copy of the data; they are listed by item id.
    A model of sequences would learn that listing, so they are put in a random order. The next 10%
    and the last 20% are in order. The first half of the 10% trains, the rest validates: so what is
    read in validation is in order at its end, as it is in the test. What trains is listed
    `num_orders` times, with another random order each time: one would be learned by heart.
    """
    rng = random.Random(0)
    source = SHARED / "gowalla-15core" / "temporal_split.txt.gz"
    paths = {part: folder / f"{part}.txt" for part in ("train", "validation", "test")}
    with gzip.open(source, "rt") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    for line in lines:
        items, ordered = line[1].split(), line[2].split()
        half = len(ordered) // 2
        listed = []
        for _ in range(num_orders):
            listed += rng.sample(items, len(items)) + ordered[:half]
        line[1], line[2] = " ".join(listed), " ".join(ordered[half:])
    for column, path in enumerate(paths.values(), start=1):
        path.write_text("".join(f"{line[0]} {line[column]}\n" for line in lines))
    return paths


def measure(
    dataset: Dataset, out: Path, *, model: str = "caser", **settings: Any
) -> dict[str, Any]:
    """Train on the first 80%, evaluate on the last 20%, and return figures."""
    started = time.perf_counter()
    run = ensue.train(model, dataset, out=out, fit="train+validation", **settings)
    found = run.evaluate(dataset, ks=(1, 5, 10), num_resamples=0).metrics
    print(f"{out.name}: map {found['map']:.4f}", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {metric: found[metric] for metric in METRICS}
    if log := run.log():
        figures["examples/s"] = statistics.median(line["examples_per_s"] for line in log)
        figures["peak MB"] = max(line["peak_memory_bytes"] for line in log) / 1e6
    else:
        figures |= {"examples/s": "-", "peak MB": "-"}
    figures["seconds"] = time.perf_counter() - started
    return figures


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each figure over the seeds, and the spread of MAP."""
    maps = [run["map"] for run in runs]
    return {
        **{name: statistics.fmean(run[name] for run in runs) for name in runs[0]},
        "map min": min(maps),
        "map max": max(maps),
        "seeds": len(runs),
    }


if __name__ == "__main__":
    sys.exit(main())
