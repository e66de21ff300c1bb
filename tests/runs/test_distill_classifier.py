"""Methods compared on data with a known answer, and the folder that is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensue.data.synthetic.superclasses import make_superclass_problem
from ensue.errors import ConfigError, UsageError
from ensue.runs import distill_classifier as module
from ensue.runs.classifier_data import ClassifierData
from ensue.runs.distill_classifier import (
    ClassifierDistillation,
    distill_arrays,
    distill_classifier,
)
from ensue.runs.students import NUM_BINS
from ensue.training.distillation.classifier_methods import METHODS, Teacher
from tests.runs.page import Page, assert_self_contained

# As in benchmarks/distill_oracle.py, with fewer steps and one seed.
ORACLE: dict[str, Any] = {
    "epochs": 200,
    "batch_size": None,
    "learning_rate": 0.1,
    "temperature": 1.0,
    "center_rows": False,
    "k": 4,
}
SMALL: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "hidden": (8,),
    "teacher_hidden": (16,),
    "teacher_epochs": 5,
    "learning_rate": 0.01,
}


def known_problem(num_test: int = 4_000) -> tuple[ClassifierData, Teacher]:
    rng = np.random.default_rng(0)
    problem = make_superclass_problem(rng)
    x, y = problem.draw(1_000, rng)
    x_test, y_test = problem.draw(num_test, rng)
    teacher = Teacher(
        torch.from_numpy(problem.logits(x)),
        torch.from_numpy(problem.logits(x_test)),
        torch.from_numpy(problem.templates.astype(np.float32)),
    )
    return ClassifierData.make(x, y, x_test, y_test, problem.superclasses), teacher


def small_problem() -> ClassifierData:
    rng = np.random.default_rng(1)
    problem = make_superclass_problem(rng, num_superclasses=2, num_classes=4, dim=8)
    return ClassifierData.make(*problem.draw(120, rng), *problem.draw(80, rng), [0, 0, 1, 1])


@pytest.fixture(scope="module")
def oracle() -> ClassifierDistillation:
    data, teacher = known_problem()
    return distill_classifier(data, teacher=teacher, seeds=[0], **ORACLE)


def row(found: ClassifierDistillation, method: str) -> dict[str, Any]:
    return next(row for row in found.table if row["method"] == method)


def test_what_the_teacher_knows_helps_in_the_known_order(oracle: ClassifierDistillation) -> None:
    accuracy = {row["method"]: row["accuracy"] for row in oracle.table}
    assert list(accuracy) == list(METHODS)
    assert accuracy["hard"] < min(accuracy[name] for name in ("ls", "kd-perm", "kd-sim"))
    assert max(accuracy["ls"], accuracy["kd-perm"], accuracy["kd-sim"]) < accuracy["kd-classavg"]
    assert accuracy["kd-classavg"] < min(accuracy["kd-pt"], accuracy["kd-pt+sim"])
    assert max(accuracy["kd-pt"], accuracy["kd-pt+sim"]) + 0.05 < accuracy["kd-topk"]
    assert accuracy["kd-topk"] < oracle.teacher["accuracy"] + 0.005
    assert abs(accuracy["kd"] - oracle.teacher["accuracy"]) < 0.02


def test_only_relations_of_classes_make_blocks(oracle: ClassifierDistillation) -> None:
    for method in ("kd-perm", "kd-pt"):
        assert row(oracle, method)["contrast"] < 0.2
    for method in ("kd-sim", "kd-classavg", "kd-pt+sim", "kd"):
        assert row(oracle, method)["contrast"] > 0.5


def test_diagnostics_of_the_targets(oracle: ClassifierDistillation) -> None:
    assert row(oracle, "hard")["target_entropy"] == 0
    assert row(oracle, "ls")["soft_entropy"] == pytest.approx(np.log(20), abs=1e-5)
    entropies = [row(oracle, name)["soft_entropy"] for name in ("kd", "kd-perm")]
    assert entropies[0] == pytest.approx(entropies[1], abs=1e-5)
    assert row(oracle, "kd")["calibration_error"] < row(oracle, "hard")["calibration_error"] / 5
    assert row(oracle, "hard")["omega_mean"] == 1
    assert row(oracle, "hard")["omega_correlation"] is None
    assert row(oracle, "kd-pt")["omega_correlation"] > 0.3
    assert len(oracle.omega_edges) == NUM_BINS + 1
    outcome = oracle.outcomes[-1]
    looks = len(outcome.omega_by_epoch)
    assert max(outcome.omega_by_epoch) == ORACLE["epochs"]
    assert {sum(counts) for counts in oracle.omega_counts.values()} == {looks * 1_000}


def test_the_same_seeds_give_the_same_figures() -> None:
    data = small_problem()
    found = [distill_classifier(data, seeds=seeds, **SMALL) for seeds in ([0, 1], [0, 1], [0, 2])]
    assert found[0].to_dict() == found[1].to_dict()
    assert found[0].outcomes[0] == found[2].outcomes[0]
    assert found[0].table != found[2].table
    assert found[0].attribution is not None
    assert found[0].table[0]["standard_error"] is not None


def test_a_teacher_is_trained_here_on_labels_alone() -> None:
    settings = {**SMALL, "teacher_epochs": 60}
    found = distill_classifier(small_problem(), methods=["kd", "hard"], seeds=[0], **settings)
    assert found.teacher["training_accuracy"] > 0.9
    assert [row["method"] for row in found.table] == ["hard", "kd"]
    assert found.attribution is None


def test_images() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 1, 8, 8)), rng.integers(0, 3, 40)
    settings = {**SMALL, "channels": (2,), "teacher_channels": (3,)}
    found = distill_classifier(ClassifierData.make(x, y, x, y), seeds=[0], **settings)
    assert row(found, "kd-sim")["contrast"] is None
    assert found.superclasses is None


def test_the_folder(tmp_path: Path) -> None:
    data = small_problem()
    out = tmp_path / "out"
    given: dict[str, Any] = {"seeds": [0, 1], "superclasses": data.superclasses, **SMALL}
    given["methods"] = ["hard", "ls", "kd-pt", "kd-classavg", "kd"]
    found = distill_arrays(data.features, data.labels, out=out, **given)
    stored = json.loads((out / "distillation.json").read_text("utf-8"))
    assert stored["table"] == found.table
    assert stored["settings"]["hidden"] == [8]
    html = (out / "report.html").read_text("utf-8")
    assert_self_contained(html)
    texts = Page(html).texts
    assert "Distillation, out" in texts
    assert found.attribution is not None
    assert found.attribution.sentence in texts
    assert {"omega, kd", "kd-classavg", "Output layer"} <= set(texts)
    with pytest.raises(UsageError, match="exists"):
        distill_arrays(data.features, data.labels, out=out, **given)


def test_without_matplotlib_there_is_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "has_plots", lambda: False)
    data = small_problem()
    parts = {"test_features": data.test_features, "test_labels": data.test_labels}
    found = distill_arrays(
        data.features, data.labels, out=tmp_path / "out", seeds=[0], **parts, **SMALL
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["distillation.json"]
    assert "No report.html" in capsys.readouterr().err
    assert found.superclasses is None


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    data = small_problem()
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        distill_arrays(data.features, data.labels, out=tmp_path / "out", epoch=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "at least one seed"),
        ({"k": 5}, "k must be at most 4, the classes; got 5"),
        ({"methods": ["kd-what"]}, "'kd-what' does not exist"),
        (
            {"teacher": Teacher(torch.zeros(3, 4), torch.zeros(80, 4))},
            r"logits must be \[120, 4\], examples and classes; got \[3, 4\]",
        ),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        distill_classifier(small_problem(), **options)
