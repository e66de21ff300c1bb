"""From tables of rows with labels to a ranking dataset, in memory that hardly grows with them.

Rows are read in chunks, checked and coded, and kept on disk once they are many; then they are
written in the order of time. Beside the distinct values, memory holds 8 bytes a row for its time,
8 more where the input is in another order, and about 60 while histories are looked up.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ensue.data.feature_store import Side
from ensue.data.feature_tables import FeatureSource, describe_sources, open_feature_sources
from ensue.data.inputs import PathOrPaths
from ensue.data.prepare import full_disk_is_data_error, parse_memory
from ensue.data.ranking.arrays import hash_arrays
from ensue.data.ranking.collect import Plan, RowCollector
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.describe import (
    describe_columns,
    describe_dataset,
    describe_roles,
    describe_tasks,
    part_bounds,
)
from ensue.data.ranking.events import find_histories
from ensue.data.ranking.info import RankingInfo
from ensue.data.ranking.order import find_order, parse_row_split
from ensue.data.ranking.roles import Told, choose_row_roles, expand_ranges
from ensue.data.ranking.side_tables import SideFeature, read_side_tables
from ensue.data.ranking.sources import RowSource, open_row_sources, path_texts, sample_rows
from ensue.data.ranking.targets import parse_comparison, parse_targets
from ensue.data.ranking.writer import FinalOrder, RowWriter
from ensue.data.splits import Split
from ensue.errors import DataError, UsageError
from ensue.files import atomic_directory, write_json
from ensue.progress import note, track

HISTORY_LENGTH = 50


@dataclass(frozen=True)
class _Settings:
    """What the caller says that is not about columns; see `prepare_ranking`."""

    split: Split
    history_length: int | None
    memory_bytes: int

    @property
    def max_history(self) -> int:
        """The largest number of values of a history."""
        return HISTORY_LENGTH if self.history_length is None else self.history_length


def prepare_ranking(
    inputs: PathOrPaths | Mapping[str, PathOrPaths],
    out: str | Path,
    *,
    targets: str | Sequence[str],
    weights: str | Mapping[str, str] | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    features: Mapping[str, str] | None = None,
    items: PathOrPaths | None = None,
    users: PathOrPaths | None = None,
    history_length: int | None = None,
    history_where: str | None = None,
    split: str | None = None,
    format: str | None = None,
    delimiter: str | None = None,
    memory: str | int = "2GB",
    name: str | None = None,
    overwrite: bool = False,
) -> RankingDataset:
    """Return the ranking dataset made of tables of rows with labels, written to the folder `out`.

    Args:
        inputs: files and folders of Parquet files; or those of "train", "validation" and "test".
        targets: what is to be predicted, see data.ranking.targets: "click", "rating:regression",
            "rating>=4 as liked".
        weights: column of the weights of rows, or task -> column.
        user, item, time: input columns; by default those with a usual name, if any.
        features: column -> role: categorical, multi, numeric, vector, ignore; multi and vector with
            what splits text ("multi:;"); numeric:log or numeric:plain; history,
            history:COLUMN or history:COLUMN:SEPARATOR, an ordered list of values, those of a
            categorical column; group, by whose values GAUC groups rows. By default the first rows
            tell, see data.ranking.roles. "2-14" are the columns 2 to 14 of a file without a header;
            "items.NAME" and "users.NAME" are columns of the tables of items and users.
        items, users: tables with an id and features, joined to the rows.
        history_length: the most values of a history, the last ones; 0 is no history of a log. By
            default 50, where the input has users, items and times.
        history_where: which rows count as events of histories: "click=1"; by default all.
        split: see data.ranking.order; by default the first 80%, the next 10% and the last 10% of
            rows in the order of time.
        format, delimiter, memory, name, overwrite: as in `prepare`.

    Raises:
        DataError: an input cannot be used, or the disk is full.
        UsageError: an argument has no meaning, or `out` may not be written.
    """
    if history_length is not None and history_length < 0:
        raise UsageError(f"history_length is 0 or more; got {history_length}.")
    settings = _Settings(
        parse_row_split(split, has_files=isinstance(inputs, Mapping)),
        history_length,
        parse_memory(memory),
    )
    with (
        full_disk_is_data_error(Path(out)),
        atomic_directory(out, marker="dataset.json", overwrite=overwrite) as folder,
    ):
        files = open_row_sources(inputs, format=format, delimiter=delimiter)
        sample = sample_rows(files)
        columns = files[0].table.columns
        given = expand_ranges(features or {}, columns)
        own, others = _split_roles(given, columns, has_tables=bool(items or users))
        weight_columns = {"": weights} if isinstance(weights, str) else dict(weights or {})
        target_list = [targets] if isinstance(targets, str) else list(targets)
        parsed = parse_targets(target_list, weight_columns, sample)
        taken = dict.fromkeys(weight_columns.values(), "is a weight")
        taken |= {target.column: "is a target" for target in parsed}
        roles = choose_row_roles(files[0].table, sample, Told(user, item, time, own, taken))
        events = parse_comparison(history_where, columns) if history_where else None
        plan = Plan(roles, parsed, events)
        note(describe_roles(files[0].table, plan))
        tables = _open_tables(items, users, others, plan)
        info = _build(folder, files, sample, plan, tables, settings)
        named = {"name": name or Path(out).resolve().name, "sources": path_texts(inputs)}
        write_json(folder / "dataset.json", {**info.model_dump(), **named})
    for text in info.notes:
        note(f"Note: {text}")
    return RankingDataset(out)


def _split_roles(
    given: Mapping[str, str], columns: Sequence[str], *, has_tables: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the roles of the columns of rows, and those of other tables."""
    runs = {name.rpartition(mark)[0] for name in columns for mark in "_." if mark in name}
    own = {name: role for name, role in given.items() if name in columns or name in runs}
    others = {name: role for name, role in given.items() if name not in own}
    if others and not has_tables:
        raise UsageError(
            f"roles are given to columns of the input; {next(iter(others))!r} is none of "
            f"{list(columns)}."
        )
    return own, others


def _open_tables(
    items: PathOrPaths | None, users: PathOrPaths | None, features: Mapping[str, str], plan: Plan
) -> dict[Side, list[FeatureSource]]:
    """Return the tables of items and users, and say what their columns are taken for."""
    given: dict[Side, tuple[PathOrPaths | None, str | None]] = {
        "items": (items, plan.roles.item),
        "users": (users, plan.roles.user),
    }
    paths: dict[Side, PathOrPaths] = {}
    names: dict[Side, str] = {}
    for side, (path, column) in given.items():
        if path is None:
            continue
        if column is None:
            one = side.removesuffix("s")
            raise UsageError(
                f"a table of {side} is joined by the {one} of each row, and the rows have none. "
                f"Pass --{one} NAME ({one}=...)."
            )
        paths[side], names[side] = path, column
    sources = open_feature_sources(paths, features, names)
    for side, of_side in sources.items():
        for sentence in describe_sources(side, of_side):
            note(sentence)
    return sources


def _build(
    folder: Path,
    files: Sequence[RowSource],
    sample: pl.DataFrame,
    plan: Plan,
    tables: Mapping[Side, list[FeatureSource]],
    settings: _Settings,
) -> RankingInfo:
    """Write the arrays of the dataset and return what dataset.json is to say, unnamed."""
    has_history = _has_history(plan, settings)
    work = folder / "work"
    collector = RowCollector(plan, sample, work, memory_bytes=settings.memory_bytes // 3)
    with track("Reading", unit="rows") as advance:
        for source in files:
            chunk_rows = min(max(settings.memory_bytes // 4096, 256), 1 << 18)
            for chunk in source.table.read(plan.needed, chunk_rows):
                collector.add(chunk, source.part)
                advance(len(chunk.rows))
    times = collector.rows.array("time") if plan.roles.time is not None else None
    final, split = find_order(settings.split, times, collector.rows.array("part"))
    raw = {name: codes.raw() for name, codes in collector.vocabularies.items()}
    sides, unused = _join(work, tables, plan, raw)
    writer = RowWriter(folder, collector, final, raw, sides)
    scaling = writer.fit_scaling()
    writer.write_numbers(scaling)
    labels = writer.write_labels()
    writer.write_vectors()
    writer.write_bags(settings.max_history)
    history = None
    if has_history:
        history = _write_history(writer, collector, final, sides, settings)
    sizes = writer.write_vocabularies()
    shutil.rmtree(work, ignore_errors=True)
    columns = describe_columns(
        plan, sides, scaling, writer.figures, sizes | collector.widths, history
    )
    tasks = describe_tasks(plan, labels, part_bounds(final))
    info = describe_dataset(plan, columns, tasks, final, split, sizes, settings.max_history)
    schema = str([info.parts, columns, tasks])
    return info.model_copy(
        update={"unused": info.unused | unused, "hash": hash_arrays(folder, schema)}
    )


def _join(
    work: Path,
    tables: Mapping[Side, list[FeatureSource]],
    plan: Plan,
    raw: Mapping[str, pl.Series],
) -> tuple[list[SideFeature], dict[str, str]]:
    """Return the features of items and users, none of them named as a column of the rows is."""
    columns: dict[Side, str | None] = {"items": plan.roles.item, "users": plan.roles.user}
    raw_ids = {side: raw[name] for side, name in columns.items() if name is not None}
    sides, unused = read_side_tables(work, tables, raw_ids)
    seen = {*(one.name for one in plan.roles.features), *plan.coded}
    for one in sides:
        if one.feature.name in seen:
            raise DataError(
                f"features differ in their names; {one.feature.name!r} of {one.side} is also one "
                f"of the rows or of another table. Leave one out with --feature "
                f"{one.side}.{one.feature.name}=ignore, or rename it."
            )
        seen.add(one.feature.name)
    return sides, unused


def _has_history(plan: Plan, settings: _Settings) -> bool:
    """Tell whether the rows are a log whose users have histories."""
    roles = plan.roles
    has_ids = roles.user is not None and roles.item is not None
    told = any(one.kind == "history" for one in roles.features)
    if told and settings.history_length == 0:
        raise UsageError(
            "a column of histories needs a history_length of 1 or more; got 0. Leave the column "
            "out with --feature NAME=ignore."
        )
    if settings.history_length and not has_ids and not told:
        raise UsageError(
            "the history of a row is of its user's items; the input has no column of users or of "
            "items. Pass --user and --item (user=..., item=...)."
        )
    by_default = roles.time is not None and settings.history_length is None
    is_wanted = has_ids and (by_default or bool(settings.history_length))
    if plan.events is not None and not is_wanted:
        raise UsageError(
            "history_where is about the histories of a log, which has users, items and times; "
            "the input has not, or history_length is 0. Pass --user, --item and --time."
        )
    return is_wanted


def _write_history(
    writer: RowWriter,
    collector: RowCollector,
    final: FinalOrder,
    sides: Sequence[SideFeature],
    settings: _Settings,
) -> str:
    """Find and write what each row's user did before it; return the name of the column."""
    store, roles = collector.rows, collector.plan.roles
    assert roles.user is not None
    assert roles.item is not None
    num_rows = final.ends[2]
    times = final.sort(store.array("time")) if roles.time else np.arange(num_rows)
    is_event = np.ones(num_rows, dtype=np.bool_)
    if "event" in store.dtypes:
        is_event = final.sort(store.array("event")).astype(np.bool_)
    views = find_histories(
        writer.code_column(roles.user),
        writer.code_column(roles.item),
        times,
        is_event,
        np.repeat(np.arange(3, dtype=np.uint8), np.diff([0, *final.ends])),
        settings.max_history,
    )
    number = len(collector.bags) + sum(one.feature.kind == "multi" for one in sides)
    taken = {*collector.plan.needed, *(one.feature.name for one in sides)}
    name = "history" if "history" not in taken else "history of log"
    writer.write_history(name, number, views)
    return name
