from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.runs.paths_page import measure_paths, paths_section
from ensue.runs.run import Run
from tests.contracts.planted import plant
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

pytestmark = pytest.mark.slow  # seconds of training and opening


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short training by the command line, on a ring of items."""
    folder = tmp_path_factory.mktemp("paths")
    planted = plant(0.9, num_users=80, num_items=30, length=8)
    make_dataset(folder / "data", [planted.train[user].tolist() for user in planted.users])
    settings = ["width=4", "depth=2", "dim=8", "epochs=3", "num_candidates=8", "beam=3"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(
        app,
        ["train", "deep_retrieval", str(folder / "data"), "-o", str(folder / "run"), *arguments],
    )
    assert result.exit_code == 0, result.output
    return ensue.load(folder / "run")


def test_paths_are_measured(run: Run):
    measured = measure_paths(run)
    assert measured is not None
    assert measured["num_paths"] <= measured["possible_paths"] == 16
    assert sum(measured["size_counts"]) == measured["num_paths"]
    assert measured["mean_size"] * measured["num_paths"] == pytest.approx(30 * 3)
    assert measured["num_requests"] == 80
    beams = [point["beam"] for point in measured["overlap"]]
    assert beams == sorted({*beams, 3})
    assert measured["overlap"][-1] == {
        "beam": measured["num_paths"], "overlap": 1.0, "share_scored": 1.0
    }  # fmt: skip
    json.dumps(measured, allow_nan=False)


def test_the_report_has_a_section_on_paths(run: Run, tmp_path: Path):
    result = CliRunner().invoke(
        app, ["report", str(run.path), "-o", str(tmp_path / "report.html"), "--json"]
    )
    assert result.exit_code == 0, result.output
    html = (tmp_path / "report.html").read_text("utf-8")
    texts = Page(html).texts
    assert_self_contained(html)
    for text in (
        "Paths",
        "paths by their items",
        "objective of each assignment, by its own scores and alpha",
        "path loss in training, nats",
        "share of the exact top 30 found, and share of the catalogue scored",
        "overlap@30",
    ):
        assert text in texts, text


def test_a_log_without_assignments_has_a_section_too(run: Run):
    measured = measure_paths(run)
    assert measured is not None
    texts = Page(paths_section(measured, run.log()[:1])).texts
    assert "path loss in training, nats" in texts
    assert "objective of each assignment, by its own scores and alpha" not in texts


def test_a_run_answers_by_its_paths(run: Run, tmp_path: Path):
    users = ["u1", "u2", "u7"]
    built = run.build_index("paths", out=tmp_path / "wide", beam=100)
    assert [answer.items for answer in run.recommend(users=users, k=5, index=built)] == [
        answer.items for answer in run.recommend(users=users, k=5)
    ]
    built = run.build_index("paths")
    assert built.beam == 3  # type: ignore[attr-defined]  # of the model's settings
    arguments = [
        "recommend",
        str(run.path),
        "--user",
        "u7",
        "-k",
        "3",
        "--index",
        "paths",
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (expected,) = run.recommend(users=["u7"], k=3, index="paths")
    assert expected.items
    assert json.dumps(expected.items) in result.stdout


def test_the_beam_can_be_set_when_an_index_is_opened(run: Run, tmp_path: Path):
    run.build_index("paths", out=tmp_path / "index", beam=2)
    assert run.index(tmp_path / "index", beam=7).beam == 7  # type: ignore[attr-defined]
