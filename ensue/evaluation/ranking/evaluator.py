"""Evaluate a ranking model on rows of a dataset, in the order they are stored.

The rows are read and scored a batch at a time; their labels and predictions go through
`ensue.evaluation.ranking.stream`, so neither memory nor the figures depend on how many there are
or on the size of a batch (as far as the model's own predictions do not).

Shapes: n rows of a batch, M tasks, C categorical columns, V values of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.errors import DataError, UsageError, did_you_mean
from ensue.evaluation.evaluator import inference
from ensue.evaluation.ranking.metrics import FORMULAS
from ensue.evaluation.ranking.records import NUM_CLUSTERS
from ensue.evaluation.ranking.result import RankingEvaluation
from ensue.evaluation.ranking.slicing import Slicing
from ensue.evaluation.ranking.stream import RankingStream
from ensue.evaluation.ranking.summary import METRICS
from ensue.progress import track

Int64s = NDArray[np.int64]
GroupReader = Callable[[slice], Int64s]


class RankingRows(Protocol):
    """Rows of features and labels, by position; a RankingDataset is one."""

    @property
    def schema(self) -> RankingSchema:
        """The columns and the tasks."""
        ...

    def rows(self, index: slice, *, as_ids: bool = False) -> RankingBatch:
        """Return these rows; with 64-bit ids in place of codes if `as_ids`."""
        ...

    def train_counts(self, vocabulary: str) -> Int64s:
        """Return the number of training rows [V + 1] of each code."""
        ...

    def values(self, vocabulary: str) -> pl.Series:
        """Return the values [V] of codes 1, 2, ..."""
        ...


@dataclass(frozen=True, kw_only=True)
class RankingProtocol:
    """How a ranking model is evaluated.

    group: the categorical column whose values are the groups of GAUC and the independent units of
        intervals (a user, a request); or a function that gives the group [n] int64 of rows, 0
        where it is not known; None has no groups.
    popularity: a categorical column; slices by how often its value was seen in training.
    by: categorical columns; a slice for each of their `max_values` most frequent values.
    memory_bytes: of the rows being sorted; folder: for what exceeds it, None is the system's.
    """

    group: str | GroupReader | None = None
    popularity: str | None = None
    by: tuple[str, ...] = ()
    max_values: int = 20
    as_ids: bool = False
    batch_size: int = 8192
    num_bins: int = 20
    confidence: float = 0.95
    memory_bytes: int = 256 << 20
    folder: str | Path | None = None


def evaluate_ranking(
    predict: Callable[[RankingBatch], Tensor],
    data: RankingRows,
    bounds: tuple[int, int],
    protocol: RankingProtocol | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> RankingEvaluation:
    """Return the metrics of each task of `data` on rows bounds[0] to bounds[1] - 1.

    Args:
        predict: gives [n, M], logits of binary tasks and values of regressions, in the order of
            the tasks; a module is put into evaluation mode, and gets its batches on its device.
        about: what the rows are (name and hash of the dataset, part), for the stored protocol.

    Raises:
        UsageError: an argument has no meaning, or predictions have another shape.
        DataError: there are no rows, or labels or weights are not as a dataset has them.
        RunError: a prediction is infinite or NaN.
    """
    chosen = protocol or RankingProtocol()
    first, end = bounds
    if end <= first:
        raise DataError(f"evaluation needs rows; rows {first} to {end} are none.")
    if chosen.batch_size < 1:
        raise UsageError(f"batch_size must be 1 or more; got {chosen.batch_size}.")
    slicings = make_slicings(data, chosen)
    stream = RankingStream(
        data.schema.tasks,
        {slicing.name: slicing.names for slicing in slicings},
        has_groups=chosen.group is not None,
        memory_bytes=chosen.memory_bytes,
        folder=chosen.folder,
        num_bins=chosen.num_bins,
        confidence=chosen.confidence,
    )
    with (
        stream,
        inference(predict) as device,
        track("evaluate", total=end - first, unit="rows", enabled=progress) as advance,
    ):
        for start in range(first, end, chosen.batch_size):
            index = slice(start, min(start + chosen.batch_size, end))
            _add_rows(stream, predict, data, index, chosen, slicings, device)
            advance(index.stop - index.start)
        found = stream.results()
    for tasks in (tasks for parts in found["slices"].values() for tasks in parts.values()):
        for figures in tasks.values():
            del figures["reliability"], figures["curve"]
    described = _describe(data.schema, chosen, slicings) | {"rows": end - first}
    return RankingEvaluation(found["tasks"], found["slices"], {**(about or {}), **described})


def make_slicings(data: RankingRows, protocol: RankingProtocol) -> list[Slicing]:
    """Return the slices that the protocol asks for.

    Raises:
        UsageError: a column is not a categorical one, or max_values is below 1.
    """
    if protocol.max_values < 1:
        raise UsageError(f"max_values must be 1 or more; got {protocol.max_values}.")
    slicings = []
    if protocol.popularity is not None:
        vocabulary = _vocabulary(data.schema, protocol.popularity, "popularity")
        counts = data.train_counts(vocabulary)
        slicings.append(Slicing.by_popularity(protocol.popularity, counts))
    for column in dict.fromkeys(protocol.by):
        vocabulary = _vocabulary(data.schema, column, "by")
        values = data.values(vocabulary).cast(pl.String).to_list()
        counts = data.train_counts(vocabulary)
        slicings.append(Slicing.by_value(column, values, counts, protocol.max_values))
    return slicings


def _add_rows(
    stream: RankingStream,
    predict: Callable[[RankingBatch], Tensor],
    data: RankingRows,
    index: slice,
    protocol: RankingProtocol,
    slicings: Sequence[Slicing],
    device: torch.device,
) -> None:
    """Score rows and hand them to the stream."""
    batch = data.rows(index)
    given = data.rows(index, as_ids=True) if protocol.as_ids else batch
    if device.type != "cpu":
        moved = [tensor.to(device, non_blocking=True) for tensor in given.tensors()]
        given = RankingBatch.from_tensors(moved, data.schema)
    predictions = predict(given).detach()
    if predictions.shape != batch.labels.shape:
        raise UsageError(
            f"predict must return [rows, tasks], {tuple(batch.labels.shape)}; "
            f"got {tuple(predictions.shape)}."
        )
    columns = [column.name for column in data.schema.of_kind("categorical")]
    codes = batch.codes.numpy()
    groups = None
    if isinstance(protocol.group, str):
        _vocabulary(data.schema, protocol.group, "group")
        groups = np.ascontiguousarray(codes[:, columns.index(protocol.group)])
    elif protocol.group is not None:
        groups = protocol.group(index)
    stream.add(
        batch.labels.numpy(),
        predictions.float().cpu().numpy(),
        weights=batch.weights.numpy(),
        groups=groups,
        slices={
            slicing.name: slicing.slice_of_code[codes[:, columns.index(slicing.column)]]
            for slicing in slicings
        },
    )


def _vocabulary(schema: RankingSchema, name: str, argument: str) -> str:
    """Return the vocabulary of a categorical column."""
    columns = {column.name: column for column in schema.of_kind("categorical")}
    if name not in columns:
        raise UsageError(
            f"{argument} must name a categorical column; {name!r} is none."
            f"{did_you_mean(name, columns)}"
        )
    return columns[name].vocabulary


def _describe(
    schema: RankingSchema, protocol: RankingProtocol, slicings: Sequence[Slicing]
) -> dict[str, Any]:
    """Return what a reader needs to compare the numbers with others."""
    named = protocol.group if isinstance(protocol.group, str) else "given with the rows"
    group = None if protocol.group is None else named
    units = f"groups ({group}), in {NUM_CLUSTERS} random clusters" if group else "rows"
    names = {name for task in schema.tasks for name in METRICS[task.kind]}
    if group is None:
        names.discard("gauc")
    return {
        "group": group,
        "slices": [slicing.name for slicing in slicings],
        "metrics": {name: formula for name, formula in FORMULAS.items() if name in names},
        "ties": "rows of equal prediction count as one step of every curve, and half in pairs",
        "num_bins": protocol.num_bins,
        "confidence": protocol.confidence,
        "interval": f"normal, {100 * protocol.confidence:g}%; independent units are {units}",
    }
