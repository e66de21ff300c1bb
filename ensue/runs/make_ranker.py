"""A new ranking model for a dataset, and what its training reads: all that settings decide.

Shapes: M tasks, V values of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ensue.config import Config, ConfigT, make_config
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.reader import RankingReader
from ensue.distributed.config import DistributedConfig
from ensue.errors import ConfigError, did_you_mean
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import build_ranker, get_ranker
from ensue.training.config import TrainingConfig
from ensue.training.ranking import RankingObjective, StreamConfig

Fit = Literal["train", "train+validation"]
RAREST = 1e-4  # share of a label that a new model starts with


class RankingSettings(NamedTuple):
    """The settings of a ranking run: of the model, its rows, its training, its processes."""

    model: Config
    stream: StreamConfig
    training: TrainingConfig
    distributed: DistributedConfig


def resolve_ranking_settings(model: str, settings: Mapping[str, Any]) -> RankingSettings:
    """Return the settings by the group that has them.

    Raises:
        ConfigError: a name belongs to no group, or a value does not fit.
    """
    groups: list[type[Config]] = [
        get_ranker(model).model.Config,
        StreamConfig,
        TrainingConfig,
        DistributedConfig,
    ]
    for name in settings:
        if not any(name in group.model_fields for group in groups):
            known = sorted({field for group in groups for field in group.model_fields})
            raise ConfigError(f"{model} has no setting {name!r}.{did_you_mean(name, known)}")

    def make(cls: type[ConfigT]) -> ConfigT:
        return make_config(cls, {n: v for n, v in settings.items() if n in cls.model_fields})

    return RankingSettings(
        make(groups[0]), make(StreamConfig), make(TrainingConfig), make(DistributedConfig)
    )


class RankerMaker:
    """Makes new models of the same settings for the same rows.

    Args:
        name: of a model. fit: the part of the dataset that is trained on.
    """

    def __init__(
        self, name: str, settings: RankingSettings, dataset: RankingDataset, fit: Fit
    ) -> None:
        self.name, self.settings, self.dataset, self.fit = name, settings, dataset, fit

    def model(self) -> RankingModel:
        """Return a new model; torch's generator decides its weights."""
        counts = _count_values(self.dataset)
        model = build_ranker(self.name, self.settings.model, self.dataset.schema, counts)
        model.start_at_(*self._label_scales)
        return model

    def reader(self, *, as_ids: bool, share: tuple[int, int] = (0, 1)) -> RankingReader:
        """Return the reader of the training rows; `share` as there."""
        return RankingReader(
            self.dataset,
            self.fit,
            batch_size=self.settings.training.batch_size,
            window=self.settings.stream.window,
            seed=self.settings.training.seed,
            as_ids=as_ids,
            share=share,
        )

    def loss_weights(self) -> list[float]:
        """Return the weight of the loss of each task [M]."""
        weights = self.settings.stream.weights_of(self.dataset.schema)
        _, scale = self._label_scales
        # A squared error in units of the labels' deviation: no task counts more for its units.
        return [weight / one**2 for weight, one in zip(weights, scale.tolist(), strict=True)]

    @cached_property
    def _label_scales(self) -> tuple[Tensor, Tensor]:
        return _label_scales(self.dataset, self.fit)


def make_ranker(
    name: str, settings: RankingSettings, dataset: RankingDataset, fit: Fit
) -> tuple[RankingModel, RankingObjective]:
    """Return a new model, and its objective over the rows of a part; torch's generator decides."""
    maker = RankerMaker(name, settings, dataset, fit)
    model = maker.model()
    reader, seed = maker.reader(as_ids=model.reads_ids), settings.training.seed
    return model, RankingObjective(reader, dataset.schema, maker.loss_weights(), seed=seed)


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
