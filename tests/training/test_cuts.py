"""Histories cut in two, in order and in no order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.losses.papk import PapkConfig
from ensue.models.baselines.bpr import BPR, BPRConfig
from ensue.training.cuts import NONE, Cut, CutObjective, shuffled
from ensue.training.papk import PapkObjective
from tests.contracts.planted import histories_of

NUM_ITEMS = 12
LOG = [[1, 2, 3, 4], [5], [6, 6, 7, 6, 7], [8, 9, 10, 11, 12, 1, 2]]


class Cuts(CutObjective):
    def draw(self, users: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        return NONE

    def loss(self, model: Any, batch: Any) -> Tensor:
        return torch.zeros(())


def model() -> BPR:
    return BPR(BPRConfig(dim=2), num_users=len(LOG), num_items=NUM_ITEMS)


def test_without_order_any_half_at_most_is_to_be_found() -> None:
    made = Cuts(model(), histories_of(LOG), reading="others", batch_size=3, seed=0)
    found: dict[int, set[int]] = {}
    for epoch in range(1, 60):
        cuts = [Cut.of(batch) for batch in made.batches(epoch)]
        assert sorted(user for cut in cuts for user in cut.before.users.tolist()) == [1, 2, 3, 4]
        for cut in cuts:
            for row, user in enumerate(cut.before.users.tolist()):
                whole = LOG[user - 1]
                first, last = cut.before.offsets[row : row + 2].tolist()
                before = cut.before.items[first:last].tolist()
                behind = [i for i in cut.positives[row].tolist() if i]
                assert len(whole) - len(before) <= max(1, len(whole) // 2)
                assert set(before) | set(behind) == set(whole)
                assert not set(before) & set(behind)
                found.setdefault(user, set()).update(behind)
    assert found == {1: {1, 2, 3, 4}, 2: {5}, 3: {7}, 4: set(LOG[3])}  # 6 is never all behind


def test_shuffled_histories_keep_columns_beside_their_items() -> None:
    own = histories_of(LOG)
    with_context = type(own)(own.items, own.starts, own.ends, (own.items * 10.0,), (-own.items,))
    mixed = shuffled(with_context, np.random.default_rng(0))
    assert [sorted(mixed[user].tolist()) for user in range(1, 5)] == [sorted(h) for h in LOG]
    assert (mixed.event_context[0] == mixed.items * 10.0).all()
    assert (mixed.request_context[0] == -mixed.items).all()


def test_papk_warms_up_on_cross_entropy_where_it_is_told_to() -> None:
    config = PapkConfig(k=2, warmup="bce", warmup_epochs=1, history="others")
    own = model()
    made = PapkObjective(own, histories_of(LOG), config, batch_size=4, seed=0)
    assert made.start_epoch(own, 1, is_resumed=False) == {"papk_form": "bce"}
    (batch,) = made.batches(1)
    cut = Cut.of(batch)
    scores = own.score(cut.before)
    positives = scores.gather(1, cut.positives)[cut.positives > 0]
    negatives = scores[cut.is_negative(NUM_ITEMS)]
    expected = -positives.sigmoid().log().mean() - (1 - negatives.sigmoid()).log().mean()
    torch.testing.assert_close(made.loss(own, batch), expected)
    assert made.start_epoch(own, 2, is_resumed=False) == {"papk_form": "ramp"}
