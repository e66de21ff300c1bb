"""Features of items and users, from tables to memory-mapped arrays."""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ensue
from ensue.data.dataset import Dataset
from ensue.data.feature_builders import (
    BagsBuilder,
    Builder,
    CodesBuilder,
    NumbersBuilder,
    VectorsBuilder,
)
from ensue.data.features import Bags, make_bags
from ensue.errors import DataError, UsageError

NAN = float("nan")
LOG = "user,item,timestamp\n" + "".join(
    f"{user},i{item},{1_600_000_000 + item}\n" for user in (1, 2, 3) for item in (1, 2, 3)
)


def prepare(folder: Path, items: Any = None, users: Any = None, **settings: Any) -> Dataset:
    """Return the dataset of users 1, 2, 3 and items i1, i2, i3 with tables of this text."""
    (folder / "log.csv").write_text(LOG)
    for side, text in (("items", items), ("users", users)):
        if isinstance(text, str):
            settings[side] = folder / f"{side}.csv"
            settings[side].write_text(text)
        elif text is not None:
            settings[side] = text
    return ensue.prepare(folder / "log.csv", folder / "data", **settings)


def as_lists(bags: Bags) -> list[list[int]]:
    return [part.tolist() for part in np.split(bags.values, bags.offsets[1:-1])]


def column(dataset: Dataset, name: str, side: str = "item") -> NDArray[Any] | Bags:
    table = getattr(dataset, f"{side}_features")
    return table.values[[one.name for one in table.columns].index(name)]


ITEMS = """\
year,item,title,color,genres,price
2000,i3,Three,red,a|b,1.5
1990,i9,Nine,green,z|y,9.5
,i1,One,blue,b,2.5
"""


def test_values_stand_in_the_order_of_dense_ids(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, ITEMS)
    table = dataset.item_features
    assert table is not None
    assert [(one.name, one.kind, one.size) for one in table.columns] == [
        ("year", "numeric", 1), ("color", "categorical", 2), ("genres", "multi", 2),
        ("price", "numeric", 1),
    ]  # fmt: skip
    np.testing.assert_array_equal(column(dataset, "year"), [NAN, NAN, NAN, 0.0])
    np.testing.assert_array_equal(column(dataset, "color"), [0, 1, 0, 2])
    np.testing.assert_array_equal(column(dataset, "price"), [NAN, 1.0, NAN, -1.0])
    genres = column(dataset, "genres")
    assert isinstance(genres, Bags)
    assert as_lists(genres) == [[], [2], [], [1, 2]]
    assert dataset.feature_vocabulary("items", "color").raw.to_list() == ["blue", "red"]
    assert dataset.feature_vocabulary("items", "genres").raw.to_list() == ["a", "b"]
    assert dataset.items_table["title"].to_list() == ["One", None, "Three"]
    assert dataset.user_features is None


def test_arrays_are_mapped_and_of_the_stated_types(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, ITEMS)
    color, price, genres = (column(dataset, name) for name in ("color", "price", "genres"))
    assert isinstance(genres, Bags)
    arrays = (color, price, genres.values, genres.offsets)
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in arrays)
    assert [str(array.dtype) for array in arrays] == ["int32", "float32", "int32", "int64"]
    assert dataset.item_features is dataset.item_features


def test_what_dataset_json_says(tmp_path: Path) -> None:
    info = prepare(tmp_path, ITEMS, features={"price": "ignore"}).info.features["items"]
    (table,) = info.tables
    assert (table.id, table.title, table.unused) == ("item", "title", {"price": "as told"})
    assert (table.rows, table.unknown_rows, table.repeated_rows, table.found) == (3, 1, 0, 2)
    year, color, genres = info.columns
    assert (year.mean, year.deviation, year.missing) == (2000.0, 1.0, pytest.approx(2 / 3))
    assert (color.size, color.missing, color.sources) == (2, pytest.approx(1 / 3), ["color"])
    assert (genres.separator, genres.reason) == ("|", "text split by '|'")


def test_the_hash_of_features_is_theirs_alone(tmp_path: Path) -> None:
    def hashes(name: str, items: str | None) -> tuple[str, str | None]:
        (tmp_path / name).mkdir()
        info = prepare(tmp_path / name, items).info
        return info.hash, info.features["items"].hash if items else None

    log_hash, features_hash = hashes("a", ITEMS)
    assert hashes("b", ITEMS) == (log_hash, features_hash)
    assert hashes("c", None) == (log_hash, None)
    for number, other in enumerate([ITEMS.replace("red", "mauve"), ITEMS.replace("a|b", "a")]):
        changed = hashes(f"d{number}", other)
        assert changed[0] == log_hash
        assert changed[1] != features_hash


def test_users_and_roles_of_one_side(tmp_path: Path) -> None:
    items, users = "item,age\ni1,4\ni2,8\n", "age,user\n30,2\n30,1\n"
    dataset = prepare(tmp_path, items, users, features={"users.age": "categorical"})
    np.testing.assert_array_equal(column(dataset, "age"), [NAN, -1, 1, NAN])
    np.testing.assert_array_equal(column(dataset, "age", "user"), [0, 1, 1, 0])
    assert dataset.feature_vocabulary("users", "age").raw.to_list() == ["30"]


def test_ids_are_the_same_in_text_and_as_numbers(tmp_path: Path) -> None:
    pl.DataFrame({"user": [3.0, 1.0, 7.0], "x": ["c", "a", "z"]}).write_parquet(tmp_path / "u.pq")
    dataset = prepare(tmp_path, users=tmp_path / "u.pq")
    np.testing.assert_array_equal(column(dataset, "x", "user"), [0, 1, 0, 2])


def test_a_long_table_and_a_wide_one(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("item,tag\ni1,x\ni3,y\ni1,w\ni1,x\ni8,v\n")
    (tmp_path / "wide.csv").write_text("item,color\ni2,red\ni2,blue\ni3,\ni3,green\n")
    tables = [tmp_path / "wide.csv", tmp_path / "tags.csv"]
    dataset = prepare(tmp_path, tables, features={"color": "categorical"})
    np.testing.assert_array_equal(column(dataset, "color"), [0, 0, 2, 1])  # the first one there
    tags = column(dataset, "tag")
    assert isinstance(tags, Bags)
    assert as_lists(tags) == [[], [1, 2], [], [3]]
    assert [table.repeated_rows for table in dataset.info.features["items"].tables] == [2, 2]


def test_vectors_of_lists_and_of_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "item": ["i2", "i3", "i1"],
            "v": [None, [0.5, 1.5], [2.0, 3.0]],
            "w_1": [1.5, None, 3.0],
            "w_2": [4, 5, 6],
        },
        schema_overrides={"v": pl.Array(pl.Float32, 2)},
    )
    frame.write_parquet(tmp_path / "items.parquet")
    frame.with_columns(pl.col("v").cast(pl.List(pl.Float32))).write_ndjson(tmp_path / "items.jsonl")
    for name in ("items.parquet", "items.jsonl"):
        dataset = prepare(tmp_path, tmp_path / name, overwrite=True)
        none = [NAN, NAN]
        np.testing.assert_array_equal(column(dataset, "v"), [none, [2, 3], none, [0.5, 1.5]])
        np.testing.assert_array_equal(column(dataset, "w"), [none, [3, 6], [1.5, 4], none])
        files = {path.name for path in (tmp_path / "data" / "item_features").iterdir()}
        assert files == {"0.npy", "1.npy"}


def test_a_folder_of_parquet_is_one_table(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for item, color in enumerate(["red", "blue", "red"], start=1):
        rows = pl.DataFrame({"item": [f"i{item}"], "color": [color], "title": [color.upper()]})
        rows.write_parquet(tmp_path / "parts" / f"{item}.parquet")
    dataset = prepare(tmp_path, tmp_path / "parts")
    np.testing.assert_array_equal(column(dataset, "color"), [0, 2, 1, 2])
    assert dataset.items_table["title"].to_list() == ["RED", "BLUE", "RED"]


def test_titles_alone_are_no_features(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, "item,title\ni1,One\n")
    assert dataset.item_features is None
    assert dataset.info.features["items"].columns == []
    with pytest.raises(DataError, match="has no values of a feature 'x' of items; it has"):
        dataset.feature_vocabulary("items", "x")


def test_a_column_without_values_for_the_log_is_left_out(tmp_path: Path) -> None:
    items = "item,a,b,c,d_0,d_1,e\ni1,,,,,,1\ni9,x,1.5,u|v,0.5,2,1\n"
    info = prepare(tmp_path, items).info.features["items"]
    assert [one.name for one in info.columns] == ["e"]
    assert info.tables[0].unused == dict.fromkeys(
        ["a", "b", "c", "d_0", "d_1"], "no value for items of the log"
    )
    assert {p.name for p in (tmp_path / "data" / "item_features").iterdir()} == {"0.npy"}


def test_the_synthetic_shop_has_features_of_both_sides(tmp_path: Path) -> None:
    from ensue.data.synthetic import SyntheticConfig, generate, write

    log = generate(
        SyntheticConfig(num_users=60, num_items=60, num_interactions=600, num_categories=4)
    )
    folder = write(log, tmp_path / "log")
    dataset = ensue.prepare(
        folder / "interactions.csv",
        tmp_path / "data",
        items=folder / "items.csv",
        users=folder / "users.csv",
    )
    kinds = {c.name: c.kind for c in dataset.info.features["items"].columns}
    assert kinds == {"category": "categorical", "brand": "categorical", "tags": "multi"}
    known = dict(zip(log.items["item"], log.items["category"], strict=True))
    names = dataset.feature_vocabulary("items", "category").to_raw(column(dataset, "category")[1:])
    assert names == [known[item] for item in dataset.item_ids.raw]
    interests = column(dataset, "interests", "user")
    assert isinstance(interests, Bags)
    first = dataset.feature_vocabulary("users", "interests").to_raw(as_lists(interests)[1])
    assert set(first) == set(log.users["interests"][0].split("|"))


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        ("item,x\nj1,a\n", {}, r"has none of them in its column 'item'.* --feature NAME=id"),
        ("item,x\n,a\n", {}, r"must have an item; row 2 of .*items\.csv has none"),
        ("item,x\n", {}, r"a table of items needs rows; .*items\.csv has none"),
        ("thing,x\ni1,a\n", {}, r"item column of .*items\.csv must be clear; none .*NAME=id"),
        ("item\ni1\n", {}, r"--delimiter"),
        (
            "item,x\n" + "i9,1.5\n" * 10_000 + "i1,many\n",
            {},
            r"feature 'x' of items must hold finite numbers alone; row 10002 of .*items\.csv has "
            r"'many'\. Repair it, or say what the column is with --feature x=ROLE",
        ),
        ("item,x\ni1,1.5\ni2,2\n", {"features": {"x": "vector"}}, None),
        (
            "item,v\ni1,1 2\ni2,2\n",
            {"features": {"v": "vector"}},
            r"'v' of items must hold vectors of 2 numbers; row 3 of .*items\.csv has '2'",
        ),
        (
            "item,v_0,v_1\ni9,,\ni1,1.5,b\n",
            {"features": {"v": "vector"}},
            r"'v' of items must hold finite numbers alone; row 3 of .* has \['1.5', 'b'\]",
        ),
    ],
)
def test_unusable_tables(
    tmp_path: Path, items: str, settings: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert prepare(tmp_path, items, **settings).info.features["items"].columns[0].size == 1
        return
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, items, **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_roles_without_a_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'genre' is none\. Did you mean 'genres'\?"):
        prepare(tmp_path, ITEMS, features={"genre": "multi"})
    with pytest.raises(UsageError, match=r"'users\.genres' is none"):
        prepare(tmp_path, ITEMS, features={"users.genres": "multi"})
    with pytest.raises(UsageError, match=r"roles are for columns of a table .* Pass --items"):
        prepare(tmp_path, features={"genres": "multi"})
    (tmp_path / "more.csv").write_text("item,color\ni1,red\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    with pytest.raises(UsageError, match=r"a feature is in one table; 'color' is in .*items\.csv"):
        prepare(tmp_path, [tmp_path / "items.csv", tmp_path / "more.csv"])


def test_damaged_files(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, ITEMS)
    (tmp_path / "data" / "item_features" / "0.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"0\.npy must be what ensue prepare wrote"):
        _ = dataset.item_features


# What follows is checked against lists of Python, for tables cut into chunks of any size.

SMALL = settings(max_examples=40, deadline=None)
NUM_IDS = 5


@st.composite
def chunked(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> tuple[list[int], list[Any], int]:
    """Return dense ids, a value for each of these rows, and rows of a chunk."""
    rows = draw(st.lists(st.tuples(st.integers(1, NUM_IDS), values), max_size=12))
    return [row for row, _ in rows], [value for _, value in rows], draw(st.integers(1, 5))


def build(builder: Builder, ids: Sequence[int], values: Sequence[Any], size: int, dtype: Any):
    for first in range(0, len(ids), size):
        part = slice(first, first + size)
        series = pl.Series(values[part], dtype=dtype)
        builder.add(np.array(ids[part], dtype=np.int64), [series])
    return builder.build()


def first_there(ids: Sequence[int], values: Sequence[Any]) -> dict[int, Any]:
    first: dict[int, Any] = {}
    for one, value in zip(ids, values, strict=True):
        if value is not None:
            first.setdefault(one, value)
    return first


@SMALL
@given(chunked(st.sampled_from(["a", "7", "07", None, "zz"])))
def test_codes_are_of_the_first_value(case: tuple[list[int], list[Any], int]) -> None:
    ids, values, size = case
    built = build(CodesBuilder(NUM_IDS + 1), ids, values, size, pl.String)
    expected = first_there(ids, values)
    assert built.vocabulary is not None
    names = [None, *built.vocabulary]
    assert isinstance(built.values, np.ndarray)
    assert [names[code] for code in built.values] == [
        expected.get(row) for row in range(NUM_IDS + 1)
    ]
    assert sorted(built.vocabulary) == sorted(set(expected.values())) == [*built.vocabulary]
    assert built.missing == pytest.approx(1 - len(expected) / NUM_IDS)


@SMALL
@given(chunked(st.none() | st.lists(st.sampled_from(["a", "b", "c|", None, ""]), max_size=4)))
def test_bags_are_the_union_of_all_rows(case: tuple[list[int], list[Any], int]) -> None:
    ids, values, size = case
    built = build(BagsBuilder(NUM_IDS + 1, None), ids, values, size, pl.List(pl.String))
    expected: list[set[str]] = [set() for _ in range(NUM_IDS + 1)]
    for one, value in zip(ids, values, strict=True):
        expected[one] |= {part for part in value or [] if part}
    assert isinstance(built.values, Bags)
    assert built.vocabulary is not None
    found = [[built.vocabulary[code - 1] for code in bag] for bag in as_lists(built.values)]
    assert found == [sorted(bag) for bag in expected]
    assert built.size == len(set().union(*expected))
    assert built.missing == sum(not bag for bag in expected[1:]) / NUM_IDS


@SMALL
@given(chunked(st.none() | st.floats(-1e6, 1e6)))
def test_numbers_have_mean_zero_and_deviation_one(case: tuple[list[int], list[Any], int]) -> None:
    ids, values, size = case
    built = build(NumbersBuilder(NUM_IDS + 1), ids, values, size, pl.Float64)
    first = first_there(ids, values)
    assert built.size == bool(first)
    if not first:
        return
    assert built.mean == pytest.approx(statistics.fmean(first.values()), abs=1e-9)
    spread = statistics.pstdev(first.values())
    if spread < 1e-100:  # none, or rounding
        spread = 1.0
    assert built.deviation == pytest.approx(spread)
    for row in range(NUM_IDS + 1):
        stored = built.values[row]  # type: ignore[index]
        if row in first:
            restored = float(stored) * built.deviation + built.mean
            assert restored == pytest.approx(first[row], abs=1e-6 * max(spread, 1.0), rel=1e-6)
        else:
            assert np.isnan(stored)


@SMALL
@given(chunked(st.none() | st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32))))
def test_vectors_are_the_first_ones(case: tuple[list[int], list[Any], int]) -> None:
    ids, values, size = case
    with tempfile.TemporaryDirectory() as folder:
        builder = VectorsBuilder(NUM_IDS + 1, None, Path(folder) / "v.npy")
        built = build(builder, ids, values, size, pl.List(pl.Float32))
        first = first_there(ids, values)
        assert built.size == (2 if first else 0)
        if first:
            expected = [first.get(row, (NAN, NAN)) for row in range(NUM_IDS + 1)]
            np.testing.assert_array_equal(np.load(Path(folder) / "v.npy"), expected)


@SMALL
@given(st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=6), st.randoms())
def test_ragged_storage_equals_lists(bags: list[list[int]], order: random.Random) -> None:
    pairs = [(row, code) for row, bag in enumerate(bags) for code in bag]
    order.shuffle(pairs)
    rows, codes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    made = make_bags(rows, codes, num_rows=len(bags))
    assert as_lists(made) == [sorted(set(bag)) for bag in bags]
    assert (len(made.offsets), made.offsets[0]) == (len(bags) + 1, 0)


def test_a_constant_has_deviation_one() -> None:
    built = build(NumbersBuilder(4), [1, 2, 3], [0.1, 0.1, 0.1], 9, pl.Float64)
    assert (built.mean, built.deviation) == (pytest.approx(0.1), 1.0)
    np.testing.assert_allclose(built.values[1:], 0.0, atol=1e-9)  # type: ignore[index]
