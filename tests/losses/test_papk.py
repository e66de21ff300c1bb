"""The surrogates of pAp@k against their worked example, their bounds and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ensue.evaluation.papk import pap_at_k
from ensue.losses.papk import FORMS, papk_loss

SCORES = torch.tensor([1.2, 0.9, 0.4, 0.3, -0.1, -0.5], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.bool)


def loss_of(scores, labels, k, form):
    return papk_loss(scores[labels][None], scores[~labels][None], k, form=form)[0]


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, (1.3, 1.8, 2.3)), (2, (1.1, 1.35, 1.6)), (3, (0.9777778,) * 3)],
)
def test_worked_example(k, expected):
    found = [float(loss_of(SCORES, LABELS, k, form)) for form in ("ramp", "avg", "max")]
    assert found == pytest.approx(list(expected), abs=1e-6)


def test_worked_gradient():
    scores = SCORES.clone().requires_grad_()
    loss_of(scores, LABELS, 2, "ramp").backward()
    assert scores.grad.tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5, 0, 0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_gradients_are_differences(form, k):
    torch.manual_seed(0)
    positives, negatives = (
        torch.randn(3, n, dtype=torch.float64, requires_grad=True) for n in (4, 6)
    )
    assert torch.autograd.gradcheck(
        lambda p, q: papk_loss(p, q, k, form=form).sum(), (positives, negatives)
    )


def test_each_bounds_the_one_before():
    rng = np.random.default_rng(0)
    for _ in range(400):
        size, k = int(rng.integers(2, 14)), int(rng.integers(1, 8))
        scores, labels = rng.normal(size=size), rng.random(size) < rng.random()
        labels[0], labels[1] = True, False
        missed = 1 - pap_at_k(scores, labels, np.array([0, size]), k, ties="strict").values[0]
        bounds = [
            float(loss_of(torch.from_numpy(scores), torch.from_numpy(labels), k, form))
            for form in ("ramp", "avg", "max")
        ]
        assert np.all(np.diff([missed, *bounds]) >= -1e-12)


def test_avg_and_max_are_convex_and_ramp_is_not():
    rng = np.random.default_rng(0)
    worse = dict.fromkeys(("ramp", "avg", "max"), 0)
    labels = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)
    for _ in range(500):
        a, b = torch.from_numpy(rng.normal(size=(2, 6)) * 2)
        for form in worse:
            ends = (loss_of(a, labels, 1, form) + loss_of(b, labels, 1, form)) / 2
            worse[form] += bool(loss_of((a + b) / 2, labels, 1, form) > ends + 1e-12)
    assert worse["avg"] == worse["max"] == 0
    assert worse["ramp"] > 50


@pytest.mark.parametrize("form", FORMS)
def test_padding_counts_for_nothing(form):
    torch.manual_seed(0)
    positives, negatives = torch.randn(2, 3), torch.randn(2, 5)
    alone = [
        float(papk_loss(positives[:1, :2], negatives[:1, :4], 2, form=form)),
        float(papk_loss(positives[1:], negatives[1:], 2, form=form)),
    ]
    is_positive = torch.tensor([[True, True, False], [True] * 3])
    is_negative = torch.tensor([[True] * 4 + [False], [True] * 5])
    together = papk_loss(
        positives, negatives, 2, form=form, is_positive=is_positive, is_negative=is_negative
    )
    assert together.tolist() == pytest.approx(alone, abs=1e-6)
    none = papk_loss(
        positives, negatives, 2, form=form, is_positive=torch.zeros(2, 3, dtype=torch.bool)
    )
    assert none.tolist() == [0, 0]
