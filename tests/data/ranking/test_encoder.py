"""Raw rows as the batch that a model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.encoder import RankingEncoder
from ensue.data.ranking.prepare import prepare_ranking
from ensue.data.ranking.value_ids import value_ids
from ensue.errors import RunError, UsageError
from tests.data.ranking.tables import (
    FEATURES,
    Row,
    in_time_order,
    past_items,
    random_rows,
    to_text,
    write_rows,
)

ITEMS = {"i0": ("x|y", "1.5"), "i1": ("y", ""), "i2": ("", "200.0"), "i3": ("z|x", "0.25")}
NAMES = ("user", "item", "w", "color", "tags", "seen", "v", "age")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RankingDataset:
    folder = tmp_path_factory.mktemp("encoder")
    items = [",".join([name, *values]) for name, values in ITEMS.items()]
    (folder / "items.csv").write_text("\n".join(["item,genres,price", *items]))
    return prepare_ranking(
        write_rows(folder / "rows.csv", random_rows(50, 0)),
        folder / "data",
        targets=["click", "watch:regression"],
        features={**FEATURES, "age": "numeric:log"},
        items=folder / "items.csv",
        history_length=3,
    )


@pytest.fixture(scope="module")
def raw() -> list[Row]:
    """The rows of the dataset in its order, as they stand in the tables."""
    rows = in_time_order(random_rows(50, 0))
    return [
        {
            **{name: row[name] for name in NAMES},
            "genres": ITEMS.get(row["item"], ("", ""))[0],
            "price": ITEMS.get(row["item"], ("", ""))[1],
            "history": past_items(rows, row, 100),
            "click": 1,  # a target may be there
        }
        for row in rows
    ]


def equal(one: RankingBatch, other: RankingBatch) -> None:
    for ours, theirs in zip(one.tensors()[2:], other.tensors()[2:], strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-6, atol=1e-6)


def test_round_trip(dataset: RankingDataset, raw: list[Row]) -> None:
    encoder = RankingEncoder.from_dataset(dataset)
    stored = dataset.rows(slice(0, 50))
    batch, unknown = encoder.encode(raw)
    equal(batch, stored)
    assert unknown == []
    assert torch.isnan(batch.labels).all()
    assert batch.labels.shape == batch.weights.shape == (50, 2)
    in_text = [{name: to_text(name, value) for name, value in row.items()} for row in raw]
    for row, text in zip(raw, in_text, strict=True):
        text["history"] = row["history"]
    equal(encoder.encode(in_text)[0], stored)


def test_saved_and_loaded(dataset: RankingDataset, raw: list[Row], tmp_path: Path) -> None:
    encoder = RankingEncoder.from_dataset(dataset)
    encoder.save(tmp_path / "encoder.json")
    loaded = RankingEncoder.load(tmp_path / "encoder.json")
    assert loaded.schema == dataset.schema
    equal(loaded.encode(raw)[0], encoder.encode(raw)[0])
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(RunError, match="must be an encoder of rows; it is not"):
        RankingEncoder.load(tmp_path / "encoder.json")


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_table_is_encoded_as_its_rows_are(
    dataset: RankingDataset, raw: list[Row], as_ids: bool
) -> None:
    encoder = RankingEncoder.from_dataset(dataset)
    table = pl.DataFrame(raw, infer_schema_length=None).with_columns(pl.lit("x").alias("unread"))
    rows = [*raw, {"item": "i77", "tags": ["a", "q"]}]
    table = pl.concat([table, pl.DataFrame([rows[-1]])], how="diagonal")
    equal(encoder.encode_table(table, as_ids=as_ids), encoder.encode(rows, as_ids=as_ids)[0])
    few = ["price", "genres", "item"]
    own = [{name: row.get(name) for name in few} for row in rows]
    batch = encoder.encode_table(table.select(few), as_ids=as_ids)
    equal(batch, encoder.encode(own, as_ids=as_ids)[0])
    chosen = encoder.select(few)
    assert [column.name for column in chosen.schema.columns] == ["item", "genres", "price"]
    batch = chosen.encode_table(table, as_ids=as_ids)
    equal(batch, chosen.encode(own, as_ids=as_ids)[0])
    with pytest.raises(
        UsageError, match=r"column 'price' must hold finite numbers alone; row 2 of"
    ):
        encoder.encode_table(pl.DataFrame({"price": ["3", "x"]}))


def test_a_vector_in_several_columns_of_a_table(tmp_path: Path) -> None:
    numbers = pl.DataFrame({"v_0": [0.5, 1.0, None], "v_1": ["2", "", "3"], "click": [0, 1, 1]})
    numbers.write_csv(tmp_path / "rows.csv")
    data = prepare_ranking(tmp_path / "rows.csv", tmp_path / "data", targets=["click"])
    encoder = RankingEncoder.from_dataset(data)
    table = numbers.with_columns(pl.col("v_1").cast(pl.Float64, strict=False))
    for one in (table, numbers.cast(pl.String)):
        batch = encoder.encode_table(one.drop("click"))
        equal(batch, encoder.encode(one.drop("click").to_dicts())[0])
        assert batch.vectors[0][0].tolist() == [0.5, 2.0]
        assert torch.isnan(batch.vectors[0][1:]).all()


def test_unknown_values_of_each_row(dataset: RankingDataset) -> None:
    encoder = RankingEncoder.from_dataset(dataset)
    rows: list[Row] = [{"tags": ["q", "q"]}, {}, {"item": "i77", "tags": ["q"]}]
    batch, unknown = encoder.encode_each(rows)
    assert unknown == [["tags=q"], [], ["item=i77", "tags=q"]]
    equal(batch, encoder.encode(rows)[0])


def test_unknown_values(dataset: RankingDataset) -> None:
    row: dict[str, Any] = {"item": "i77", "tags": ["a", "q"], "history": ["i1", "i77", "i2"]}
    encoder = RankingEncoder.from_dataset(dataset)
    batch, unknown = encoder.encode([row, {}])
    assert batch.codes.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert [len(bag.values) for bag in batch.bags] == [1, 0, 0, 2]
    assert unknown == ["item=i77", "tags=q", "history=i77"]
    assert torch.isnan(batch.numbers).all()


def test_ids(dataset: RankingDataset, raw: list[Row]) -> None:
    encoder = RankingEncoder.from_dataset(dataset)
    batch, _ = encoder.encode(raw, as_ids=True)
    stored = dataset.rows(slice(0, 50), as_ids=True)
    assert torch.equal(batch.codes, stored.codes)
    columns = dataset.schema.of_kind("multi", "history")
    for column, ours, theirs in zip(columns, batch.bags, stored.bags, strict=True):
        assert torch.equal(ours.offsets, theirs.offsets)
        if column.kind == "history":
            assert torch.equal(ours.values, theirs.values)
        for first, end in zip(ours.offsets[:-1], ours.offsets[1:], strict=True):
            assert set(ours.values[first:end].tolist()) == set(theirs.values[first:end].tolist())
    new, _ = encoder.encode([{"item": "i77", "seen": ["i77"]}], as_ids=True)
    (expected,) = value_ids("item", pl.Series(["i77"]))
    assert new.codes[0].tolist() == [0, expected, 0]
    assert [bag.values.tolist() for bag in new.bags] == [[], [expected], [], []]


def test_no_rows(dataset: RankingDataset) -> None:
    batch, _ = RankingEncoder.from_dataset(dataset).encode([])
    assert len(batch) == 0
    assert batch.codes.shape == (0, 3)
    assert [bag.offsets.tolist() for bag in batch.bags] == [[0]] * 4


def test_wrong_rows(dataset: RankingDataset) -> None:
    encoder = RankingEncoder.from_dataset(dataset)
    with pytest.raises(UsageError, match=r"values are of the columns .*; got 'colour'.* 'color'"):
        encoder.encode([{}, {"colour": "red"}])
    with pytest.raises(UsageError, match="column 'age' must hold finite numbers alone; row 2"):
        encoder.encode([{"age": 3}, {"age": "x"}])
    with pytest.raises(UsageError, match="column 'v' must hold vectors of 3 numbers; row 1 has"):
        encoder.encode([{"v": [1, 2]}])
