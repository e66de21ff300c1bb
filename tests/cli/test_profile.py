from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.errors import DataError, ExtraError, RunError, UsageError
from tests.helpers import make_dataset
from tests.runs.test_profile import ring_histories

FAST = ["--dim", "4", "--max-lag", "7"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "data"
    return make_dataset(path, ring_histories(60, 12)).path


@pytest.mark.slow
def test_tables_for_people(data: Path) -> None:
    result = CliRunner().invoke(app, ["profile", str(data), *FAST], catch_exceptions=False)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    found = ensue.profile(data, dim=4, max_lag=7)
    rules = [str(count) for count in found.intensity.rules.values()]
    assert ["as", "logged", *rules, f"{found.intensity.value:.4f}"] in lines
    total = found.dependence.total
    for lag in (1, 7):  # the last lag is shown, too
        (row,) = (line for line in lines if line[:2] == [str(lag), "60"])
        assert row[2:4] == [f"{total.value[lag]:.4f}", f"{total.floor[lag]:.4f}"]
    assert ["history", "length", "up", "to", *["12"] * 7, "12.0000"] in lines
    assert "The log-log slope of Dep_L" in result.stdout
    assert result.stdout.endswith(f"The page is {data / 'profile.html'}.\n")
    assert (data / "profile.html").is_file()


@pytest.mark.slow
def test_json(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    options = ["-o", str(out), "--seed", "3", "--json"]
    result = CliRunner().invoke(app, ["profile", str(data), *FAST, *options])
    found = json.loads(result.stdout)
    assert found.pop("page") == str(out)
    assert found == ensue.profile(data, dim=4, max_lag=7, seed=3).to_dict()
    assert "<svg" in out.read_text()


@pytest.mark.slow
def test_vectors_of_a_run(data: Path, tmp_path: Path) -> None:
    run = ensue.train("bpr", data, out=tmp_path / "bpr", dim=5, epochs=1)
    arguments = ["profile", str(data), "--embedding", str(run.path), "--json"]
    found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert found["protocol"]["vectors"].startswith(f"bpr run {run.path}, 5 factors")


def test_without_matplotlib_the_measures_remain(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "profile.html").unlink(missing_ok=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(app, ["profile", str(data), *FAST, "--json"])
    assert json.loads(result.stdout)["page"] is None
    assert "No page was written: its plots need matplotlib" in result.stderr
    assert not (data / "profile.html").exists()
    asked = CliRunner().invoke(app, ["profile", str(data), "-o", str(tmp_path / "page.html")])
    assert isinstance(asked.exception, ExtraError)
    assert asked.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["nothing"], DataError, "a dataset is a folder with a dataset.json"),
        (["data", "--embedding", "data"], RunError, "a run is a folder with a run.json"),
        (["data", "--max-lag", "0"], UsageError, "profile needs max_lag of 1 or more; got 0."),
    ],
)
def test_wrong_use_is_one_sentence(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(data.parent)
    result = CliRunner().invoke(app, ["profile", *arguments])
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
