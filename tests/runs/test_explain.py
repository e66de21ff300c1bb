"""Which part of distillation helps, and the diagnostics of one student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ensue
from ensue.data.dataset import Dataset
from ensue.errors import UsageError
from ensue.evaluation.distillation import rescaling
from ensue.runs import explain as module
from ensue.runs.explain import PARTIAL_METHODS, explain
from ensue.runs.report import write_report
from ensue.runs.run import Run, load
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

NUM_ITEMS = 25
STUDENT: dict[str, Any] = {"dim": 4, "epochs": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(4, 12)] + 1).tolist() for _ in range(30)
    ]
    folder = tmp_path_factory.mktemp("explain")
    return make_dataset(folder / "data", histories, num_items=NUM_ITEMS)


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = {"dim": 8, "epochs": 3, "batch_size": 8, "max_len": 12, "patience": None}
    return ensue.train("sasrec", dataset, out=tmp_path_factory.mktemp("runs") / "T", **settings)


@pytest.mark.slow
def test_all_methods_in_a_table_with_their_attribution(
    teacher: Run, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "explained"
    found = explain(teacher, dataset, out=out, seeds=(0, 1), **STUDENT)
    assert [row["method"] for row in found.table] == list(PARTIAL_METHODS)
    values = {row["method"]: row["value"] for row in found.table}
    for method in ("hard", "kd-pt", "kd"):
        runs = [load(out / f"{method}-{seed}") for seed in (0, 1)]
        assert [run.info["seed"] for run in runs] == [0, 1]
        mean = np.mean([run.evaluate(num_resamples=0).metrics["ndcg@10"] for run in runs])
        assert values[method] == pytest.approx(mean)
    assert found.attribution is not None
    parts = {part.name: part.value for part in found.attribution.parts}
    assert parts["smoothing"] == pytest.approx(values["ls"] - values["hard"])
    assert sum(parts.values()) == pytest.approx(values["kd"] - values["hard"])
    assert json.loads((out / "explain.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    html = (out / "explain.html").read_text()
    assert_self_contained(html)
    assert {"What helped", "kd-classavg", "mean omega"} <= set(Page(html).texts)


def test_hard_is_training_on_the_labels_alone(
    teacher: Run, dataset: Dataset, tmp_path: Path
) -> None:
    explain(teacher, dataset, out=tmp_path / "e", methods=["hard"], **STUDENT)
    settings = {**teacher.info["config"], **teacher.info["training"], **STUDENT}
    plain = ensue.train("sasrec", dataset, out=tmp_path / "plain", **settings)
    weights = load(tmp_path / "e" / "hard-0").model.state_dict()
    for name, expected in plain.model.state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_it_goes_on_with_the_students_that_are_missing(
    teacher: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e"
    methods = ["ls", "kd"]
    whole = explain(teacher, dataset, out=tmp_path / "whole", methods=methods, **STUDENT)
    trained = []
    distill = module.distill

    def stop_at_kd(*arguments: Any, **options: Any) -> Run:
        trained.append(options["method"])
        if trained == ["ls", "kd"]:
            raise KeyboardInterrupt
        return distill(*arguments, **options)

    monkeypatch.setattr(module, "distill", stop_at_kd)
    with pytest.raises(KeyboardInterrupt):
        explain(teacher, dataset, out=out, methods=methods, **STUDENT)
    assert not (out / "explain.json").exists()
    found = explain(teacher, dataset, out=out, methods=methods, resume=True, **STUDENT)
    assert trained == ["ls", "kd", "kd"]
    with pytest.raises(UsageError, match="differs in settings"):
        explain(teacher, dataset, out=out, methods=methods, resume=True, **{**STUDENT, "dim": 6})
    assert found.table == whole.table


def test_wrong_use_is_one_sentence(teacher: Run, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no method 'kd-tok'.*kd-topk"):
        explain(teacher, dataset, out=tmp_path / "a", methods=["kd-tok"])
    with pytest.raises(UsageError, match="no method 'rd'"):
        explain(teacher, dataset, out=tmp_path / "b", methods=["rd"])
    with pytest.raises(UsageError, match="a method and a seed; got none"):
        explain(teacher, dataset, out=tmp_path / "c", seeds=())
    with pytest.raises(UsageError, match="metric must be one of"):
        explain(teacher, dataset, out=tmp_path / "d", metric="ndgc@10")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_diagnostics_of_a_student_and_its_report(
    teacher: Run, dataset: Dataset, tmp_path: Path
) -> None:
    settings = {**STUDENT, "teacher_weight": 0.4, "temperature": 2.0, "scale": 1.0}
    run = ensue.distill(teacher, dataset, out=tmp_path / "kd", method="kd", **settings)
    found = run.info["diagnostics"]
    histories = dataset.histories("train")
    assert found["num_queries"] == histories.lengths.sum()  # so few that all are in the sample
    expected = []
    for user in range(1, histories.num_users + 1):
        own = histories[user]
        for n in range(len(own)):
            scores = []
            for one in (run, teacher):
                batch = ensue.data.histories.HistoryBatch.from_lists([own[:n].astype(np.int64)])
                scores.append(one.model.score(batch)[:, 1:])
            target = torch.softmax(scores[1] / 2.0, dim=1)
            label = torch.tensor([own[n] - 1])
            of_loss = {"teacher_weight": 0.4, "temperature": 2.0, "scale": 1.0}
            expected.append(rescaling(scores[0], target, label.long(), **of_loss).item())
    assert found["omega"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["omega_deviation"] == pytest.approx(np.std(expected), rel=1e-3)
    assert sum(found["omega_counts"]) == found["num_queries"]
    html = write_report(run).read_text()
    assert_self_contained(html)
    assert "Distillation by kd" in Page(html).texts
    plain = write_report(teacher).read_text()
    assert "Distillation by" not in plain
