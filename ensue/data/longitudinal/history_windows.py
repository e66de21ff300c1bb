"""Visits out of the histories of users: windows of consecutive interactions, as bags of items.

```
history 7 3 9 4 4 2 8, windows of 3     {7 3 9} at its last item's time, {4 4 2} likewise; 8 is left
```
Shapes: N windows, S items in all of them, U users.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.dataset import Dataset
from ensue.data.longitudinal.measurements import ItemBags
from ensue.data.longitudinal.visits import Visits
from ensue.errors import DataError, UsageError

Integers = NDArray[np.int64]
MICROSECONDS_PER_DAY = 86_400_000_000


def history_windows(dataset: Dataset, *, length: int = 20, min_count: int = 5) -> Visits:
    """Return each user's windows of `length` interactions, from the first one on, without overlap.

    The time of a window is that of its last interaction in days, or, where the log has no times,
    its number. Beside a window stand, as columns, what could pass for a direction of time and is
    none of the user: `popularity`, the mean log of how often its items occur in all; `user_length`,
    the interactions of the user; and `calendar_time` in days where the log has times.

    Args:
        min_count: items that occur less often are left out.

    Raises:
        UsageError: a size is below 1.
        DataError: no user has two windows.
    """
    for name, value in (("length", length), ("min_count", min_count)):
        if value < 1:
            raise UsageError(f"history_windows needs {name} of 1 or more; got {value}.")
    users, items, times, counts = _kept_interactions(dataset, min_count)
    lengths = np.bincount(users, minlength=dataset.num_users + 1)
    num_windows = lengths // length
    if num_windows.max(initial=0) < 2:
        raise DataError(
            f"a direction of time needs users with {2 * length} interactions, two windows of "
            f"{length}; {dataset.path} has none. Take shorter windows."
        )
    owners = np.repeat(np.arange(len(lengths)), num_windows)
    numbers = np.arange(len(owners)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    firsts = (np.cumsum(lengths) - lengths)[owners] + numbers * length
    rows = (firsts[:, None] + np.arange(length)).ravel()
    present, entities = np.unique(owners, return_inverse=True)
    days = times[firsts + length - 1] / MICROSECONDS_PER_DAY
    has_time = dataset.info.time == "column"
    popularity = np.log(counts[items[rows]]).reshape(-1, length).mean(axis=1)
    columns = {"popularity": popularity, "user_length": lengths[owners]}
    notes = [f"Windows of {length} interactions; what is behind the last whole one is not read."]
    if has_time:
        columns["calendar_time"] = days
    else:
        notes.append("The log has no times: the time of a window is its number.")
    used = np.unique(items[rows])
    return Visits(
        entities.astype(np.int64),
        pl.Series(dataset.user_ids.to_raw(present)),
        days if has_time else numbers.astype(np.float64),
        ItemBags(
            np.searchsorted(used, items[rows]) + 1,
            np.arange(0, len(rows) + 1, length),
            _names(dataset, used),
        ),
        pl.DataFrame(columns),
        notes,
    )


def _kept_interactions(
    dataset: Dataset, min_count: int
) -> tuple[Integers, Integers, Integers, Integers]:
    """Return users, items and times of the interactions with items that are frequent enough, each
    user's in the order of time; and how often each item occurs [I + 1].
    """
    histories = dataset.histories("all")
    counts = histories.item_counts(dataset.num_items)
    users, of_users = histories.flat()
    items = of_users.astype(np.int64)
    rows, _ = histories.rows(np.arange(histories.num_users + 1))
    times = dataset.column("time")[rows]
    kept = counts[items] >= min_count
    users, items, times = users[kept], items[kept], times[kept]
    order = np.lexsort((times, users))  # a split at random has its parts one after the other
    return users, items[order], times[order], counts


def _names(dataset: Dataset, items: Integers) -> tuple[str, ...]:
    """Return the titles of items, or their raw ids where there are none."""
    table = dataset.items_table
    called = table["raw_id"].cast(pl.String)
    if "title" in table.columns:
        called = table["title"].fill_null(called)
    return tuple(called.gather(items - 1).to_list())
