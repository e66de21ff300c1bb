"""Metrics of any number of rows, exact, in bounded memory.

```
with RankingStream(schema.tasks, {"item": ("head", "torso", "tail", "new")}) as stream:
    for labels, logits, groups, parts in ...:
        stream.add(labels, logits, groups=groups, slices={"item": parts})
    found = stream.results()
found["tasks"]["click"]["metrics"]["auc"]
```

Rows are sorted on disk (see `external_sort`), then read once in the order of predictions and once
by group (see `passes`). The result is a function of the rows and their weights alone: not of the
size of chunks, of the memory limit or, but for rows without a group, of the order of rows; bit for
bit. `metrics` holds the definitions.

Shapes: n rows, M tasks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.ranking.schema import Task
from ensue.errors import DataError, RunError, UsageError, did_you_mean
from ensue.evaluation.ranking.collector import Collector
from ensue.evaluation.ranking.external_sort import SortPool
from ensue.evaluation.ranking.records import NO_GROUP, NUM_CLUSTERS, Rows, mix
from ensue.evaluation.ranking.summary import summarize

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]

MIN_MEMORY = 1 << 20
NO_SLICE = -1

Slicings = Mapping[str, Sequence[str]]


class RankingStream:
    """Takes rows in chunks of any size, then gives the metrics of each task and slice.

    Args:
        slicings: name -> names of its slices; each row is in one slice of each, or in none.
        has_groups: whether rows come with a group, for GAUC and for intervals.
        memory_bytes: what this holds at most, besides the chunk at hand and 50 kB for each task
            and slice; the rest is in `folder`: 16 bytes for each row and task, once for all rows
            and once for each slicing; twice that with groups.
        folder: for temporary files; None is the system's.
        num_bins: of the calibration error.
        confidence: of the intervals.

    Raises:
        UsageError: an argument has no meaning.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        slicings: Slicings | None = None,
        *,
        has_groups: bool = False,
        memory_bytes: int = 256 << 20,
        folder: str | Path | None = None,
        num_bins: int = 20,
        confidence: float = 0.95,
    ) -> None:
        if memory_bytes < MIN_MEMORY:
            raise UsageError(f"memory_bytes must be {MIN_MEMORY} or more; got {memory_bytes}.")
        if num_bins < 1:
            raise UsageError(f"num_bins must be 1 or more; got {num_bins}.")
        if not 0 < confidence < 1:
            raise UsageError(f"confidence must lie between 0 and 1; got {confidence}.")
        self.tasks = tuple(tasks)
        self.slicings = {name: tuple(slices) for name, slices in (slicings or {}).items()}
        self.num_rows = 0
        self._has_groups = has_groups
        self._confidence = confidence
        self._folder = tempfile.TemporaryDirectory(prefix="ensue-", dir=folder)
        pool = SortPool(Path(self._folder.name), memory_bytes)

        def collect(task: Task) -> Collector:
            return Collector(task.kind, pool, has_groups=has_groups, num_bins=num_bins)

        self._all = [collect(task) for task in self.tasks]
        self._slices = [
            {name: [collect(task) for _ in own] for name, own in self.slicings.items()}
            for task in self.tasks
        ]
        # Chunks are gathered here, so that many small ones cost no more than a large one.
        size = int(np.clip(memory_bytes // 2048, 256, 1 << 16))
        num_tasks = len(self.tasks)
        self._gathered = 0
        self._labels = np.empty((size, num_tasks), dtype=np.float32)
        self._predictions = np.empty((size, num_tasks), dtype=np.float32)
        self._weights = np.empty((size, num_tasks), dtype=np.float32)
        self._groups = np.zeros(size, dtype=np.int64)
        self._codes = np.empty((size, len(self.slicings)), dtype=np.int64)

    def __enter__(self) -> RankingStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary files."""
        self._folder.cleanup()

    def add(
        self,
        labels: Float32s,
        predictions: Float32s,
        *,
        weights: Float32s | None = None,
        groups: Int64s | None = None,
        slices: Mapping[str, Int64s] | None = None,
    ) -> None:
        """Take rows.

        Args:
            labels: [n, M]; NaN where a row has none, 0 or 1 of binary tasks.
            predictions: [n, M]; logits of binary tasks, values of regressions. Not looked at where
                there is no label.
            weights: [n, M], 0 or more; None is 1. A weight of 0 is as no label.
            groups: [n]; NO_GROUP where it is not known: such a row is left out of GAUC, and is
                a group of its own for other intervals.
            slices: for each slicing, [n], the position of the row's slice, or NO_SLICE.

        Raises:
            UsageError: shapes or types are not these.
            DataError: a label or a weight is not as above.
            RunError: a prediction is infinite or NaN.
        """
        slices = slices or {}
        self._check_shapes(labels, predictions, weights, groups, slices)
        first = 0
        while first < len(labels):
            start = self._gathered
            count = min(len(labels) - first, len(self._labels) - start)
            here, there = slice(first, first + count), slice(start, start + count)
            self._labels[there] = labels[here]
            self._predictions[there] = predictions[here]
            self._weights[there] = 1.0 if weights is None else weights[here]
            if groups is not None:
                self._groups[there] = groups[here]
            for column, name in enumerate(self.slicings):
                self._codes[there, column] = slices[name][here]
            self._gathered += count
            first += count
            if self._gathered == len(self._labels):
                self._flush()

    def results(self) -> dict[str, Any]:
        """Return {"tasks": {task: figures}, "slices": {slicing: {slice: {task: figures}}}}.

        The figures are those of `summary.summarize`. The rows are gone after that.
        """
        self._flush()

        def figures(collector: Collector) -> dict[str, Any]:
            return summarize(collector.finish(), self._confidence)

        tasks = {
            task.name: figures(collector)
            for task, collector in zip(self.tasks, self._all, strict=True)
        }
        slices = {
            name: {
                part: {
                    task.name: figures(own[name][number])
                    for task, own in zip(self.tasks, self._slices, strict=True)
                }
                for number, part in enumerate(parts)
            }
            for name, parts in self.slicings.items()
        }
        return {"tasks": tasks, "slices": slices}

    def _flush(self) -> None:
        """Hand the gathered rows on to where they are sorted."""
        chosen = slice(0, self._gathered)
        own_group = -1 - self.num_rows - np.arange(self._gathered)
        for number in range(len(self.tasks)):
            self._add_task(number, chosen, own_group)
        self.num_rows += self._gathered
        self._gathered = 0

    def _add_task(self, number: int, chosen: slice, own_group: Int64s) -> None:
        labels, weights = self._labels[chosen, number], self._weights[chosen, number]
        keep = np.flatnonzero(~np.isnan(labels) & (weights != 0))
        if not len(keep):
            return
        groups = self._groups[chosen][keep]
        cluster = np.zeros(len(keep), dtype=np.int64)
        if self._has_groups:
            units = np.where(groups == NO_GROUP, own_group[keep], groups)
            cluster = (mix(units) % np.uint64(NUM_CLUSTERS)).astype(np.int64)
        rows = Rows(self._predictions[keep, number], labels[keep], weights[keep], cluster)
        self._check_values(number, rows, keep)
        self._all[number].add(rows, groups)
        for column, collectors in enumerate(self._slices[number].values()):
            codes = self._codes[keep, column]
            order = np.argsort(codes, kind="stable")
            bounds = np.searchsorted(codes[order], np.arange(len(collectors) + 1)).tolist()
            for place, collector in enumerate(collectors):
                part = order[bounds[place] : bounds[place + 1]]
                if len(part):
                    collector.add(rows.take(part), groups[part])

    def _check_values(self, number: int, rows: Rows, places: Int64s) -> None:
        """Raise where a prediction, a label or a weight of labelled rows has no meaning."""
        task = self.tasks[number]

        def first(is_bad: NDArray[np.bool_], values: Float32s) -> str:
            place = int(np.argmax(is_bad))
            return f"{values[place]} for task {task.name!r} in row {self.num_rows + places[place]}"

        is_bad = ~(np.isfinite(rows.weight) & (rows.weight > 0))
        if is_bad.any():
            found = first(is_bad, rows.weight)
            raise DataError(f"weights must be finite and 0 or more; got {found}.")
        is_bad = ~np.isfinite(rows.label)
        if task.kind == "binary":
            is_bad = (rows.label != 0) & (rows.label != 1)
        if is_bad.any():
            must = "0, 1 or missing" if task.kind == "binary" else "finite or missing"
            raise DataError(f"labels must be {must}; got {first(is_bad, rows.label)}.")
        is_bad = ~np.isfinite(rows.prediction)
        if is_bad.any():
            raise RunError(
                f"predictions must be finite; the model gave {first(is_bad, rows.prediction)}. "
                "Train it again, with a lower learning rate if its loss grew."
            )

    def _check_shapes(
        self,
        labels: Float32s,
        predictions: Float32s,
        weights: Float32s | None,
        groups: Int64s | None,
        slices: Mapping[str, Int64s],
    ) -> None:
        """Raise UsageError unless arrays are as `add` says."""
        shape = (len(labels), len(self.tasks))
        floats = {"labels": labels, "predictions": predictions}
        if weights is not None:
            floats["weights"] = weights
        for name, values in floats.items():
            if values.shape != shape or values.dtype != np.float32:
                raise UsageError(
                    f"{name} must be [rows, tasks] float32, {shape}; "
                    f"got {values.shape} {values.dtype}."
                )
        if (groups is not None) != self._has_groups:
            raise UsageError(
                f"groups must come with every chunk or with none; has_groups={self._has_groups}, "
                f"and groups {'came' if groups is not None else 'did not come'}."
            )
        for name in slices.keys() ^ self.slicings.keys():
            raise UsageError(
                f"slices must be given for each of {list(self.slicings)}; {name!r} "
                f"{'is none of them' if name in slices else 'is missing'}."
                f"{did_you_mean(name, self.slicings) if name in slices else ''}"
            )
        integers = {**slices, **({} if groups is None else {"groups": groups})}
        for name, array in integers.items():
            if array.shape != shape[:1] or array.dtype != np.int64:
                raise UsageError(
                    f"{name} must be [rows] int64, {shape[:1]}; got {array.shape} {array.dtype}."
                )
        for name, own in self.slicings.items():
            codes = slices[name]
            if len(codes) and not (codes.min() >= NO_SLICE and codes.max() < len(own)):
                raise UsageError(
                    f"slices of {name!r} must be {NO_SLICE} to {len(own) - 1}; "
                    f"got {codes.min()} to {codes.max()}."
                )
