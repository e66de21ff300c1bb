"""Real tables of rows, each by the command that docs/ranking_data.md shows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.reader import RankingReader


def command(folder: Path, out: Path, name: str) -> dict[str, Any]:
    """Run the command of docs/ranking_data.md that makes data/NAME, on the data in `folder`."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "ranking_data.md").read_text()
    lines = text.replace("\\\n", " ").splitlines()
    (line,) = [one for one in lines if one.startswith("ensue ") and f"-o data/{name} " in one]
    line = line.replace(f"-o data/{name} ", f"-o {out} ").replace("shared/data/", f"{folder}/")
    words = shlex.split(line)
    result = CliRunner().invoke(app, [*words[1:], "--json"])
    if result.exception:
        raise result.exception
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def kinds(answer: dict[str, Any]) -> dict[str, int]:
    found = [column["kind"] for column in answer["columns"]]
    return {kind: found.count(kind) for kind in found}


@pytest.mark.slow
def test_census(shared_data: Path, tmp_path: Path) -> None:
    answer = command(shared_data, tmp_path / "out", "census")
    assert answer["counts"] == {
        "rows": 99_762, "train": 79_810, "validation": 0, "test": 19_952,
    }  # fmt: skip
    income, married = answer["tasks"]
    labels = [income["labels"][part] for part in ("train", "test")]
    positives = sum(one["labeled"] * one["mean"] for one in labels)
    assert round(positives) == 6_186  # its README
    assert (income["name"], married["name"]) == ("income", "never_married")
    assert kinds(answer) == {"categorical": 34, "numeric": 5}
    assert "25" in answer["unused"]


@pytest.mark.slow
def test_criteo(shared_data: Path, tmp_path: Path) -> None:
    answer = command(shared_data, tmp_path / "out", "criteo")
    assert answer["counts"] == {
        "rows": 8_000, "train": 7_200, "validation": 409, "test": 391,
    }  # fmt: skip
    assert kinds(answer) == {"numeric": 13, "categorical": 26}
    (click,) = answer["tasks"]
    means = [part["labeled"] * part["mean"] for part in click["labels"].values()]
    assert sum(means) / 8_000 == pytest.approx(0.216, abs=5e-4)  # its README
    dataset = RankingDataset(tmp_path / "out")
    batches = list(RankingReader(dataset, batch_size=1000, window=3000).epoch(0))
    numbers = torch.cat([batch.numbers for batch in batches])
    assert torch.nanmean(numbers, dim=0).abs().max() < 1e-4
    assert any(column["log"] for column in answer["columns"])


@pytest.mark.slow
def test_open_bandit(shared_data: Path, tmp_path: Path) -> None:
    answer = command(shared_data, tmp_path / "out", "obd")
    assert answer["counts"]["rows"] == 10_000
    assert kinds(answer) == {"categorical": 9, "vector": 1, "numeric": 1}
    (click,) = answer["tasks"]
    means = [part["labeled"] * part["mean"] for part in click["labels"].values()]
    assert sum(means) / 10_000 == pytest.approx(0.0069, abs=5e-5)  # its README
    dataset = RankingDataset(tmp_path / "out")
    times = dataset.times(slice(0, 10_000))
    assert times is not None
    assert (np.diff(times) >= 0).all()
    assert dataset.rows(slice(0, 5)).vectors[0].shape == (5, 34)


@pytest.mark.slow
def test_frappe(shared_data: Path, tmp_path: Path) -> None:
    answer = command(shared_data, tmp_path / "out", "frappe")
    assert answer["counts"] == {
        "rows": 86_582, "train": 57_722, "validation": 0, "test": 28_860,
    }  # fmt: skip
    (used,) = answer["tasks"]
    positives = [round(part["labeled"] * (part["mean"] or 0)) for part in used["labels"].values()]
    assert positives == [19_063, 0, 9_536]  # its README
    assert kinds(answer) == {"categorical": 10}
    assert answer["vocabularies"]["3"] == 4_082
    assert answer["group"] == "2"
