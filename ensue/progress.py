"""Progress of long work, on standard error: a bar on a terminal, a line now and then elsewhere.

```
with track("train", total=num_rows, unit="rows") as advance:
    for batch in batches:
        advance(len(batch), loss=loss)
```
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 10.0

# The bar on the terminal now, if any: work inside other work adds a row to it, since two live
# displays would overwrite each other.
_active_bar: Progress | None = None


class Advance(Protocol):
    """What `track` yields: report work done, and figures to show beside it."""

    def __call__(self, amount: float = 1, **fields: object) -> None:
        """Add `amount` to the work done; a later value of a field replaces the earlier one."""
        ...


@contextmanager
def track(
    description: str, total: float | None = None, *, unit: str = "", enabled: bool = True
) -> Iterator[Advance]:
    """Yield the function that reports work done.

    Args:
        total: how much work there is, in `unit`; None where it is not known.
        unit: plural name of what is counted ("rows").
        enabled: False shows nothing, so that a caller needs no second code path.
    """
    if not enabled:
        yield _ignore
    elif sys.stderr.isatty():
        with _bar() as (bar, is_nested):
            task = bar.add_task(description, total=total, unit=unit, figures="")

            def advance(amount: float = 1, **fields: object) -> None:
                bar.advance(task, amount)
                if fields:
                    bar.update(task, figures=format_fields(fields))

            yield advance
            if is_nested:
                bar.remove_task(task)
    else:
        lines = _Lines(description, total, unit)
        yield lines.advance
        lines.close()


def note(text: str) -> None:
    """Write a line on standard error: what a person should know and a program need not read.

    Of several processes that torchrun has started, the first one alone writes it.
    """
    if is_first_process():
        print(text, file=sys.stderr, flush=True)


def num_processes() -> int:
    """Return how many processes torchrun has started, 1 without it."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdecimal() else 1


def is_first_process() -> bool:
    """Return whether this process is the only one, or the first of those of torchrun."""
    return num_processes() == 1 or os.environ.get("RANK", "0") == "0"


def format_fields(fields: dict[str, object]) -> str:
    """Return the figures as text.

    >>> format_fields({"loss": 0.123456, "epoch": 3})
    'loss 0.1235  epoch 3'
    """
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )


def format_seconds(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> format_seconds(75), format_seconds(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _ignore(amount: float = 1, **fields: object) -> None:
    """Report nothing."""


class _Lines:
    """A line on standard error at most every LINE_EVERY_S seconds; none for short work."""

    def __init__(self, description: str, total: float | None, unit: str) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.fields: dict[str, object] = {}
        self.started = self.printed = time.monotonic()

    def advance(self, amount: float = 1, **fields: object) -> None:
        self.done += amount
        self.fields.update(fields)
        if time.monotonic() - self.printed >= LINE_EVERY_S:
            self._print()

    def close(self) -> None:
        if self.printed > self.started:
            self._print()

    def _print(self) -> None:
        self.printed = time.monotonic()
        elapsed = self.printed - self.started
        unit = f" {self.unit}" if self.unit else ""
        parts = [f"{self.done:,.0f}{unit}"]
        if self.total:
            share = self.done / self.total
            parts = [f"{self.done:,.0f} of {self.total:,.0f}{unit} ({share:.0%})"]
        parts.append(f"{format_seconds(elapsed)} elapsed")
        if self.total and 0 < self.done < self.total:
            parts.append(f"{format_seconds(elapsed * (self.total / self.done - 1))} left")
        if self.fields:
            parts.append(format_fields(self.fields))
        print(f"{self.description}: {', '.join(parts)}", file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[tuple[Progress, bool]]:
    """Yield the bar on the terminal, and whether an outer caller started it and will stop it."""
    global _active_bar
    if _active_bar is not None:
        yield _active_bar, True
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} {task.fields[unit]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=False,  # standard output is for results
    )
    with bar:
        _active_bar = bar
        try:
            yield bar, False
        finally:
            _active_bar = None
