"""Visits: measurements of entities at times, and the pairs of an earlier and a later one.

```
entity   a a a a b b c       pairs with a gap of 2 or more, by row: (0, 2) (0, 3) (1, 3) (4, 5)
time     0 1 2 3 5 9 4
```

Shapes: N visits, E entities, P pairs, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.longitudinal.measurements import Measurements
from ensue.errors import DataError, UsageError

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Visits:
    """Measurements in the order of entities, of each in the order of time.

    entities: [N], the number of each visit's entity, ascending from 0.
    names: [E], what the entities are called.
    times: [N].
    measured: what was measured at each visit.
    columns: [N], whatever else is known of the visits.
    notes: what a reader of any result should know of how the measurements were read.
    """

    entities: Integers
    names: pl.Series
    times: NDArray[np.float64]
    measured: Measurements
    columns: pl.DataFrame
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entities)

    @property
    def num_entities(self) -> int:
        """Number of entities E."""
        return len(self.names)

    def of_entities(self, is_wanted: NDArray[np.bool_]) -> Integers:
        """Return the rows of the entities that is_wanted [E] marks."""
        return np.flatnonzero(is_wanted[self.entities])


class Pairs:
    """All pairs of two visits of an entity that lie far enough apart, by number; none is stored.

    The partners of a visit are a stretch of rows: a pair is one index into those stretches.

    Args:
        min_gap: the smallest difference of the times; None takes any later visit.
        rows: the visits to pair, as numbers of rows that ascend; None is all. What the numbers in
            a pair count is rows of `visits` all the same.
    """

    def __init__(
        self, visits: Visits, *, min_gap: float | None = None, rows: Integers | None = None
    ):
        if min_gap is not None and not min_gap > 0:
            raise UsageError(f"min_gap must be above 0; got {min_gap}.")
        self._rows = np.arange(len(visits)) if rows is None else rows
        self._entities = visits.entities[self._rows]
        times = visits.times[self._rows]
        keys = _keys(self._entities, times)  # they ascend
        if min_gap is None:
            self._partners = np.searchsorted(keys, keys, side="right")
        else:
            self._partners = np.searchsorted(keys, _keys(self._entities, times + min_gap))
        ends = np.searchsorted(self._entities, self._entities, side="right")
        self._stops = np.cumsum(np.maximum(ends - self._partners, 0))

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def gather(self, index: Integers) -> Integers:
        """Return the rows of the earlier and the later visit [n, 2] of the pairs `index` [n]."""
        first = np.searchsorted(self._stops, index, side="right")
        before = np.where(first > 0, self._stops[first - 1], 0)
        return self._rows[np.column_stack([first, self._partners[first] + index - before])]

    def all(self) -> Integers:
        """Return the rows of all pairs [P, 2]."""
        return self.gather(np.arange(len(self)))

    def of_entities(self) -> Integers:
        """Return [n, 2], the first pair and the one behind the last of each entity that has any."""
        last = np.flatnonzero(np.diff(self._entities, append=np.inf) > 0)
        stops = self._stops[last]
        bounds = np.column_stack([np.append(0, stops)[:-1], stops])
        return bounds[bounds[:, 1] > bounds[:, 0]]


def entity_folds(num_entities: int, num_folds: int, *, seed: int) -> Integers:
    """Return the fold of each entity [E], all folds of the same size but for one entity.

    Raises:
        DataError: there are fewer entities than folds.
    """
    if num_entities < num_folds:
        raise DataError(
            f"{num_folds} folds need as many entities; there are {num_entities}. Ask for fewer."
        )
    folds = np.arange(num_entities) % num_folds
    return np.random.default_rng(seed).permutation(folds)


def sort_visits(
    names: pl.Series, times: NDArray[np.float64], source: str
) -> tuple[Integers, Integers, pl.Series]:
    """Return the order [N] that visits are to have, the entities in that order, and their names.

    Raises:
        DataError: a visit has no entity or no time.
    """
    for what, is_missing in (("entity", names.is_null().to_numpy()), ("time", np.isnan(times))):
        if is_missing.any():
            row = int(is_missing.argmax()) + 1
            raise DataError(
                f"every visit must have an {what}; data row {row} of {source} has none. "
                "Repair or remove that row."
                if what == "entity"
                else f"every visit must have a time; data row {row} of {source} has none. "
                "Repair or remove that row."
            )
    distinct = names.unique(maintain_order=True)
    codes = names.replace_strict(distinct, np.arange(len(distinct)), return_dtype=pl.Int64)
    entities = codes.to_numpy().astype(np.int64)
    order = np.lexsort((times, entities))
    return order, entities[order], distinct


def _keys(entities: Integers, times: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return numbers [N] that sort by entity, then by time."""
    return entities + 1j * times  # complex numbers are sorted by their real part first
