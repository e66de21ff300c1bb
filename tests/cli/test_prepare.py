from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.data.dataset import Dataset
from ensue.errors import DataError, UsageError

LOG = "user_id,item_id,rating,timestamp\n1,a,5,10\n1,b,4,20\n1,c,2,30\n2,a,5,15\n"


def run(*arguments: str | Path):
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_json_is_one_object_and_messages_go_elsewhere(tmp_path: Path):
    (tmp_path / "log.csv").write_text(LOG)
    result = run(
        tmp_path / "log.csv", "-o", tmp_path / "out", "--filter", "rating>=3", "--filter",
        "k-core=1", "--split", "time:0.5,1", "--memory", "100MB", "--name", "mine", "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["path"] == str(tmp_path / "out")
    assert answer["name"] == "mine"
    assert answer["counts"]["dropped by rating>=3"] == 1
    assert answer["columns"]["rating"] == "rating"
    assert answer["hash"] == Dataset(tmp_path / "out").info.hash
    assert "user is 'user_id'" in result.stderr


def test_summary_for_people(tmp_path: Path):
    (tmp_path / "log.tsv").write_text(LOG.replace(",", "\t"))
    result = run(tmp_path / "log.tsv", "-o", tmp_path / "out", "--delimiter", "\\t")
    assert result.exit_code == 0
    assert "interactions" in result.stdout
    assert "leave-one-out" in result.stdout
    assert "other users' future" in result.stderr


def test_flags_name_columns(tmp_path: Path):
    (tmp_path / "log.csv").write_text("who,what,when,liked,shop\n1,a,5,1,x\n")
    result = run(
        tmp_path / "log.csv", "-o", tmp_path / "out", "--user", "who", "--item", "what",
        "--time", "when", "--label", "liked", "--context", "shop", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["columns"] == {
        "user": "who",
        "item": "what",
        "time": "when",
        "liked": "liked",
        "shop": "shop",
    }


def test_files_for_splits(tmp_path: Path):
    (tmp_path / "train.csv").write_text(LOG)
    (tmp_path / "test.csv").write_text(LOG)
    parts = ["--train", tmp_path / "train.csv", "--test", tmp_path / "test.csv"]
    result = run(*parts, "-o", tmp_path / "out", "--json")
    counts = json.loads(result.stdout)["counts"]
    assert (counts["train"], counts["validation"], counts["test"]) == (4, 0, 4)
    with pytest.raises(UsageError, match="got both"):
        run(tmp_path / "train.csv", *parts, "-o", tmp_path / "out2")
    with pytest.raises(UsageError, match="got neither"):
        run("-o", tmp_path / "out2")


def test_errors_reach_the_caller_and_leave_nothing(tmp_path: Path):
    with pytest.raises(DataError, match="there is no file"):
        run(tmp_path / "log.csv", "-o", tmp_path / "out", "--json")
    assert list(tmp_path.iterdir()) == []


ITEMS = "item,title,genres\na,Film A,x|y\nc,Film C,y\nz,Film Z,x\nc,again,y\n"


def prepare_with_features(folder: Path, *flags: str | Path):
    (folder / "log.csv").write_text(LOG)
    (folder / "items.csv").write_text(ITEMS)
    (folder / "users.jsonl").write_text('{"user": 2, "age": 30, "zip": 7}\n')
    tables = ("--items", folder / "items.csv", "--users", folder / "users.jsonl")
    return run(folder / "log.csv", "-o", folder / "out", *tables, *flags)


def test_features_in_json(tmp_path: Path):
    result = prepare_with_features(
        tmp_path, "--feature", "users.zip=categorical", "--feature", "age=ignore", "--json"
    )
    answer = json.loads(result.stdout)
    dataset = Dataset(tmp_path / "out")
    stored = {side: info.model_dump() for side, info in dataset.info.features.items()}
    assert answer["features"] == stored
    (genres,) = answer["features"]["items"]["columns"]
    assert (genres["name"], genres["kind"], genres["size"]) == ("genres", "multi", 2)
    assert genres["missing"] == pytest.approx(1 / 3)
    (zip_code,) = answer["features"]["users"]["columns"]
    assert (zip_code["name"], zip_code["reason"]) == ("zip", "as told")
    assert "'genres' is multi (text split by '|')" in result.stderr
    assert "left out: 'age' (as told)" in result.stderr
    assert dataset.items_table["title"].to_list() == ["Film A", None, "Film C"]


def test_features_for_people(tmp_path: Path):
    lines = prepare_with_features(tmp_path, "--feature", "age=ignore").stdout.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert "items with a row in items.csv 2" in rows
    assert "rows of items.csv of items not in the log 1" in rows
    assert "more rows of items.csv of the same items 1" in rows
    assert "users with a row in users.jsonl 1" in rows
    assert "items genres multi 2 33.33% text split by '|'" in rows
    assert "users zip categorical 1 50.00% whole numbers, by its name" in rows
    assert "users age left out - - as told" in rows


def test_wrong_features(tmp_path: Path):
    with pytest.raises(UsageError, match="--feature takes NAME=ROLE; got 'genres'"):
        prepare_with_features(tmp_path, "--feature", "genres")
    with pytest.raises(UsageError, match="role of 'genres' is unknown; got 'many'"):
        prepare_with_features(tmp_path, "--feature", "genres=many")
    assert not (tmp_path / "out").exists()


def test_graphs(tmp_path: Path):
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "tags.csv").write_text("item,tag\na,x\nz,x\n")
    (tmp_path / "more.csv").write_text("item,tag\nb,y\n")
    (tmp_path / "calls.csv").write_text("who,whom,minutes,timestamp\n1,2,9,5\n")
    arguments = [
        *(tmp_path / "log.csv", "-o", tmp_path / "out", "--overwrite"),
        *("--graph", f"tags={tmp_path / 'tags.csv'}", "--graph", f"tags={tmp_path / 'more.csv'}"),
        *("--graph", f"calls={tmp_path / 'calls.csv'}"),
        *("--graph-columns", "calls=who:user,whom:user,weight=minutes,time=timestamp"),
    ]
    answer = json.loads(run(*arguments, "--json").stdout)
    calls = answer["graphs"]["calls"]
    assert (calls["types"], calls["sizes"], calls["edges"]) == (["user", "user"], [2, 2], 1)
    assert answer["graphs"]["tags"]["sources"] == [
        str(tmp_path / f"{n}.csv") for n in ("tags", "more")
    ]
    graphs = Dataset(tmp_path / "out").graphs()
    assert graphs["calls"].weights.tolist() == [9]
    result = run(*arguments)
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "tags item tag 3 2 2 1 no" in rows
    assert "'whom' is 'user', weight is 'minutes', time is 'timestamp'" in result.stderr
    with pytest.raises(UsageError, match="--graph takes NAME=FILE; got"):
        run(tmp_path / "log.csv", "-o", tmp_path / "out", "--graph", "tags.csv")
    with pytest.raises(UsageError, match="--graph is not for a ranking dataset"):
        run(*arguments, "--target", "rating")
