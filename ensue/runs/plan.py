"""Plan a training over many workers: what to share out how, before any machine is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ensue.config import Config, ConfigT, make_config
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.schema import RankingColumn, RankingSchema, Task
from ensue.distributed.cluster import Cluster, Workload
from ensue.distributed.plan import Plan, make_plan
from ensue.distributed.sizes import sizes_of
from ensue.errors import ConfigError, UsageError, did_you_mean
from ensue.models.ranking.table import get_ranker, get_ranker_preset

SAMPLE_ROWS = 100_000


class Columns(Config):
    """Columns of rows that are not there yet.

    num_fields: columns whose values are looked up. rows: values of each, or of all together, then
        spread evenly.
    ids_per_row: of all columns together; None is one for each.
    num_numbers: columns of numbers. num_tasks: labels, of 0 or 1.
    """

    num_fields: int = Field(ge=1, le=100_000)
    rows: list[int] = Field(min_length=1)
    ids_per_row: float | None = Field(default=None, gt=0)
    num_numbers: int = Field(default=0, ge=0, le=100_000)
    num_tasks: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _one_or_each(self) -> Columns:
        if len(self.rows) not in (1, self.num_fields) or min(self.rows) < 1:
            raise ConfigError(
                f"rows are of all {self.num_fields} columns together or of each, 1 or more; got "
                f"{self.rows}."
            )
        return self

    @property
    def schema_of_rows(self) -> RankingSchema:
        """The columns and tasks of the rows."""
        sizes = self.rows
        if len(sizes) == 1:
            sizes = [max(1, round(sizes[0] / self.num_fields))] * self.num_fields
        kind = "categorical" if self.ids_per_row in (None, self.num_fields) else "multi"
        fields = [
            RankingColumn(f"column{n}", kind, size, f"column{n}")  # type: ignore[arg-type]
            for n, size in enumerate(sizes, start=1)
        ]
        numbers = [
            RankingColumn(f"number{n}", "numeric", 1) for n in range(1, self.num_numbers + 1)
        ]
        tasks = tuple(Task(f"task{n}", "binary") for n in range(1, self.num_tasks + 1))
        return RankingSchema((*fields, *numbers), tasks)

    @property
    def means(self) -> dict[str, float]:
        """Ids of a row in each column that is looked up."""
        mean = 1.0 if self.ids_per_row is None else self.ids_per_row / self.num_fields
        return {column.name: mean for column in self.schema_of_rows.columns if column.vocabulary}


def plan(
    model: str,
    data: RankingDataset | str | Path | None = None,
    *,
    columns: Columns | Mapping[str, Any] | None = None,
    cluster: Cluster | Mapping[str, Any] | None = None,
    workload: Workload | Mapping[str, Any] | None = None,
    scheme: str | None = None,
    preset: str | None = None,
    **settings: Any,
) -> Plan:
    """Return what each way to share out the tables of a ranking model costs, and the cheapest.

    Nothing is trained and no table is made: 10^10 rows on 1,024 workers take no longer than a
    hundred on one. Of a dataset, ids of a row and different ids of a worker's batch are counted in
    a sample of up to SAMPLE_ROWS training rows.

    Args:
        model: a name of `ensue.models.ranking.table.RANKERS`.
        data: made by `prepare_ranking`; or give `columns`.
        columns, cluster, workload: objects, or their settings by name.
        scheme: takes this one, see `ensue.distributed.plan.NAMES`.
        preset, settings: of the model.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning, or no scheme is possible.
        DataError: the dataset cannot be read.
    """
    config = _model_config(model, preset, settings)
    machines, work = _made(Cluster, cluster or {}), _made(Workload, workload or {})
    if (data is None) == (columns is None):
        raise UsageError("plan needs a dataset or columns, one of them.")
    if data is not None:
        dataset = data if isinstance(data, RankingDataset) else RankingDataset(data)
        return plan_training(model, config, dataset, work, machines, scheme=scheme)
    described = _made(Columns, columns or {})
    sizes = sizes_of(model, config, described.schema_of_rows, ids_per_row=described.means)
    return make_plan(sizes, work, machines, scheme=scheme)


def plan_training(
    model: str,
    config: Config,
    dataset: RankingDataset,
    workload: Workload,
    workers: Cluster | int,
    *,
    scheme: str | None = None,
) -> Plan:
    """Return the plan of a model of these settings on a dataset, whose ids are counted.

    Args:
        workers: the machines; or how many workers there are, for the plan that sends least.

    Raises:
        UsageError: no scheme is possible, or there are more workers than rows of a batch.
    """
    number = workers if isinstance(workers, int) else workers.num_workers
    counts = count_ids(dataset, workload.split(number).num_rows)
    if workload.unique_ids is None:
        workload = workload.model_copy(update={"unique_ids": counts.unique})
    sizes = sizes_of(
        model, config, dataset.schema, ids_per_row=counts.means, longest=counts.longest
    )
    return make_plan(sizes, workload, workers, scheme=scheme)


class IdCounts(NamedTuple):
    """Ids of training rows, drawn without replacement, the same every time.

    means: of a row in each column. longest: the most of a row in each bag.
    unique: different ones in a batch; None where the sample is smaller.
    """

    means: dict[str, float]
    longest: dict[str, int]
    unique: int | None


def count_ids(dataset: RankingDataset, batch_size: int) -> IdCounts:
    """Return how many ids rows have, and a batch of `batch_size` rows."""
    first, end = dataset.bounds("train")
    number = min(SAMPLE_ROWS, end - first)
    rows = first + np.sort(np.random.default_rng(0).choice(end - first, number, replace=False))
    stored, schema = dataset.stored, dataset.schema
    batch = stored.batch(rows)
    means = {column.name: 1.0 for column in schema.of_kind("categorical")}
    longest: dict[str, int] = {}
    # Which row of the sample each id is of: those of a batch are a part of the sample.
    in_batch = np.random.default_rng(1).permutation(number) < batch_size
    seen: dict[str, list[NDArray[np.int64]]] = {}
    for position, column in enumerate(schema.of_kind("categorical")):
        seen.setdefault(column.vocabulary, []).append(batch.codes.numpy()[in_batch, position])
    for column, bag in zip(schema.of_kind("multi", "history"), batch.bags, strict=True):
        lengths = bag.offsets.diff().numpy()
        means[column.name] = float(lengths.mean())
        longest[column.name] = int(lengths.max())
        values = bag.values.numpy()[np.repeat(in_batch, lengths)]
        seen.setdefault(column.vocabulary, []).append(values)
    if number < batch_size:
        return IdCounts(means, longest, None)
    unique = sum(len(np.unique(np.concatenate(parts))) for parts in seen.values())
    return IdCounts(means, longest, unique)


def _model_config(model: str, preset: str | None, settings: Mapping[str, Any]) -> Config:
    """Return the config of a model; settings of its training are of no use here."""
    cls = get_ranker(model).model.Config
    chosen = {n: v for n, v in get_ranker_preset(model, preset).items() if n in cls.model_fields}
    for name in settings:
        if name not in cls.model_fields:
            known = did_you_mean(name, cls.model_fields)
            raise ConfigError(f"{model} has no setting {name!r} that a plan depends on.{known}")
    return make_config(cls, {**chosen, **settings})


def _made(cls: type[ConfigT], given: ConfigT | Mapping[str, Any]) -> ConfigT:
    return make_config(cls, given) if isinstance(given, Mapping) else given
