"""Histories whose next item depends on the page on which it is asked for.

Items lie in groups, and every user has one of their own. On the page "detail" the next item is of
the group of the last item, on "home" it is of the user's own, and on "search" it is of any: so the
last item is often of another group than the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensue.data.dataset import Dataset
from tests.helpers import make_dataset

NUM_GROUPS, GROUP_SIZE = 6, 4
NUM_ITEMS = NUM_GROUPS * GROUP_SIZE
PAGES = ("home", "detail", "search")
SHARES = (0.4, 0.4, 0.2)


@dataclass(frozen=True)
class Pages:
    """Items and pages of each user; `hours` are numbers that say nothing, now and then missing."""

    histories: list[list[int]]
    pages: list[list[str]]
    hours: list[list[float | None]]


def draw_pages(num_users: int, length: int, *, seed: int = 0) -> Pages:
    """Return histories of `length` events."""
    rng = np.random.default_rng(seed)
    histories, pages, hours = [], [], []
    for _ in range(num_users):
        own = last = int(rng.integers(NUM_GROUPS))
        items, seen = [], []
        for _ in range(length):
            page = str(rng.choice(PAGES, p=SHARES))
            last = {"home": own, "detail": last, "search": int(rng.integers(NUM_GROUPS))}[page]
            items.append(last * GROUP_SIZE + int(rng.integers(GROUP_SIZE)) + 1)
            seen.append(page)
        histories.append(items)
        pages.append(seen)
        hours.append(
            [None if rng.random() < 0.1 else float(h) for h in rng.integers(0, 24, length)]
        )
    return Pages(histories, pages, hours)


def make_pages(path: Path, num_users: int = 200, length: int = 20) -> Dataset:
    """Return a dataset of such histories with the context columns page and hour."""
    drawn = draw_pages(num_users, length)
    context = {"page": drawn.pages, "hour": drawn.hours}
    return make_dataset(path, drawn.histories, num_items=NUM_ITEMS, name="pages", context=context)
