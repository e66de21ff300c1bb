"""The objective of models of sequences: what it samples, what it counts, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.data.histories import Histories
from ensue.errors import DataError
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from ensue.training.next_item import NextItemObjective
from tests.contracts.planted import histories_of

NUM_ITEMS = 15


def data() -> Histories:
    rng = np.random.default_rng(0)
    return histories_of([rng.integers(1, NUM_ITEMS + 1, n).tolist() for n in (2, 9, 5, 14, 1, 7)])


def make(**settings: object) -> tuple[SASRec, NextItemObjective]:
    torch.manual_seed(0)
    config = SASRecConfig(**{"dim": 8, "max_len": 10, "dropout": 0.0, **settings})
    model = SASRec(config, num_users=6, num_items=NUM_ITEMS)
    with torch.no_grad():
        model.item_embedding[1:] = torch.randn(NUM_ITEMS, 8)
    return model, NextItemObjective(model, data(), batch_size=3, seed=0)


def dense_loss(model: SASRec, items: Tensor, targets: Tensor) -> float:
    """The mean cross-entropy of the whole catalogue, one position at a time."""
    losses = []
    for row, own in zip(items, targets, strict=True):
        for position in range(int((own > 0).sum())):
            query = model.encode(row[None, : position + 1])[0, -1]
            scores = (query @ model.item_embedding.T)[1:]
            losses.append((scores.logsumexp(0) - scores[own[position] - 1]).item())
    return float(np.mean(losses))


def test_loss_and_count_are_of_real_positions_alone() -> None:
    model, objective = make()
    counts = 0
    for batch in objective.batches(1):
        loss = objective.loss(model, batch).item()
        assert loss == pytest.approx(dense_loss(model, batch[0], batch[1]), rel=1e-5)
        counts += objective.count(batch)
    assert counts == objective.num_examples == 1 + 8 + 4 + 10 + 6


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_a_large_sample_gives_the_full_softmax(negatives: str) -> None:
    """Correction included: popular negatives come up more often, and count less each."""
    settings = {"loss": "sampled_softmax", "negatives": negatives, "num_negatives": 40_000}
    model, objective = make(**settings)
    batch = next(iter(objective.batches(1)))
    # The positive stands beside q's share of it among the draws, which are hits and left out.
    loss = objective.loss(model, batch).item()
    log_q = objective._negatives.log_q
    expected, total = [], 0
    with torch.no_grad():
        for row, own in zip(batch[0], batch[1], strict=True):
            queries = model.encode(row[None])[0]
            for query, target in zip(queries, own.tolist(), strict=True):
                if target:
                    scores = (query @ model.item_embedding.T)[1:]
                    others = scores.exp().sum() - scores[target - 1].exp()
                    positive = scores[target - 1] - log_q[target] - math.log(40_000)
                    expected.append(torch.log1p(others / positive.exp()).item())
                    total += 1
    assert loss == pytest.approx(sum(expected) / total, rel=0.02)


def test_in_batch_negatives_are_the_targets_of_the_batch() -> None:
    _, objective = make(loss="sampled_softmax", negatives="in_batch")
    for _, targets, negatives, *_ in objective.batches(1):
        assert torch.equal(negatives, targets[targets > 0])


def test_each_position_has_its_own_negatives_and_never_its_target() -> None:
    _, objective = make(loss="gbce", num_negatives=600)
    for _, targets, negatives, *_ in objective.batches(1):
        real = targets[targets > 0]
        assert negatives.shape == (len(real), 600)
        assert not (negatives == real[:, None]).any()
        for target, own in zip(real.tolist(), negatives, strict=True):
            counts = torch.bincount(own, minlength=NUM_ITEMS + 1)
            others = [n for item, n in enumerate(counts.tolist()) if item not in (0, target)]
            assert min(others) > 15  # 600 / 14 each
            assert sum(others) == 600


def test_a_batch_can_be_made_again_without_the_ones_before_it() -> None:
    _, objective = make(loss="gbce", crop="random", max_len=4)
    whole = list(objective.batches(3))
    rest = list(objective.batches(3, first=1))
    assert len(rest) == len(whole) - 1
    for batch, again in zip(whole[1:], rest, strict=True):
        for tensor, other in zip(batch, again, strict=True):
            assert torch.equal(tensor, other)
    other_epoch = torch.cat([batch[2].flatten() for batch in objective.batches(4)])
    assert not torch.equal(torch.cat([batch[2].flatten() for batch in whole]), other_epoch)


def test_the_popularity_of_the_training_part_is_kept() -> None:
    model, _ = make()
    counts = data().item_counts(NUM_ITEMS)[1:] + 1
    expected = torch.from_numpy(counts / counts.sum())
    torch.testing.assert_close(model.log_popularity[1:].exp().double(), expected, atol=1e-6, rtol=0)


def test_histories_of_one_event_cannot_train_it() -> None:
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(dim=4), num_users=2, num_items=3)
    with pytest.raises(DataError, match="training needs"):
        NextItemObjective(model, histories_of([[1], [3]]), batch_size=2, seed=0)


@pytest.mark.parametrize("loss", ["gbce", "bce"])
def test_binary_losses_start_where_no_other_equal_scores_are_better(loss: str) -> None:
    """A model that knows nothing has equal scores, and is not moved as a whole."""
    model, objective = make(loss=loss, num_negatives=5, calibration=0.6)
    beta = 0.6 * 5 / (NUM_ITEMS - 1) + 0.4 if loss == "gbce" else 1.0
    with torch.no_grad():
        model.item_embedding.zero_()
    found = objective.loss(model, next(iter(objective.batches(1)))).item()
    constants = np.linspace(-8, 8, 3201)
    losses = (beta * np.log1p(np.exp(-constants)) + 5 * np.log1p(np.exp(constants))) / 6
    assert found == pytest.approx(losses.min(), rel=1e-4)
