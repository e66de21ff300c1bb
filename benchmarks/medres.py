"""MEDRES over graphs of entities, trained on pAp@k and on cross-entropy, beside other models.

    python -m benchmarks.medres -o FOLDER                 all data sets and methods, five seeds
    python -m benchmarks.medres -o FOLDER --data cora citeseer --methods medres-papk ease --seeds 2

Finished runs stay in FOLDER and are not trained again; the last command writes the report over what
FOLDER holds of the data, methods and seeds that it names. --epochs shortens every training.
medres-papk, medres-bce: the whole method with either loss. medres-no-graphs: the loss on pAp@k, and
no graph, interactions neither: vectors of users and items, and the dynamic component.
medres-interactions: with the graph of interactions alone.
Each model trains on the training part; validation pAp@10 chooses the epoch, and chose the settings.
On the test, histories hold the validation part too. EASE is computed: all its seeds are the same.
p is of a paired permutation test over the test users of pAp@10 averaged over the seeds, against
medres-papk, corrected by Holm; "wins" counts the seeds in which medres-papk is ahead.
Data: benchmarks/_graph_data.py.
Bars: medres-papk first on three of the sets; 2 % above medres-bce on three; 5 % above
medres-no-graphs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import ensue
from benchmarks._graph_data import DATA, load
from benchmarks._report import to_table, write_report
from benchmarks._retrieval_data import SHARED
from ensue.data.dataset import Dataset
from ensue.evaluation.significance import holm, sign_flip_p_values
from ensue.runs.run import Run

METRIC = "pap@10"
METRICS = (METRIC, "pauc@10", "ndcg@10", "recall@20", "precision@10", "map")
FULL, PERMUTATIONS = "medres-papk", 10_000
MEDRES: dict[str, Any] = {
    "learning_rate": 0.005,
    "weight_decay": 1e-5,
    "batch_size": 1024,
    "epochs": 200,
    "validate_every": 5,
    "patience": 6,
    "history": "others",
    "num_negatives": 50,
}
WORDS = {"graphs": ["user_words", "item_words"]}
# What differs from MEDRES, by data set.
OF_DATA: dict[str, dict[str, Any]] = {
    "cora": WORDS,
    "citeseer": WORDS,
    "dblp": {"graphs": ["terms", "confs"]},
    "citeulike-a": {"graphs": ["tags", "cites"]},
    "flickr": WORDS,
    "ml-1m": {"history": "before", "dynamic": "both"},
}
PAPK: dict[str, Any] = {"loss": "papk", "papk": {"k": 10, "warmup_epochs": 40}}
VARIANTS: dict[str, dict[str, Any]] = {
    "medres-papk": PAPK,
    "medres-bce": {"loss": "bce"},
    "medres-no-graphs": {**PAPK, "graphs": [], "interactions": False},
    "medres-interactions": {**PAPK, "graphs": []},
}
OTHERS: dict[str, dict[str, Any]] = {
    "lightgcn": {"metric": METRIC},
    "bpr": {"metric": METRIC, "learning_rate": 0.005, "epochs": 200, "validate_every": 5},
    "ease": {},
}
# Of EASE on the validation part, out of 1, 10, 100, 1000.
EASE_L2 = {"cora": 100.0, "citeseer": 100.0}
METHODS = [*VARIANTS, *OTHERS]


def main() -> int:
    """Train and evaluate what is not there yet, print the tables, and write the report."""
    options = _parse()
    if not SHARED.is_dir():
        print(f"skipped: {SHARED} does not exist", file=sys.stderr)
        return 0
    rows = []
    for data in options.data or list(DATA):
        dataset = load(data, options.output)
        runs = {}
        for method in options.methods or METHODS:
            runs[method] = [
                finished(options.output, dataset, data, method, seed, options.epochs)
                for seed in range(options.seeds)
            ]
            print(f"{data} {method}: {METRIC} {_mean(runs[method], METRIC):.4f}", flush=True)
        rows += table_of(data, runs)
        print(to_table([row for row in rows if row["data"] == data]), flush=True)
    config = {"seeds": options.seeds, "medres": MEDRES, "data": OF_DATA, "papk": PAPK}
    print(write_report("medres", {**config, "others": OTHERS, "ease": EASE_L2}, rows))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", nargs="+", choices=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of every training, in place of its own")
    return parser.parse_args()


def settings_of(
    data: str, method: str, seed: int, epochs: int | None
) -> tuple[str, dict[str, Any]]:
    """Return the model and the settings of a method on a data set."""
    if method == "ease":
        return "ease", {"l2": EASE_L2.get(data, 100.0)}
    own = {"seed": seed} | ({} if epochs is None else {"epochs": epochs})
    if method in OTHERS:
        return method, {**OTHERS[method], **own}
    return "medres", {**MEDRES, **OF_DATA[data], **VARIANTS[method], **own}


def finished(
    folder: Path, dataset: Dataset, data: str, method: str, seed: int, epochs: int | None
) -> Run:
    """Return the evaluated run of a method; one that is there is opened."""
    model, settings = settings_of(data, method, seed, epochs)
    out = folder / "runs" / data / method / str(0 if model == "ease" else seed)
    if not (out / "run.json").is_file():
        started = time.perf_counter()
        ensue.train(model, dataset, out=out, resume=out.exists(), **settings)
        print(f"{out}: {time.perf_counter() - started:.0f} s", flush=True)
    run = Run(out)
    if "test" not in run.evaluations():
        run.evaluate(dataset, num_resamples=0)
    return run


def table_of(data: str, runs: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """Return a row for each method: means over seeds, and the tests against the full method."""
    values = {method: _by_user(of) for method, of in runs.items()}
    best = max(runs, key=lambda method: float(values[method].mean()))
    p_of: dict[str, float] = {}
    if FULL in runs:
        others = [method for method in runs if method != FULL]
        rng = np.random.default_rng(0)
        found = [
            float(sign_flip_p_values((values[FULL] - values[m])[:, None], PERMUTATIONS, rng)[0])
            for m in others
        ]
        p_of = dict(zip(others, holm(np.array(found)).tolist(), strict=True)) if others else {}
    rows = []
    for method, own in runs.items():
        seeds = np.array([run.evaluations()["test"].metrics[METRIC] for run in own])
        row = {"data": data, "method": method + (" *" if method == best else "")}
        row |= {metric: _mean(own, metric) for metric in METRICS}
        row["deviation"] = float(seeds.std())
        row |= {"papk / it": "", "p": "", "wins": ""}
        if FULL in runs and method != FULL:
            ahead = [run.evaluations()["test"].metrics[METRIC] for run in runs[FULL]]
            row["papk / it"] = float(values[FULL].mean() / values[method].mean())
            row["p"] = p_of[method]
            row["wins"] = f"{int((np.array(ahead) > seeds).sum())}/{len(seeds)}"
        row["epochs"] = float(np.mean([run.info.get("best_epoch") or 0 for run in own]))
        rows.append(row)
    return rows


def _by_user(runs: list[Run]) -> np.ndarray:
    """Return the mean over the seeds of the metric of each test user [U]."""
    tables = [run.evaluations()["test"].users[METRIC].to_numpy() for run in runs]
    return np.mean(tables, axis=0)  # type: ignore[no-any-return]


def _mean(runs: list[Run], metric: str) -> float:
    return float(np.mean([run.evaluations()["test"].metrics[metric] for run in runs]))


if __name__ == "__main__":
    sys.exit(main())
