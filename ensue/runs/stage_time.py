"""How much of the second stage of a cascade fits into the time that is left.

What one unit of work takes (a candidate, or a request) is a running mean over the calls: each
counts with WEIGHT, those before it with the rest. What a call costs whatever it ranks is part of
the mean: where fewer candidates are ranked, one seems to take longer, and their number settles
where the time is filled.
"""

from __future__ import annotations

import threading

WEIGHT = 0.2
PROBE_EVERY = 20
PROBE = 8  # candidates of each request, in a probe
ENOUGH = 1 << 40  # more units than any call has


class TimeEstimate:
    """A running mean of the seconds that a unit takes; any number of threads use it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: float | None = None
        self._num_skipped = 0

    @property
    def seconds(self) -> float | None:
        """The mean; None before anything was measured."""
        return self._seconds

    def observe(self, num_units: int, seconds: float) -> None:
        """Take note of what `num_units` took."""
        each = seconds / num_units
        with self._lock:
            old = self._seconds
            self._seconds = each if old is None else old + WEIGHT * (each - old)

    def affordable(self, seconds: float, *, least: int, probe: int) -> int:
        """Return how many units to do in `seconds`: `least` or more, or 0.

        Where it would be none by the mean, one in PROBE_EVERY calls does `probe` units all the
        same, so that a mean that was too large does not stay so. Before anything was measured a
        call does as many. Without any time left it is always none.
        """
        if seconds <= 0:
            return 0
        with self._lock:
            if self._seconds is None:
                return probe
            num_units = min(seconds / max(self._seconds, seconds / ENOUGH), ENOUGH)
            if num_units >= least:
                return int(num_units)
            self._num_skipped += 1
            return probe if self._num_skipped % PROBE_EVERY == 0 else 0
