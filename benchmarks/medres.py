"""MEDRES over graphs of entities, trained on pAp@k and on cross-entropy, beside other models.

    python -m benchmarks.medres -o FOLDER --tune          all data sets and methods, five seeds
    python -m benchmarks.medres -o FOLDER --data cora citeseer --methods medres-papk ease --seeds 2
    python -m benchmarks.medres -o FOLDER --tune --reference PYTHON     GraphSAGE as well

Finished runs stay in FOLDER and are not trained again; the last command writes the report over what
FOLDER holds of the data, methods and seeds that it names; --finished trains nothing, and leaves out
a method whose seeds are not all there. --epochs shortens every training. --tune
first searches the settings in GRIDS of the other models on each set, one after the other, with seed
0 on the validation part, and keeps them in FOLDER/tuned; without it those of this file count. Those
of MEDRES in this file were found with seed 0 on the validation part, too.
medres-papk, medres-bce: the whole method with either loss. medres-no-graphs: the loss on pAp@k, and
no graph, interactions neither: vectors of users and items, and the dynamic component.
medres-interactions: with the graph of interactions alone.
hetero-sage: GraphSAGE over the same graphs, by PyTorch Geometric (benchmarks/_medres_hetero.py).
PYTHON is that of an environment with torch and PyTorch Geometric (`pip install torch_geometric`, or
the extra benchmark-graphs); without it the method is left out.
Each model trains on the training part; validation pAp@10 chooses the epoch, and chose the settings.
On the test, histories hold the validation part too. EASE is computed: all its seeds are the same.
p is of a paired permutation test over the test users of pAp@10 averaged over the seeds, against
medres-papk, corrected by Holm; "wins" counts the seeds in which medres-papk is ahead. "epochs" is
the best one, "seconds" the whole training on the device named, beside others perhaps.
Data: benchmarks/_graph_data.py.
Bars: medres-papk first on three of the sets; 2 % above medres-bce on three; 5 % above
medres-no-graphs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ensue
from benchmarks import _medres_hetero as hetero
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
    "cora": {**WORDS, "layers": 3},
    "citeseer": {**WORDS, "layers": 3},
    "dblp": {"graphs": ["terms", "confs"], "layers": 4, "dropout": 0.0},
    "citeulike-a": {"graphs": ["tags", "cites"], "layers": 3, "dim": 128, "dropout": 0.0},
    "flickr": {**WORDS, "layers": 3, "dim": 128, "dropout": 0.0},
    # A user's own vector remembers the end of the training, and is out of date on the test.
    "ml-1m": {"history": "before", "dynamic": "both", "ids": "items", "layers": 1, "dropout": 0.0},
}
# The k of the loss is well above the one that is reported: of the ten best negatives of a step
# many are what the user takes in the test.
PAPK: dict[str, Any] = {"form": "logistic", "k": 300, "warmup_epochs": 5}
PAPK_OF_DATA: dict[str, dict[str, Any]] = {
    "citeulike-a": {"warmup_epochs": 20},
    "flickr": {"k": 1000, "warmup_epochs": 20},
    "ml-1m": {"k": 1000, "warmup_epochs": 20},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "medres-papk": {"loss": "papk"},
    "medres-bce": {"loss": "bce"},
    "medres-no-graphs": {"loss": "papk", "graphs": [], "interactions": False},
    "medres-interactions": {"loss": "papk", "graphs": []},
}
OTHERS: dict[str, dict[str, Any]] = {
    "lightgcn": {"metric": METRIC},
    "bpr": {"metric": METRIC, "learning_rate": 0.005, "epochs": 200, "validate_every": 5},
    "ease": {"l2": 100.0},
    hetero.METHOD: hetero.SETTINGS,
}
METHODS = [*VARIANTS, *OTHERS]
# Settings to try in place of those above, each in turn: the better one stays.
GRIDS: dict[str, dict[str, list[Any]]] = {
    "lightgcn": {"num_layers": [2], "temperature": [0.2, 0.05], "learning_rate": [0.005]},
    "bpr": {"weight_decay": [1e-5, 1e-4], "learning_rate": [0.002, 0.01], "dim": [128]},
    "ease": {"l2": [1.0, 10.0, 1000.0]},
}


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
        for method in options.methods:
            work = Work(options.output, dataset, data, method, options.epochs, options.reference)
            if options.finished and not all(map(work.is_finished, range(options.seeds))):
                continue
            tunes = options.tune and not options.finished and method in GRIDS
            settings = work.tune() if tunes else work.own_settings()
            runs[method] = [work.evaluated(settings, seed) for seed in range(options.seeds)]
            print(f"{data} {method}: {METRIC} {_mean(runs[method], METRIC):.4f}", flush=True)
        if not runs:
            continue
        rows += table_of(data, runs)
        print(to_table([row for row in rows if row["data"] == data]), flush=True)
    config = {"seeds": options.seeds, "medres": MEDRES, "data": OF_DATA}
    config |= {"papk": PAPK, "papk of data": PAPK_OF_DATA}
    config |= {"others": OTHERS, "tuned": GRIDS if options.tune else "no"}
    print(write_report("medres", config, rows))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", nargs="+", choices=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tune", action="store_true", help="search settings, where not done yet")
    parser.add_argument("--epochs", type=int, help="of every training, in place of its own")
    parser.add_argument("--finished", action="store_true", help="only what FOLDER holds already")
    parser.add_argument("--reference", type=Path, help="Python of an environment with PyG")
    options = parser.parse_args()
    if options.methods is None:
        options.methods = [name for name in METHODS if name != hetero.METHOD or options.reference]
    elif hetero.METHOD in options.methods and options.reference is None:
        parser.error(f"{hetero.METHOD} is trained by the Python of --reference; pass it.")
    return options


@dataclass(frozen=True)
class Work:
    """A method on a data set, and where its runs are.

    epochs: of every training, in place of its own.
    reference: Python of an environment with PyTorch Geometric.
    """

    folder: Path
    dataset: Dataset
    data: str
    method: str
    epochs: int | None
    reference: Path | None

    @property
    def model(self) -> str:
        """What the model of the method is called."""
        return self.method if self.method in OTHERS else "medres"

    def own_settings(self) -> dict[str, Any]:
        """Return the settings of this file."""
        if self.method in OTHERS:
            return dict(OTHERS[self.method])
        own = {**MEDRES, **OF_DATA[self.data], **VARIANTS[self.method]}
        if own["loss"] == "papk":
            own["papk"] = {**PAPK, **PAPK_OF_DATA.get(self.data, {})}
        return own

    def tune(self) -> dict[str, Any]:
        """Return the best settings on the validation part; those found before are read."""
        file = self.folder / "tuned" / self.data / f"{self.method}.json"
        if file.is_file():
            found: dict[str, Any] = json.loads(file.read_text())
            return found
        best, number = self.own_settings(), 0
        trials = self.folder / "tuning" / self.data / self.method
        highest = self._validated(best, trials / "0")
        for name, values in GRIDS[self.method].items():
            for value in values:
                number += 1
                if best.get(name) == value:
                    continue
                tried = self._validated({**best, name: value}, trials / str(number))
                print(f"{self.data} {self.method} {name}={value}: {tried:.4f} ({highest:.4f})")
                if tried > highest:
                    best, highest = {**best, name: value}, tried
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(best, indent=2))
        return best

    def is_finished(self, seed: int) -> bool:
        """Return whether the run of this seed is there."""
        return (self._place(seed) / "run.json").is_file()

    def evaluated(self, settings: dict[str, Any], seed: int) -> Run:
        """Return a run that is evaluated on the test; one that is there is opened."""
        run = self._run(settings, seed, self._place(seed))
        if "test" not in run.evaluations():
            run.evaluate(self.dataset, num_resamples=0)
        return run

    def _place(self, seed: int) -> Path:
        """Return the folder of the run of this seed; EASE has no seed."""
        seed = 0 if self.model == "ease" else seed
        return self.folder / "runs" / self.data / self.method / str(seed)

    def _validated(self, settings: dict[str, Any], out: Path) -> float:
        value: float = self._run(settings, 0, out).info["metrics"]["validation"][METRIC]
        return value

    def _run(self, settings: dict[str, Any], seed: int, out: Path) -> Run:
        """Return a run; it is trained, or gone on with, where it is not finished."""
        own = dict(settings)
        if self.model != "ease":
            own["seed"] = seed
            if self.epochs is not None:
                own["epochs"] = self.epochs
        if not (out / "run.json").is_file():
            started = time.perf_counter()
            if self.method == hetero.METHOD:
                assert self.reference is not None
                graphs = OF_DATA[self.data].get("graphs")
                hetero.train(self.dataset, graphs, own, out, self.reference)
            else:
                ensue.train(self.model, self.dataset, out=out, resume=out.exists(), **own)
            print(f"{out}: {time.perf_counter() - started:.0f} s", flush=True)
        return hetero.VectorsRun(out) if self.method == hetero.METHOD else Run(out)


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
        name = method + (" *" if method == best else "")
        row: dict[str, Any] = {"data": data, "method": name}
        row |= {metric: _mean(own, metric) for metric in METRICS}
        row["deviation"] = float(seeds.std())
        row |= {"papk / it": "", "p": "", "wins": ""}
        if FULL in runs and method != FULL:
            ahead = [run.evaluations()["test"].metrics[METRIC] for run in runs[FULL]]
            row["papk / it"] = float(values[FULL].mean() / values[method].mean())
            row["p"] = p_of[method]
            row["wins"] = f"{int((np.array(ahead) > seeds).sum())}/{len(seeds)}"
        row["epochs"] = float(np.mean([run.info.get("best_epoch") or 0 for run in own]))
        row["seconds"] = float(np.mean([run.info["seconds"] for run in own]))
        devices = {run.info["hardware"]["gpu"] or "processor" for run in own}
        row["trained on"] = ", ".join(sorted(devices))
        rows.append(row)
    return rows


def _by_user(runs: list[Run]) -> NDArray[np.float64]:
    """Return the mean over the seeds of the metric of each test user [U]."""
    tables = [run.evaluations()["test"].users[METRIC].to_numpy() for run in runs]
    means: NDArray[np.float64] = np.mean(tables, axis=0)
    return means


def _mean(runs: list[Run], metric: str) -> float:
    return float(np.mean([run.evaluations()["test"].metrics[metric] for run in runs]))


if __name__ == "__main__":
    sys.exit(main())
