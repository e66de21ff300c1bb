"""The arrays of a ranking dataset, written from collected rows in their final order.

Shapes: R rows; C columns of codes, K of numbers; M tasks; V values of a vocabulary; N items or
users; S values of a bag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.feature_store import Side
from ensue.data.features import Bags
from ensue.data.ranking.arrays import create, ragged_rows
from ensue.data.ranking.collect import RowCollector
from ensue.data.ranking.events import HistoryViews
from ensue.data.ranking.roles import RowFeature, Scale
from ensue.data.ranking.scaling import Scaling, fit_scaling
from ensue.data.ranking.side_tables import SideFeature
from ensue.data.ranking.value_ids import value_ids
from ensue.progress import track

Rows = slice | NDArray[np.int64]
_ROWS = 1 << 16


@dataclass(frozen=True)
class FinalOrder:
    """Where each row goes.

    order: [R] rows of the input in the order of the dataset; None is as they came.
    ends: row behind the last of train, validation and test.
    """

    order: NDArray[np.int64] | None
    ends: tuple[int, int, int]

    def chunks(self, first: int = 0, end: int | None = None) -> Iterator[tuple[int, Rows]]:
        """Yield (first row, rows of the input) of some rows at a time."""
        last = self.ends[2] if end is None else end
        for start in range(first, last, _ROWS):
            stop = min(start + _ROWS, last)
            yield start, slice(start, stop) if self.order is None else self.order[start:stop]

    def sort(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values [R] of the input in the order of the dataset."""
        return values if self.order is None else values[self.order]


@dataclass
class Figures:
    """What is known of the columns once they are written.

    missing: column -> share of training rows; counts: vocabulary -> training rows [V + 1].
    """

    missing: dict[str, float] = field(default_factory=dict)
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)


class RowWriter:
    """Writes the rows of a collector and of the tables of items and users into `folder`.

    codes: the finished codes [R, C].
    figures: grow as columns are written.
    """

    def __init__(
        self,
        folder: Path,
        collector: RowCollector,
        final: FinalOrder,
        raw: dict[str, pl.Series],
        sides: Sequence[SideFeature],
    ) -> None:
        """Start to write.

        Args:
            raw: vocabulary -> raw values [V] of the codes 1..V, which were collected as 0..V - 1.
        """
        self._folder, self._collector, self._final = folder, collector, final
        self._raw, self._sides = raw, sides
        self._num_train = final.ends[0]
        plan = collector.plan
        num_features = len(plan.of_kind("categorical"))
        side_names = [one.feature.name for one in self._of_sides("categorical")]
        self.code_columns = [
            *plan.coded[:num_features], *side_names, *plan.coded[num_features:]
        ]  # fmt: skip
        self.figures = Figures()
        self.codes = self._write_codes()

    def side_codes(self, side: Side, rows: Rows) -> NDArray[np.int32]:
        """Return the code of the item or of the user of some finished rows [n]."""
        roles = self._collector.plan.roles
        name = roles.item if side == "items" else roles.user
        assert name is not None
        codes: NDArray[np.int32] = self.codes[rows, self.code_columns.index(name)]
        return codes

    def code_column(self, name: str) -> NDArray[np.int32]:
        """Return the finished codes [R] of one column."""
        codes: NDArray[np.int32] = np.ascontiguousarray(
            self.codes[:, self.code_columns.index(name)]
        )
        return codes

    def write_numbers(self, scaling: Scaling) -> None:
        """Write the numbers."""
        out = create(self._folder / "numbers.npy", np.float32, self._shape(len(scaling.means)))
        with track("Writing numbers", self._final.ends[2], unit="rows") as advance:
            for first, rows in self._final.chunks():
                numbers = self._numbers(first, rows)
                out[first : first + len(numbers)] = scaling.apply(numbers)
                advance(len(numbers))

    def fit_scaling(self) -> Scaling:
        """Return how numbers are stored, after the training rows."""
        features = self._collector.numbers
        sides = self._of_sides("numeric")
        scales: list[Scale] = [one.scale for one in features]
        scales += ["auto"] * len(sides)
        chunks = self._final.chunks(0, self._num_train)
        scaling, counts = fit_scaling((self._numbers(*chunk) for chunk in chunks), scales)
        names = [*(one.name for one in features), *(one.feature.name for one in sides)]
        for name, count in zip(names, counts, strict=True):
            self.figures.missing[name] = 1.0 - float(count) / self._num_train
        return scaling

    def write_labels(self) -> NDArray[np.float32]:
        """Write labels, weights and times; return the labels [R, M]."""
        labels = self._copy("labels")
        self._copy("weights")
        if "time" in self._collector.rows.dtypes:
            times = self._collector.rows.array("time")
            np.save(self._folder / "times.npy", self._final.sort(times))
        return labels

    def write_vectors(self) -> None:
        """Write the vectors of rows, then those of items and users."""
        num_own = len(self._collector.vectors)
        for number, one in enumerate(self._collector.vectors):
            values = self._collector.matrix(f"vectors.{number}", np.float32)
            out = create(self._folder / f"vector-{number}.npy", np.float32, values.shape)
            num_there = 0
            for first, rows in self._final.chunks():
                chunk = values[rows]
                out[first : first + len(chunk)] = chunk
                known = ~np.isnan(chunk[: max(self._num_train - first, 0), 0])
                num_there += int(known.sum())
            self.figures.missing[one.name] = 1.0 - num_there / self._num_train
        for number, side in enumerate(self._of_sides("vector"), start=num_own):
            vectors = side.values
            assert not isinstance(vectors, Bags)
            np.save(self._folder / f"vector-{number}.npy", vectors)
            is_missing = np.isnan(vectors[:, 0])
            self.figures.missing[side.feature.name] = self._share(side.side, is_missing)

    def write_bags(self, max_length: int) -> None:
        """Write the bags and histories of rows, then the bags of items and users.

        Args:
            max_length: of a history; its last values stay.
        """
        bags = self._collector.bags
        for number, one in enumerate(bags):
            self._write_bag(number, one, max_length)
        for number, side in enumerate(self._of_sides("multi"), start=len(bags)):
            assert isinstance(side.values, Bags)
            values, offsets = side.values.values, side.values.offsets
            lengths = np.diff(offsets).astype(np.int32)
            save_bag(self._folder, number, values, offsets[1:], lengths)
            name = side.feature.name
            self.figures.missing[name] = self._share(side.side, lengths == 0)
            weights = np.repeat(self._side_counts(side.side, len(lengths)), lengths)
            counts = np.bincount(values, weights=weights, minlength=side.size + 1)
            self.figures.counts[name] = counts.astype(np.int64)

    def write_history(self, name: str, number: int, views: HistoryViews) -> None:
        """Write what users did before the rows as bag `number`."""
        save_bag(self._folder, number, views.values, views.ends, views.lengths)
        self.figures.missing[name] = float((views.lengths[: self._num_train] == 0).mean())

    def write_vocabularies(self) -> dict[str, int]:
        """Write all vocabularies; return the number of values of each."""
        raw = dict(self._raw)
        for side in self._sides:
            if side.vocabulary is not None:
                raw[side.feature.name] = side.vocabulary
        for number, (name, values) in enumerate(raw.items()):
            counts = self.figures.counts.get(name, np.zeros(len(values) + 1, dtype=np.int64))
            pl.DataFrame(
                {
                    "raw_id": values,
                    "id": value_ids(name, values),
                    "train_count": counts[1:],
                }
            ).write_ipc(self._folder / f"vocabulary-{number}.arrow")
        return {name: len(values) for name, values in raw.items()}

    def _of_sides(self, kind: str) -> list[SideFeature]:
        return [one for one in self._sides if one.feature.kind == kind]

    def _shape(self, width: int) -> tuple[int, int]:
        return self._final.ends[2], width

    def _write_codes(self) -> NDArray[np.int32]:
        """Write the codes; count the values of training rows."""
        plan, sides = self._collector.plan, self._of_sides("categorical")
        sizes = [len(self._raw[n]) if n in self._raw else 0 for n in self.code_columns]
        for side in sides:
            sizes[self.code_columns.index(side.feature.name)] = side.size
        counts = [np.zeros(size + 1, dtype=np.int64) for size in sizes]
        own = [self.code_columns.index(name) for name in plan.coded]
        collected = self._collector.matrix("codes", np.int32)
        out = create(self._folder / "codes.npy", np.int32, self._shape(len(self.code_columns)))
        self.codes = out
        with track("Writing codes", self._final.ends[2], unit="rows") as advance:
            for first, rows in self._final.chunks():
                chunk = collected[rows]
                done = slice(first, first + len(chunk))
                out[done, own] = chunk + 1
                for side in sides:
                    place = self.code_columns.index(side.feature.name)
                    out[done, place] = side.values[self.side_codes(side.side, done)]  # type: ignore[index]
                train = out[first : max(min(done.stop, self._num_train), first)]
                for count, column in zip(counts, train.T, strict=True):
                    count += np.bincount(column, minlength=len(count))
                advance(len(chunk))
        for name, count in zip(self.code_columns, counts, strict=True):
            self.figures.counts[name] = count
            self.figures.missing[name] = float(count[0]) / self._num_train
        return out

    def _numbers(self, first: int, rows: Rows) -> NDArray[np.float64]:
        """Return the numbers [n, K] of some rows as they are in the input."""
        own = self._collector.matrix("numbers", np.float64)[rows]
        sides = self._of_sides("numeric")
        if not sides:
            return own
        done = slice(first, first + len(own))
        joined = [one.values[self.side_codes(one.side, done)] for one in sides]  # type: ignore[index]
        return np.concatenate([own, np.stack(joined, axis=1)], axis=1)

    def _copy(self, name: str) -> NDArray[np.float32]:
        """Write a matrix of numbers in final order, in single precision."""
        values = self._collector.matrix(name, np.float64)
        out = create(self._folder / f"{name}.npy", np.float32, values.shape)
        for first, rows in self._final.chunks():
            chunk = values[rows]
            out[first : first + len(chunk)] = chunk
        return out

    def _write_bag(self, number: int, one: RowFeature, max_length: int) -> None:
        is_history = one.kind == "history"
        given = self._collector.rows.array(f"length.{number}")
        starts = np.cumsum(given, dtype=np.int64) - given
        lengths = np.minimum(given, max_length).astype(np.int32) if is_history else given
        starts += given - lengths
        values = self._collector.values[number].array("code")
        sorted_lengths = self._final.sort(lengths)
        ends = np.cumsum(sorted_lengths, dtype=np.int64)
        num_values = int(ends[-1]) if len(ends) else 0
        out = create(self._folder / f"bag-{number}.values.npy", np.int32, (num_values,))
        counts = np.zeros(len(self._raw[one.vocabulary]) + 1, dtype=np.int64)
        place = 0
        for first, rows in self._final.chunks():
            own = lengths[rows]
            codes = values[ragged_rows(starts[rows], own)] + 1
            if not is_history:
                codes = codes[np.lexsort((codes, np.repeat(np.arange(len(own)), own)))]
            out[place : place + len(codes)] = codes
            num_train = int(own[: max(self._num_train - first, 0)].sum())
            counts += np.bincount(codes[:num_train], minlength=len(counts))
            place += len(codes)
        np.save(self._folder / f"bag-{number}.ends.npy", ends)
        np.save(self._folder / f"bag-{number}.lengths.npy", sorted_lengths)
        if one.vocabulary not in self.figures.counts:
            self.figures.counts[one.vocabulary] = counts
        self.figures.missing[one.name] = float((sorted_lengths[: self._num_train] == 0).mean())

    def _side_counts(self, side: Side, num_codes: int) -> NDArray[np.int64]:
        """Return the number of training rows of each item or user [N + 1]."""
        roles = self._collector.plan.roles
        name = roles.item if side == "items" else roles.user
        assert name is not None
        return self.figures.counts[name][:num_codes]

    def _share(self, side: Side, is_missing: NDArray[np.bool_]) -> float:
        """Return the share of training rows whose item or user is one of these [N + 1]."""
        counts = self._side_counts(side, len(is_missing))
        return float(counts[is_missing].sum()) / self._num_train


def save_bag(
    folder: Path,
    number: int,
    values: NDArray[np.int32],
    ends: NDArray[np.int64],
    lengths: NDArray[np.int32],
) -> None:
    """Write the three arrays of bag `number`."""
    np.save(folder / f"bag-{number}.values.npy", values)
    np.save(folder / f"bag-{number}.ends.npy", ends)
    np.save(folder / f"bag-{number}.lengths.npy", lengths)
