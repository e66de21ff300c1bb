"""Train a ranking model on a ranking dataset and store the run."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from ensue.config import Config
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.workers import Workers
from ensue.errors import UsageError
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import get_ranker_preset
from ensue.runs.environment import describe_making
from ensue.runs.make_ranker import Fit, RankerMaker, RankingSettings, resolve_ranking_settings
from ensue.runs.output import open_training
from ensue.runs.ranker import KIND, RankingRun, save_ranking_run
from ensue.runs.ranker_training import RankerTraining
from ensue.runs.train_shared import check_scheme, open_launched, train_shared
from ensue.training.loop import OnValidation


def train_ranker(
    model: str,
    data: RankingDataset | str | Path,
    *,
    out: str | Path,
    preset: str | None = None,
    fit: Fit = "train",
    resume: bool = False,
    overwrite: bool = False,
    on_validation: OnValidation | None = None,
    distributed: str | None = None,
    **settings: Any,
) -> RankingRun:
    """Train the ranking model `model` on `data` and return the stored run.

    With fit="train" the validation part selects the best epoch and may stop the training early.
    With fit="train+validation" all epochs are trained and the last weights kept.

    Args:
        model: a name of `ensue.models.ranking.table.RANKERS`.
        data: made by `prepare_ranking`.
        out: a new folder; an unfinished training in it is continued with resume=True.
        preset: a named group of settings of the model.
        on_validation: is told the epoch and the metrics of each validation.
        distributed: how the model is divided among the processes that torchrun has started, which
            all call this function and share the folder; see `check_scheme`.
        settings: of the model, of the stream (`StreamConfig`), of the training (`TrainingConfig`)
            and of several processes (`DistributedConfig`), by field name; they override the preset.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        RunError: the loss is not finite, or another process is gone.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    started = time.perf_counter()
    dataset = data if isinstance(data, RankingDataset) else RankingDataset(data)
    if fit not in get_args(Fit):
        raise UsageError(f"fit must be 'train' or 'train+validation'; got {fit!r}.")
    defaults = {"metric": default_metric(dataset.schema), **get_ranker_preset(model, preset)}
    chosen = resolve_ranking_settings(model, {**defaults, **settings})
    scheme = check_scheme(distributed, chosen.distributed)
    out = Path(out)
    described = {
        "kind": KIND,
        "model": model,
        "fit": fit,
        "distributed": distributed,
        **{name: one.model_dump(mode="json") for name, one in _named(chosen).items()},
    }
    identity = {**described, "dataset": dataset.info.hash}
    open_out = partial(open_training, out, identity, overwrite=overwrite)
    training = RankerTraining(RankerMaker(model, chosen, dataset, fit), out, on_validation)

    def save(trained: RankingModel, facts: dict[str, Any]) -> RankingRun:
        info = {
            **described,
            "schema": dataset.schema.to_dict(),
            "preset": preset,
            "dataset": _describe_dataset(dataset),
            "seed": chosen.training.seed,
            "num_parameters": trained.num_parameters(),
            **describe_making(started),
            **facts,
        }
        return save_ranking_run(out, trained, dataset, info)

    with torch.random.fork_rng():
        torch.manual_seed(chosen.training.seed)
        if scheme is None:
            return save(*training.run(partial(open_out, resume=resume)))
        with Workers.start(chosen.distributed.timeout_seconds, chosen.training.device) as workers:
            launched = partial(open_launched, out, open_out, resume=resume)
            return train_shared(training, workers, scheme, launched, save, resume=resume)


def default_metric(schema: RankingSchema) -> str:
    """Return what selects the best epoch: the mean AUC, or R2 where no task is binary."""
    return "auc" if any(task.kind == "binary" for task in schema.tasks) else "r2"


def _named(settings: RankingSettings) -> dict[str, Config]:
    return {"config": settings.model, "stream": settings.stream, "training": settings.training}


def _describe_dataset(dataset: RankingDataset) -> dict[str, Any]:
    info = dataset.info
    return {
        "name": info.name,
        "path": str(dataset.path.resolve()),
        "hash": info.hash,
        "counts": info.counts,
        "split": info.split,
        "user": info.user,
        "item": info.item,
        "group": info.group,
        "notes": info.notes,
    }
