"""The order of the rows of a ranking dataset, and where its parts begin.

```
ratio:0.8,0.1,0.1      the first ceil(0.8 R) of all R rows in the order of time are training, those
                       up to ceil(0.9 R) validation, the rest test; without times, of the input
time:0.8,0.9           training before the time T1 of row floor(0.8 R), validation before T2 of row
                       floor(0.9 R), test from there on: rows of one time are in one part
time:2020-01-01,2020-02-01    the same with T1 and T2 given
files                  as the input files say; in each the order of time
none                   all rows are training
```
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.ranking.writer import FinalOrder
from ensue.data.splits import Split, parse_split
from ensue.errors import DataError, UsageError

DEFAULT = "ratio:0.8,0.1,0.1"


def parse_row_split(text: str | None, *, has_files: bool) -> Split:
    """Return the split of rows that `text` describes; None is by files where there are any.

    Raises:
        UsageError: it describes none, or one of users.
    """
    if text is None and not has_files:
        text = DEFAULT
    split = parse_split(text, has_files=has_files)
    if split.kind == "leave-one-out":
        raise UsageError(
            "a ranking dataset is split by time: ratio:0.8,0.1,0.1, time:0.8,0.9, "
            f"time:2020-01-01,2020-02-01, files or none; got {text!r}."
        )
    return split


def find_order(
    split: Split, times: NDArray[np.int64] | None, parts: NDArray[np.uint8]
) -> tuple[FinalOrder, Split]:
    """Return the order of rows, and the split with its cut-offs.

    Args:
        times: [R], None where there are none; parts: [R], ascending, what files say.

    Raises:
        DataError: no row is for training.
        UsageError: the split is by time, and there is none.
    """
    order = None
    if split.kind == "time" and times is None:
        raise UsageError("split 'time' needs times, and the input has no time column.")
    if times is not None:
        is_sorted = (np.diff(times) >= 0) | (np.diff(parts) > 0)
        if not is_sorted.all():
            order = np.lexsort((times, parts)) if parts.any() else np.argsort(times, kind="stable")
    num_rows = len(parts)
    if split.kind == "files":
        ends: Any = np.searchsorted(parts, [1, 2])
    elif split.kind == "time":
        assert times is not None
        sorted_times = times if order is None else times[order]
        if not split.cutoffs_us:
            ranks = [min(int(num_rows * share), num_rows - 1) for share in split.shares]
            cutoffs = tuple(int(sorted_times[rank]) for rank in ranks)
            split = Split("time", split.shares, cutoffs)
        ends = np.searchsorted(sorted_times, split.cutoffs_us)
    elif split.kind == "ratio":
        train, validation, _ = split.shares
        shares = (train, train + validation)
        ends = [-(-num_rows * share.numerator // share.denominator) for share in shares]
    else:
        ends = [num_rows, num_rows]
    final = FinalOrder(order, (int(ends[0]), int(ends[1]), num_rows))
    if not final.ends[0]:
        raise DataError(
            f"a dataset needs training rows; split {split.as_dict()} leaves none of {num_rows}."
        )
    return final, split
