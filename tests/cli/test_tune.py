from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.errors import UsageError
from tests.helpers import make_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    make_dataset(folder / "data", [[1, 2, 3, 4], [2, 3, 1, 4], [4, 1, 2, 3, 5], [5, 4, 1]])
    return folder


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.slow
def test_one_json_object_and_a_command_that_gives_the_best_again(folder: Path) -> None:
    result = call(
        *("tune", "caser", folder / "data", "-o", folder / "search", "--trials", 2, "--json"),
        *("--preset", "paper", "--set", "epochs=1", "--set", "window=2", "--set", "dim=4"),
        *("--range", "loss=mean,sum", "--range", "conv_activation=relu,identity"),
    )
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["path"] == str(folder / "search")
    assert found["trials"]["complete"] == 2
    assert found["best"]["settings"]["epochs"] == 1
    assert "--set loss=" in found["command"]
    assert '"' not in found["command"]
    command = shlex.split(found["command"])
    assert command[:3] == ["ensue", "train", "caser"]
    trained = json.loads(call(*command[1:], "--json").stdout)
    assert trained["metrics"]["validation"]["map"] == found["best"]["value"]
    assert trained["path"] == str(folder / "search-best")


@pytest.mark.slow
def test_text_for_people(folder: Path) -> None:
    result = call("tune", "markov", folder / "data", "-o", folder / "text", "--trials", 2)
    assert result.exit_code == 0
    assert " of 2" in result.stdout
    assert f"ensue evaluate {folder / 'text' / 'best'}" in result.stdout
    assert f"ensue train markov {folder / 'data'} -o {folder / 'text-best'}" in result.stdout


def test_a_bad_range_is_an_error_of_the_caller(folder: Path) -> None:
    result = CliRunner().invoke(
        app, ["tune", "bpr", str(folder / "data"), "-o", str(folder / "x"), "--range", "dim=8"]
    )
    assert "a range needs two values or more; 'dim' has [8]" in str(result.exception)
    result = CliRunner().invoke(
        app, ["tune", "bpr", str(folder / "data"), "-o", str(folder / "x"), "--range", "dim"]
    )
    assert isinstance(result.exception, UsageError)
    assert not (folder / "x").exists()
