from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.errors import RunError
from ensue.runs.train import train
from tests.helpers import make_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    make_dataset(folder / "data", [[1, 2, 3], [2, 3, 1]])
    return train("popularity", folder / "data", out=folder / "run")


def test_report_prints_the_path_and_says_what_is_missing(run):
    result = CliRunner().invoke(app, ["report", str(run.path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == f"{run.path / 'report.html'}\n"
    assert "was not evaluated yet" in result.stderr
    assert (run.path / "report.html").is_file()


def test_report_as_json(run, tmp_path):
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(run.path), "-o", str(out), "--json"])
    assert json.loads(result.stdout) == {"report": str(out)}
    assert out.is_file()


def test_a_folder_that_is_no_run(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(result.exception, RunError)
