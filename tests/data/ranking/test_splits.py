"""Which rows are for training, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import DataError, UsageError
from tests.data.ranking.tables import Row, past_items, random_rows, write_rows
from tests.data.ranking.test_prepare import raw_bag

COLUMNS = ("user", "item", "time", "click")


def make(folder: Path, rows: list[Row], **settings: Any) -> RankingDataset:
    path = write_rows(folder / "rows.csv", rows, COLUMNS)
    return prepare_ranking(path, folder / "data", targets="click", **settings)


def sizes(dataset: RankingDataset) -> list[int]:
    return [dataset.num_rows(part) for part in ("train", "validation", "test")]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, [33, 4, 4]),
        ("ratio:0.5,0,0.5", [21, 0, 20]),
        ("none", [41, 0, 0]),
        ("time:1970-01-01T00:00:10,1970-01-01T00:00:20", [10, 10, 21]),
        ("time:0.5,0.75", [20, 10, 11]),
    ],
)
def test_kinds(tmp_path: Path, split: str | None, expected: list[int]) -> None:
    rows = [{**row, "time": number} for number, row in enumerate(random_rows(41, 0))]
    assert sizes(make(tmp_path, rows, split=split)) == expected


def test_rows_of_one_time_are_in_one_part_of_a_split_by_time(tmp_path: Path) -> None:
    rows = [{**row, "time": number // 10} for number, row in enumerate(random_rows(40, 0))]
    dataset = make(tmp_path, rows, split="time:0.6,0.8")  # row 24 has time 2, row 32 time 3
    assert sizes(dataset) == [20, 10, 10]
    assert dataset.info.split["cutoffs"] == [
        "1970-01-01T00:00:02+00:00",
        "1970-01-01T00:00:03+00:00",
    ]


def test_files(tmp_path: Path) -> None:
    """Test rows may be earlier than training rows: no history of these has one of those."""
    rows = {
        part: random_rows(20, seed) for seed, part in enumerate(("train", "validation", "test"))
    }
    files = {part: write_rows(tmp_path / f"{part}.csv", of, COLUMNS) for part, of in rows.items()}
    dataset = prepare_ranking(files, tmp_path / "data", targets="click")
    assert sizes(dataset) == [20, 20, 20]
    assert dataset.info.split == {"kind": "files"}
    ordered = [sorted(of, key=lambda row: row["time"]) for of in rows.values()]
    known: list[Row] = []
    histories = raw_bag(dataset, dataset.rows(slice(0, 60)), "history")
    for part in ordered:
        known = sorted([*known, *part], key=lambda row: row["time"])
        expected = [past_items(known, row, 50) for row in part]
        assert histories[:20] == expected
        histories = histories[20:]


def test_wrong_splits(tmp_path: Path) -> None:
    rows = random_rows(20, 0)
    with pytest.raises(UsageError, match=r"is split by time: .*; got 'leave-one-out'"):
        make(tmp_path, rows, split="leave-one-out")
    with pytest.raises(DataError, match=r"needs training rows; split .* leaves none of 20"):
        make(tmp_path, rows, split="time:1970-01-01,1970-01-02")
    path = write_rows(tmp_path / "untimed.csv", rows, ["user", "item", "click"])
    with pytest.raises(UsageError, match="needs times, and the input has no time column"):
        prepare_ranking(path, tmp_path / "data", targets="click", split="time:0.8,0.9")
    assert not (tmp_path / "data").exists()
