"""Compact targets over a catalogue against the dense ones of losses.soft_targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.losses.soft_targets import TopKTarget, class_mean_table, pt_target, topk_target
from ensue.training.distillation import catalog_targets
from ensue.training.distillation.catalog_targets import (
    MeanTargets,
    compact_label,
    compact_topk,
    force_label,
    permute_items,
    unit_rows,
)
from ensue.training.distillation.prefixes import answer_all
from ensue.training.distillation.teachers import Teacher, TeacherCache, teacher_cache
from tests.training.distillation.models import NUM_ITEMS, make_log, make_model, without_context

LOG = without_context(make_log())


def draw(num_queries: int, num_items: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a teacher's logits [S, I], and labels [S] in 1..I."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_queries, num_items, generator=generator, dtype=torch.float64)
    return logits, torch.randint(1, num_items + 1, (num_queries,), generator=generator)


def compact(logits: Tensor, k: int, temperature: float) -> TopKTarget:
    best = logits.topk(k, dim=1)
    normalizers = (logits / temperature).logsumexp(dim=1)
    return compact_topk(
        best.indices + 1,
        best.values,
        normalizers,
        num_items=logits.shape[1],
        temperature=temperature,
    )


def dense(target: TopKTarget, num_items: int) -> Tensor:
    """Return the target [S, I], and check what holds for every compact one."""
    assert bool((target.ids >= 1).all())
    assert bool((target.ids <= num_items).all())
    for ids in target.ids.tolist():
        assert len(set(ids)) == len(ids)
    made = TopKTarget(target.ids - 1, target.values, target.remainder).dense(num_items)
    assert bool((made >= 0).all())
    torch.testing.assert_close(made.sum(dim=1), torch.ones_like(made[:, 0]))
    return made


@pytest.mark.parametrize("k", [1, 4, 11, 12])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_best_items_and_the_rest(k: int, temperature: float) -> None:
    logits, labels = draw(30, 12)
    target = compact(logits, k, temperature)
    expected = topk_target(logits, k, temperature=temperature).dense(12)
    torch.testing.assert_close(dense(target, 12), expected)
    p_t = (logits / temperature).softmax(dim=1).gather(1, labels[:, None] - 1)[:, 0]
    forced = force_label(target, labels, p_t, 12)
    expected = topk_target(logits, k, temperature=temperature, labels=labels - 1).dense(12)
    torch.testing.assert_close(dense(forced, 12), expected)


def test_the_label_and_the_rest() -> None:
    logits, labels = draw(30, 12)
    p_t = logits.softmax(dim=1).gather(1, labels[:, None] - 1)[:, 0]
    target = compact_label(labels, p_t, num_items=12)
    torch.testing.assert_close(dense(target, 12), pt_target(logits, labels - 1))


@pytest.mark.parametrize("num_items", [2, 3, 12, 23, 30])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_a_permutation_moves_all_but_the_label(num_items: int, share: float) -> None:
    k = max(1, round(share * num_items))
    logits, labels = draw(200, num_items)
    target = compact(logits, k, 1.0)
    before = dense(target, num_items)
    moved = permute_items(target, labels, num_items, torch.Generator().manual_seed(1))
    after = dense(moved, num_items)  # no item twice
    torch.testing.assert_close(after.sort(dim=1).values, before.sort(dim=1).values)
    own = labels[:, None] - 1
    torch.testing.assert_close(after.gather(1, own), before.gather(1, own))
    if num_items > 3:
        assert not torch.equal(after.argmax(dim=1), before.argmax(dim=1))


def test_a_permutation_takes_every_item_alike_and_each_query_its_own() -> None:
    num_items, k, num_queries = 19, 3, 6000  # a prime: uniform, but for chance
    logits, _ = draw(1, num_items)
    target = compact(logits.expand(num_queries, -1), k, 1.0)
    labels = torch.full((num_queries,), 7)
    moved = permute_items(target, labels, num_items, torch.Generator().manual_seed(1))
    for place in range(k):
        counts = torch.bincount(moved.ids[:, place], minlength=num_items + 1)
        if int(target.ids[0, place]) == 7:
            assert counts[7] == num_queries
            continue
        assert counts[0] == counts[7] == 0
        others = counts[[item for item in range(1, num_items + 1) if item != 7]].double()
        expected = num_queries / (num_items - 1)
        assert bool(((others - expected).abs() < 4 * expected**0.5).all())


def make_cache(folder: Path, num_kept: int, temperature: float) -> tuple[TeacherCache, Tensor]:
    """Return a cache, and the dense logits [S, I] of the training rows in order."""
    model = make_model("gru4rec", LOG)
    cache = teacher_cache(
        folder,
        Teacher(model, "t"),
        LOG,
        queries="log",
        num_items=num_kept,
        exclude="nothing",
        temperature=temperature,
    )
    logits = torch.zeros(len(LOG.items), NUM_ITEMS, dtype=torch.float64)
    for answers in answer_all(model, LOG):
        logits[answers.rows] = answers.scores[:, 1:]
    rows, _ = LOG.rows(np.arange(LOG.num_users + 1))
    kept, normalizers = (np.float32(a) for a in (cache.logits, cache.normalizers))
    return replace(cache, logits=kept, normalizers=normalizers), logits[rows]


@pytest.mark.parametrize("num_kept", [NUM_ITEMS, 1000, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("label_items", [1, 5 * NUM_ITEMS, 1 << 22])
def test_mean_targets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_kept: int,
    temperature: float,
    label_items: int,
) -> None:
    monkeypatch.setattr(catalog_targets, "LABEL_ITEMS", label_items)
    cache, logits = make_cache(tmp_path, num_kept, temperature)
    rows, _ = LOG.rows(np.arange(LOG.num_users + 1))
    labels = torch.from_numpy(LOG.items[rows].astype(np.int64)) - 1
    assert len(set(labels.tolist())) < NUM_ITEMS  # some items are the answer to no query
    means = MeanTargets(cache, LOG, num_items=NUM_ITEMS, temperature=temperature)
    found = dense(means.of(torch.arange(1, NUM_ITEMS + 1)), NUM_ITEMS).double()
    if num_kept >= NUM_ITEMS:
        expected = class_mean_table(logits, labels, temperature=temperature)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        return
    each = topk_target(logits, num_kept, temperature=temperature).dense(NUM_ITEMS)
    for label in range(NUM_ITEMS):
        own = each[labels == label]
        if len(own) == 0:
            expected = torch.full((NUM_ITEMS,), 1 / NUM_ITEMS, dtype=torch.float64)
        else:
            mean = own.mean(dim=0)
            kept = mean.topk(num_kept)
            rest = (1 - kept.values.sum()) / (NUM_ITEMS - num_kept)
            expected = torch.full_like(mean, rest).scatter(0, kept.indices, kept.values)
        torch.testing.assert_close(found[label], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("center_rows", [False, True])
def test_unit_rows(center_rows: bool) -> None:
    table = torch.randn(9, 4, dtype=torch.float64)
    rows = unit_rows(table, center_rows=center_rows)
    assert rows.shape == (8, 4)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(8, dtype=torch.float64))
    moved = unit_rows(table + 1, center_rows=center_rows)
    assert torch.allclose(rows, moved) == center_rows
