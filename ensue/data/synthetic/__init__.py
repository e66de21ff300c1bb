"""Synthetic logs with a known answer: what a perfect model would know is part of the object.

A shop with Zipf popularity, users with long-lived tastes for categories, items with successors,
sessions over a year, and three labels. Each part has a strength from noise (0) to structure (1), so
a test can say both what a model must find and that it must not find more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from ensue.data.ids import IdMap
from ensue.data.synthetic.config import SyntheticConfig, check_sizes
from ensue.data.synthetic.sequences import draw_histories, draw_lengths
from ensue.data.synthetic.tables import (
    draw_devices,
    draw_labels,
    draw_times,
    item_table,
    user_table,
)
from ensue.data.synthetic.truth import Floats, Ints, Truth, draw_truth
from ensue.errors import UsageError
from ensue.files import atomic_file

__all__ = ["SyntheticConfig", "SyntheticLog", "Truth", "generate", "oracle_ranks", "write"]


@dataclass(frozen=True)
class SyntheticLog:
    """A log and its answer.

    interactions: user, item, timestamp (seconds), device, hour, click, like, watch_seconds; in
        order of time.
    items: item, category, brand, tags (split by |), title; row r is item r of `truth`.
    users: user, usual_device, usual_hour, favorite_category, interests (split by |); row r is user
        r of `truth`.
    """

    config: SyntheticConfig
    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    truth: Truth

    @cached_property
    def _item_ids(self) -> IdMap:
        return IdMap(self.items["item"])

    @cached_property
    def _user_ids(self) -> IdMap:
        return IdMap(self.users["user"])

    def oracle_next_probabilities(self, user: str, history: Sequence[str]) -> Floats:
        """Return the probability of each item [I] to come next, in the order of `items`.

        Raises:
            UsageError: the user or an item of the history is not in the log's tables.
        """
        user_row = self._user_ids.to_dense([user]) - 1
        item_rows = self._item_ids.to_dense(history) - 1
        for name, row in zip([user, *history], [*user_row, *item_rows], strict=True):
            if row < 0:
                raise UsageError(f"ids must be in the synthetic log's tables; got {name!r}.")
        return self.truth.next_probabilities(user_row, item_rows[None, :])[0]


def generate(config: SyntheticConfig | None = None) -> SyntheticLog:
    """Return a log drawn by `config`; the same config gives the same log.

    Each part has its own stream of random numbers: a change of the label strength, for instance,
    leaves the histories as they are.

    Raises:
        ConfigError: the sizes in `config` do not fit together.
    """
    config = config or SyntheticConfig()
    check_sizes(config)
    streams = [np.random.default_rng(seed) for seed in np.random.SeedSequence(config.seed).spawn(5)]
    for_truth, for_tables, for_histories, for_context, for_labels = streams
    truth = draw_truth(config, for_truth)
    items, users = item_table(truth, for_tables), user_table(truth, for_tables)
    lengths = draw_lengths(config, for_histories)
    item_rows = draw_histories(truth, lengths, for_histories)
    user_rows = np.repeat(np.arange(config.num_users), lengths)
    usual_hour = users["usual_hour"].to_numpy()
    seconds, session = draw_times(config, user_rows, usual_hour, for_context)
    click, like, watch_seconds = draw_labels(truth, user_rows, item_rows, for_labels)
    order = np.lexsort((user_rows, seconds))
    device = draw_devices(config, users["usual_device"], user_rows, session, for_context)
    interactions = pl.DataFrame(
        {
            "user": users["user"].gather(user_rows[order]),
            "item": items["item"].gather(item_rows[order]),
            "timestamp": seconds[order],
            "device": device.gather(order),
            "hour": seconds[order] // 3_600 % 24,
            "click": click[order],
            "like": like[order],
            "watch_seconds": watch_seconds[order],
        }
    )
    return SyntheticLog(config, interactions, items, users, truth)


def oracle_ranks(log: SyntheticLog, *, num_users: int = 1_000) -> Ints:
    """Return the rank (1 is best) that the oracle gives to the last item of the first users [n].

    The share of ranks up to k is the hit rate at k that no model can beat but by luck.
    """
    users = log._user_ids.to_dense(log.interactions["user"]) - 1
    items = log._item_ids.to_dense(log.interactions["item"]) - 1
    order = np.argsort(users, kind="stable")
    order = order[: np.searchsorted(users[order], num_users)]
    users, items = users[order], items[order]
    first = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
    length = np.diff(np.append(first, len(users)))
    ranks = np.empty(len(first), dtype=np.int64)
    for block in np.split(np.arange(len(first)), range(256, len(first), 256)):
        width = int(length[block].max()) - 1
        column = np.arange(-width - 1, -1) + length[block, None]  # left padding is below 0
        past = np.where(column >= 0, items[np.maximum(first[block, None] + column, 0)], -1)
        targets = items[first[block] + length[block] - 1]
        scores = log.truth.next_probabilities(users[first[block]], past)
        own = scores[np.arange(len(block)), targets]
        ranks[block] = 1 + (scores > own[:, None]).sum(axis=1)
    return ranks


def write(log: SyntheticLog, folder: str | Path) -> Path:
    """Write interactions.csv, items.csv and users.csv into `folder` and return it."""
    folder = Path(folder)
    for name in ("items", "users", "interactions"):
        with atomic_file(folder / f"{name}.csv") as file:
            getattr(log, name).write_csv(file)
    return folder
