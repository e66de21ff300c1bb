"""Train a model on a dataset and store the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ensue.config import Config, ConfigT, make_config
from ensue.data.context import ContextSchema
from ensue.data.dataset import Dataset
from ensue.data.feature_schema import EMPTY, FeatureSchema, select_columns
from ensue.data.ranking.value_ids import value_ids
from ensue.errors import ConfigError, DataError, UsageError, did_you_mean
from ensue.evaluation.evaluator import evaluate
from ensue.evaluation.metrics import FORMULAS
from ensue.models.base import FittedModel, ItemsConfig, Model
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.retrieval.two_tower_config import TowerConfig
from ensue.models.sequence import ContextConfig
from ensue.models.table import build_model, get_method, get_preset
from ensue.nn.growing_items import count_numbers, name_items_
from ensue.runs.environment import describe_making
from ensue.runs.output import open_training
from ensue.runs.run import Run, save_run
from ensue.training.config import TrainingConfig
from ensue.training.loop import OnValidation, TrainingLoop, Validate, pick_device
from ensue.training.objectives import MakeObjective, make_objective

Fit = Literal["train", "train+validation"]
VALIDATION_KS = (10, 20)


def train(
    model: str,
    data: Dataset | str | Path,
    *,
    out: str | Path,
    preset: str | None = None,
    fit: Fit = "train",
    resume: bool = False,
    overwrite: bool = False,
    on_validation: OnValidation | None = None,
    **settings: Any,
) -> Run:
    """Train `model` on `data` and return the stored run.

    With fit="train" the validation part selects the best epoch and may stop the training early.
    With fit="train+validation" all epochs are trained and the last weights kept: the final run,
    once the number of epochs is known.

    Args:
        model: a name of `ensue.models.table.METHODS`.
        out: a new folder; an unfinished training in it is continued with resume=True.
        preset: a named group of settings of the model.
        on_validation: is told the epoch and the metrics of each validation, if there are epochs;
            it may raise `StopTraining` of ensue.training.loop to give the training up.
        settings: of the model and of the training, by field name; they override the preset.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        RunError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    return train_with(
        model,
        data,
        {**get_preset(model, preset), **settings},
        out=out,
        fit=fit,
        resume=resume,
        overwrite=overwrite,
        on_validation=on_validation,
        preset=preset,
    )


def train_with(
    model: str,
    data: Dataset | str | Path,
    settings: Mapping[str, Any],
    *,
    out: str | Path,
    fit: Fit,
    resume: bool,
    overwrite: bool,
    on_validation: OnValidation | None = None,
    preset: str | None = None,
    make: MakeObjective = make_objective,
    extra: Mapping[str, Any] | None = None,
    examine: Callable[[Model], Mapping[str, Any]] | None = None,
) -> Run:
    """Return the stored run of a training whose objective the caller makes; else as `train`.

    Args:
        settings: all of them; no preset and no defaults of the model are added.
        extra: what else the training is, for its files; an unfinished one is continued with the
            same only.
        examine: returns what run.json says beside all that of the trained model.
    """
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    if fit not in ("train", "train+validation"):
        raise UsageError(f"fit must be 'train' or 'train+validation'; got {fit!r}.")
    config, training = resolve_settings(model, settings)
    make_model = _model_maker(model, config, dataset)
    out = Path(out)
    chosen = {
        "model": model,
        "fit": fit,
        "config": config.model_dump(mode="json"),
        "training": training.model_dump(mode="json") if training else None,
        **(extra or {}),
    }
    identity = {**chosen, "dataset": dataset.info.hash}
    is_resumed = open_training(out, identity, resume=resume, overwrite=overwrite)
    started = time.perf_counter()
    if training is None:
        trained, facts = _fit(make_model, dataset, fit)
    else:
        trained, facts = _train(
            make_model, make, training, dataset, fit, out, on_validation, resume=is_resumed
        )
    info = {
        **chosen,
        "preset": preset,
        "dataset": _describe_dataset(dataset),
        "seed": training.seed if training else None,
        "num_parameters": count_numbers(trained),
        **describe_making(started),
        **facts,
        **(examine(trained) if examine else {}),
    }
    return save_run(out, trained, dataset, info)


def resolve_settings(
    model: str, settings: Mapping[str, Any]
) -> tuple[Config, TrainingConfig | None]:
    """Return the model's and the training's settings; no training for models fitted in one go.

    Raises:
        ConfigError: a name belongs to neither, or a value does not fit.
    """
    homes = {name: find_home(model, name) for name in settings}
    method = get_method(model)

    def make(cls: type[ConfigT]) -> ConfigT:
        return make_config(cls, {n: value for n, value in settings.items() if homes[n] is cls})

    return make(method.model.Config), None if method.is_fitted else make(TrainingConfig)


def find_home(model: str, name: str) -> type[Config]:
    """Return the group of settings that holds `name`: the model's, or the training's.

    Raises:
        ConfigError: neither has it.
    """
    method = get_method(model)
    groups = [method.model.Config] + ([] if method.is_fitted else [TrainingConfig])
    for group in groups:
        if name in group.model_fields:
            return group
    known = sorted({field for group in groups for field in group.model_fields})
    hint = did_you_mean(name, known) if known else " It has no settings."
    raise ConfigError(f"{model} has no setting {name!r}.{hint}")


def validation_metrics() -> list[str]:
    """Return the names of what is measured on the validation part."""
    return [
        name.replace("@k", f"@{k}")
        for name in FORMULAS
        for k in (VALIDATION_KS if "@k" in name else VALIDATION_KS[:1])
    ]


def _fit(make: Callable[[], Model], dataset: Dataset, fit: Fit) -> tuple[Model, dict[str, Any]]:
    """Return a model computed in one go, and what to say of it."""
    torch.manual_seed(0)
    model = make()
    assert isinstance(model, FittedModel)
    histories = dataset.histories(fit)
    if histories.lengths.sum() == 0:
        raise DataError("training needs at least one interaction; the training part has none.")
    model.fit_(histories)
    validate = _make_validate(dataset, fit)
    return model.eval(), {"metrics": {"validation": validate(model)} if validate else {}}


def _train(
    make_model: Callable[[], Model],
    make: MakeObjective,
    training: TrainingConfig,
    dataset: Dataset,
    fit: Fit,
    out: Path,
    on_validation: OnValidation | None,
    *,
    resume: bool,
) -> tuple[Model, dict[str, Any]]:
    """Return a model trained by gradient steps, and what to say of it."""
    device = pick_device(training.device)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        model = make_model().to(device)
        histories = dataset.histories(fit, model.context)
        objective = make(model, histories, batch_size=training.batch_size, seed=training.seed)
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
    metrics = {"validation": progress.best_metrics} if validate else {}
    return model.cpu(), {
        "metrics": metrics,
        "epochs": progress.epoch - 1,
        "best_epoch": progress.best_epoch or progress.epoch - 1,
    }


def _model_maker(name: str, config: Config, dataset: Dataset) -> Callable[[], Model]:
    """Return what makes a new model; the columns that the config names are found here."""
    context, items, users = ContextSchema(), EMPTY, EMPTY
    if isinstance(config, ContextConfig):
        context = dataset.context_schema(config.context_in, config.context_out)
    if isinstance(config, TowerConfig):
        items = select_columns(dataset.item_features, config.item_features, setting="item_features")
        users = select_columns(dataset.user_features, config.user_features, setting="user_features")

    def make() -> Model:
        model = build_model(
            name,
            config,
            num_users=dataset.num_users,
            num_items=dataset.num_items,
            context=context,
            features=FeatureSchema(items.columns, users.columns),
        )
        if isinstance(model, TwoTower):
            model.fill_features_(items, users)
        if isinstance(config, ItemsConfig) and config.growth is not None:
            name_items_(model, item_ids(dataset))
        return model

    return make


def item_ids(dataset: Dataset) -> Tensor:
    """Return the 64-bit ids of items [I + 1], from their raw ids alone; 0 is padding."""
    ids = value_ids("item", dataset.item_ids.raw)
    return torch.from_numpy(np.concatenate([np.zeros(1, dtype=np.int64), ids]))


def _make_validate(dataset: Dataset, fit: Fit) -> Validate | None:
    """Return the function that measures a model on the validation part; None where none is left."""
    if fit == "train+validation" or dataset.info.counts["validation"] == 0:
        return None

    def validate(model: Model) -> dict[str, float]:
        return evaluate(
            model, dataset, split="validation", ks=VALIDATION_KS, num_resamples=0
        ).metrics

    return validate


def _describe_dataset(dataset: Dataset) -> dict[str, Any]:
    info = dataset.info
    return {
        "name": info.name,
        "path": str(dataset.path.resolve()),
        "hash": info.hash,
        "counts": info.counts,
        "split": info.split,
        "notes": info.notes,
    }
