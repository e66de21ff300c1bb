"""Each query of a batch has the answers to itself, however often the examples are shuffled."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.models.base import Model
from ensue.training.distillation.knowledge import CatalogDistillationConfig, KnowledgeTerm
from ensue.training.distillation.objective import DistillationObjective
from ensue.training.distillation.ranking import RankingDistillationConfig, RankingTerm
from ensue.training.distillation.teachers import Teacher, teacher_cache
from ensue.training.objective import Batch, QueryObjective
from ensue.training.objectives import make_objective
from ensue.training.prefetch import prefetch
from tests.training.distillation.models import NUM_ITEMS, make_log, make_model, without_context

LOG = without_context(make_log())
STUDENTS: dict[str, dict[str, Any]] = {
    "caser": {"num_targets": 2},
    "sasrec": {"max_len": 4, "crop": "random"},
    "gru4rec": {"max_len": 3, "crop": "random", "loss": "gbce", "num_negatives": 2},
}


def make_ranking(
    tmp_path: Path, student: Model, **settings: Any
) -> tuple[QueryObjective, DistillationObjective, Model]:
    """Return the student's own objective, that of distillation, and the teacher."""
    config = RankingDistillationConfig(
        **{"num_teacher_items": 4, "burn_in": 1, "num_probes": 5, **settings}
    )
    teacher = make_model("caser", LOG, seed=7)
    cache = teacher_cache(
        tmp_path, Teacher(teacher, "t"), LOG, queries="log", num_items=4, exclude="nothing"
    )
    base = make_objective(student, LOG, batch_size=2, seed=5)
    assert isinstance(base, QueryObjective)
    term = RankingTerm(config, cache, LOG, NUM_ITEMS)
    return base, DistillationObjective(base, term, seed=5), teacher


def windows_of(teacher: Any, batch: Batch, name: str) -> list[tuple[int, list[int]]]:
    """Return what each query of a student's batch has read: target, and the last items before."""
    queries = []
    if name == "caser":
        for window, candidates in zip(batch[1].tolist(), batch[2].tolist(), strict=True):
            target = next(item for item in candidates[:2] if item)
            queries.append((target, [item for item in window if item]))
        return queries
    for items, targets in zip(batch[0].tolist(), batch[1].tolist(), strict=True):
        for place, target in enumerate(targets):
            if target:
                queries.append((target, items[: place + 1]))
    return queries


@pytest.mark.parametrize("name", STUDENTS)
def test_answers_stay_with_their_queries(tmp_path: Path, name: str) -> None:
    """What the student read is what the teacher was asked, as far as one batch can tell."""
    student = make_model(name, LOG, **STUDENTS[name])
    base, objective, teacher = make_ranking(tmp_path, student)
    assert objective.num_examples == base.num_examples
    seen = []
    for epoch in range(1, 5):
        for batch in objective.batches(epoch):
            own, items = batch[:-5], batch[-5]
            rows = base.rows(own).numpy()
            assert len(rows) == len(items) == len(base.queries(student, own))
            users = np.searchsorted(LOG.ends, rows, side="right")
            read = windows_of(teacher, own, name)
            for row, user, ranking, (target, last) in zip(rows, users, items, read, strict=True):
                history = LOG.items[LOG.starts[user] : row].tolist()
                assert LOG.items[row] == target
                assert history[len(history) - len(last) :] == last
                window = torch.tensor([[0, 0, 0, *history][-3:]])
                scores = teacher.match(teacher(torch.tensor([user]), window))[0]
                expected = scores[1:].topk(4).indices + 1
                assert ranking.tolist() == expected.tolist()
            seen += rows.tolist()
            assert objective.count(batch) == base.count(own)
    counts = np.bincount(seen)
    assert counts[counts > 0].min() >= 1
    if name == "caser":
        assert set(counts.tolist()) == {0, 4}  # every window, once an epoch
    else:
        assert (counts > 0).sum() > base.num_examples  # other stretches in other epochs


def equal(batch: Batch, other: Batch) -> bool:
    return len(batch) == len(other) and all(map(torch.equal, batch, other))


@pytest.mark.parametrize("name", STUDENTS)
def test_an_epoch_is_taken_up_anywhere(tmp_path: Path, name: str) -> None:
    student = make_model(name, LOG, **STUDENTS[name])
    _, objective, _ = make_ranking(tmp_path, student)
    whole = list(objective.batches(3))
    assert len(whole) >= 3
    assert all(len(batch[-4]) == 5 for batch in whole)  # probes
    for first in range(len(whole) + 1):
        rest = list(objective.batches(3, first=first))
        assert len(rest) == len(whole) - first
        assert all(map(equal, rest, whole[first:]))
    with closing(prefetch(objective.batches(3), 2)) as ahead:
        assert all(map(equal, list(ahead), whole))
    assert not all(map(equal, objective.batches(4), whole))


@pytest.mark.parametrize("name", STUDENTS)
def test_the_own_batches_are_those_without_a_teacher(tmp_path: Path, name: str) -> None:
    student = make_model(name, LOG, **STUDENTS[name])
    base, objective, _ = make_ranking(tmp_path, student)
    for own, batch in zip(base.batches(2), objective.batches(2), strict=True):
        assert equal(list(own), batch[:-5])


def test_probes_are_drawn_anew_for_each_batch(tmp_path: Path) -> None:
    student = make_model("sasrec", LOG, **STUDENTS["sasrec"])
    _, objective, _ = make_ranking(tmp_path, student)
    draws = [tuple(batch[-4].tolist()) for epoch in (2, 3) for batch in objective.batches(epoch)]
    assert len(set(draws)) == len(draws)
    assert all(len(set(draw)) == 5 and set(draw) <= set(range(1, 24)) for draw in draws)


def test_labels_and_permutations_go_with_the_queries(tmp_path: Path) -> None:
    """Of knowledge distillation: the observed item, and a permutation by (seed, epoch, batch)."""
    student = make_model("sasrec", LOG, max_len=4, crop="random")
    teacher = make_model("caser", LOG, seed=7)
    cache = teacher_cache(
        tmp_path,
        Teacher(teacher, "t"),
        LOG,
        queries="log",
        num_items=4,
        exclude="nothing",
        temperature=1.0,
    )
    base = make_objective(student, LOG, batch_size=2, seed=5)
    assert isinstance(base, QueryObjective)
    config = CatalogDistillationConfig(num_kept=4)

    def ids_of(epoch: int, seed: int = 5) -> list[Tensor]:
        term = KnowledgeTerm("kd-perm", config, LOG, teacher=teacher, cache=cache, groups=None)
        objective = DistillationObjective(base, term, seed=seed)
        found = []
        for batch in objective.batches(epoch):
            rows = base.rows(batch).numpy()
            labels, ids, values, remainder = batch[-4:]
            assert labels.tolist() == LOG.items[rows].tolist()
            assert len(ids) == len(values) == len(remainder) == len(rows)
            found.append(ids)
        return found

    assert all(map(torch.equal, ids_of(1), ids_of(1)))
    other = ids_of(1, seed=6)
    assert not all(map(torch.equal, ids_of(1), other))
