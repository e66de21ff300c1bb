"""Ranking distillation of a batch against a plain form of the paper's equations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.errors import ConfigError
from ensue.models.base import Model
from ensue.nn import cpu_kernels
from ensue.training.distillation import ranking
from ensue.training.distillation.objective import DistillationObjective
from ensue.training.distillation.ranking import RankingDistillationConfig, RankingTerm
from ensue.training.distillation.teachers import Teacher, teacher_cache
from ensue.training.objective import Batch, QueryObjective
from ensue.training.objectives import make_objective
from tests.training.distillation.models import NUM_ITEMS, make_log, make_model, without_context

LOG = without_context(make_log())
STUDENTS: dict[str, dict[str, Any]] = {"caser": {"num_targets": 2}, "sasrec": {"max_len": 5}}


def make(
    folder: Path, student: Model, teacher: Model | None = None, **settings: Any
) -> tuple[QueryObjective, RankingTerm, DistillationObjective]:
    config = RankingDistillationConfig(**{"num_teacher_items": 5, "burn_in": 1, **settings})
    num_targets = getattr(student.config, "num_targets", 1)
    cache = teacher_cache(
        folder,
        Teacher(teacher or make_model("gru4rec", LOG, seed=3), "t" if teacher is None else "own"),
        LOG,
        queries="log",
        num_items=config.num_teacher_items,
        exclude=config.exclude,
        num_targets=num_targets,
    )
    base = make_objective(student, LOG, batch_size=8, seed=0)
    assert isinstance(base, QueryObjective)
    term = RankingTerm(config, cache, LOG, NUM_ITEMS)
    return base, term, DistillationObjective(base, term, seed=0)


def make_student(name: str) -> Model:
    return make_model(name, LOG, seed=1, **STUDENTS[name]).requires_grad_()


def scores_of(base: QueryObjective, student: Any, own: Batch) -> Tensor:
    """Return the student's scores of all items [S, I + 1]."""
    scores = base.queries(student, own) @ student.output_embedding.T
    return scores if student.output_bias is None else scores + student.output_bias


def unlabeled_of(row: int) -> set[int]:
    user = int(np.searchsorted(LOG.ends, row, side="right"))
    return set(range(1, NUM_ITEMS + 1)) - {*LOG.items[LOG.starts[user] : LOG.ends[user]].tolist()}


def rank_of(item: int, scores: list[float], unlabeled: set[int], probes: set[int] | None) -> int:
    """Return the rank among unlabeled items, counted one by one; or Algorithm 1 of it."""
    if probes is None:
        return 1 + sum(scores[other] > scores[item] for other in unlabeled)
    drawn = probes & unlabeled
    above = sum(scores[other] > scores[item] for other in drawn)
    return above * (len(unlabeled) - 1) // max(1, len(drawn)) + 1


def plain_weights(config: RankingDistillationConfig, ranks: list[int] | None) -> list[float]:
    """Return the weights of the places 1..K; `ranks` of the student, None during the burn-in."""
    places = range(1, config.num_teacher_items + 1)
    if config.weighting == "uniform":
        return [1 / len(places) for _ in places]
    if config.weighting == "reciprocal":
        return [1 / r / sum(1 / n for n in places) for r in places]
    if config.weighting == "geometric":
        return [config.geometric_share * (1 - config.geometric_share) ** r for r in places]
    raw = [math.exp(-r / config.position_scale) for r in places]
    static = [weight / sum(raw) for weight in raw]
    if config.weighting == "position" or ranks is None:
        return static
    weights = [
        math.tanh(max(config.discrepancy_scale * (rank - r), 0))
        for r, rank in zip(places, ranks, strict=True)
    ]
    if config.weighting == "hybrid":
        weights = [a * b for a, b in zip(static, weights, strict=True)]
    if config.normalize and sum(weights) > 0:
        weights = [weight / sum(weights) for weight in weights]
    return weights


def plain_loss(
    base: QueryObjective,
    student: Any,
    batch: Batch,
    config: RankingDistillationConfig,
    *,
    is_burning_in: bool,
) -> float:
    own, items = batch[:-5], batch[-5]
    probes = set(batch[-4].tolist()) if config.ranks == "sampled" else None
    losses = []
    scores = scores_of(base, student, own).tolist()
    for row, ranking_of, own_scores in zip(
        base.rows(own).tolist(), items.tolist(), scores, strict=True
    ):
        unlabeled = unlabeled_of(row)
        ranks = [rank_of(item, own_scores, unlabeled, probes) for item in ranking_of]
        weights = plain_weights(config, None if is_burning_in else ranks)
        losses.append(
            sum(
                weight * math.log1p(math.exp(-own_scores[item]))
                for weight, item in zip(weights, ranking_of, strict=True)
            )
        )
    return float(np.mean(losses))


WEIGHTINGS = ["hybrid", "position", "discrepancy", "uniform", "reciprocal", "geometric"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(
    "settings",
    [
        {"ranks": "exact"},
        {"ranks": "sampled", "num_probes": 9, "normalize": True, "position_scale": 3.0},
        {"ranks": "exact", "normalize": True, "discrepancy_scale": 0.02, "geometric_share": 0.2},
        {"ranks": "sampled", "num_probes": 1000, "exclude": "all_train", "num_teacher_items": 3},
    ],
)
def test_the_loss_is_that_of_the_paper(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    weighting: str,
    settings: dict[str, Any],
) -> None:
    monkeypatch.setattr(ranking, "MAX_SCORES", 3 * NUM_ITEMS)  # a few queries at a time
    student = make_student(name)
    settings = {**settings, "weighting": weighting, "alpha": 0.25}
    base, _, objective = make(tmp_path, student, **settings)
    config = RankingDistillationConfig(**{"num_teacher_items": 5, **settings})
    for epoch in (1, 2):
        for batch in objective.batches(epoch):
            found = objective.loss(student, batch).item()
            own = base.loss(student, batch[:-5]).item()
            expected = plain_loss(base, student, batch, config, is_burning_in=epoch == 1)
            assert found == pytest.approx(0.75 * own + 0.25 * expected, rel=1e-9)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(
    "settings",
    [
        {"ranks": "exact", "exclude": "all_train", "num_teacher_items": NUM_ITEMS},
        {"ranks": "sampled", "num_probes": 9, "normalize": True, "position_scale": 3.0},
        {"ranks": "sampled", "num_probes": NUM_ITEMS, "weighting": "discrepancy"},
    ],
)
def test_compiled_loops_agree_with_tensor_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any]
) -> None:
    student: Any = make_student(name).float()
    assert (student.output_bias is None) == (name == "sasrec")
    base, term, objective = make(tmp_path, student, alpha=0.7, **settings)
    monkeypatch.setattr(ranking, "MAX_SCORES", 3 * NUM_ITEMS)
    for epoch in (1, 2):  # without ranks, and with
        for batch in objective.batches(epoch):
            found = []
            for can_run in (lambda *_: True, lambda *_: False):
                with monkeypatch.context() as patch:
                    for module in (ranking, cpu_kernels):
                        patch.setattr(module, "can_run", can_run)
                    student.zero_grad(set_to_none=True)
                    loss = objective.loss(student, batch)
                    loss.backward()
                    items, probes, owner, has, num_others = batch[-5:]
                    queries, ranks = base.queries(student, batch[:-5]), torch.zeros(0)
                    if epoch == 2:
                        ranks = term._ranks(
                            student, queries, items, probes, (owner, has), num_others
                        )
                    gradients = [p.grad for p in student.parameters() if p.grad is not None]
                    found.append([ranks, loss.detach(), *gradients])
            compiled, plain = found
            assert torch.equal(compiled[0], plain[0])
            for one, other in zip(compiled[1:], plain[1:], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", STUDENTS)
def test_exact_ranks_are_counted_over_what_the_user_does_not_have(
    tmp_path: Path, name: str
) -> None:
    student: Any = make_student(name)
    base, term, objective = make(tmp_path, student, ranks="exact", num_teacher_items=NUM_ITEMS - 2)
    num_owned = 0
    for batch in objective.batches(2):
        own, (items, probes, *owned, _) = batch[:-5], batch[-5:]
        scores = scores_of(base, student, own)
        queries = base.queries(student, own)
        ranks = term._ranks(student, queries, items, probes, tuple(owned), batch[-1])
        for row, ranking_of, found, own_scores in zip(
            base.rows(own).tolist(), items.tolist(), ranks.tolist(), scores.tolist(), strict=True
        ):
            unlabeled = unlabeled_of(row)
            num_owned += sum(item not in unlabeled for item in ranking_of if item)
            for item, rank in zip(ranking_of, found, strict=True):
                if item:
                    assert rank == rank_of(item, own_scores, unlabeled, None)
    assert num_owned > 0  # an item that the user has is ranked as well


def test_every_other_item_as_a_probe_gives_the_exact_rank(tmp_path: Path) -> None:
    student: Any = make_student("sasrec")
    base, term, objective = make(tmp_path, student, exclude="all_train", num_teacher_items=1)
    for batch in objective.batches(2):
        own, items, counts = batch[:-5], batch[-5], batch[-1]
        queries, scores = base.queries(student, own), scores_of(base, student, own)
        for place, row in enumerate(base.rows(own).tolist()):
            unlabeled, item = unlabeled_of(row), int(items[place])
            assert item in unlabeled
            assert len(unlabeled) == counts[place]
            probes = torch.tensor(sorted(unlabeled - {item}))
            owned = torch.tensor([0]), torch.zeros(1, len(probes), dtype=torch.bool)
            part = slice(place, place + 1)
            rank = term._ranks(
                student,
                queries[part],
                items[part],
                probes,
                owned,
                counts[part],
            )
            assert rank.item() == rank_of(item, scores[place].tolist(), unlabeled, None)


def test_probes_that_the_user_has_do_not_count(tmp_path: Path) -> None:
    student = make_student("caser")
    base, _, objective = make(tmp_path, student, num_probes=NUM_ITEMS)
    for batch in objective.batches(2):
        probes, owner, has, counts = batch[-4:]
        assert sorted(probes.tolist()) == list(range(1, NUM_ITEMS + 1))
        for place, row in enumerate(base.rows(batch[:-5]).tolist()):
            owned = probes[has[owner[place]]].tolist()
            unlabeled = unlabeled_of(row)
            assert len(owned) == len(set(owned)) == NUM_ITEMS - len(unlabeled)
            assert not set(owned) & unlabeled
            assert counts[place] == len(unlabeled)


@pytest.mark.parametrize("ranks", ["exact", "sampled"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path: Path, ranks: str) -> None:
    """In float32, where an item is not above itself by rounding."""
    for name, own_settings in {"caser": {"num_targets": 2}, "sasrec": {"max_len": 20}}.items():
        student = make_model(name, LOG, **own_settings).float().requires_grad_()
        settings = {"ranks": ranks, "num_probes": NUM_ITEMS, "beta": 3.0, "num_teacher_items": 20}
        base, _, objective = make(tmp_path / name, student, student, **settings)
        for batch in objective.batches(2):
            assert len(batch[-4])
            own = base.loss(student, batch[:-5]).item()
            assert objective.loss(student, batch).item() == pytest.approx(own, abs=1e-7), name


@pytest.mark.parametrize("weighting", ["hybrid", "discrepancy", "position"])
@pytest.mark.parametrize("normalize", [False, True])
def test_places_without_an_item_have_no_weight(
    tmp_path: Path, weighting: str, normalize: bool
) -> None:
    """A user with many items leaves the teacher few: what is left shares the normalized weight."""
    student: Any = make_student("caser")
    with torch.no_grad():
        student.output_embedding.zero_()  # all scores are equal to the bias
        student.output_bias.copy_(torch.arange(NUM_ITEMS + 1) * 1e-4)
    settings = {"weighting": weighting, "normalize": normalize, "exclude": "all_train"}
    base, _, objective = make(
        tmp_path, student, alpha=1.0, ranks="exact", num_teacher_items=NUM_ITEMS, **settings
    )
    config = RankingDistillationConfig(num_teacher_items=NUM_ITEMS, **settings)
    for batch in objective.batches(2):
        own, items = batch[:-5], batch[-5]
        scores = scores_of(base, student, own).tolist()
        expected = []
        for row, ranking_of, own_scores in zip(
            base.rows(own).tolist(), items.tolist(), scores, strict=True
        ):
            assert ranking_of[-1] == 0
            # With rank 1 where there is no item, the plain weights of these places are 0.
            unlabeled = unlabeled_of(row)
            ranks = [rank_of(i, own_scores, unlabeled, None) if i else 1 for i in ranking_of]
            weights = plain_weights(config, ranks)
            expected.append(
                sum(
                    weight * math.log1p(math.exp(-own_scores[item]))
                    for weight, item in zip(weights, ranking_of, strict=True)
                    if item
                )
            )
        found = objective.loss(student, batch).item()
        assert found == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize("settings", [{}, {"normalize": True}, {"weighting": "uniform"}])
def test_no_candidate_is_pushed_down(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The bias of an item has the sum of the gradients of its scores."""
    student: Any = make_student("caser")
    _, _, objective = make(tmp_path, student, alpha=1.0, ranks="exact", **settings)
    for batch in objective.batches(2):
        student.zero_grad()
        objective.loss(student, batch).backward()
        gradient = student.output_bias.grad
        assert bool((gradient <= 0).all())
        is_candidate = torch.zeros(NUM_ITEMS + 1, dtype=torch.bool)
        is_candidate[batch[-5].flatten()] = True
        assert bool((gradient[~is_candidate] == 0).all())
        assert bool((gradient < 0).any())


def test_weights_are_constants_of_the_loss(tmp_path: Path) -> None:
    """The gradient is that of the loss with its weights held fixed, by finite differences."""
    student: Any = make_student("sasrec")
    base, _, objective = make(tmp_path, student, ranks="exact", alpha=0.4)
    batch = next(iter(objective.batches(2)))
    objective.loss(student, batch).backward()
    gradient = student.item_embedding.grad.clone()
    config = RankingDistillationConfig(num_teacher_items=5, ranks="exact")
    own, items = batch[:-5], batch[-5]
    scores = scores_of(base, student, own)
    weights = []
    for row, ranking_of, values in zip(
        base.rows(own).tolist(), items.tolist(), scores.tolist(), strict=True
    ):
        ranks = [rank_of(item, values, unlabeled_of(row), None) for item in ranking_of]
        weights.append(plain_weights(config, ranks))

    def fixed_loss() -> float:
        values = scores_of(base, student, own).gather(1, items)
        distilled = (torch.tensor(weights) * torch.nn.functional.softplus(-values)).sum(dim=1)
        return float(0.6 * base.loss(student, own) + 0.4 * distilled.mean())

    step = 1e-5
    for item, column in [(int(items[0, 0]), 0), (int(items[1, 2]), 1), (3, 2)]:
        with torch.no_grad():
            student.item_embedding[item, column] += step
            above = fixed_loss()
            student.item_embedding[item, column] -= 2 * step
            below = fixed_loss()
            student.item_embedding[item, column] += step
        difference = (above - below) / 2 / step
        assert gradient[item, column].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_ranks_come_after_the_burn_in(tmp_path: Path, burn_in: int) -> None:
    student = make_student("sasrec")
    _, _, objective = make(tmp_path, student, burn_in=burn_in)
    for epoch in range(1, 5):
        has_probes = {len(batch[-4]) > 0 for batch in objective.batches(epoch)}
        assert has_probes == {epoch > burn_in}


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"beta": 0.0}, {"num_teacher_items": 0}])
@pytest.mark.parametrize("name", STUDENTS)
def test_no_distillation_is_the_own_loss(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    student = make_student(name)
    base, _, objective = make(tmp_path, student, **settings)
    for batch in objective.batches(2):
        assert torch.equal(objective.loss(student, batch), base.loss(student, batch[:-5]))


def test_alpha_and_beta_are_two_spellings(tmp_path: Path) -> None:
    """beta = alpha / (1 - alpha), and the objective divided by 1 - alpha."""
    student = make_student("caser")
    alpha = 0.3
    _, _, by_alpha = make(tmp_path, student, alpha=alpha)
    _, _, by_beta = make(tmp_path, student, beta=alpha / (1 - alpha))
    for batch, other in zip(by_alpha.batches(2), by_beta.batches(2), strict=True):
        found = by_alpha.loss(student, batch).item()
        expected = (1 - alpha) * by_beta.loss(student, other).item()
        assert found == pytest.approx(expected, rel=1e-12)
    assert RankingDistillationConfig().scales == (1.0, 1.0)
    assert RankingDistillationConfig(alpha=0.25).scales == (0.75, 0.25)


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="alpha or beta, not both"):
        make_config(RankingDistillationConfig, {"alpha": 0.5, "beta": 1.0})
