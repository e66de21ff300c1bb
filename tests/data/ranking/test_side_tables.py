"""Tables of items and users, joined to rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import DataError, UsageError
from tests.data.ranking.tables import in_time_order, random_rows, write_rows
from tests.data.ranking.test_prepare import raw_bag, raw_codes

ITEMS: dict[str, tuple[str, str, str]] = {
    "i0": ("x|y", "1.5", "A"),
    "i1": ("y", "2.5", "B"),
    "i2": ("", "", "A"),
    "i3": ("z|x", "10.0", ""),
    "i9": ("w", "77.0", "C"),  # not in the log
}
USERS = {"u0": ("0.5 1", "f"), "u1": ("", "m"), "u3": ("2 3", "f")}


def make(folder: Path, **settings: Any) -> RankingDataset:
    rows = write_rows(folder / "rows.csv", random_rows(60, 0), ["user", "item", "time", "click"])
    items = [",".join([name, *values]) for name, values in ITEMS.items()]
    (folder / "items.csv").write_text("\n".join(["item,genres,price,brand", *items]))
    users = [",".join([name, *values]) for name, values in USERS.items()]
    (folder / "users.csv").write_text("\n".join(["user,taste,sex", *users]))
    tables = {"items": folder / "items.csv", "users": folder / "users.csv"}
    features = {"users.taste": "vector: "}
    settings = {"targets": "click", "features": features, **tables, **settings}
    return prepare_ranking(rows, folder / "data", **settings)


def test_joined_by_id(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    rows = in_time_order(random_rows(60, 0))
    batch = dataset.rows(slice(0, 60))
    genres = [sorted(g for g in ITEMS.get(r["item"], ("",))[0].split("|") if g) for r in rows]
    assert [sorted(bag) for bag in raw_bag(dataset, batch, "genres")] == genres
    brands = [ITEMS.get(row["item"], ("", "", ""))[2] or None for row in rows]
    assert raw_codes(dataset, batch, "brand") == brands
    sexes = [USERS.get(row["user"], ("", None))[1] for row in rows]
    assert raw_codes(dataset, batch, "sex") == sexes
    tastes = [USERS.get(row["user"], ("", ""))[0] or "nan nan" for row in rows]
    expected = np.array([[float(part) for part in taste.split()] for taste in tastes])
    assert_allclose(batch.vectors[0].numpy(), expected)
    # Mean and deviation are over training rows: an item that is shown more counts more.
    prices = np.array([float(ITEMS.get(row["item"], ("", "", ""))[1] or "nan") for row in rows])
    train = prices[:48][~np.isnan(prices[:48])]
    assert_allclose(batch.numbers[:, 0].numpy(), (prices - train.mean()) / train.std(), rtol=1e-5)
    columns = {column.name: column for column in dataset.info.columns}
    assert columns["price"].missing == pytest.approx(np.isnan(prices[:48]).mean())
    assert columns["genres"].missing == pytest.approx(sum(not g for g in genres[:48]) / 48)
    assert columns["brand"].missing == pytest.approx(sum(not b for b in brands[:48]) / 48)
    counts = [sum(value in bag for bag in genres[:48]) for value in dataset.values("genres")]
    assert dataset.train_counts("genres").tolist() == [0, *counts]
    assert [(c.name, c.table) for c in dataset.info.columns] == [
        ("user", "rows"), ("item", "rows"), ("genres", "items"), ("price", "items"),
        ("brand", "items"), ("taste", "users"), ("sex", "users"), ("history", "log"),
    ]  # fmt: skip


def test_roles_of_one_side(tmp_path: Path) -> None:
    features = {"items.price": "ignore", "brand": "ignore", "taste": "ignore"}
    dataset = make(tmp_path, features=features, history_length=0)
    assert [c.name for c in dataset.schema.columns] == ["user", "item", "genres", "sex"]
    assert dataset.info.unused["items.price"] == "as told"


def test_wrong_tables(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("item,x\nq,1.5\nr,2.5\n")
    with pytest.raises(DataError, match="the table of items must have items of the log"):
        make(tmp_path, items=tmp_path / "other.csv", features={})
    (tmp_path / "same.csv").write_text("item,user\ni1,a\ni2,b\n")
    with pytest.raises(DataError, match="'user' of items is also one of the rows"):
        make(tmp_path, items=tmp_path / "same.csv", features={}, users=None)
    with pytest.raises(UsageError, match="tables of items and users; 'prise' is none"):
        make(tmp_path, features={"prise": "numeric"})
    flat = write_rows(tmp_path / "flat.csv", random_rows(9, 0), ["color", "click"])
    with pytest.raises(UsageError, match="joined by the item of each row, and the rows have none"):
        prepare_ranking(flat, tmp_path / "d", targets="click", items=tmp_path / "items.csv")
    assert not (tmp_path / "data").exists()
