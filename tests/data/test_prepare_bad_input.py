"""The bad-input table: one clear sentence with file and row, and nothing left behind."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path

import polars as pl
import pytest

from ensue.data.arrow_file import ColumnFile
from ensue.data.prepare import prepare
from ensue.data.row_store import RowStore
from ensue.errors import DataError, UsageError

HEADER = "user_id,item_id,rating,timestamp\n"
GOOD = "1,2,3.5,10\n"
MANY = HEADER + GOOD * 20_000


def refused(tmp_path: Path, content: bytes | str, message: str, name: str = "log.csv", **settings):
    """Check that prepare refuses `content` with `message`, and leaves the folder as it was."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=message) as caught:
        prepare(path, tmp_path / "out", **settings)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert "\n" not in str(caught.value)
    path.unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "user_id,rating,timestamp\n1,2,3\n",
            r"the item column of .*log\.csv must be clear; none has a usual name among "
            r"\['user_id', 'rating', 'timestamp'\]. Pass --item",
        ),
        ("user_id,movie_id,book_id\n1,2,3\n", r"\['movie_id', 'book_id'\] could all be it"),
        (HEADER + GOOD + "1,2,3,soon\n", r"row 3 of .*log\.csv has 'soon' in column 'timestamp'"),
        (HEADER + GOOD + "\n\n1,2,3,-5\n", r"before 1970; row 5 of .*log\.csv has '-5'"),
        (HEADER + "1,2,3,1969-12-31\n", r"before 1970; row 2 "),
        (HEADER + GOOD + "1,2,3,\n", r"must have a time.*row 3 "),
        (HEADER + GOOD + "1,2,3,nan\n", r"must have a time.*row 3 "),
        (
            HEADER + GOOD * 3 + "1,2,3,1600000000000\n",
            r"in one unit; row 5 .*first rows are in seconds",
        ),
        (HEADER + GOOD + ",2,3,4\n", r"must have a user; row 3 of .*log\.csv has none"),
        (HEADER + GOOD + "1,,3,4\n", r"must have an item; row 3 "),
        (HEADER + GOOD * 1500 + "1,2,high,4\n", r"'rating' must hold numbers.*row 1502 .*'high'"),
        (HEADER + GOOD + "1,2,3\n", r"must have 4 columns.*row 3 of .*log\.csv has 3"),
        (HEADER + GOOD + "1,2,3,4,5\n", r"must have 4 columns.*row 3 of .*log\.csv has 5"),
        (MANY + '"a\nb",2,3,4\n1,2\n', r"row 20004 of .*log\.csv has 2"),
        (MANY + "1,2,3,x\n", r"row 20002 of .*log\.csv has 'x'"),
        ("", r"log\.csv is empty"),
        ("\n\n", r"log\.csv is empty"),
        (HEADER, r"log\.csv has none"),
        ("user_id\n1\n", r"--delimiter"),
        ("user_id,user_id,item_id\n1,2,3\n", r"column names must differ"),
        ("1,2,5\n3,4,2\n", r"starts with \['1', '2', '5'\].*--time 3 or --label 3"),
        (HEADER + "1,2,3,2020-01-01\n" * 2 + "1,2,3,17\n", r"row 4 of .*has '17'"),
    ],
)
def test_text(tmp_path: Path, content: str, message: str):
    refused(tmp_path, content, message)


def test_missing_column_with_a_close_name(tmp_path: Path):
    refused(
        tmp_path, HEADER + GOOD, r"'ratings' is not in .*Did you mean 'rating'", labels=["ratings"]
    )
    refused(tmp_path, HEADER + GOOD, r"'who' is not in .*It has \['user_id'", user="who")


def test_missing_file(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        prepare(tmp_path / "nowhere.csv", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wrong_encodings(tmp_path: Path):
    latin = (HEADER + GOOD + "1,caf\u00e9,3,4\n").encode("latin1")
    refused(tmp_path, latin, r"UTF-8; row 3 of .*log\.csv has the byte 0xe9. .*iconv")
    late = MANY.encode() + latin.split(b"\n")[2] + b"\n"
    refused(tmp_path, late, r"row 20002 of .*log\.csv has the byte 0xe9")
    refused(tmp_path, (HEADER + GOOD).encode("utf-16"), r"row 1 of .*UTF-16")
    refused(tmp_path, (HEADER + GOOD).encode("utf-16-le"), r"row 1 of .*UTF-16")


def test_broken_gzip(tmp_path: Path):
    whole = gzip.compress("".join(f"{n},{n * n % 97},3,10\n" for n in range(200_000)).encode())
    refused(tmp_path, whole[: len(whole) // 2], r"cut off or damaged after row \d+", "log.csv.gz")
    damaged = whole[:-8] + b"\0\0\0\0" + whole[-4:]
    refused(tmp_path, damaged, r"must be complete; .*log\.csv\.gz is cut off", "log.csv.gz")


def test_json_lines(tmp_path: Path):
    good = '{"user_id": 1, "item_id": "a", "timestamp": 3}\n'
    refused(tmp_path, good + '{"user_id": 1,\n', r"row 2 of .*log\.csv is not")
    refused(tmp_path, good + "[1]\n", r"row 2 of .*log\.csv is a list")
    refused(tmp_path, good * 2 + '\n{"user_id": 1, "timestamp": 3}\n', r"must have an item; row 4")
    refused(tmp_path, good + good.replace("3}", '"x"}'), r"row 2 of .*log\.csv has 'x'")
    rated = good.replace("}", ', "rating": 1}')
    refused(tmp_path, rated * 1500 + rated.replace("1}", '"no"}'), r"row 1501 of .*'no'")


def write_parquet(path: Path, **columns) -> bytes:
    pl.DataFrame(columns).write_parquet(path)
    content = path.read_bytes()
    path.unlink()
    return content


def test_parquet(tmp_path: Path):
    def parquet(**columns) -> bytes:
        return write_parquet(tmp_path / "x", **{"user": [1, 2], "item": [3, 4], **columns})

    whole = parquet(time=[1, 2])
    refused(tmp_path, whole[:-20], r"readable Parquet file; .*log\.parquet", "log.parquet")
    refused(tmp_path, parquet(user=[1, None]), r"must have a user; row 2 of ")
    refused(tmp_path, parquet(time=[1, None]), r"must have a time.*row 2 of ")
    refused(tmp_path, parquet(time=[1, -1]), r"before 1970; row 2 of ")
    refused(tmp_path, parquet(user=[1.0, 1.5]), r"whole numbers; row 2 of .* has 1.5")
    refused(tmp_path, parquet(item=[[1], [2]]), r"column 'item' of .*log\.csv holds List")
    refused(tmp_path, parquet(time=[True, False]), r"'time' must hold times")
    refused(tmp_path, parquet(rating=[1, 2]), r"'site' is not in", context=["site"])
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError, match=r"must hold .parquet files; .*folder has none"):
        prepare(folder, tmp_path / "out")


def test_mixed_context(tmp_path: Path):
    text = "user,item,time,zip\n" + "1,2,3,10115\n" * 1500 + "1,2,3,K1A\n"
    refused(tmp_path, text, r"row 1502 of .*'K1A'. Pass --context zip:text", context=["zip"])


@pytest.mark.parametrize(
    "one", ["k-core=3", "min-length=9", "rating>4", "since=2020-01-01", "item-core=3"]
)
def test_filters_that_leave_nothing(tmp_path: Path, one: str):
    refused(tmp_path, HEADER + GOOD * 2, f"'{one}' leaves none of 2", filters=[one])


def test_split_without_training_rows(tmp_path: Path):
    refused(tmp_path, HEADER + GOOD, "leaves none of 1", split="time:1970-01-01,1970-01-02")


def test_output_exists(tmp_path: Path):
    (tmp_path / "log.csv").write_text(HEADER + GOOD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"holds no dataset\.json"):
        prepare(tmp_path / "log.csv", tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", [(RowStore, "_flush"), (ColumnFile, "write")])
def test_full_disk(tmp_path: Path, monkeypatch, place):
    def no_room(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*place, no_room)
    monkeypatch.setattr("ensue.data.prepare._LEAST_MEMORY", 0)
    refused(tmp_path, HEADER + GOOD * 3, r"the one that holds .*out is full", memory=60)


def test_a_failed_overwrite_keeps_the_old_dataset(tmp_path: Path):
    (tmp_path / "log.csv").write_text(HEADER + GOOD)
    before = prepare(tmp_path / "log.csv", tmp_path / "out").info
    (tmp_path / "log.csv").write_text(HEADER + GOOD + "1,2\n")
    with pytest.raises(DataError, match="row 3"):
        prepare(tmp_path / "log.csv", tmp_path / "out", overwrite=True)
    assert before.hash in (tmp_path / "out" / "dataset.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out"]


def test_inputs_that_differ(tmp_path: Path):
    (tmp_path / "a.csv").write_text("user,item,time\n1,2,3\n")
    (tmp_path / "b.csv").write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match=r"all inputs must have the same columns; .*b\.csv"):
        prepare([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out")
