"""Train a ranking model on a ranking dataset and store the run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ensue.config import Config, ConfigT, make_config
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.reader import RankingReader
from ensue.data.ranking.schema import RankingSchema
from ensue.errors import ConfigError, UsageError, did_you_mean
from ensue.evaluation.ranking.evaluator import RankingProtocol, evaluate_ranking
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import build_ranker, get_ranker, get_ranker_preset
from ensue.runs.environment import describe_making
from ensue.runs.output import open_training
from ensue.runs.ranker import KIND, RankingRun, save_ranking_run
from ensue.training.config import TrainingConfig
from ensue.training.loop import OnValidation, TrainingLoop, Validate, pick_device
from ensue.training.ranking import RankingObjective, StreamConfig

Fit = Literal["train", "train+validation"]
RAREST = 1e-4  # share of a label that a new model starts with


class RankingSettings(NamedTuple):
    """The settings of a ranking run: of the model, of the stream of rows, of the training."""

    model: Config
    stream: StreamConfig
    training: TrainingConfig


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
        settings: of the model, of the stream (`StreamConfig`) and of the training
            (`TrainingConfig`), by field name; they override the preset.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        RunError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    dataset = data if isinstance(data, RankingDataset) else RankingDataset(data)
    if fit not in get_args(Fit):
        raise UsageError(f"fit must be 'train' or 'train+validation'; got {fit!r}.")
    defaults = {"metric": default_metric(dataset.schema), **get_ranker_preset(model, preset)}
    chosen = resolve_ranking_settings(model, {**defaults, **settings})
    out = Path(out)
    described = {
        "kind": KIND,
        "model": model,
        "fit": fit,
        **{name: one.model_dump(mode="json") for name, one in _named(chosen).items()},
    }
    identity = {**described, "dataset": dataset.info.hash}
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(chosen.training.seed)
        # First the model: settings that do not fit the data leave no folder behind.
        trained, objective = make_ranker(model, chosen, dataset, fit)
        trained.to(pick_device(chosen.training.device))
        is_resumed = open_training(out, identity, resume=resume, overwrite=overwrite)
        facts = _run_loop(
            trained, objective, chosen.training, dataset, fit, out, on_validation, is_resumed
        )
    trained.cpu()
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


def resolve_ranking_settings(model: str, settings: Mapping[str, Any]) -> RankingSettings:
    """Return the settings by the group that has them.

    Raises:
        ConfigError: a name belongs to no group, or a value does not fit.
    """
    groups: list[type[Config]] = [get_ranker(model).model.Config, StreamConfig, TrainingConfig]
    for name in settings:
        if not any(name in group.model_fields for group in groups):
            known = sorted({field for group in groups for field in group.model_fields})
            raise ConfigError(f"{model} has no setting {name!r}.{did_you_mean(name, known)}")

    def make(cls: type[ConfigT]) -> ConfigT:
        return make_config(cls, {n: v for n, v in settings.items() if n in cls.model_fields})

    return RankingSettings(make(groups[0]), make(StreamConfig), make(TrainingConfig))


def default_metric(schema: RankingSchema) -> str:
    """Return what selects the best epoch: the mean AUC, or R2 where no task is binary."""
    return "auc" if any(task.kind == "binary" for task in schema.tasks) else "r2"


def _named(settings: RankingSettings) -> dict[str, Config]:
    return {"config": settings.model, "stream": settings.stream, "training": settings.training}


def _run_loop(
    model: RankingModel,
    objective: RankingObjective,
    training: TrainingConfig,
    dataset: RankingDataset,
    fit: Fit,
    out: Path,
    on_validation: OnValidation | None,
    resume: bool,
) -> dict[str, Any]:
    """Train the model, and return what to say of it."""
    validate = _make_validate(dataset, fit)
    loop = TrainingLoop(
        model,
        objective,
        training,
        directory=out,
        validate=validate,
        on_validation=on_validation,
    )
    progress = loop.run(resume=resume)
    return {
        "metrics": {"validation": progress.best_metrics} if validate else {},
        "epochs": progress.epoch - 1,
        "best_epoch": progress.best_epoch or progress.epoch - 1,
    }


def make_ranker(
    name: str, settings: RankingSettings, dataset: RankingDataset, fit: Fit
) -> tuple[RankingModel, RankingObjective]:
    """Return a new model, and its objective over the rows of a part; torch's generator decides."""
    model = build_ranker(name, settings.model, dataset.schema, _count_values(dataset))
    shift, scale = _label_scales(dataset, fit)
    model.start_at_(shift, scale)
    reader = RankingReader(
        dataset,
        fit,
        batch_size=settings.training.batch_size,
        window=settings.stream.window,
        seed=settings.training.seed,
        as_ids=model.reads_ids,
    )
    weights = settings.stream.weights_of(dataset.schema)
    # A squared error in units of the labels' deviation: no task counts more for its units.
    weights = [weight / one**2 for weight, one in zip(weights, scale.tolist(), strict=True)]
    seed = settings.training.seed
    return model, RankingObjective(reader, dataset.schema, weights, seed=seed)


def _describe_dataset(dataset: RankingDataset) -> dict[str, Any]:
    info = dataset.info
    return {
        "name": info.name,
        "path": str(dataset.path.resolve()),
        "hash": info.hash,
        "counts": info.counts,
        "split": info.split,
        "group": info.group,
        "notes": info.notes,
    }


def _count_values(dataset: RankingDataset) -> dict[str, Tensor]:
    """Return the number of training rows with each code of each vocabulary."""
    return {
        name: torch.from_numpy(dataset.train_counts(name)) for name in dataset.schema.vocabularies
    }


def _label_scales(dataset: RankingDataset, fit: Fit) -> tuple[Tensor, Tensor]:
    """Return what a new model predicts of each task [M], and the unit it learns it in [M].

    They are the log odds of a label of 1, and 1; of a regression the mean and the deviation.
    """
    labels = dataset.stored.labels[slice(*dataset.bounds(fit))]
    shift, scale = torch.zeros(labels.shape[1]), torch.ones(labels.shape[1])
    for number, task in enumerate(dataset.schema.tasks):
        own = labels[:, number]
        own = own[~np.isnan(own)]
        if not len(own):
            continue
        mean = float(own.mean(dtype=np.float64))
        if task.kind == "binary":
            shift[number] = torch.logit(torch.tensor(mean, dtype=torch.float64), eps=RAREST)
        else:
            shift[number], scale[number] = mean, float(own.std(dtype=np.float64)) or 1.0
    return shift, scale


def _make_validate(dataset: RankingDataset, fit: Fit) -> Validate | None:
    """Return the function that measures a model on the validation part; None where none is left."""
    if fit == "train+validation" or dataset.num_rows("validation") == 0:
        return None

    def validate(model: RankingModel) -> dict[str, float]:
        protocol = RankingProtocol(as_ids=model.reads_ids)
        found = evaluate_ranking(model, dataset, dataset.bounds("validation"), protocol)
        return {**found.means, **found.metrics}

    return validate
