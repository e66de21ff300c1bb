"""Fake users as dated histories, and the dataset that holds them beside the real users.

An attack says what a fake user clicks, not when: for models that read sequences a rule makes the
history. A real user of like length (within a quarter, else the nearest) is drawn for each fake one,
who starts when that user started and takes over the gaps between that user's training clicks, from
the first again where they do not suffice; a history that would end after the last training click of
the log is moved back as a whole. The items come in an order drawn at random ("spread"), or the
targets so behind all others ("last"). The attack of Tang, Wen and Wang (RecSys 2020,
arXiv:2008.04876) has no order; the rule is ours.

Fake users have training rows alone, no labels, no context and no features. Real users keep their
ids, their order and all of their rows.

Shapes: F fake users, R rows of theirs or of the dataset, I items, S targets.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.audit.clicks import Clicks
from ensue.data.arrow_file import ColumnFile, read_columns
from ensue.data.dataset import Dataset, DatasetInfo, Part
from ensue.data.feature_store import hash_features, read_features, write_values
from ensue.data.features import Bags
from ensue.data.histories import Histories
from ensue.files import atomic_directory, write_json

Order = Literal["spread", "last"]

COPIED_ROWS = 1 << 22  # at a time
LIKE = 0.25  # lengths that differ by no more than this share are alike


@dataclass(frozen=True)
class DatedFakes:
    """Histories of fake users, oldest click first.

    offsets: [F + 1] int64; user f has rows offsets[f] to offsets[f + 1] - 1.
    items: [R] int32, dense ids. times: [R] int64, microseconds, or places where a log has no times.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    times: NDArray[np.int64]


def date_fakes(
    fakes: Clicks,
    targets: NDArray[np.int64],
    dataset: Dataset,
    part: Part,
    *,
    order: Order,
    seed: int,
) -> DatedFakes:
    """Return the clicks of fake users in an order and with times.

    Args:
        targets: [S] columns.
        part: what is training data; it is not empty.
    """
    rng = np.random.default_rng([seed, 1])
    lengths, offsets = fakes.lengths, fakes.offsets
    owners = np.repeat(np.arange(fakes.num_users), lengths)
    is_late = np.isin(fakes.columns, targets) & (order == "last")
    rows = np.lexsort((rng.random(len(owners)), is_late, owners))
    items = (fakes.columns[rows] + 1).astype(np.int32)
    places = np.arange(len(owners)) - offsets[owners]
    if dataset.info.time == "order":
        return DatedFakes(offsets, items, places)
    histories = dataset.histories(part)
    users = _users_alike(histories.lengths, lengths, rng)
    times = _take_over(histories, users, dataset.column("time"), owners, places)
    kept, _ = histories.rows(np.arange(1, histories.num_users + 1))
    latest = int(dataset.column("time")[kept].max())
    ends = np.maximum(offsets[1:] - 1, offsets[:-1])
    if len(times):
        last = times[np.minimum(ends, len(times) - 1)]  # of an empty history it is not read
        times = times - np.maximum(last - latest, 0)[owners]
    return DatedFakes(offsets, items, times)


def _users_alike(
    real: NDArray[np.int64], wanted: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return for each wanted length [F] a user drawn among those of like length.

    Args:
        real: [U + 1] lengths of the training histories.
    """
    users = np.argsort(real, kind="stable")
    users = users[real[users] > 0]
    known = real[users]
    first = np.searchsorted(known, wanted * (1 - LIKE))
    last = np.searchsorted(known, wanted * (1 + LIKE), side="right")
    above = np.minimum(first, len(known) - 1)
    below = np.maximum(first - 1, 0)
    is_below_nearer = np.abs(known[below] - wanted) < np.abs(known[above] - wanted)
    nearest = np.where(is_below_nearer, below, above)
    drawn = first + (rng.random(len(wanted)) * (last - first)).astype(np.int64)
    return users[np.where(last > first, drawn, nearest)]


def _take_over(
    histories: Histories,
    users: NDArray[np.int64],
    times: NDArray[np.int64],
    owners: NDArray[np.int64],
    places: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the time of each row [R]: of a user's first row, and his gaps again and again.

    Args:
        users: [F] whose times fake users take over. owners, places: of each row.
    """
    starts, num_gaps = histories.starts[users], histories.lengths[users] - 1
    whole = times[starts + num_gaps] - times[starts]
    rounds, rest = np.divmod(places, np.maximum(num_gaps, 1)[owners])
    rest = np.where(num_gaps[owners] > 0, rest, 0)
    return times[starts[owners] + rest] + rounds * whole[owners]


def write_poisoned(dataset: Dataset, out: Path, fakes: DatedFakes) -> Dataset:
    """Return the dataset with fake users behind the real ones, written to a new folder."""
    num_fakes, num_rows = len(fakes.offsets) - 1, len(fakes.items)
    first = dataset.num_users + 1
    owners = np.repeat(np.arange(first, first + num_fakes), np.diff(fakes.offsets))
    real = read_columns(dataset.path / "interactions.arrow")
    unknown = {
        name: np.full(num_rows, np.nan if values.dtype.kind == "f" else 0, dtype=values.dtype)
        for name, values in real.items()
    }
    added = {
        **unknown,
        "user": owners.astype(np.int32),
        "item": fakes.items,
        "time": fakes.times,
    }
    users = pl.read_ipc(dataset.path / "users.arrow")
    ends = dataset.num_interactions + fakes.offsets[1:]
    prefix = _free_prefix(users["raw_id"])
    more = pl.DataFrame(
        {
            "raw_id": [f"{prefix}{number}" for number in range(1, num_fakes + 1)],
            **dict.fromkeys(("train_end", "validation_end", "end"), ends),
        }
    )
    info = _describe(
        dataset,
        [added["user"], added["item"], added["time"]],
        f"{num_fakes:,} fake users with {num_rows:,} clicks were added to {dataset.info.name}.",
        users=num_fakes,
        interactions=num_rows,
        train=num_rows,
    )
    with atomic_directory(out, marker="dataset.json", overwrite=True) as folder:
        _copy_rest(dataset.path, folder)
        dtypes = {name: values.dtype for name, values in real.items()}
        total = dataset.num_interactions + num_rows
        with ColumnFile(folder / "interactions.arrow", dtypes, num_rows=total) as file:
            file.write(real, first_row=0)
            file.write(added, first_row=dataset.num_interactions)
        pl.concat([users, more], how="vertical_relaxed").write_ipc(folder / "users.arrow")
        if "users" in info.features:
            info = _add_missing(folder, info, num_fakes)
        write_json(folder / "dataset.json", info.model_dump())
    return Dataset(out)


def write_rows(dataset: Dataset, out: Path, keep: NDArray[np.bool_]) -> Dataset:
    """Return the dataset with some of its rows [R] and all of its users, in a new folder."""
    real = read_columns(dataset.path / "interactions.arrow")
    rows = np.flatnonzero(keep)
    kept = np.concatenate([[0], np.cumsum(keep)])
    users = pl.read_ipc(dataset.path / "users.arrow")
    users = users.with_columns(
        pl.Series(name, kept[users[name].to_numpy()])
        for name in ("train_end", "validation_end", "end")
    )
    lost = np.bincount(real["split"][~keep], minlength=3)
    info = _describe(
        dataset,
        [np.packbits(keep)],
        f"{len(keep) - len(rows):,} interactions were left out of {dataset.info.name}.",
        interactions=-int(lost.sum()),
        **{name: -int(lost[part]) for part, name in enumerate(("train", "validation", "test"))},
    )
    with atomic_directory(out, marker="dataset.json", overwrite=True) as folder:
        _copy_rest(dataset.path, folder)
        dtypes = {name: values.dtype for name, values in real.items()}
        with ColumnFile(folder / "interactions.arrow", dtypes, num_rows=len(rows)) as file:
            for first in range(0, len(rows), COPIED_ROWS):
                some = rows[first : first + COPIED_ROWS]
                file.write({name: v[some] for name, v in real.items()}, first_row=first)
        users.write_ipc(folder / "users.arrow")
        write_json(folder / "dataset.json", info.model_dump())
    return Dataset(out)


def _free_prefix(raw_ids: pl.Series) -> str:
    """Return what no raw id begins with."""
    prefix = "fake-"
    while raw_ids.str.starts_with(prefix).any():
        prefix = f"_{prefix}"
    return prefix


def _describe(
    dataset: Dataset, changed: list[NDArray[Any]], note: str, **counts: int
) -> DatasetInfo:
    """Return what dataset.json says, with a hash of its own and counts that have changed by so."""
    info = dataset.info
    hasher = hashlib.sha256(info.hash.encode())
    for values in changed:
        hasher.update(np.ascontiguousarray(values).data)
    numbers = {name: info.counts[name] + change for name, change in counts.items()}
    return info.model_copy(
        update={
            "counts": {**info.counts, **numbers},
            "graphs": {
                name: graph.with_more_users(counts.get("users", 0))
                for name, graph in info.graphs.items()
            },
            "notes": [*info.notes, note],
            "hash": hasher.hexdigest(),
        }
    )


def _copy_rest(source: Path, folder: Path) -> None:
    """Copy what users and rows have no part in, features of users and edges as they are."""
    for file in [source / "items.arrow", *source.glob("context_*.arrow")]:
        shutil.copy2(file, folder / file.name)
    for name in ("item_features", "user_features", "graphs", "entities"):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)


def _add_missing(folder: Path, info: DatasetInfo, num_fakes: int) -> DatasetInfo:
    """Give fake users features without values; return what dataset.json says of it."""
    stored = info.features["users"]
    num_real = info.counts["users"] - num_fakes
    for number, values in enumerate(read_features(folder, "users", stored).values):
        write_values(folder, "users", number, _without_values(values, num_fakes))
    columns = [
        column.model_copy(
            update={"missing": (column.missing * num_real + num_fakes) / info.counts["users"]}
        )
        for column in stored.columns
    ]
    hashed = hash_features(folder, "users", columns)
    users = stored.model_copy(update={"columns": columns, "hash": hashed})
    return info.model_copy(update={"features": {**info.features, "users": users}})


def _without_values(values: NDArray[Any] | Bags, num_more: int) -> NDArray[Any] | Bags:
    """Return the values with as many more rows that have none, in memory."""
    if isinstance(values, Bags):
        ends = np.full(num_more, values.offsets[-1], dtype=np.int64)
        return Bags(np.array(values.values), np.concatenate([values.offsets, ends]))
    empty: Any = np.nan if values.dtype.kind == "f" else 0
    more = np.full((num_more, *values.shape[1:]), empty, dtype=values.dtype)
    return np.concatenate([values, more])
