"""`ensue distill` does what `ensue.distill` does, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.errors import EnsueError
from tests.cli.test_end_to_end import call
from tests.helpers import make_dataset
from tests.training.test_resume import stop_after

STUDENT = ["--set", "dim=4", "--set", "epochs=2", "--set", "checkpoint_seconds=0.0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and a teacher."""
    folder = tmp_path_factory.mktemp("distill")
    rng = np.random.default_rng(0)
    histories = [(rng.permutation(20)[: rng.integers(4, 12)] + 1).tolist() for _ in range(30)]
    make_dataset(folder / "data", histories, num_items=20)
    ensue.train("caser", folder / "data", out=folder / "teacher", dim=8, epochs=2, num_targets=1)
    return folder


def assert_same(path: str | Path, run: ensue.Run) -> None:
    weights = ensue.load(path).model.state_dict()
    for name, expected in run.model.state_dict().items():
        assert torch.equal(weights[name], expected)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (
            ["--set", "alpha=0.3", "--set", "weighting=position"],
            {"alpha": 0.3, "weighting": "position"},
        ),
        (
            ["--method", "kd-topk", "--set", "num_kept=5", "--model", "sasrec"],
            {"method": "kd-topk", "num_kept": 5, "model": "sasrec"},
        ),
        (
            ["--method", "kd", "--fit", "train+validation"],
            {"method": "kd", "fit": "train+validation"},
        ),
    ],
)
def test_the_same_student_as_in_python(
    folder: Path, tmp_path: Path, options: list[str], settings: dict[str, Any]
) -> None:
    place = ["distill", folder / "teacher", folder / "data", "-o", tmp_path / "cli"]
    cache = ["--cache", tmp_path / "answers"]
    found = call(*place, *options, *STUDENT, *cache, "--json")
    assert len(list((tmp_path / "answers").iterdir())) == 1
    run = ensue.distill(
        folder / "teacher",
        folder / "data",
        out=tmp_path / "python",
        cache=tmp_path / "answers",
        **{"dim": 4, "epochs": 2, "checkpoint_seconds": 0.0, **settings},
    )
    assert len(list((tmp_path / "answers").iterdir())) == 1  # used again
    assert_same(tmp_path / "cli", run)
    assert found["path"] == str(tmp_path / "cli")
    for name in ("model", "config", "training", "distillation", "fit", "metrics", "dataset"):
        assert found[name] == run.info[name]


def test_a_table_for_people(folder: Path, tmp_path: Path) -> None:
    command = ["distill", folder / "teacher", folder / "data", "-o", tmp_path / "run", *STUDENT]
    result = CliRunner().invoke(app, [str(a) for a in command], catch_exceptions=False)
    assert result.exit_code == 0
    for word in ("caser by rd on the validation part", "ndcg@10", f"The run is in {tmp_path}"):
        assert word in result.stdout


def test_an_interruption_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["distill", folder / "teacher", folder / "data", "-o", tmp_path / "run", *STUDENT]
    options = ["--set", "batch_size=16"]
    with monkeypatch.context() as patch:
        stop_after(patch, 4, KeyboardInterrupt())
        result = CliRunner().invoke(app, [str(a) for a in [*place, *options]])
    assert result.exit_code != 0
    assert "--resume continues" in result.stderr
    call(*place, *options, "--resume", "--json")
    run = ensue.distill(folder / "teacher", out=tmp_path / "whole", dim=4, epochs=2, batch_size=16)
    assert_same(tmp_path / "run", run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "kdd"], "there is no method 'kdd'. Did you mean 'kd'"),
        (["--set", "num_probe=3"], "no setting 'num_probe'. Did you mean 'num_probes'"),
        (["--set", "alpha=0.5", "--set", "beta=1"], "alpha or beta, not both"),
        (["--model", "popularity"], "got popularity"),
        (["--set", "alpha"], "--set takes NAME=VALUE"),
        (["--method", "kd-rel"], "pass groups=FILE"),
        (["--fit", "all"], "fit must be"),
        (["--seeds", "2"], "--seeds has no meaning here: one student has one seed"),
        (["--explain", "--method", "kd"], "--method has no meaning here"),
    ],
)
def test_wrong_use_is_one_sentence(
    folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    command = ["distill", folder / "teacher", folder / "data", "-o", tmp_path / "run", *options]
    with pytest.raises(EnsueError) as error:
        CliRunner().invoke(app, [str(a) for a in command], catch_exceptions=False)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_is_replaced_on_demand(folder: Path, tmp_path: Path) -> None:
    place = ["distill", folder / "teacher", folder / "data", "-o", tmp_path / "run", *STUDENT]
    call(*place, "--json")
    with pytest.raises(EnsueError, match="--overwrite"):
        call(*place, "--json")
    found = call(*place, "--overwrite", "--method", "ls", "--json")
    assert found["distillation"]["method"] == "ls"
