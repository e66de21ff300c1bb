"""A student by its teacher, from one run folder to another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensue.data.dataset import Dataset
from ensue.errors import ConfigError, DataError, RunError, UsageError
from ensue.runs.distill import METHODS, _read_groups, distill
from ensue.runs.run import Run, load
from ensue.runs.train import train
from ensue.training.distillation import teachers
from ensue.training.distillation.knowledge import CatalogDistillationConfig
from tests.contracts.pages import make_pages
from tests.helpers import make_dataset
from tests.training.test_resume import assert_same_run, stop_after

NUM_ITEMS = 30
FAST: dict[str, Any] = {"dim": 8, "epochs": 2, "patience": None}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "caser": {**FAST, "batch_size": 64, "num_targets": 1, "window": 3},
    "sasrec": {**FAST, "batch_size": 8, "max_len": 12},
    "gru4rec": {**FAST, "batch_size": 8, "max_len": 12, "crop": "random"},
    "m3": {**FAST, "batch_size": 8, "max_len": 12},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distill")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(4, 16)] + 1).tolist() for _ in range(40)
    ]
    return make_dataset(folder / "data", histories, num_items=NUM_ITEMS)


@pytest.fixture(scope="module")
def caser(dataset: Dataset, folder: Path) -> Run:
    return train("caser", dataset, out=folder / "caser", **OF_FAMILY["caser"])


@pytest.fixture(scope="module")
def sasrec(dataset: Dataset, folder: Path) -> Run:
    return train("sasrec", dataset, out=folder / "sasrec", **OF_FAMILY["sasrec"])


@pytest.fixture(scope="module")
def item_knn(dataset: Dataset, folder: Path) -> Run:
    return train("item_knn", dataset, out=folder / "itemknn")


def assert_same_weights(run: Run, other: Run) -> None:
    weights, expected = run.model.state_dict(), other.model.state_dict()
    assert weights.keys() == expected.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["caser", "gru4rec"])
@pytest.mark.parametrize("nothing", [{"alpha": 0.0}, {"beta": 0.0}, {"num_teacher_items": 0}])
def test_no_distillation_is_plain_training_bit_for_bit(
    caser: Run, dataset: Dataset, folder: Path, tmp_path: Path, family: str, nothing: dict[str, Any]
) -> None:
    plain = folder / f"plain-{family}"
    settings = {**OF_FAMILY[family], "dropout": 0.3}
    expected = Run(plain) if plain.exists() else train(family, dataset, out=plain, **settings)
    student = distill(caser, out=tmp_path / "student", model=family, **settings, **nothing)
    assert_same_weights(student, expected)
    assert student.info["metrics"] == expected.info["metrics"]
    changed = distill(caser, out=tmp_path / "other", model=family, **settings, burn_in=1)
    assert any(
        not torch.equal(value, expected.model.state_dict()[name])
        for name, value in changed.model.state_dict().items()
    )


def test_labels_alone_are_training_with_the_whole_softmax(
    sasrec: Run, dataset: Dataset, tmp_path: Path
) -> None:
    expected = train("sasrec", dataset, out=tmp_path / "plain", **OF_FAMILY["sasrec"])
    for method in ("kd", "kd-topk", "kd-sim"):
        student = distill(sasrec, out=tmp_path / method, method=method, teacher_weight=0.0)
        for name, value in expected.model.state_dict().items():
            found = student.model.state_dict()[name]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_student_and_leaves_the_teacher(
    caser: Run, folder: Path, tmp_path: Path, method: str
) -> None:
    before = {name: value.clone() for name, value in caser.model.state_dict().items()}
    files = {f: f.read_bytes() for f in caser.path.iterdir() if f.is_file()}
    settings: dict[str, Any] = {"groups": write_groups(tmp_path)} if method == "kd-rel" else {}
    settings.update(dim=4, epochs=6, learning_rate=0.05, dropout=0.0)
    student = distill(
        caser, out=tmp_path / "student", method=method, cache=folder / "answers", **settings
    )
    assert student.info["metrics"]["validation"]["map"] > 0
    losses = [line["loss"] for line in student.log()]
    assert losses[-1] < losses[0]
    for name, value in caser.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and not p.requires_grad for p in caser.model.parameters())
    assert {f: f.read_bytes() for f in caser.path.iterdir() if f.is_file()} == files


@pytest.mark.parametrize(
    ("student", "method"),
    [("sasrec", "rd"), ("gru4rec", "kd"), ("m3", "kd-topk"), ("caser", "kd-pt+sim")],
)
def test_a_student_of_another_family(
    caser: Run, sasrec: Run, tmp_path: Path, student: str, method: str
) -> None:
    teacher = sasrec if student == "caser" else caser
    run = distill(teacher, out=tmp_path / "run", method=method, model=student, **OF_FAMILY[student])
    assert run.info["model"] == student
    assert run.info["config"]["dim"] == 8
    for name in ("max_len", "window"):
        assert run.info["config"].get(name) == OF_FAMILY[student].get(name)
    assert len(run.recommend(users=["u1"], k=3)[0].items) == 3


def test_windows_with_more_targets_than_one(sasrec: Run, tmp_path: Path) -> None:
    settings = {**OF_FAMILY["caser"], "num_targets": 3}
    run = distill(sasrec, out=tmp_path / "run", model="caser", burn_in=0, **settings)
    assert run.info["config"]["num_targets"] == 3
    with pytest.raises(UsageError, match=r"kd needs one target.*got num_targets=3"):
        distill(sasrec, out=tmp_path / "kd", model="caser", method="kd", **settings)
    assert not (tmp_path / "kd").exists()


@pytest.mark.parametrize(
    ("settings", "content"),
    [
        ({"num_targets": 3}, {"num_targets": 3, "exclude": "target", "num_items": 10}),
        (
            {"exclude": "all_train", "num_teacher_items": 4},
            {"num_targets": 1, "exclude": "all_train", "num_items": 4, "temperature": None},
        ),
        (
            {"method": "kd-pt", "temperature": 2.0, "pt_temperature": 3.0},
            {"exclude": "nothing", "num_items": 1, "temperature": 3.0, "with_queries": False},
        ),
        ({"method": "kd"}, {"exclude": "nothing", "num_items": 1, "with_queries": True}),
    ],
)
def test_the_teacher_is_asked_for_what_the_method_needs(
    caser: Run, tmp_path: Path, settings: dict[str, Any], content: dict[str, Any]
) -> None:
    distill(caser, out=tmp_path / "run", cache=tmp_path / "answers", epochs=1, **settings)
    (file,) = (tmp_path / "answers").glob("*/cache.json")
    stored = json.loads(file.read_text())
    assert {name: stored[name] for name in content} == content


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rd", "kd-perm"])
def test_batches_made_ahead_and_precision(caser: Run, tmp_path: Path, method: str) -> None:
    options: dict[str, Any] = {"method": method, "cache": tmp_path / "answers"}
    if method == "rd":
        options["burn_in"] = 1
    runs = [distill(caser, out=tmp_path / f"{n}", prefetch=n, **options) for n in (0, 3)]
    assert_same_weights(*runs)
    half = distill(caser, out=tmp_path / "half", precision="bfloat16", **options)
    losses = [[line["loss"] for line in run.log()] for run in (half, runs[0])]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "kd-sim", "kd-rel"])
def test_targets_that_are_filled_in_at_half_precision(
    sasrec: Run, tmp_path: Path, method: str
) -> None:
    options: dict[str, Any] = {"method": method, "cache": tmp_path / "answers"}
    if method == "kd-rel":
        options["groups"] = write_groups(tmp_path)
    runs = [
        distill(sasrec, out=tmp_path / name, precision=name, **options)
        for name in ("float32", "bfloat16")
    ]
    losses = [[line["loss"] for line in run.log()] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_a_student_has_its_teachers_settings_where_none_are_given(
    caser: Run, tmp_path: Path
) -> None:
    run = distill(caser, out=tmp_path / "run", dim=4, learning_rate=0.01, num_probes=7)
    assert run.info["config"] == {**caser.info["config"], "dim": 4}
    assert run.info["training"] == {**caser.info["training"], "learning_rate": 0.01}
    assert run.info["distillation"]["config"]["num_probes"] == 7
    preset = distill(caser, out=tmp_path / "preset", preset="author_pytorch", epochs=1, dim=4)
    assert preset.info["config"]["num_targets"] == 3
    assert preset.info["preset"] == "author_pytorch"


def test_run_json_says_how_it_was_made(caser: Run, dataset: Dataset, tmp_path: Path) -> None:
    run = distill(caser, out=tmp_path / "run", method="kd-topk", num_kept=7, epochs=1)
    info = json.loads((run.path / "run.json").read_text())
    about = info["distillation"]
    assert about["method"] == "kd-topk"
    assert about["config"]["num_kept"] == 7
    assert about["config"]["temperature"] == 1.0
    assert about["teacher"]["model"] == "caser"
    assert len(about["teacher"]["identity"]) == 20
    assert info["fit"] == "train"
    assert info["dataset"]["hash"] == dataset.info.hash
    assert about == json.loads((run.path / "settings.json").read_text())["distillation"]


def test_the_answers_are_kept_and_used_again(
    caser: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "answers"
    first = distill(caser, out=tmp_path / "a", cache=cache, epochs=1, dim=4)
    assert len(list(cache.iterdir())) == 1

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr(teachers, "answer_all", refuse)
        again = distill(Run(caser.path), out=tmp_path / "b", cache=cache, epochs=1, dim=4)
    assert_same_weights(first, again)
    distill(caser, out=tmp_path / "c", cache=cache, epochs=1, num_teacher_items=4)
    distill(caser, out=tmp_path / "d", cache=cache, epochs=1, fit="train+validation")
    assert len(list(cache.iterdir())) == 3


def test_another_teacher_has_other_answers(caser: Run, dataset: Dataset, tmp_path: Path) -> None:
    other = train("caser", dataset, out=tmp_path / "teacher", **{**OF_FAMILY["caser"], "seed": 5})
    for number, teacher in enumerate((caser, other)):
        distill(teacher, out=tmp_path / f"{number}", cache=tmp_path / "answers", epochs=1)
    assert len(list((tmp_path / "answers").iterdir())) == 2


def test_answers_are_in_the_teachers_folder_by_default(
    dataset: Dataset, caser: Run, tmp_path: Path
) -> None:
    shutil.copytree(caser.path, tmp_path / "teacher")
    distill(tmp_path / "teacher", dataset.path, out=tmp_path / "run", epochs=1)
    assert len(list((tmp_path / "teacher" / "answers").iterdir())) >= 1
    for file in (tmp_path / "teacher" / "answers").glob("*/logits.npy"):
        file.write_bytes(b"")
    with pytest.raises(RunError, match="must hold the answers of a teacher"):
        distill(tmp_path / "teacher", out=tmp_path / "again", epochs=1)


def test_a_student_that_starts_with_its_teachers_tables_begins_better(
    sasrec: Run, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"method": "kd", "dim": 6, "epochs": 1, "teacher_weight": 1.0}
    losses = []
    for start in ("random", "teacher"):
        run = distill(sasrec, out=tmp_path / start, start=start, **settings)
        losses.append(run.log()[0]["loss"])
        assert run.info["distillation"]["start"] == start
    assert losses[1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "family"), [("rd", "caser"), ("kd-perm", "gru4rec")])
def test_resume_after_an_interruption(
    caser: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, family: str
) -> None:
    settings = {**OF_FAMILY[family], "epochs": 3, "checkpoint_seconds": 0.0}
    settings.update({"burn_in": 1} if method == "rd" else {"num_kept": 5})
    options: dict[str, Any] = {"method": method, "model": family, "cache": tmp_path / "answers"}
    whole = distill(caser, out=tmp_path / "whole", **options, **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            distill(caser, out=tmp_path / "run", **options, **settings)
    with pytest.raises(RunError, match="--resume"):
        Run(tmp_path / "run")
    with pytest.raises(UsageError, match="differs in distillation"):
        distill(caser, out=tmp_path / "run", resume=True, **options, **settings, **other_of(method))
    run = distill(caser, out=tmp_path / "run", resume=True, **options, **settings)
    assert_same_run(run, whole)


def other_of(method: str) -> dict[str, Any]:
    return {"weighting": "uniform"} if method == "rd" else {"temperature": 3.0}


def test_resume_after_an_interruption_of_the_teacher(
    caser: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"cache": tmp_path / "answers", "dim": 4}
    with monkeypatch.context() as patch:
        patch.setattr(teachers, "answer_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            distill(caser, out=tmp_path / "run", **options)
    assert list((tmp_path / "answers").iterdir()) == []
    run = distill(caser, out=tmp_path / "run", resume=True, **options)
    assert_same_weights(run, distill(caser, out=tmp_path / "whole", **options))


def test_a_student_works_without_its_teacher_and_the_dataset(
    caser: Run, dataset: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(dataset.path, tmp_path / "data")
    shutil.copytree(caser.path, tmp_path / "teacher")
    run = distill(
        tmp_path / "teacher", tmp_path / "data", out=tmp_path / "made", method="kd", dim=4, epochs=1
    )
    requests: dict[str, Any] = {"users": ["u1", "nobody"], "histories": [["i3", "i5"]], "k": 4}
    expected = run.recommend(**requests)
    shutil.move(tmp_path / "made", tmp_path / "moved")
    for gone in ("teacher", "data"):
        shutil.rmtree(tmp_path / gone)
    moved = load(tmp_path / "moved")
    assert moved.recommend(**requests) == expected
    assert moved.evaluate(dataset, num_resamples=0).metrics["map"] > 0
    with pytest.raises(UsageError, match="is not there now; pass its place"):
        distill(moved, out=tmp_path / "next")
    assert distill(moved, dataset, out=tmp_path / "next", epochs=1).info["model"] == "caser"


def test_a_teacher_with_context(tmp_path: Path) -> None:
    """Its answers depend on the pages; a student that reads no context learns from them."""
    dataset = make_pages(tmp_path / "pages", num_users=30, length=8)
    context = {"context_in": ["page", "hour"], "context_out": ["page"]}
    teacher = train("m3", dataset, out=tmp_path / "teacher", **OF_FAMILY["m3"], **context)
    for method in ("rd", "kd"):
        run = distill(
            teacher, out=tmp_path / method, method=method, model="sasrec", **OF_FAMILY["sasrec"]
        )
        assert run.model.context.is_empty
    same = distill(teacher, out=tmp_path / "m3", method="kd-topk", epochs=1)
    assert same.info["config"]["context_out"] == ["page"]


def write_groups(folder: Path, rows: list[str] | None = None) -> str:
    path = folder / "groups.csv"
    rows = rows or [f"i{n},{'abc'[n % 3]}" for n in range(1, NUM_ITEMS - 3)]
    path.write_text("\n".join(["item,group", *rows]) + "\n")
    return str(path)


def test_groups_come_from_a_file(dataset: Dataset, tmp_path: Path) -> None:
    rows = ["i1,red", "i3,blue", "unknown,red", "i4,red", "i7,", "i2,green"]
    config = CatalogDistillationConfig(groups=write_groups(tmp_path, rows))
    groups = _read_groups(config, dataset).tolist()
    assert len(groups) == NUM_ITEMS
    assert groups[0] == groups[3] >= 0  # i1 and i4
    assert len({groups[0], groups[1], groups[2]}) == 3
    assert groups[4:] == [-1] * (NUM_ITEMS - 4)  # no group, like items that the file lacks


def test_groups_that_are_missing_or_wrong(caser: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path / "run", "method": "kd-rel"}
    with pytest.raises(UsageError, match="pass groups=FILE"):
        distill(caser, **options)
    with pytest.raises(DataError, match="has none of them"):
        distill(caser, groups=write_groups(tmp_path, ["x,a", "y,b"]), **options)
    (tmp_path / "one.jsonl").write_text('{"item": "i1"}\n{"item": "i2"}\n')
    with pytest.raises(DataError, match="has one column"):
        distill(caser, groups=str(tmp_path / "one.jsonl"), **options)
    with pytest.raises(DataError):
        distill(caser, groups=str(tmp_path / "none.csv"), **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "kd-top"}, UsageError, "no method 'kd-top'. Did you mean 'kd-topk'"),
        ({"num_probe": 3}, ConfigError, "have no setting 'num_probe'. Did you mean 'num_probes'"),
        ({"dims": 3}, ConfigError, "caser and rd have no setting 'dims'. Did you mean 'dim'"),
        ({"epoch": 3}, ConfigError, "no setting 'epoch'. Did you mean 'epochs'"),
        ({"num_kept": 3}, ConfigError, "caser and rd have no setting 'num_kept'"),
        ({"alpha": 0.5, "beta": 1.0}, ConfigError, "alpha or beta, not both"),
        ({"alpha": 1.5}, ConfigError, "RankingDistillationConfig.alpha"),
        ({"method": "kd", "temperature": 0}, ConfigError, "CatalogDistillationConfig.temperature"),
        ({"model": "popularity"}, UsageError, "got popularity"),
        ({"model": "ease"}, UsageError, "got ease"),
        ({"model": "deep_retrieval"}, UsageError, "got deep_retrieval"),
        ({"model": "bpr"}, UsageError, "a student must be a sequential model"),
        ({"model": "casr"}, UsageError, "no model 'casr'. Did you mean 'caser'"),
        ({"preset": "papr"}, UsageError, "no preset 'papr'. Did you mean 'paper'"),
        ({"fit": "test"}, UsageError, "fit must be"),
        ({"start": "best"}, UsageError, "start must be one of"),
        ({"start": "teacher", "model": "gru4rec"}, UsageError, "of the teacher's family, Caser"),
        ({"start": "teacher", "dim": 16}, UsageError, "got dim=16 for 8"),
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(
    caser: Run,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error) as found:
        distill(caser, out=tmp_path / "run", **options)
    assert message in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_output_vectors(item_knn: Run, tmp_path: Path) -> None:
    options = {"model": "caser", **OF_FAMILY["caser"]}
    for method in ("kd", "kd-sim"):
        with pytest.raises(UsageError, match=r"ItemKNN has none\. Use kd-topk"):
            distill(item_knn, out=tmp_path / "no", method=method, **options)
    with pytest.raises(UsageError, match="got item_knn"):
        distill(item_knn, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    for method in ("kd-topk", "rd"):
        run = distill(item_knn, out=tmp_path / method, method=method, **options)
        assert run.info["distillation"]["teacher"]["model"] == "item_knn"


def test_another_dataset_is_refused(caser: Run, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", [[1, 2, 3], [3, 2, 1]], num_items=NUM_ITEMS)
    with pytest.raises(UsageError, match="dataset it was trained on"):
        distill(caser, other, out=tmp_path / "run")
