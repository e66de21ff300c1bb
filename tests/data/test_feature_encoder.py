"""Raw values of new items and users as features, with the vocabularies of a dataset."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ensue
from ensue.data.feature_encoder import FeatureEncoder
from ensue.data.feature_info import FeatureInfo
from ensue.data.features import Bags, FeatureTable
from ensue.data.ids import IdMap
from ensue.errors import DataError, RunError, UsageError
from tests.helpers import make_dataset

NAN = float("nan")
COLUMNS = [
    FeatureInfo(name="color", kind="categorical", size=3, sources=["color"]),
    FeatureInfo(name="genres", kind="multi", size=2, sources=["genres"], separator="|"),
    FeatureInfo(name="year", kind="numeric", size=1, sources=["year"], mean=2000, deviation=10),
    FeatureInfo(name="v", kind="vector", size=2, sources=["v_0", "v_1"]),
    FeatureInfo(name="w", kind="vector", size=2, sources=["w"], separator="json"),
]


def encoder() -> FeatureEncoder:
    words = {"color": ["7", "red", "true"], "genres": ["a", "b"]}
    made = FeatureEncoder(
        COLUMNS, {name: IdMap(pl.Series(known)) for name, known in words.items()}, ["item", "title"]
    )
    return FeatureEncoder.from_dict(json.loads(json.dumps(made.to_dict())))


def encode(name: str, *values: Any) -> tuple[Any, list[str]]:
    """Return the column of the values of one feature, and what is unknown."""
    table, unknown = encoder().encode([{name: value} for value in values])
    names = [one.name for one in table.columns]
    found = table.values[names.index(name)]
    return found, unknown


def test_categories() -> None:
    codes, unknown = encode("color", " red ", 7, 7.0, "7", True, np.int64(7), np.True_)
    assert (codes.tolist(), unknown) == ([0, 2, 1, 1, 1, 3, 1, 3], [])
    codes, unknown = encode("color", "mauve", None, "", NAN, "07", "mauve")
    assert (codes.tolist(), unknown) == ([0] * 7, ["color=mauve", "color=07"])
    assert codes.dtype == np.int32


def test_bags() -> None:
    bags, unknown = encode(
        "genres", "b| a|b", ["a"], None, "", [], {"c", "b"}, ["a|b"], ("a", None)
    )
    assert bags.values.tolist() == [1, 2, 1, 2, 1]
    assert bags.offsets.tolist() == [0, 0, 2, 3, 3, 3, 3, 4, 4, 5]
    assert unknown == ["genres=c", "genres=a|b"]


def test_numbers_are_standardized_as_those_of_the_dataset() -> None:
    numbers, _ = encode("year", 2010, "1990", None, " ", NAN, True, np.float32(2005))
    np.testing.assert_allclose(numbers, [NAN, 1, -1, NAN, NAN, NAN, -199.9, 0.5])
    assert numbers.dtype == np.float32


def test_a_number_far_off_stays_finite() -> None:
    column = FeatureInfo(name="x", kind="numeric", size=1, sources=["x"], deviation=1e-50)
    (numbers,) = FeatureEncoder([column], {}).encode([{"x": -1e90}])[0].values
    assert np.isfinite(numbers[1])  # type: ignore[index]


def test_vectors() -> None:
    vectors, _ = encode("w", [1, 2.5], "[1, 2]", np.array([3, 4]), None, "", [1, NAN], [1, None])
    np.testing.assert_array_equal(
        vectors, [[NAN] * 2, [1, 2.5], [1, 2], [3, 4], *[[NAN] * 2] * 4]
    )  # fmt: skip
    rows = [{"v_0": 1, "v_1": "2"}, {"v": [3, 4]}, {"v_0": 1}, {"v_0": 1, "v_1": NAN}, {}]
    vectors = encoder().encode(rows)[0].values[3]
    np.testing.assert_array_equal(vectors, [[NAN] * 2, [1, 2], [3, 4], *[[NAN] * 2] * 3])


def test_no_rows_and_rows_without_values() -> None:
    for rows in ([], [{}], [{"item": "new", "title": "New"}]):
        table, unknown = encoder().encode(rows)
        assert table.columns == tuple(info.column for info in COLUMNS)
        assert unknown == []
        codes, bags, numbers, *vectors = table.values
        assert isinstance(bags, Bags)
        assert codes.tolist() == [0] * (len(rows) + 1)  # type: ignore[union-attr]
        assert (bags.values.tolist(), bags.offsets.tolist()) == ([], [0] * (len(rows) + 2))
        for array in (numbers, *vectors):
            assert isinstance(array, np.ndarray)
            assert np.isnan(array).all()
            assert len(array) == len(rows) + 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"colour": "red"}, r"of the features \['color', .*; got 'colour'\. Did you mean 'color'"),
        ({"color": 0.5}, r"feature 'color' must hold text or whole numbers; row 2 has 0\.5"),
        ({"color": ["red"]}, r"'color' must hold text or whole numbers; row 2 has \['red'\]"),
        ({"genres": ["a", ["b"]]}, "'genres' must hold text or whole numbers; row 2 has"),
        ({"year": "soon"}, "'year' must hold finite numbers alone; row 2 has 'soon'"),
        ({"year": float("inf")}, "'year' must hold finite numbers alone; row 2 has inf"),
        ({"year": [1]}, r"'year' must hold finite numbers alone; row 2 has \[1\]"),
        ({"w": [1, 2, 3]}, r"'w' must hold vectors of 2 numbers; row 2 has \[1, 2, 3\]"),
        ({"w": "1 2"}, "'w' must hold vectors of 2 numbers; row 2 has '1 2'"),
        ({"w": ["x", 2]}, "'w' must hold vectors of 2 numbers; row 2 has"),
        ({"w": [1e39, 2]}, "'w' must hold vectors of 2 numbers; row 2 has"),
        ({"w": 3}, "'w' must hold vectors of 2 numbers; row 2 has 3"),
    ],
)
def test_values_of_the_wrong_kind(row: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder().encode([{}, row])


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "run" / "items.json"
    encoder().save(path)
    assert FeatureEncoder.load(path).to_dict() == encoder().to_dict()
    for content in ("{", "{}", "[]", '{"columns": [{}], "vocabularies": {}, "unused": []}'):
        path.write_text(content)
        with pytest.raises(RunError, match=r"items\.json must be an encoder of features"):
            FeatureEncoder.load(path)
    with pytest.raises(RunError, match=r"nowhere\.json must be"):
        FeatureEncoder.load(tmp_path / "nowhere.json")


def test_a_dataset_without_features(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", [[1, 2, 3]])
    with pytest.raises(DataError, match=r"features of users are needed; .* --users TABLE"):
        FeatureEncoder.from_dataset(dataset, "users")


# What is encoded is what prepare stored of the same values, and lists and text are read alike.

WORDS = st.sampled_from(
    ["a", "b c", "7", "07", " x ", "", "it's", 'say "x"', "caf\u00e9", "[y]", "1.5"]
)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "color": st.none() | WORDS | st.integers(-3, 10**12) | st.booleans(),
        "genres": st.none() | st.lists(st.none() | WORDS | st.integers(0, 9), max_size=3),
        "year": st.none() | st.integers(1900, 2100) | st.floats(-1e9, 1e9),
        "v": st.none() | st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=2),
    },
)


@settings(max_examples=15, deadline=None)
@given(st.lists(ROW, min_size=3, max_size=3))
def test_encoding_the_rows_of_a_table_gives_its_features(rows: Sequence[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log.csv").write_text("user,item\n1,0\n1,1\n1,2\n")
        lines = [{"item": number, **row} for number, row in enumerate(rows)]
        lines.append({"item": 9, "color": "z", "genres": ["z"], "year": 0.5, "v": [0.5, 1.0]})
        (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        dataset = ensue.prepare(
            folder / "log.csv",
            folder / "data",
            items=folder / "items.jsonl",
            features={
                "color": "categorical", "genres": "multi", "year": "numeric", "v": "vector",
            },
            split="none",
        )  # fmt: skip
        stored = dataset.item_features
        if stored is None:
            assert not any(map(has_value, rows))
            return
        made = FeatureEncoder.from_dataset(dataset, "items")
        made = FeatureEncoder.from_dict(json.loads(json.dumps(made.to_dict())))
        encoded, unknown = made.encode(lines[:3])
        assert unknown == []
        assert_same(encoded, stored)


def has_value(row: Mapping[str, Any]) -> bool:
    values = [*row.values(), *(row.get("genres") or [])]
    return any(value not in (None, [], "") and not isinstance(value, list) for value in values)


def assert_same(one: FeatureTable, other: FeatureTable) -> None:
    assert one.columns == other.columns
    for left, right in zip(one.values, other.values, strict=True):
        if isinstance(left, Bags):
            assert isinstance(right, Bags)
            np.testing.assert_array_equal(left.values, right.values)
            np.testing.assert_array_equal(left.offsets, right.offsets)
        else:
            assert left.dtype == right.dtype  # type: ignore[union-attr]
            np.testing.assert_array_equal(left, right)
