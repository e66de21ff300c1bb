from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.errors import UsageError


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 90)
    rows = 5 * np.eye(3)[classes] + rng.normal(size=(90, 3))
    np.savez(tmp_path / "x.npz", x=rows[:60], y=classes[:60], x_test=rows[60:], y_test=classes[60:])
    return tmp_path / "x.npz"


def test_a_table_and_a_folder(vectors, tmp_path):
    result = call("cluster", vectors, "-o", tmp_path / "out", "--dims", "2")
    assert result.exit_code == 0
    for text in ("scored on 30 rows (test)", "accuracy, Hungarian, fitted on train", "components"):
        assert text in result.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["assignments.parquet", "cluster.json", "model.safetensors", "report.html"]


def test_json(vectors):
    options = ("--over", "1,2", "--seeds", "2", "--set", "restarts=2")
    result = call("cluster", vectors, "--json", *options)
    found = json.loads(result.stdout)
    assert (found["path"], found["config"]["seeds"], found["config"]["restarts"]) == (
        None,
        [0, 1],
        2,
    )
    assert found["table"][0]["scores"]["test"]["ari"] > 0.9
    assert [row["k"] for row in found["table"]] == [3, 6]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--of", "rows"), "--of must be items or users; got 'rows'"),
        (("--over", "1,b"), "--over must be numbers, separated by commas; got '1,b'"),
        (("--dims", "0"), "--dims must be numbers above 0"),
        (("--labels", "kind"), r"must be a \.npy file with a value for each row; got kind"),
        (("--id", "key"), "is one of a Parquet table"),
        (("--test-share", "0.5"), "has a test part of its own"),
    ],
)
def test_what_has_no_meaning(vectors, options, text):
    result = call("cluster", vectors, *options)
    assert isinstance(result.exception, UsageError)
    with pytest.raises(UsageError, match=text):
        raise result.exception


def test_encode_prints_what_to_do_next(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 8, 8)))
    settings = ("--set", "epochs=1", "--set", "channels=[2]", "--set", "batch_size=8")
    result = call("encode", tmp_path / "x.npy", "-o", tmp_path / "out", *settings)
    assert result.exit_code == 0
    assert f"ensue cluster {tmp_path / 'out' / 'features.npz'}" in result.stdout
    result = call("encode", tmp_path / "x.npy", "-o", tmp_path / "b", "--encoder", tmp_path / "out")
    assert result.exit_code == 0
    result = call("encode", tmp_path / "x.npy", "-o", tmp_path / "out", *settings, "--resume")
    assert "is finished" in str(result.exception)
