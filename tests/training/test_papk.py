"""Training on pAp@k: what a batch holds, its loss against the definition, and that models learn."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ensue
from ensue.errors import ConfigError, UsageError
from ensue.losses.papk import PapkConfig, papk_loss
from ensue.models.baselines.bpr import BPR, BPRConfig
from ensue.runs.train import resolve_settings
from ensue.training.papk import PapkObjective
from tests.contracts.planted import histories_of
from tests.helpers import make_dataset

NUM_ITEMS = 12
LOG = [[1, 2, 3, 4], [5], [6, 6, 7, 6, 7], [8, 9, 10, 11, 12, 1, 2]]


def objective(num_items: int = NUM_ITEMS, **settings: Any) -> tuple[BPR, PapkObjective]:
    torch.manual_seed(0)
    histories = histories_of(LOG)
    model = BPR(BPRConfig(dim=4), num_users=len(LOG), num_items=num_items)
    config = PapkConfig(**settings)
    return model, PapkObjective(model, histories, config, batch_size=2, seed=0)


def test_a_batch_is_histories_cut_in_their_second_half_and_what_is_new_behind():
    seen: dict[int, set[int]] = {}
    for epoch in range(1, 30):
        _, made = objective()
        batches = list(made.batches(epoch))
        assert sorted(user for batch in batches for user in batch[0].tolist()) == [1, 3, 4]
        for users, items, offsets, positives, owned, owned_offsets, drawn, *_ in batches:
            assert len(drawn) == 0
            for row, user in enumerate(users.tolist()):
                whole = LOG[user - 1]
                before = items[offsets[row] : offsets[row + 1]].tolist()
                assert before == whole[: len(before)]
                assert (len(whole) + 1) // 2 <= len(before) < len(whole)
                behind = dict.fromkeys(i for i in whole[len(before) :] if i not in before)
                assert positives[row][positives[row] > 0].tolist() == list(behind)
                own = owned[owned_offsets[row] : owned_offsets[row + 1]].tolist()
                assert own == sorted(set(whole))
                seen.setdefault(user, set()).add(len(before))
    assert seen == {1: {2, 3}, 3: {3, 4}, 4: {4, 5, 6}}


def test_batches_are_made_again_from_the_middle():
    _, made = objective()
    whole, rest = list(made.batches(3)), list(made.batches(3, first=1))
    assert len(whole) == 2
    assert all(torch.equal(*pair) for pair in zip(whole[1], rest[0], strict=True))


@pytest.mark.parametrize("form", ["ramp", "logistic"])
def test_loss_is_the_surrogate_of_each_user(form):
    model, made = objective(k=2, form=form, warmup_epochs=1)
    for epoch, used in ((1, "avg"), (2, form)):
        assert made.start_epoch(model, epoch, is_resumed=False) == {"papk_form": used}
        for batch in made.batches(epoch):
            expected = []
            for user, positives in zip(batch[0].tolist(), batch[3], strict=True):
                scores = model.user_embedding[user - 1] @ model.item_embedding.T + model.item_bias
                others = [i for i in range(1, NUM_ITEMS + 1) if i not in LOG[user - 1]]
                own = positives[positives > 0]
                if len(own):
                    expected.append(
                        papk_loss(scores[own][None], scores[others][None], 2, form=used)
                    )
            torch.testing.assert_close(made.loss(model, batch), torch.cat(expected).mean())


def test_drawn_negatives_stand_for_as_many_times_the_best():
    model, made = objective(num_items=40, k=10, num_negatives=20, warmup_epochs=0)
    made.start_epoch(model, 1, is_resumed=False)
    for batch in made.batches(1):
        drawn = batch[6]
        assert len(drawn.unique()) == 20
        assert drawn.min() > 0
        expected = []
        for user, positives in zip(batch[0].tolist(), batch[3], strict=True):
            scores = model.user_embedding[user - 1] @ model.item_embedding.T + model.item_bias
            others = [i for i in drawn.tolist() if i not in LOG[user - 1]]
            own = positives[positives > 0]
            if len(own):
                expected.append(papk_loss(scores[own][None], scores[others][None], 5))
        torch.testing.assert_close(made.loss(model, batch), torch.cat(expected).mean())


def test_loss_papk_is_a_setting_of_every_trained_model():
    for model in ("caser", "sasrec", "bpr"):
        _, training = resolve_settings(model, {"loss": "papk", "epochs": 3})
        assert training is not None
        assert training.papk == PapkConfig()
    _, training = resolve_settings("bpr", {"loss": "papk", "papk": {"k": 3}})
    assert training is not None
    assert training.papk == PapkConfig(k=3)
    with pytest.raises(ConfigError, match="no setting 'loss'"):
        resolve_settings("bpr", {"loss": "bpr"})


def planted(folder: Path) -> ensue.Dataset:
    """Four groups of 15 items; a user takes items of one."""
    rng = np.random.default_rng(0)
    histories = []
    for user in range(200):
        own = rng.choice(15, int(rng.integers(6, 15)), replace=False)
        histories.append((own + 1 + 15 * (user % 4)).tolist())
    return make_dataset(folder, histories, num_items=60)


def test_several_processes_are_refused(tmp_path):
    dataset = planted(tmp_path / "data")
    with pytest.raises(UsageError, match="trained by one process"):
        ensue.train("bpr", dataset, out=tmp_path / "run", loss="papk", distributed="replicated")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["caser", "sasrec", "gru4rec", "m3", "two_tower", "bpr", "deep_retrieval"]
)
def test_every_model_learns_on_it(model, tmp_path):
    dataset = planted(tmp_path / "data")
    settings = {"epochs": 15, "batch_size": 16, "learning_rate": 0.01, "patience": None}
    if model == "m3":  # its dropout hides what so little data tells
        settings["dropout"] = 0.0
    run = ensue.train(model, dataset, out=tmp_path / "run", loss="papk", papk={"k": 5}, **settings)
    at_random = 0.1  # pap@5 of items in any order; of the group in any order about .6
    assert run.evaluate(dataset, ks=(5,), num_resamples=0).metrics["pap@5"] > 2 * at_random


@pytest.mark.parametrize(("best", "last", "is_said"), [(1, 4, True), (3, 4, False), (1, 2, False)])
def test_a_loss_that_is_worse_than_its_warmup_is_said(
    best, last, is_said, tmp_path, monkeypatch, capsys
):
    epochs = itertools.count(1)

    def evaluate(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(metrics={"map": 1.0 - abs(next(epochs) - best) / 10})

    monkeypatch.setattr("ensue.runs.item_training.evaluate", evaluate)
    dataset = make_dataset(tmp_path / "data", LOG, split="ratio", num_items=NUM_ITEMS)
    ensue.train(
        "bpr", dataset, out=tmp_path / "run", loss="papk", papk={"warmup_epochs": 2}, epochs=last
    )
    assert ("is one of the warm-up" in capsys.readouterr().err) == is_said
