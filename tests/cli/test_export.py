"""`ensue export`: what it says, and that it is what Python gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.runs.train import train
from tests.helpers import make_dataset


def test_export(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "d", [[1, 2, 3, 4], [2, 3, 1, 4], [4, 3, 1]])
    run = train("popularity", data, out=tmp_path / "run")
    arguments = ["export", str(run.path), "--format", "npz", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert told.pop("path") == str(tmp_path / "out")
    assert told == json.loads((tmp_path / "out" / "export.json").read_text())
    with np.load(tmp_path / "out" / "weights.npz", allow_pickle=False) as arrays:
        assert arrays["counts"].shape == (5,)
    result = CliRunner().invoke(app, [*arguments, "--overwrite"], catch_exceptions=False)
    assert "popularity as npz" in result.stdout
