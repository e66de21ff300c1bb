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
