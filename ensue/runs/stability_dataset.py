"""A ranking model on a dataset of the user's as what `ensue stability` trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensue.data.ranking.dataset import RankingDataset
from ensue.errors import UsageError
from ensue.evaluation.ranking.evaluator import RankingProtocol, evaluate_ranking
from ensue.models.ranking.table import get_ranker_preset
from ensue.runs.make_ranker import make_ranker, resolve_ranking_settings
from ensue.runs.stability_problem import Bench, Problem, Quality

KINDS = {"binary": "auc", "regression": "rmse"}


def dataset_bench(
    data: RankingDataset | str | Path,
    model: str = "shared_bottom",
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Bench:
    """Return the bench of a ranking model: one pass over the training rows, then the validation.

    Args:
        settings: of the model, and how rows are read: batch_size, window, task_weights. What the
            rules and the rates of a sweep are is not among them.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning, or no row validates.
    """
    dataset = data if isinstance(data, RankingDataset) else RankingDataset(data)
    if dataset.num_rows("validation") == 0:
        raise UsageError(
            f"a sweep measures on the validation part; {dataset.path} has none. Prepare the data "
            "with a split that has one."
        )
    own = get_ranker_preset(model, preset)
    own = {**own, "optimizer": "clippy", **(settings or {})}
    resolve_ranking_settings(model, own)

    def make(seed: int) -> Problem:
        chosen = resolve_ranking_settings(model, {**own, "seed": seed})
        network, objective = make_ranker(model, chosen, dataset, "train")

        def measure(trained: Any) -> Quality:
            protocol = RankingProtocol(as_ids=network.reads_ids)
            found = evaluate_ranking(trained, dataset, dataset.bounds("validation"), protocol)
            quality: Quality = {"auc": {}, "rmse": {}}
            for task, figures in found.tasks.items():
                metric = KINDS[figures["kind"]]
                quality[metric][task] = figures["metrics"][metric]
            return quality

        return Problem(network, objective, measure)

    facts = {"name": dataset.info.name, "hash": dataset.info.hash, "model": model, **own}
    return Bench(facts, make)
