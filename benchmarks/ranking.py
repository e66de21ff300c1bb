"""Ranking models on public data: by the verbs that a user has, from a table to metrics.

    python -m benchmarks.ranking frappe [--seeds 0 1 2] [--models lr fm deepfm dcn_v2 dlrm]
    python -m benchmarks.ranking census [--seeds 0 1 2]
    python -m benchmarks.ranking small

frappe: the split of He and Chua, SIGIR 2017 (NFM). Of their training file only the positives are
public; two negatives are drawn for each, an app that the user has in no part in this context.
Settings
are not searched; the validation part chooses the epoch. Bar: a test AUC of .97.
census: Census-Income (KDD), two tasks, income above 50,000 and never married (Ma et al., KDD 2018);
the first 80% of rows train, the rest are the test. The column that a task is made of is no feature.
Bars: AUC .94 and .98, and several tasks no worse than one by itself.
small: Criteo's sample and the Open Bandit data, end to end; too small for figures to compare.
Data: ../shared/data (see its README files); it is not part of the project.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import ensue
from benchmarks._report import to_table, write_report
from ensue.data.ranking.dataset import RankingDataset

SHARED = Path(__file__).parents[2] / "shared" / "data"
FRAPPE_COLUMNS = (
    *("user", "app", "daytime", "weekday", "isweekend", "homework"),
    *("cost", "weather", "country", "city"),
)
NUM_NEGATIVES = 2
FRAPPE: dict[str, dict[str, Any]] = {
    "lr": {"learning_rate": 0.02},
    "fm": {"learning_rate": 0.005, "dim": 16},
    "deepfm": {"learning_rate": 0.002, "dim": 16},
    "dcn_v2": {"learning_rate": 0.002, "dim": 16},
    "dlrm": {"learning_rate": 0.002, "dim": 16},
}
FRAPPE_TRAINING: dict[str, Any] = {"batch_size": 2048, "epochs": 10, "patience": 2}
INCOME, MARITAL, SURVEY_WEIGHT = 42, 8, 25  # columns, from 1
TASKS = ("income", "never_married")
CENSUS_TRAINING: dict[str, Any] = {
    "batch_size": 1024,
    "epochs": 4,
    "learning_rate": 0.001,
    "dim": 8,
    "dropout": 0.1,
    "decay": "linear",
}
CENSUS: dict[str, dict[str, Any]] = {
    "shared_bottom": {"hidden": [128, 64]},
    "mmoe": {},
    "ple": {},
}


def main() -> int:
    """Run the chosen benchmark, print its table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["frappe", "census", "small"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", help="some of the models of frappe or census")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: {SHARED} does not exist", file=sys.stderr)
        return 0
    run: Callable[[Path, argparse.Namespace], list[dict[str, Any]]]
    run = {"frappe": frappe, "census": census, "small": small}[arguments.kind]
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), arguments)
    print(to_table(rows))
    print(write_report(f"ranking_{arguments.kind}", vars(arguments), rows))
    return 0


def frappe(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each model: validation and test AUC, mean of the seeds."""
    dataset = prepare_frappe(folder)
    rows = []
    for name in arguments.models or FRAPPE:
        found: list[dict[str, Any]] = []
        for seed in arguments.seeds:
            settings = {**FRAPPE_TRAINING, **FRAPPE[name], "seed": seed}
            run = ensue.train_ranker(name, dataset, out=folder / f"{name}-{seed}", **settings)
            figures = run.evaluate().tasks["used"]["metrics"]
            seconds = sum(line["seconds"] for line in run.log())
            validation = run.info["metrics"]["validation"]["used/auc"]
            found.append({**figures, "validation": validation, "s": seconds})
            print(f"{name}-{seed}: {figures['auc']:.4f}", file=sys.stderr, flush=True)
        rows.append(
            {
                "model": name,
                "validation AUC": _mean(one["validation"] for one in found),
                "AUC": _mean(one["auc"] for one in found),
                "from to": _range([one["auc"] for one in found]),
                "log loss": _mean(one["log_loss"] for one in found),
                "s": _mean(one["s"] for one in found),
            }
        )
    return rows


def prepare_frappe(folder: Path) -> RankingDataset:
    """Return the dataset of the three parts, negatives of the training part drawn with seed 0."""
    positives = _read_libfm(SHARED / "frappe" / "frappe.train_positives.libfm.gz")
    held_out = {
        part: _read_libfm(SHARED / "frappe" / f"frappe.{part}.libfm.gz")
        for part in ("validation", "test")
    }
    seen = np.concatenate([positives, *(rows[rows[:, 0] > 0] for rows in held_out.values())])
    negatives = _draw_negatives(positives, seen)
    files = {}
    for part, rows in {"train": np.concatenate([positives, negatives]), **held_out}.items():
        columns = {"used": (rows[:, 0] > 0).astype(int)}
        columns |= {name: rows[:, n] for n, name in enumerate(FRAPPE_COLUMNS, start=1)}
        files[part] = folder / f"{part}.csv"
        pl.DataFrame(columns).write_csv(files[part])
    return ensue.prepare_ranking(
        files,
        folder / "frappe",
        targets="used",
        user="user",
        item="app",
        features=dict.fromkeys(FRAPPE_COLUMNS, "categorical"),
    )


def _read_libfm(path: Path) -> NDArray[np.int64]:
    """Return a row [label, ids of the ten columns] for each line."""
    with gzip.open(path, "rt") as file:
        lines = [line.replace(":1", "").split() for line in file]
    return np.array([[int(float(label)), *map(int, ids)] for label, *ids in lines])


def _draw_negatives(positives: NDArray[np.int64], seen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return two rows for each positive, its app replaced by one not seen with the rest of it."""
    generator = np.random.default_rng(0)
    apps = np.unique(seen[:, 2])
    rows = np.repeat(positives, NUM_NEGATIVES, axis=0)
    rows[:, 0] = -1
    known = set(map(bytes, seen[:, 1:]))
    is_open = np.ones(len(rows), dtype=np.bool_)
    while is_open.any():
        rows[is_open, 2] = generator.choice(apps, int(is_open.sum()))
        places = np.flatnonzero(is_open)
        is_open[places] = [bytes(row) in known for row in rows[places, 1:]]
    return rows


def census(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each task by itself, and one for each model of both."""
    source = SHARED / "census-income-kdd" / "census-income.test.gz"
    targets = [f"{INCOME}=50000+. as income", f"{MARITAL}=Never married as never_married"]
    settings: dict[str, Any] = {
        "features": {str(SURVEY_WEIGHT): "ignore"},
        "split": "ratio:0.8,0,0.2",
    }
    both = ensue.prepare_ranking(source, folder / "both", targets=targets, **settings)
    # The columns of both tasks are hidden from a model of one of them too.
    hidden = {str(INCOME): "ignore", str(MARITAL): "ignore", str(SURVEY_WEIGHT): "ignore"}
    rows = []
    for task, target in zip(TASKS, targets, strict=True):
        alone = {name: role for name, role in hidden.items() if name != target.partition("=")[0]}
        one = ensue.prepare_ranking(
            source, folder / task, targets=target, **{**settings, "features": alone}
        )
        rows.append(_census_row(folder, "one task: shared_bottom", "shared_bottom", one, arguments))
    for name in arguments.models or CENSUS:
        rows.append(_census_row(folder, name, name, both, arguments))
    return rows


def _census_row(
    folder: Path, title: str, name: str, dataset: RankingDataset, arguments: argparse.Namespace
) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for seed in arguments.seeds:
        run = ensue.train_ranker(
            name,
            dataset,
            out=folder / f"{dataset.path.name}-{name}-{seed}",
            **{**CENSUS_TRAINING, **CENSUS[name], "seed": seed},
        )
        for task, figures in run.evaluate().tasks.items():
            found.setdefault(task, []).append(figures["metrics"]["auc"])
        print(f"{title}-{seed}: {found}", file=sys.stderr, flush=True)
    row: dict[str, Any] = {"model": title}
    for task in TASKS:
        values = found.get(task)
        row[f"{task} AUC"] = None if values is None else _mean(values)
        row[f"{task} from to"] = None if values is None else _range(values)
    return row


def small(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each data set: rows, features, and the AUC of DCN-V2."""
    rows = []
    for name, dataset in _small_datasets(folder):
        run = ensue.train_ranker(
            "dcn_v2", dataset, out=folder / f"run-{name}", batch_size=512, epochs=4, hidden=[64, 32]
        )
        figures = run.evaluate().tasks["click"]
        rows.append(
            {
                "data": name,
                "training rows": dataset.num_rows("train"),
                "features": len(dataset.schema.columns),
                "test rows": figures["rows"],
                "positives": figures["positives"],
                "AUC": figures["metrics"]["auc"],
                "95%": _range(figures["intervals"]["auc"]),
            }
        )
    return rows


def _small_datasets(folder: Path) -> Iterator[tuple[str, RankingDataset]]:
    criteo, obd = SHARED / "criteo-sample", SHARED / "obd"
    parts = {"train": "train", "validation": "dev", "test": "test"}
    yield (
        "criteo-sample",
        ensue.prepare_ranking(
            {part: criteo / f"{file}.tsv.gz" for part, file in parts.items()},
            folder / "criteo",
            targets="1 as click",
            features={"2-14": "numeric", "15-40": "categorical"},
        ),
    )
    yield (
        "obd, men, Bernoulli Thompson sampling",
        ensue.prepare_ranking(
            obd / "bts_men.csv.gz",
            folder / "obd",
            targets="click",
            items=obd / "bts_men_items.csv.gz",
            features={
                "position": "categorical",
                "user-item_affinity": "vector",
                "propensity_score": "ignore",
            },
        ),
    )


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.4f} {max(values):.4f}"


if __name__ == "__main__":
    sys.exit(main())
