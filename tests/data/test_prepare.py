from __future__ import annotations

import gzip
import json
from collections import defaultdict
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue.data import prepare as prepare_module
from ensue.data.dataset import Dataset
from ensue.data.prepare import prepare
from ensue.errors import UsageError

# user 2 comes first, user 10 is larger than 9 as a number and smaller as text
ROWS = [
    ("2", "b", 4.0, 30),
    ("10", "a", 5.0, 10),
    ("2", "a", 3.0, 10),
    ("9", "c", 1.0, 5),
    ("2", "c", 5.0, 20),
    ("10", "b", 2.0, 10),
]
# What they must become: dense user, item, time in microseconds, rating, split (leave-one-out).
EXPECTED = [
    (1, 1, 10_000_000, 3.0, 0),
    (1, 3, 20_000_000, 5.0, 1),
    (1, 2, 30_000_000, 4.0, 2),
    (2, 3, 5_000_000, 1.0, 0),
    (3, 1, 10_000_000, 5.0, 0),
    (3, 2, 10_000_000, 2.0, 0),
]


def lines(separator: str, header: bool = True) -> str:
    rows = [("user_id", "item_id", "rating", "timestamp")] if header else []
    return "".join(separator.join(map(str, row)) + "\n" for row in [*rows, *ROWS])


def table(dataset: Dataset) -> list[tuple[float, ...]]:
    names = ["user", "item", "time", "rating", "split"]
    return list(zip(*(dataset.column(name).tolist() for name in names), strict=True))


def frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")


def write_csv(path: Path) -> None:
    path.write_text(lines(","))


def write_crlf_with_mark(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + lines(",").replace("\n", "\r\n").encode())


def write_quoted(path: Path) -> None:
    text = lines(",").replace("user_id", '"User ID"').replace(",a,", ',"a",')
    path.write_text(text.rstrip("\n"))  # and no end of the last line


def write_tsv_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(lines("\t").encode()))


def write_colons(path: Path) -> None:
    path.write_text(lines("::", header=False))


def write_recbole(path: Path) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    path.write_text(header + lines("\t", header=False))


def write_json_lines(path: Path) -> None:
    rows = [{"extra": [1, {"a": None}], **row} for row in frame().to_dicts()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")


def write_parquet(path: Path) -> None:
    frame().with_columns(pl.col("user_id").cast(pl.Int16)).write_parquet(path)


def write_parquet_datetimes(path: Path) -> None:
    seconds = pl.col("timestamp").cast(pl.Int64) * 1000
    frame().with_columns(seconds.cast(pl.Datetime("ms", "UTC"))).write_parquet(path)


def write_folder(path: Path) -> None:
    for number, rows in enumerate(frame().iter_slices(2)):
        folder = path / f"day={number}"
        folder.mkdir(parents=True)
        rows.write_parquet(folder / "part.parquet")
    (path / "_SUCCESS").touch()


@pytest.mark.parametrize(
    "write",
    [
        write_csv,
        write_crlf_with_mark,
        write_quoted,
        write_tsv_gz,
        write_colons,
        write_recbole,
        write_json_lines,
        write_parquet,
        write_parquet_datetimes,
        write_folder,
    ],
)
def test_every_format_gives_the_same_dataset(tmp_path: Path, write):
    write(tmp_path / "log")
    dataset = prepare(tmp_path / "log", tmp_path / "out")
    assert table(dataset) == EXPECTED
    assert dataset.user_ids.raw.to_list() == ["2", "9", "10"]
    assert dataset.item_ids.raw.to_list() == ["a", "b", "c"]
    assert dataset.info.labels == ["rating"]
    assert dataset.info.time == "column"
    assert dataset.histories("train")[1].tolist() == [1]
    assert dataset.targets("test")[1].tolist() == [2]
    assert len(dataset.targets("test")[2]) == 0
    assert sorted(path.name for path in dataset.path.iterdir()) == [
        "dataset.json",
        "interactions.arrow",
        "items.arrow",
        "users.arrow",
    ]
    reference = tmp_path / "reference.csv"
    write_csv(reference)
    assert dataset.info.hash == prepare(reference, tmp_path / "again").info.hash


def test_interactions_are_readable_by_polars(tmp_path: Path):
    write_csv(tmp_path / "log.csv")
    prepare(tmp_path / "log.csv", tmp_path / "out")
    rows = pl.read_ipc(tmp_path / "out" / "interactions.arrow")
    assert rows.select("user", "item", "time", "rating", "split").rows() == EXPECTED


def test_messages_say_what_was_read_and_what_leaks(tmp_path: Path, capsys):
    write_colons(tmp_path / "ratings.dat")
    dataset = prepare(tmp_path / "ratings.dat", tmp_path / "out")
    written = capsys.readouterr()
    assert written.out == ""
    assert "no header" in written.err
    assert "time is '4'" in written.err
    assert "other users' future" in written.err
    assert dataset.info.columns == {"user": "1", "item": "2", "time": "4", "rating": "3"}
    assert any("other users' future" in note for note in dataset.info.notes)


def test_time_split_has_no_note(tmp_path: Path):
    write_csv(tmp_path / "log.csv")
    dataset = prepare(tmp_path / "log.csv", tmp_path / "out", split="time:0.5,0.8")
    assert dataset.info.notes == []
    assert dataset.info.split["cutoffs"] == [
        "1970-01-01T00:00:10+00:00",
        "1970-01-01T00:00:20+00:00",
    ]
    assert [row[4] for row in table(dataset)] == [1, 2, 2, 0, 1, 1]


@pytest.mark.parametrize("compress", [False, True])
def test_sequences(tmp_path: Path, compress: bool):
    text = b"7 3 1 3\n8 2\n\n9\n7 5 \n"
    (tmp_path / "log.txt").write_bytes(gzip.compress(text) if compress else text)
    dataset = prepare(tmp_path / "log.txt", tmp_path / "out", split="none")
    assert dataset.user_ids.raw.to_list() == ["7", "8"]
    assert dataset.item_ids.raw.to_list() == ["1", "2", "3", "5"]
    assert dataset.column("item").tolist() == [3, 1, 3, 4, 2]
    assert dataset.column("time").tolist() == [0, 1, 2, 3, 0]
    assert dataset.info.time == "order"
    assert any("no times" in note for note in dataset.info.notes)


def test_files_for_each_split(tmp_path: Path):
    for name, text in {
        "train": "u,i,1\nv,j,9\n",
        "validation": "u,k,5\n",
        "test": "u,l,3\n",
    }.items():
        (tmp_path / name).write_text("user,item,timestamp\n" + text)
    parts = {name: tmp_path / name for name in ("train", "validation", "test")}
    dataset = prepare(parts, tmp_path / "out")
    assert dataset.info.split == {"kind": "files"}
    # user, then split, then time: the test row is earlier than the validation row
    assert dataset.column("split").tolist() == [0, 1, 2, 0]
    assert dataset.column("time").tolist() == [1_000_000, 5_000_000, 3_000_000, 9_000_000]
    assert dataset.histories("train+validation")[1].tolist() == [1, 3]
    assert dataset.targets("validation")[1].tolist() == [3]
    assert dataset.info.counts["test"] == 1


def test_context_columns(tmp_path: Path):
    (tmp_path / "log.csv").write_text(
        "user,item,timestamp,device,hour,zip\n1,1,1,web,3,07\n1,2,2,,,10\n1,3,3,app,4.5,9\n"
    )
    context = ["device", "hour", "zip:text"]
    dataset = prepare(tmp_path / "log.csv", tmp_path / "out", context=context, split="none")
    assert dataset.column("device").dtype == np.int32
    assert dataset.column("device").tolist() == [2, 0, 1]
    assert dataset.vocabulary("device").raw.to_list() == ["app", "web"]
    assert dataset.column("hour").tolist()[::2] == [3.0, 4.5]
    assert np.isnan(dataset.column("hour")[1])
    assert dataset.vocabulary("zip").raw.to_list() == ["07", "10", "9"]
    assert dataset.info.context == ["device", "hour", "zip"]


def test_hive_folder_names_are_columns(tmp_path: Path):
    for device in ("app", "web"):
        folder = tmp_path / "log" / f"device={device}"
        folder.mkdir(parents=True)
        pl.DataFrame({"user": [1], "item": [device], "ts": [5]}).write_parquet(folder / "0.parquet")
    dataset = prepare(tmp_path / "log", tmp_path / "out", context=["device"], split="none")
    assert dataset.column("device").tolist() == [1, 2]


def test_label_columns_without_numbers_are_left_out_and_named(tmp_path: Path, capsys):
    (tmp_path / "log.csv").write_text("user,item,timestamp,label,click\n1,1,1,good,1\n")
    assert prepare(tmp_path / "log.csv", tmp_path / "out").info.labels == ["click"]
    assert "'label' left out, no numbers" in capsys.readouterr().err


def test_one_name_may_be_given_without_a_list(tmp_path: Path):
    write_csv(tmp_path / "log.csv")
    dataset = prepare(
        tmp_path / "log.csv", tmp_path / "out", labels="rating", filters="min-length=3"
    )
    assert dataset.num_users == 1
    assert dataset.info.sources == [str(tmp_path / "log.csv")]


def test_filters_are_counted_and_ids_come_after_them(tmp_path: Path):
    write_csv(tmp_path / "log.csv")
    dataset = prepare(
        tmp_path / "log.csv", tmp_path / "out", filters=["rating>=3", "min-length=2"], split="none"
    )
    assert dataset.user_ids.raw.to_list() == ["2"]
    assert dataset.info.counts == {
        "users": 1,
        "items": 3,
        "interactions": 3,
        "train": 3,
        "validation": 0,
        "test": 0,
        "read": 6,
        "dropped by rating>=3": 2,
        "dropped by min-length=2": 1,
    }
    assert dataset.info.filters == {"applied": ["rating>=3", "min-length=2"]}


def test_overwrite(tmp_path: Path):
    write_csv(tmp_path / "log.csv")
    prepare(tmp_path / "log.csv", tmp_path / "out", split="none")
    with pytest.raises(UsageError, match="overwrite"):
        prepare(tmp_path / "log.csv", tmp_path / "out")
    dataset = prepare(tmp_path / "log.csv", tmp_path / "out", overwrite=True, name="mine")
    assert (dataset.info.split["kind"], dataset.info.name) == ("leave-one-out", "mine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "1MB"}, "16MB or more"),
        ({"memory": "lots"}, "'lots'"),
        ({"split": "files"}, "one file for each"),
        ({"split": "time:0.8,0.9", "time": None}, "no time column"),
        ({"format": "csv"}, "Known: delimited"),
    ],
)
def test_wrong_use(tmp_path: Path, settings, message):
    (tmp_path / "log.csv").write_text("user,item\n1,2\n")
    with pytest.raises(UsageError, match=message):
        prepare(tmp_path / "log.csv", tmp_path / "out", **settings)


def expected_dataset(rows, bound: int, split: str) -> list[tuple[str, str, int, int]]:
    """Return (user, item, time in s, split) as the words of the docs have it, row by row."""
    while True:
        users, items = defaultdict(int), defaultdict(int)
        for user, item, _ in rows:
            users[user] += 1
            items[item] += 1
        kept = [row for row in rows if users[row[0]] >= bound and items[row[1]] >= bound]
        if len(kept) == len(rows):
            break
        rows = kept
    is_numeric = all(user == str(int(user)) for user, _, _ in rows if user.isdigit()) and all(
        user.isdigit() for user, _, _ in rows
    )
    result = []
    for user in sorted({row[0] for row in rows}, key=int if is_numeric else str.encode):
        mine = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])
        m = len(mine)
        if split == "ratio":
            ends = ceil(Fraction(7 * m, 10)), ceil(Fraction(8 * m, 10))
        else:
            ends = (m - 2, m - 1) if m >= 3 else (m, m)
        for place, row in enumerate(mine):
            result.append((*row, int(place >= ends[0]) + int(place >= ends[1])))
    return result


LOGS = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "10", "007", "x", "9999999999"]),
        st.sampled_from(["5", "40", "z", "-1"]),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(log=LOGS, bound=st.integers(0, 3), split=st.sampled_from(["ratio", "leave-one-out"]))
def test_any_log_in_any_memory_is_what_the_definition_says(
    tmp_path_factory, monkeypatch, log, bound, split
):
    expected = expected_dataset(log, bound, split)
    if not expected:
        return
    monkeypatch.setattr(prepare_module, "_LEAST_MEMORY", 0)
    folder = tmp_path_factory.mktemp("any")
    text = "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in log)
    (folder / "log.csv").write_text(text)
    filters = [f"k-core={bound}"] if bound else []
    hashes = set()
    for memory in (700, "64MB"):  # some rows per part, and all in one
        dataset = prepare(
            folder / "log.csv", folder / str(memory), filters=filters, split=split, memory=memory
        )
        hashes.add(dataset.info.hash)
        found = zip(
            dataset.user_ids.to_raw(dataset.column("user")),
            dataset.item_ids.to_raw(dataset.column("item")),
            (dataset.column("time") // 1_000_000).tolist(),
            dataset.column("split").tolist(),
            strict=True,
        )
        assert list(found) == expected
    assert len(hashes) == 1


@pytest.mark.slow
def test_real_logs(tmp_path: Path, shared_data: Path):
    sequences = shared_data / "ml-1m" / "sequences.txt.gz"
    counts = prepare(sequences, tmp_path / "ml-1m", split="ratio:0.7,0.1,0.2").info.counts
    assert counts["users"] == 6040
    assert counts["items"] == 3416
    assert counts["validation"] == 99_683
    assert counts["test"] == 197_526
    ratings = prepare(shared_data / "ml-100k" / "ml-100k.inter.gz", tmp_path / "ml-100k")
    assert ratings.info.counts["interactions"] == 100_000
    assert (ratings.num_users, ratings.num_items) == (943, 1682)
    beauty = prepare(shared_data / "s3rec-beauty" / "Beauty.txt.gz", tmp_path / "beauty")
    assert (beauty.num_users, beauty.num_items) == (22_363, 12_101)
    assert beauty.num_interactions == 198_502
