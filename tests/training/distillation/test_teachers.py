"""A teacher's answers on disk: what is in a row, when a cache is used again, what damage does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.data.histories import Histories
from ensue.errors import RunError, UsageError
from ensue.models.base import Model
from ensue.training.distillation import teachers
from ensue.training.distillation.prefixes import Answers, answer_all, prefix_batch
from ensue.training.distillation.teachers import Teacher, TeacherCache, teacher_cache
from tests.training.distillation.models import NUM_ITEMS, make_log, make_model, without_context

LOG = without_context(make_log())
OPTIONS: dict[str, Any] = {"queries": "log", "num_items": 6, "exclude": "target"}


def build(folder: Path, model: Model, *, identity: str = "a", **options: Any) -> TeacherCache:
    return teacher_cache(folder, Teacher(model, identity), LOG, **{**OPTIONS, **options})


def of_all_rows() -> list[tuple[int, int]]:
    return [(u, r) for u in range(LOG.num_users + 1) for r in range(LOG.starts[u], LOG.ends[u])]


def score_alone(model: Model, user: int, row: int) -> Tensor:
    with torch.inference_mode():
        return model.score(prefix_batch(LOG, np.array([user]), np.array([row]), None))[0]


def hidden_items(exclude: str, user: int, row: int, num_targets: int) -> set[int]:
    """Return what a ranking leaves out, by the definition of each rule."""
    start, end = LOG.starts[user], LOG.ends[user]
    targets = {*LOG.items[row : min(row + num_targets, end)].tolist()}
    seen = {*LOG.items[start:row].tolist()}
    return {
        "nothing": set(),
        "target": targets,
        "seen_before": targets | seen,
        "all_train": {*LOG.items[start:end].tolist()},
    }[exclude]


@pytest.mark.parametrize("exclude", ["nothing", "target", "seen_before", "all_train"])
@pytest.mark.parametrize("num_targets", [1, 3])
@pytest.mark.parametrize("name", ["caser", "sasrec", "item-knn"])
def test_a_row_is_a_fresh_ranking_by_the_rule(
    tmp_path: Path, name: str, exclude: str, num_targets: int
) -> None:
    model = make_model(name, LOG)
    num_items = NUM_ITEMS - 6  # more than is left of some rows
    cache = build(tmp_path, model, exclude=exclude, num_targets=num_targets, num_items=num_items)
    num_short = 0
    for user, row in of_all_rows():
        items, logits = cache.items[row].tolist(), cache.logits[row]
        scores = score_alone(model, user, row)
        hidden = hidden_items(exclude, user, row, num_targets)
        allowed = [item for item in range(1, NUM_ITEMS + 1) if item not in hidden]
        real = [item for item in items if item > 0]
        assert items == real + [0] * (num_items - len(real))
        assert len(set(real)) == len(real) == min(num_items, len(allowed))
        assert set(real) <= set(allowed)
        best = sorted(scores[allowed].tolist(), reverse=True)[: len(real)]
        np.testing.assert_allclose(logits[: len(real)], best, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores[real], best, rtol=1e-5, atol=1e-6)
        assert (np.diff(logits[: len(real)]) <= 0).all()
        assert (logits[len(real) :] == 0).all()
        num_short += len(real) < num_items
    assert (num_short > 0) == (exclude in ("seen_before", "all_train"))


def test_more_items_than_there_are(tmp_path: Path) -> None:
    cache = build(tmp_path, make_model("caser", LOG), num_items=1000, exclude="nothing")
    assert cache.items.shape == (len(LOG.items), NUM_ITEMS)
    for _, row in of_all_rows():
        assert sorted(cache.items[row]) == list(range(1, NUM_ITEMS + 1))


def test_no_item_at_all(tmp_path: Path) -> None:
    cache = build(tmp_path, make_model("caser", LOG), num_items=0)
    assert cache.items.shape == (len(LOG.items), 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", ["caser", "gru4rec", "markov"])
def test_normalizers_targets_and_queries(tmp_path: Path, name: str, temperature: float) -> None:
    """Of all items, those that the rule hides as well."""
    model = make_model(name, LOG)
    has_queries = name != "markov"
    cache = build(tmp_path, model, temperature=temperature, with_queries=has_queries)
    for user, row in of_all_rows():
        scores = score_alone(model, user, row)
        expected = (scores[1:] / temperature).logsumexp(dim=0).item()
        assert cache.normalizers[row] == pytest.approx(expected, rel=1e-5)
        target = scores[int(LOG.items[row])].item()
        assert cache.targets[row] == pytest.approx(target, rel=1e-5, abs=1e-6)
        if name == "caser" or (has_queries and row > LOG.starts[user]):
            query = torch.from_numpy(np.array(cache.queries[row]))
            found = model.match(query[None].double())[0, 1:]
            torch.testing.assert_close(found, scores[1:], rtol=1e-4, atol=1e-5)


def test_what_no_method_asks_for_is_not_kept(tmp_path: Path) -> None:
    cache = build(tmp_path, make_model("caser", LOG))
    assert (cache.normalizers, cache.targets, cache.queries) == (None, None, None)
    (folder,) = tmp_path.iterdir()
    assert {file.name for file in folder.iterdir()} == {"cache.json", "items.npy", "logits.npy"}


def test_rows_of_other_parts_are_never_answered(tmp_path: Path) -> None:
    cache = build(tmp_path, make_model("sasrec", LOG), temperature=1.0, with_queries=True)
    is_train = np.zeros(len(LOG.items), dtype=bool)
    is_train[[row for _, row in of_all_rows()]] = True
    assert 0 < is_train.sum() < len(is_train)
    assert (cache.items[is_train, 0] > 0).all()
    for values in (cache.items, cache.logits, cache.normalizers, cache.targets, cache.queries):
        assert not np.asarray(values)[~is_train].any()


def test_the_answers_do_not_depend_on_later_interactions(tmp_path: Path) -> None:
    model = make_model("sasrec", LOG)
    items = LOG.items.copy()
    items[LOG.ends[1:, None] + np.arange(2)] = 1  # validation and test
    changed = replace(LOG, items=items)
    one = build(tmp_path, model)
    other = teacher_cache(tmp_path / "other", Teacher(model, "a"), changed, **OPTIONS)
    np.testing.assert_array_equal(one.items, other.items)


def test_another_content_has_another_folder(tmp_path: Path) -> None:
    model = make_model("caser", LOG)
    assert build(tmp_path, model).is_new
    for number, change in enumerate(
        [
            {"identity": "b"},
            {"num_items": 5},
            {"exclude": "all_train"},
            {"queries": "other"},
            {"num_targets": 3},
            {"temperature": 1.0},
            {"temperature": 2.0},
            {"with_queries": True},
        ]
    ):
        assert build(tmp_path, model, **change).is_new, change
        assert len(list(tmp_path.iterdir())) == number + 2


def test_the_same_content_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("caser", LOG)
    first = build(tmp_path, model, temperature=1.0)
    (folder,) = tmp_path.iterdir()
    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}

    def refuse(*_: object) -> Iterator[Answers]:
        raise AssertionError("asked again")

    monkeypatch.setattr(teachers, "answer_all", refuse)
    again = build(tmp_path, model, temperature=1.0)
    assert (first.is_new, again.is_new) == (True, False)
    assert times == {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    for name in ("items", "logits", "normalizers", "targets"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert json.loads((folder / "cache.json").read_text())["teacher"] == "a"


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("sasrec", LOG)

    def stop_early(*arguments: Any) -> Iterator[Answers]:
        yield next(answer_all(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(teachers, "answer_all", stop_early)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, model)
    assert list(tmp_path.iterdir()) == []
    assert build(tmp_path, model).is_new


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def overwrite(file: Path) -> None:
    file.write_text("no array")


@pytest.mark.parametrize("name", ["items", "logits", "normalizers", "targets", "queries"])
@pytest.mark.parametrize("damage", [cut, empty, overwrite, Path.unlink])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str, damage: Any) -> None:
    model = make_model("caser", LOG)
    options = {"temperature": 1.0, "with_queries": True}
    build(tmp_path, model, **options)
    (folder,) = tmp_path.iterdir()
    damage(folder / f"{name}.npy")
    with pytest.raises(RunError, match=r"must hold the answers.*Remove the folder") as error:
        build(tmp_path, model, **options)
    assert "\n" not in str(error.value)


def test_a_teacher_that_fell_apart_is_refused(tmp_path: Path) -> None:
    model = make_model("sasrec", LOG)
    with torch.no_grad():
        model.item_embedding[5] = torch.nan
    with pytest.raises(RunError, match="SASRec gave NaN or infinity"):
        build(tmp_path, model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("biases", [[torch.inf], [-torch.inf], [torch.inf, -torch.inf]])
def test_infinite_scores_are_refused(tmp_path: Path, biases: list[float]) -> None:
    model: Any = make_model("caser", LOG)
    model.output_bias[5 : 5 + len(biases)] = torch.tensor(biases)
    with pytest.raises(RunError, match="Caser gave NaN or infinity"):
        build(tmp_path, model)


def test_scores_whose_sum_is_infinite_are_finite(tmp_path: Path) -> None:
    model: Any = make_model("caser", LOG)
    model.output_bias[1:] = 1e308
    assert (build(tmp_path, model).logits > 1e307).any()


def test_queries_of_a_teacher_without_any(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Markov has none"):
        build(tmp_path, make_model("markov", LOG), with_queries=True)


def test_a_teacher_keeps_its_weights_and_has_no_gradient(tmp_path: Path) -> None:
    for name in ("caser", "m3", "popularity"):
        model = make_model(name, LOG)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        build(tmp_path / name, model, exclude="all_train", temperature=1.0)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key])
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not model.training


def test_a_cache_of_histories_alone(tmp_path: Path) -> None:
    """Users without interactions, and a row that is the only one of its user."""
    log = Histories(LOG.items, LOG.starts, np.minimum(LOG.starts + 1, LOG.ends))
    cache = teacher_cache(tmp_path, Teacher(make_model("caser", LOG), "a"), log, **OPTIONS)
    answered = np.flatnonzero(cache.items[:, 0])
    assert answered.tolist() == log.starts[log.lengths > 0].tolist()
