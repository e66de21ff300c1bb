"""Features of real items and users: counts that the data sets are known to have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ensue
from benchmarks._retrieval_data import beauty_tables, citeulike_tables, ml_1m_tables
from ensue.data.features import Bags


@pytest.mark.slow
def test_movielens(shared_data: Path, tmp_path: Path) -> None:
    tables = ml_1m_tables(tmp_path / "tables", shared_data / "ml-1m")
    dataset = ensue.prepare(
        tables.interactions, tmp_path / "data", items=tables.items, users=tables.users
    )
    items, users = (dataset.info.features[side] for side in ("items", "users"))
    kinds = {one.name: (one.kind, one.size) for one in (*items.columns, *users.columns)}
    assert kinds == {
        "genres": ("multi", 18), "year": ("numeric", 1), "gender": ("categorical", 2),
        "age": ("numeric", 1), "occupation": ("categorical", 21),
    }  # fmt: skip
    assert (items.tables[0].rows, items.tables[0].found) == (3_883, 3_416)
    assert list(users.tables[0].unused) == ["zip"]
    table = dataset.item_features
    assert table is not None
    genres, film = table.values[0], int(dataset.item_ids.to_dense(["1"])[0])
    assert isinstance(genres, Bags)
    codes = genres.values[genres.offsets[film] : genres.offsets[film + 1]]
    names = dataset.feature_vocabulary("items", "genres").to_raw(codes)
    assert names == ["Animation", "Children's", "Comedy"]
    year = float(table.values[1][film]) * items.columns[1].deviation + items.columns[1].mean
    assert year == pytest.approx(1995, abs=1e-3)


@pytest.mark.slow
def test_beauty(shared_data: Path, tmp_path: Path) -> None:
    tables = beauty_tables(tmp_path / "tables", shared_data / "s3rec-beauty")
    dataset = ensue.prepare(tables.interactions, tmp_path / "data", items=tables.items)
    (attributes,) = dataset.info.features["items"].columns
    assert (attributes.kind, attributes.missing) == ("multi", 0.0)
    assert dataset.num_items == 12_101


@pytest.mark.slow
def test_citeulike(shared_data: Path, tmp_path: Path) -> None:
    tables = citeulike_tables(tmp_path / "tables", shared_data / "citeulike-a")
    dataset = ensue.prepare(
        tables.interactions, tmp_path / "data", items=tables.items, split="none"
    )
    tags, cites = dataset.info.features["items"].columns
    assert (tags.size, tags.kind, cites.kind) == (7_386, "multi", "multi")
    stored = dataset.item_features
    assert stored is not None
    citations = stored.values[1]
    assert isinstance(citations, Bags)
    assert int(np.diff(citations.offsets).sum()) == len(citations.values)
