from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import ensue
from ensue.errors import DataError

LOG = "user,item,timestamp\n" + "".join(
    f"u{user},i{item},{1_600_000_000 + item}\n" for user in range(4) for item in range(1, 4)
)


def titles(tmp_path: Path, table: str) -> list[str | None]:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text(table)
    dataset = ensue.prepare(tmp_path / "log.csv", tmp_path / "data", items=tmp_path / "items.csv")
    assert dataset.items_table["raw_id"].to_list() == ["i1", "i2", "i3"]
    return dataset.items_table["title"].to_list()


def test_titles_in_any_order_missing_ones_null(tmp_path: Path) -> None:
    table = "item_id,year,title\ni3,1999,Three\ni9,1999,Nine\ni1,2000,One\ni1,2000,Again\n"
    assert titles(tmp_path, table) == ["One", None, "Three"]


def test_without_header(tmp_path: Path) -> None:
    (tmp_path / "log.dat").write_text("1::7::5::970000000\n1::8::3::970000001\n")
    (tmp_path / "movies.dat").write_text("7::Film, the (1990)::Drama|Comedy\n8::Other::War\n")
    dataset = ensue.prepare(
        tmp_path / "log.dat", tmp_path / "data", items=tmp_path / "movies.dat", split="none"
    )
    assert dataset.items_table["title"].to_list() == ["Film, the (1990)", "Other"]


def test_recbole_items(tmp_path: Path) -> None:
    """Titles of several words must not make the table look like sequences."""
    words = ["One", "Two Two", "Three Three Three"]
    table = "item_id:token\tmovie_title:token_seq\n" + "".join(
        f"i{n}\t{title}\n" for n, title in enumerate(words, 1)
    )
    assert titles(tmp_path, table) == words


def test_titles_do_not_change_the_dataset(tmp_path: Path) -> None:
    titles(tmp_path, "item,title\ni1,One\n")
    plain = ensue.prepare(tmp_path / "log.csv", tmp_path / "plain")
    assert plain.info.hash == ensue.Dataset(tmp_path / "data").info.hash


def test_parquet_with_integer_ids(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\n1,10\n1,20\n1,30\n2,10\n2,20\n2,30\n")
    pl.DataFrame({"movie_id": [10, 20, 30], "title": ["A", "B", "C"]}).write_parquet(
        tmp_path / "items.parquet"
    )
    dataset = ensue.prepare(
        tmp_path / "log.csv", tmp_path / "data", items=tmp_path / "items.parquet"
    )
    assert dataset.items_table["title"].to_list() == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("item,title,name\ni1,One,Two\n", "title column of .*items.csv must be clear.* NAME=title"),
        ("item,title\nx,One\n", "has none of them in its column 'item'"),
    ],
)
def test_unusable_tables_leave_no_dataset(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        titles(tmp_path, table)
    assert not (tmp_path / "data").exists()
