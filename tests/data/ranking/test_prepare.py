"""Ranking datasets against a plain reading of the same rows."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ensue.data.dataset import Dataset
from ensue.data.prepare import prepare
from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import DataError
from tests.data.ranking.tables import (
    COLUMNS,
    FEATURES,
    Row,
    in_time_order,
    mean_and_deviation,
    past_items,
    random_rows,
    to_text,
    write_rows,
)

TARGETS = ["click", "watch:regression", "watch>=10 as long"]


def make(folder: Path, rows: list[Row], **settings: Any) -> RankingDataset:
    settings = {"targets": TARGETS, "features": FEATURES, "weights": {"watch": "w"}, **settings}
    return prepare_ranking(write_rows(folder / "rows.csv", rows), folder / "data", **settings)


def raw_codes(dataset: RankingDataset, batch: RankingBatch, name: str) -> list[str | None]:
    names = [column.name for column in dataset.schema.of_kind("categorical")]
    values = [None, *dataset.values(name)]
    return [values[code] for code in batch.codes[:, names.index(name)].tolist()]


def raw_bag(dataset: RankingDataset, batch: RankingBatch, name: str) -> list[list[str]]:
    columns = dataset.schema.of_kind("multi", "history")
    number = [column.name for column in columns].index(name)
    bag: Bag = batch.bags[number]
    values = [None, *dataset.values(columns[number].vocabulary)]
    codes, offsets = bag.values.tolist(), bag.offsets.tolist()
    return [[str(values[code]) for code in codes[first:end]] for first, end in pairwise(offsets)]


def same(stored: float, expected: float | None) -> bool:
    if expected is None:
        return math.isnan(stored)
    return stored == pytest.approx(expected, rel=1e-5, abs=1e-5)


def check_rows(dataset: RankingDataset, rows: list[Row], most: int, num_train: int) -> None:
    """Compare all rows of a dataset with `rows`, which are in its order."""
    batch = dataset.rows(slice(0, len(rows)))
    for name in ("user", "item", "color"):
        assert raw_codes(dataset, batch, name) == [row[name] for row in rows]
    tags = raw_bag(dataset, batch, "tags")
    assert [sorted(bag) for bag in tags] == [sorted(set(row["tags"])) for row in rows]
    assert raw_bag(dataset, batch, "seen") == [row["seen"][-most:] for row in rows]
    assert raw_bag(dataset, batch, "history") == [past_items(rows, row, most) for row in rows]
    train_ages = [row["age"] for row in rows[:num_train] if row["age"] is not None]
    mean, deviation = mean_and_deviation(train_ages)
    for row, (age,), vector, labels, weights in zip(
        rows,
        batch.numbers.tolist(),
        batch.vectors[0].tolist(),
        batch.labels.tolist(),
        batch.weights.tolist(),
        strict=True,
    ):
        assert same(age, None if row["age"] is None else (row["age"] - mean) / deviation)
        assert all(map(same, vector, row["v"] or [None] * 3))
        watch = row["watch"]
        long = None if watch is None else float(watch >= 10)
        assert all(map(same, labels, [row["click"], watch, long]))
        assert weights == [1.0, row["w"], 1.0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_sorted", [True, False])
def test_every_kind(tmp_path: Path, seed: int, is_sorted: bool) -> None:
    rows = random_rows(60, seed, is_sorted=is_sorted)
    dataset = make(tmp_path, rows, history_length=3)
    assert dataset.info.parts == {"train": (0, 48), "validation": (48, 54), "test": (54, 60)}
    check_rows(dataset, in_time_order(rows), 3, 48)
    kinds = {column.name: column.kind for column in dataset.schema.columns}
    assert kinds == {
        "user": "categorical", "item": "categorical", "color": "categorical", "tags": "multi",
        "age": "numeric", "seen": "history", "v": "vector", "history": "history",
    }  # fmt: skip
    vocabularies = dataset.schema.vocabularies
    assert vocabularies == {name: len(dataset.values(name)) for name in vocabularies}


def test_what_the_info_says(tmp_path: Path) -> None:
    rows = random_rows(60, 4)
    dataset = make(tmp_path, rows)
    train = in_time_order(rows)[:48]
    columns = {column.name: column for column in dataset.info.columns}
    for name in ("color", "age", "tags", "v", "seen"):
        missing = sum(not row[name] for row in train) / 48
        assert columns[name].missing == pytest.approx(missing)
    ages = [row["age"] for row in train if row["age"] is not None]
    found = (columns["age"].mean, columns["age"].deviation)
    assert found == pytest.approx(mean_and_deviation(ages))
    clicks, watch, long = dataset.info.tasks
    labels = [row["click"] for row in train if row["click"] is not None]
    assert clicks.labels["train"].labeled == len(labels)
    assert clicks.labels["train"].mean == pytest.approx(sum(labels) / len(labels))
    assert (watch.kind, watch.weight, long.comparison) == ("regression", "w", ">=10")
    for name in ("user", "item", "color"):
        counts = [sum(row[name] == value for row in train) for value in dataset.values(name)]
        assert dataset.train_counts(name).tolist() == [0, *counts]
    counts = [sum(value in row["tags"] for row in train) for value in dataset.values("tags")]
    assert dataset.train_counts("tags").tolist() == [0, *counts]
    assert dataset.info.unused["click"] == "is a target"
    assert dataset.info.unused["w"] == "is a weight"
    assert dataset.info.unused["time"] == "is the time"
    times = dataset.times(slice(0, 60))
    assert times is not None
    assert times.tolist() == sorted(row["time"] * 10**6 for row in rows)


def test_ids_in_place_of_codes(tmp_path: Path) -> None:
    dataset = make(tmp_path, random_rows(30, 5))
    codes, ids = dataset.rows(slice(0, 30)), dataset.rows(slice(0, 30), as_ids=True)
    for number, column in enumerate(dataset.schema.of_kind("categorical")):
        of_code = dataset.value_ids(column.vocabulary)
        assert ids.codes[:, number].tolist() == of_code[codes.codes[:, number]].tolist()
    columns = dataset.schema.of_kind("multi", "history")
    for column, bag, of_ids in zip(columns, codes.bags, ids.bags, strict=True):
        of_code = dataset.value_ids(column.vocabulary)
        assert of_ids.values.tolist() == of_code[bag.values].tolist()
        assert of_ids.offsets.tolist() == bag.offsets.tolist()
    # A value has its id in whatever dataset it is: here only the later half of the rows.
    other = prepare_ranking(
        write_rows(tmp_path / "half.csv", random_rows(30, 5)[15:]),
        tmp_path / "half",
        targets="click",
    )
    for value, number in zip(other.values("item"), other.value_ids("item")[1:], strict=True):
        place = dataset.values("item").to_list().index(value)
        assert dataset.value_ids("item")[place + 1] == number


def test_groups(tmp_path: Path) -> None:
    rows = random_rows(30, 6)
    dataset = make(tmp_path, rows)
    users = [dataset.values("user")[code - 1] for code in dataset.groups(slice(0, 30)).tolist()]
    assert users == [row["user"] for row in in_time_order(rows)]
    by_color = make(
        tmp_path, rows, features={**FEATURES, "color": "group", "user": "ignore"}, overwrite=True
    )
    groups = by_color.groups(np.array([3, 7]))
    assert groups.dtype == np.int64
    assert by_color.info.group == "color"
    colors = [None, *by_color.values("color")]
    expected = in_time_order(rows)
    assert [colors[group] for group in groups.tolist()] == [expected[n]["color"] for n in (3, 7)]
    names = [column.name for column in by_color.schema.of_kind("categorical")]
    assert names == ["item", "color"]
    assert raw_bag(by_color, by_color.rows(slice(0, 30)), "history") == [
        past_items(expected, row, 50) for row in expected
    ]
    flat = prepare_ranking(
        write_rows(tmp_path / "flat.csv", rows, ["color", "age", "click"]),
        tmp_path / "flat",
        targets="click",
    )
    with pytest.raises(DataError, match=r"neither\. Run ensue prepare with --user NAME"):
        flat.groups(slice(0, 3))


def test_history_of_some_events(tmp_path: Path) -> None:
    rows = random_rows(50, 7)
    dataset = make(tmp_path, rows, history_where="click=1", history_length=4)
    ordered = in_time_order(rows)
    clicks = [row for row in ordered if row["click"] == 1]
    assert raw_bag(dataset, dataset.rows(slice(0, 50)), "history") == [
        past_items(clicks, row, 4) for row in ordered
    ]


def test_without_times_rows_count_as_oldest_first(tmp_path: Path) -> None:
    rows = [{**row, "time": number} for number, row in enumerate(random_rows(40, 8))]
    path = write_rows(tmp_path / "rows.csv", rows, [name for name in COLUMNS if name != "time"])
    settings: dict[str, Any] = {"targets": TARGETS, "features": FEATURES, "weights": {"watch": "w"}}
    dataset = prepare_ranking(path, tmp_path / "data", history_length=5, **settings)
    check_rows(dataset, rows, 5, 32)
    assert dataset.times(slice(0, 3)) is None
    assert "no times" in dataset.info.notes[0]
    plain = prepare_ranking(path, tmp_path / "plain", **settings)
    assert [c.name for c in plain.schema.of_kind("history")] == ["seen"]


def test_memory_makes_no_difference(tmp_path: Path) -> None:
    rows = random_rows(3000, 9)
    datasets = []
    for memory in ("16MB", "2GB"):
        folder = tmp_path / memory
        folder.mkdir()
        datasets.append(make(folder, rows, memory=memory))
    assert datasets[0].info.hash == datasets[1].info.hash


def test_rows_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensue.data import row_store

    original = row_store.RowStore.__init__

    def small(self: Any, dtypes: Any, folder: Any, *, memory_bytes: int) -> None:
        original(self, dtypes, folder, memory_bytes=100)

    monkeypatch.setattr(row_store.RowStore, "__init__", small)
    monkeypatch.setattr("ensue.data.ranking.writer._ROWS", 7)
    rows = random_rows(60, 10)
    dataset = make(tmp_path, rows, history_length=3)
    check_rows(dataset, in_time_order(rows), 3, 48)
    assert not (dataset.path / "work").exists()


def test_parquet_and_json_lines(tmp_path: Path) -> None:
    rows = random_rows(40, 11)
    pl.DataFrame(rows, schema_overrides={"watch": pl.Float64}).write_parquet(tmp_path / "r.parquet")
    pl.DataFrame(rows).write_ndjson(tmp_path / "r.jsonl")
    features = {"seen": "history:item", "age": "numeric:plain", "tags": "multi"}
    for name in ("r.parquet", "r.jsonl"):
        dataset = prepare_ranking(
            tmp_path / name,
            tmp_path / f"{name}-data",
            targets=TARGETS,
            features=features,
            weights={"watch": "w"},
            history_length=3,
        )
        check_rows(dataset, in_time_order(rows), 3, 32)


def test_several_files(tmp_path: Path) -> None:
    rows = random_rows(40, 12)
    paths = [
        write_rows(tmp_path / "a.csv", rows[:25]),
        write_rows(tmp_path / "b.csv", rows[25:], COLUMNS[::-1]),
    ]
    dataset = prepare_ranking(
        paths, tmp_path / "data", targets=TARGETS, features=FEATURES, weights={"watch": "w"}
    )
    check_rows(dataset, in_time_order(rows), 50, 32)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_what_comes_later(tmp_path: Path, seed: int) -> None:
    """Training rows, their statistics and their counts do not depend on any later row."""
    rows = in_time_order(random_rows(50, seed))
    changed = [*rows[:40], *random_rows(10, seed + 100)]
    for row in changed[40:]:
        row.update(time=10**6, age=99, color="new", user="u0", item="i0", seen=["i0"], v=[9, 9, 9])
    first = make(tmp_path, rows)
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other", changed)
    for dataset in (first, other):
        assert dataset.bounds("train") == (0, 40)
    train = [dataset.rows(slice(0, 40)) for dataset in (first, other)]
    for one, two in zip(train[0].tensors(), train[1].tensors(), strict=True):
        assert np.array_equal(one.numpy(), two.numpy(), equal_nan=True)
    for name in ("user", "item", "color", "tags"):
        counts = [
            dict(zip(d.values(name), d.train_counts(name)[1:].tolist(), strict=True))
            for d in (first, other)
        ]
        seen = [{value: count for value, count in one.items() if count} for one in counts]
        assert seen[0] == seen[1]
    assert other.train_counts("color")[other.values("color").to_list().index("new") + 1] == 0


def test_numbers_with_a_heavy_tail(tmp_path: Path) -> None:
    lines = ["click,x,y", *(f"{n % 2},{1e6 if n == 7 else n % 5},{n % 5}.5" for n in range(200))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    features = {"x": "numeric", "y": "numeric"}
    dataset = prepare_ranking(
        tmp_path / "rows.csv", tmp_path / "data", targets="click", features=features, split="none"
    )
    assert [column.log for column in dataset.info.columns] == [True, False]
    x = np.log1p([1e6 if n == 7 else n % 5 for n in range(200)])
    expected = (x - x.mean()) / x.std()
    np.testing.assert_allclose(dataset.rows(slice(0, 200)).numbers[:, 0], expected, rtol=1e-4)


def test_one_kind_of_dataset_is_not_the_other(tmp_path: Path) -> None:
    dataset = make(tmp_path, random_rows(20, 0))
    with pytest.raises(DataError, match=r"rows for ranking models\. Open it with RankingDatas"):
        Dataset(dataset.path)
    log = write_rows(tmp_path / "log.csv", random_rows(20, 0), ["user", "item", "time"])
    interactions = prepare(log, tmp_path / "interactions")
    with pytest.raises(DataError, match=r"interactions without targets\. Run ensue prepare wi"):
        RankingDataset(interactions.path)
    with pytest.raises(DataError, match=r"a folder with a dataset\.json; .* has none"):
        RankingDataset(tmp_path)


def test_a_damaged_dataset(tmp_path: Path) -> None:
    dataset = make(tmp_path, random_rows(20, 0))
    (dataset.path / "codes.npy").write_bytes(b"x")
    with pytest.raises(DataError, match=r"codes\.npy must be what ensue prepare wrote"):
        RankingDataset(dataset.path).rows(slice(0, 1))
    text = (dataset.path / "dataset.json").read_text().replace('"format": 1', '"format": 9')
    (dataset.path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="has format 9, this version reads 1"):
        RankingDataset(dataset.path)


def test_values_as_text(tmp_path: Path) -> None:
    assert to_text("seen", ["i1", "i2"]) == "i1>i2"  # the tables of these tests
    assert to_text("tags", []) == to_text("age", None) == ""
