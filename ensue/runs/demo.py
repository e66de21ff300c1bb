"""The main job from a log to recommendations, on embedded data or on a file of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.data.dataset import Dataset
from ensue.data.prepare import prepare
from ensue.data.synthetic import generate, write
from ensue.evaluation.significance import Comparison
from ensue.progress import note
from ensue.runs.compare import compare_runs
from ensue.runs.plots import require_plots
from ensue.runs.report import write_report
from ensue.runs.requests import Recommendation
from ensue.runs.run import Run
from ensue.runs.train import train

BASELINES = ("popularity", "markov", "item_knn", "ease", "bpr")
EASE_LIMIT = 10_000  # items; the closed form is cubic in them, and a demo should be quick

# Enough to see what each model can do in a demo's time; docs/methods.md has the full runs.
SETTINGS: dict[str, dict[str, Any]] = {
    "bpr": {"epochs": 10, "batch_size": 1024, "learning_rate": 0.005, "patience": 2},
    "caser": {
        "window": 3,
        "num_targets": 1,
        "num_negatives": 20,
        "loss": "sum",
        "dropout": 0.3,
        "learning_rate": 0.005,
        "epochs": 8,
        "patience": 2,
    },
    "sasrec": {"epochs": 6, "patience": 2},
}


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    runs: by model name, each evaluated on the test part.
    best: the run with the largest MAP. comparison: all runs, tested against each other.
    answers: for a user of the log, and for a history made up of three items.
    """

    dataset: Dataset
    runs: dict[str, Run]
    best: Run
    comparison: Comparison
    history: list[str]
    answers: list[Recommendation]
    report: Path

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome, ready for JSON."""
        evaluations = {name: run.evaluations()["test"] for name, run in self.runs.items()}
        return {
            "dataset": str(self.dataset.path),
            "runs": {name: str(run.path) for name, run in self.runs.items()},
            "metrics": {name: found.metrics for name, found in evaluations.items()},
            "intervals": {name: found.intervals for name, found in evaluations.items()},
            "comparison": self.comparison.to_dict(),
            "best": self.best.path.name,
            "history": self.history,
            "recommendations": [answer.to_dict() for answer in self.answers],
            "report": str(self.report),
        }


def run_demo(out: str | Path, *, data: str | Path | None = None) -> Demo:
    """Prepare, train Caser, SASRec and the baselines, evaluate, compare, recommend, report.

    What an earlier demo left in `out` is replaced.

    Args:
        data: an interaction log; None is a synthetic one.

    Raises:
        DataError, UsageError: the log cannot be used, or `out` holds other things.
        ExtraError: matplotlib, which draws the report, is not installed.
    """
    require_plots()  # better now than after the training
    out = Path(out)
    dataset = _prepare(out, data)
    runs = dict(_train_all(out, dataset))
    comparison = compare_runs(list(runs.values()), metrics=("map", "ndcg@10"))
    best = max(runs.values(), key=lambda run: run.evaluations()["test"].metrics["map"])
    user = dataset.user_ids.to_raw([1])[0]
    history = _made_up_history(dataset)
    return Demo(
        dataset=dataset,
        runs=runs,
        best=best,
        comparison=comparison,
        history=history,
        answers=best.recommend(users=[user], histories=[history], k=5),
        report=write_report(best),
    )


def _prepare(out: Path, data: str | Path | None) -> Dataset:
    if data is not None:
        note(f"Preparing {data}")
        return prepare(data, out / "dataset", overwrite=True)
    note("Making a synthetic log of 200,000 interactions")
    log = write(generate(), out / "log")
    return prepare(
        log / "interactions.csv",
        out / "dataset",
        items=log / "items.csv",
        users=log / "users.csv",
        overwrite=True,
    )


def _train_all(out: Path, dataset: Dataset) -> Iterator[tuple[str, Run]]:
    """Yield each model's run, trained and evaluated."""
    for name in (*BASELINES, "caser", "sasrec"):
        if name == "ease" and dataset.num_items > EASE_LIMIT:
            note(f"Leaving out ease: {dataset.num_items:,} items are more than {EASE_LIMIT:,}")
            continue
        note(f"Training {name}")
        run = train(
            name, dataset, out=out / "runs" / name, overwrite=True, **SETTINGS.get(name, {})
        )
        run.evaluate(dataset)
        yield name, run


def _made_up_history(dataset: Dataset) -> list[str]:
    """Return three items of different users: a history nobody has."""
    histories = dataset.histories("all")
    last = min(dataset.num_users, 3)
    return dataset.item_ids.to_raw([histories[user][0] for user in range(1, last + 1)])
