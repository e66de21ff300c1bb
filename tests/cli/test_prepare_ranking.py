from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import UsageError
from tests.data.ranking.tables import random_rows, write_rows


def run(*arguments: str | Path):
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_and_the_function_agree(tmp_path: Path):
    rows = write_rows(tmp_path / "rows.csv", random_rows(40, 0))
    result = run(
        rows, "-o", tmp_path / "out", "--target", "click", "--target", "watch>=10 as long",
        "--weight", "long=w", "--feature", "tags=multi:|", "--feature", "seen=history:item:>",
        "--feature", "v=vector:|", "--history-length", "5", "--history-where", "click=1",
        "--split", "ratio:0.5,0.25,0.25", "--name", "mine", "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer.pop("path") == str(tmp_path / "out")
    dataset = prepare_ranking(
        rows,
        tmp_path / "same",
        targets=["click", "watch>=10 as long"],
        weights={"long": "w"},
        features={"tags": "multi:|", "seen": "history:item:>", "v": "vector:|"},
        history_length=5,
        history_where="click=1",
        split="ratio:0.5,0.25,0.25",
        name="mine",
    )
    assert answer == json.loads(dataset.info.model_dump_json())
    assert answer["kind"] == "ranking"
    assert answer["counts"] == {"rows": 40, "train": 20, "validation": 10, "test": 10}
    assert answer["hash"] == RankingDataset(tmp_path / "out").info.hash
    assert "target 'click' is binary" in result.stderr


def test_summary_for_people(tmp_path: Path):
    rows = write_rows(tmp_path / "rows.csv", random_rows(40, 0))
    result = run(rows, "-o", tmp_path / "out", "--target", "click", "--weight", "w")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "split ratio, 4/5, 1/10, 1/10" in lines
    assert any(
        line.startswith("click binary train 2") and line.endswith("w click") for line in lines
    )
    assert "rows user categorical 4 0.00% an id" in lines
    history = "the user's items of earlier rows"
    assert any(line.startswith("log history history 6") and history in line for line in lines)
    assert "rows click left out - - is a target" in lines


def test_flags_of_the_other_kind(tmp_path: Path):
    rows = write_rows(tmp_path / "rows.csv", random_rows(9, 0))
    with pytest.raises(UsageError, match="--filter is not for a ranking dataset, which --target"):
        run(rows, "-o", tmp_path / "out", "--target", "click", "--filter", "k-core=5")
    with pytest.raises(UsageError, match=r"--history-length is for a ranking dataset.*target too"):
        run(rows, "-o", tmp_path / "out", "--history-length", "0")
    with pytest.raises(UsageError, match="'clik' is none"):
        run(rows, "-o", tmp_path / "out", "--target", "clik")
    assert not (tmp_path / "out").exists()
