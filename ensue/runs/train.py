"""Train a model on a dataset and store the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ensue.config import Config, ConfigT, make_config
from ensue.data.context import ContextSchema
from ensue.data.dataset import Dataset
from ensue.data.feature_schema import EMPTY, FeatureSchema, select_columns
from ensue.data.graphs import Graph, feature_names
from ensue.data.ranking.value_ids import value_ids
from ensue.distributed.config import WorkersConfig
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError, DataError, UsageError, did_you_mean
from ensue.evaluation.metrics import FORMULAS
from ensue.models.base import FittedModel, ItemsConfig, Model
from ensue.models.graph.medres import Medres
from ensue.models.graph.medres_config import MedresConfig
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.retrieval.two_tower_config import TowerConfig
from ensue.models.sequence import ContextConfig
from ensue.models.table import build_model, get_method, get_preset
from ensue.nn.growing_items import count_numbers, name_items_
from ensue.runs.environment import describe_making
from ensue.runs.item_training import VALIDATION_KS, Fit, ItemTraining, validation
from ensue.runs.output import open_training
from ensue.runs.run import Run, save_run
from ensue.runs.train_shared import open_launched
from ensue.runs.train_shared_items import check_item_scheme, train_shared_items
from ensue.training.config import TrainingConfig, override
from ensue.training.loop import OnValidation
from ensue.training.objectives import MakeObjective, make_objective


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
    distributed: str | None = None,
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
        distributed: how tables are divided among the processes that torchrun has started, which all
            call this function and share the folder: "row_wise", which "auto" is too, or
            "replicated". None trains in this one alone.
        settings: of the model, of the training, and of several processes (`WorkersConfig`), by
            field name; they override the preset.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        RunError: the loss is not finite, or another process is gone.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    return train_with(
        model,
        data,
        override(get_preset(model, preset), settings),
        distributed=distributed,
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
    distributed: str | None = None,
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
    if fit not in get_args(Fit):
        raise UsageError(f"fit must be 'train' or 'train+validation'; got {fit!r}.")
    divide, workers_config = False, WorkersConfig()
    if distributed is not None:
        divide = check_item_scheme(distributed) == "row_wise"
        workers_config, settings = _take_settings(WorkersConfig, settings)
        extra = {**(extra or {}), "distributed": distributed}
    config, training = resolve_settings(model, settings)
    make_model = _model_maker(model, config, dataset, fit)
    out = Path(out)
    chosen = {
        "model": model,
        "fit": fit,
        "config": config.model_dump(mode="json"),
        "training": training.model_dump(mode="json") if training else None,
        **(extra or {}),
    }
    identity = {**chosen, "dataset": dataset.info.hash}
    open_out = partial(open_training, out, identity, overwrite=overwrite)
    started = time.perf_counter()

    def save(trained: Model, facts: dict[str, Any]) -> Run:
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

    if distributed is not None and training is not None and training.papk is not None:
        raise UsageError("loss=papk is trained by one process; leave distributed out.")
    if training is None:
        if distributed is not None:
            raise UsageError(
                f"{model} is computed in one go, by one process; leave distributed out."
            )
        open_out(resume=resume)
        return save(*_fit(make_model, dataset, fit))
    work = ItemTraining(make_model, make, training, dataset, fit, out, on_validation)
    if distributed is None:
        return save(*work.run(resume=open_out(resume=resume)))
    with Workers.start(workers_config.timeout_seconds, training.device) as workers:
        launched = partial(open_launched, out, open_out, resume=resume)
        return train_shared_items(work, workers, launched, save, divide=divide)


def _take_settings(
    kind: type[ConfigT], settings: Mapping[str, Any]
) -> tuple[ConfigT, dict[str, Any]]:
    """Return the settings of this kind, and the others."""
    own = {name: value for name, value in settings.items() if name in kind.model_fields}
    return make_config(kind, own), {n: v for n, v in settings.items() if n not in own}


def resolve_settings(
    model: str, settings: Mapping[str, Any]
) -> tuple[Config, TrainingConfig | None]:
    """Return the model's and the training's settings; no training for models fitted in one go.

    Raises:
        ConfigError: a name belongs to neither, or a value does not fit.
    """
    if settings.get("loss") == "papk":  # no model's own: any can be trained on it
        settings = {n: value for n, value in settings.items() if n != "loss"}
        settings.setdefault("papk", {})
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
    validate = validation(dataset, fit)
    return model.eval(), {"metrics": {"validation": validate(model)} if validate else {}}


def _model_maker(name: str, config: Config, dataset: Dataset, fit: Fit) -> Callable[[], Model]:
    """Return what makes a new model; the columns and graphs that the config names are found here.

    Args:
        fit: the part of the dataset whose edges are read.
    """
    context, items, users = ContextSchema(), EMPTY, EMPTY
    graphs: dict[str, Graph] = {}
    if isinstance(config, ContextConfig):
        context = dataset.context_schema(config.context_in, config.context_out)
    if isinstance(config, TowerConfig):
        items = select_columns(dataset.item_features, config.item_features, setting="item_features")
        users = select_columns(dataset.user_features, config.user_features, setting="user_features")
    if isinstance(config, MedresConfig):
        graphs = dataset.graphs(fit, config.graphs)
        items, users = (
            select_columns(table, None if config.reads_features else names, setting="graphs")
            for table, names in (
                (dataset.item_features, feature_names("items", graphs)),
                (dataset.user_features, feature_names("users", graphs)),
            )
        )

    def make() -> Model:
        model = build_model(
            name,
            config,
            num_users=dataset.num_users,
            num_items=dataset.num_items,
            context=context,
            features=FeatureSchema(items.columns, users.columns),
            graphs=tuple(graph.schema for graph in graphs.values()),
        )
        if isinstance(model, (TwoTower, Medres)):
            model.fill_features_(items, users)
        if isinstance(model, Medres):
            model.fill_graphs_(graphs)
        if isinstance(config, ItemsConfig) and config.growth is not None:
            name_items_(model, item_ids(dataset))
        return model

    return make


def item_ids(dataset: Dataset) -> Tensor:
    """Return the 64-bit ids of items [I + 1], from their raw ids alone; 0 is padding."""
    ids = value_ids("item", dataset.item_ids.raw)
    return torch.from_numpy(np.concatenate([np.zeros(1, dtype=np.int64), ids]))


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
