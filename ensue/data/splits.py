"""Which rows are for training, validation and test.

```
leave-one-out        a user's last row is test, the one before validation, of 3 rows or more
ratio:0.7,0.1,0.2    a user's first ceil(0.7 m) of m rows are training, those up to ceil(0.8 m)
                     validation, the rest test; fractions are exact
time:0.8,0.9         training before the time T1 of row floor(0.8 R) of all R rows in time order,
                     validation before T2 of row floor(0.9 R), test from there on
time:2020-01-01,2020-02-01    the same with T1 and T2 given
files                as the input files say
none                 all rows are training
```
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.row_store import RowStore
from ensue.data.times import parse_moment, show_time
from ensue.errors import UsageError, did_you_mean

PARTS = ("train", "validation", "test")
KINDS = ("leave-one-out", "ratio", "time", "files", "none")
_DEFAULT_RATIO = "0.7,0.1,0.2"
_NUM_BINS = 1 << 16


@dataclass(frozen=True)
class Split:
    """A way to split.

    shares: ratio: of each part in a user's rows, sum 1; time: of all rows before T1 and before T2.
    cutoffs_us: time: T1 and T2; empty until known.
    """

    kind: str
    shares: tuple[Fraction, ...] = ()
    cutoffs_us: tuple[int, ...] = ()

    @property
    def sees_future(self) -> bool:
        """Whether some users' training rows are later than other users' test rows."""
        return self.kind in ("leave-one-out", "ratio")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for dataset.json."""
        settings: dict[str, Any] = {"kind": self.kind}
        if self.shares:
            settings["shares"] = [str(share) for share in self.shares]
        if self.cutoffs_us:
            settings["cutoffs"] = [show_time(time) for time in self.cutoffs_us]
        return settings

    def assign(
        self,
        offsets: NDArray[np.int64],
        times: NDArray[np.int64] | None,
        given: NDArray[np.uint8] | None,
    ) -> NDArray[np.uint8]:
        """Return 0, 1 or 2 for each row of some users, sorted by user and time.

        Args:
            offsets: user u has the rows offsets[u] .. offsets[u + 1] - 1.
            times, given: of each row, where the log has times and files give the split.
        """
        num_rows = int(offsets[-1])
        if self.kind == "files":
            assert given is not None
            return given
        if self.kind == "time":
            assert times is not None
            return np.searchsorted(np.array(self.cutoffs_us), times, side="right").astype(np.uint8)
        parts = np.zeros(num_rows, dtype=np.uint8)
        if self.kind == "none":
            return parts
        lengths = np.diff(offsets)
        for length in self._prefix_lengths(lengths):
            ends = offsets[:-1] + length
            parts += np.arange(num_rows) >= np.repeat(ends, lengths)
        return parts

    def _prefix_lengths(
        self, lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each user's number of rows in training, and in training and validation."""
        if self.kind == "leave-one-out":
            held_out = np.where(lengths < 3, 0, 1)
            return lengths - 2 * held_out, lengths - held_out
        train, validation, _ = self.shares
        return _ceil_share(lengths, train), _ceil_share(lengths, train + validation)


def parse_split(text: str | None, *, has_files: bool) -> Split:
    """Return the split that `text` describes; None is files where they are given, else
    leave-one-out.

    Args:
        has_files: the caller gives a file for each part.

    Raises:
        UsageError: it describes none, or does not fit the input.
    """
    text = text or ("files" if has_files else "leave-one-out")
    kind, _, settings = text.strip().partition(":")
    if kind not in KINDS:
        raise UsageError(f"split {kind!r} is unknown.{did_you_mean(kind, KINDS)}")
    if (kind == "files") != has_files:
        raise UsageError(
            "split 'files' and one file for each of train, validation and test go together; got "
            f"split {text!r} {'with' if has_files else 'without'} such files."
        )
    if kind == "ratio":
        return _parse_ratio(text, settings or _DEFAULT_RATIO)
    if kind == "time":
        return _parse_time(text, settings)
    if settings:
        raise UsageError(f"split {kind!r} takes no settings; got {text!r}.")
    return Split(kind)


def fix_cutoffs(split: Split, store: RowStore) -> Split:
    """Return a time split with its cut-offs, found among the rows where they are shares."""
    if split.kind != "time" or split.cutoffs_us:
        return split
    ranks = [int(store.num_rows * share) for share in split.shares]
    cutoffs = tuple(nth_time(store, min(rank, store.num_rows - 1)) for rank in ranks)
    return Split("time", split.shares, cutoffs)


def nth_time(store: RowStore, rank: int) -> int:
    """Return the time of row `rank`, from 0, of all rows in the order of time.

    The range that holds it is cut into bins and narrowed to one, until a bin is one microsecond
    wide: a few passes, in constant memory.
    """
    low, high = _time_range(store)
    while high > low:
        width = (high - low) // _NUM_BINS + 1
        counts = np.zeros(_NUM_BINS, dtype=np.int64)
        num_before = 0
        for chunk in store.chunks(["time"]):
            times = chunk["time"]
            num_before += int((times < low).sum())
            inside = times[(times >= low) & (times <= high)]
            counts += np.bincount((inside - low) // width, minlength=_NUM_BINS)
        bin_number = int(np.searchsorted(np.cumsum(counts), rank - num_before, side="right"))
        low += bin_number * width
        high = min(high, low + width - 1)
    return low


def _time_range(store: RowStore) -> tuple[int, int]:
    ranges = [(int(c["time"].min()), int(c["time"].max())) for c in store.chunks(["time"])]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _ceil_share(lengths: NDArray[np.int64], share: Fraction) -> NDArray[np.int64]:
    return -(-lengths * share.numerator // share.denominator)


def _parse_ratio(text: str, settings: str) -> Split:
    shares = _parse_shares(settings)
    if shares is None or len(shares) != 3 or sum(shares) != 1 or shares[0] == 0:
        raise UsageError(
            "split 'ratio' takes the shares of train, validation and test, which add up to 1, as "
            f"in ratio:0.7,0.1,0.2; got {text!r}."
        )
    return Split("ratio", shares)


def _parse_time(text: str, settings: str) -> Split:
    shares = _parse_shares(settings)
    if shares is not None and len(shares) == 2 and 0 < shares[0] <= shares[1] <= 1:
        return Split("time", shares)
    times = settings.split(",")
    if shares is None and len(times) == 2:
        cutoffs = tuple(parse_moment(time) for time in times)
        if cutoffs[0] <= cutoffs[1]:
            return Split("time", cutoffs_us=cutoffs)
    raise UsageError(
        "split 'time' takes where validation and test begin, in this order, as in "
        f"time:2020-01-01,2020-02-01 or time:0.8,0.9 (shares of all rows); got {text!r}."
    )


def _parse_shares(settings: str) -> tuple[Fraction, ...] | None:
    """Return the exact fractions, or None if the settings are not fractions between 0 and 1."""
    try:
        shares = tuple(Fraction(part.strip()) for part in settings.split(","))
    except (ValueError, ZeroDivisionError):
        return None
    return shares if all(0 <= share <= 1 for share in shares) else None
