from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensue.data.feature_schema import FeatureSchema
from ensue.data.features import Bags, FeatureColumn, FeatureTable
from ensue.errors import ConfigError
from ensue.losses.contrastive import view_contrast
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.retrieval.two_tower_config import TwoTowerConfig
from ensue.training.config import TrainingConfig
from ensue.training.loop import TrainingLoop
from ensue.training.two_tower import TwoTowerObjective, feature_information
from tests.contracts.planted import histories_of
from tests.models.retrieval.toy import EMPTY, HISTORIES, ITEMS, USERS, toy_model

DATA = histories_of(HISTORIES)
SSL: dict[str, Any] = {"ssl": "cfm", "value_dropout": 0.0, "ssl_batch_size": 4}


def objective_of(model: TwoTower, *, batch_size: int = 4, seed: int = 0) -> TwoTowerObjective:
    return TwoTowerObjective(model, DATA, batch_size=batch_size, seed=seed)


def train(tmp_path: Path, *, epochs: int = 3, **settings: Any) -> TwoTower:
    model = toy_model(**settings)
    config = TrainingConfig(
        epochs=epochs, patience=None, learning_rate=0.05, weight_decay=0.0, optimizer="adagrad"
    )
    TrainingLoop(model, objective_of(model), config, directory=tmp_path).run()
    return model


def assert_same_state(one: TwoTower, other: TwoTower) -> None:
    """Hold the states equal bit for bit; a missing number is NaN in both."""
    for name, value in one.state_dict().items():
        assert torch.equal(value.nan_to_num(), other.state_dict()[name].nan_to_num()), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_tables": False, "logq": "none", "hits": "target"},
        {"ids": "query", "query": "ids", "num_negatives": 3, "ssl": "no_complement"},
        {"ssl": "spread_out", "hidden": []},
        {"ssl": "spread_out_square", "history": "others", "num_targets": 2},
        {"ssl": "rfm", "pooling": "sum", "ssl_items": "batch", "logq": "streaming"},
    ],
    ids=str,
)
def test_finite_differences_of_every_weight(settings: dict[str, Any]) -> None:
    model = toy_model(users=USERS, **{**SSL, "temperature": 0.5, **settings}).double().eval()
    objective = objective_of(model)
    batch = next(iter(objective.batches(1)))
    model.zero_grad()
    objective.loss(model, batch).backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        flat = parameter.data.view(-1)
        places = torch.randint(len(flat), (2,), generator=generator).tolist()
        for place in {*places, int(gradient.abs().argmax())}:
            is_padding = place < parameter.shape[-1] and parameter.dim() == 2
            if is_padding and ("ids" in name or "tables" in name) and len(parameter) > 2:
                continue  # row 0 stands for what is missing, and is not trained
            kept, step = flat[place].item(), 1e-6
            values = []
            for moved in (kept + step, kept - step):
                flat[place] = moved
                values.append(objective.loss(model, batch).item())
            flat[place] = kept
            numeric = (values[0] - values[1]) / (2 * step)
            assert gradient.view(-1)[place].item() == pytest.approx(numeric, rel=1e-5, abs=2e-8), (
                f"{name}[{place}]"
            )


def test_what_is_missing_stays_zero(tmp_path: Path) -> None:
    model = train(tmp_path, users=USERS, **SSL)
    tables = [model.item_embedding.ids, *list(model.item_embedding.tables)[:2]]
    tables.append(model.user_embedding.tables[0])
    for table in tables:
        assert table is not None
        assert table[0].abs().max() == 0
        assert table[1:].abs().min() > 0


def test_without_weight_the_second_task_leaves_no_trace(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", ssl="none", num_negatives=2)
    weightless = train(tmp_path / "weightless", ssl="rfm", alpha=0.0, num_negatives=2)
    with_weight = train(tmp_path / "with", ssl="rfm", alpha=0.3, num_negatives=2)
    assert_same_state(alone, weightless)
    assert not torch.equal(alone.item_vectors, with_weight.item_vectors)


def test_without_masks_and_dropout_views_are_spread_out() -> None:
    gradients = []
    for ssl in ("dropout", "spread_out"):
        model = toy_model(ssl=ssl, value_dropout=0.0, alpha=0.7).double()
        objective = objective_of(model)
        loss = objective.loss(model, next(iter(objective.batches(1))))
        loss.backward()
        own = (torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters())
        gradients.append([loss.detach(), *own])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0][1:])


def test_the_two_losses_add_up() -> None:
    model = toy_model(**SSL, alpha=0.7, ssl_temperature=0.3).double()
    batch = next(iter(objective_of(model).batches(1)))
    both = objective_of(model).loss(model, batch)
    model.config = model.config.model_copy(update={"alpha": 0.0})
    shown, is_masked = batch[-2:]
    nothing = [*batch[:-2], shown[:0], is_masked]
    main = objective_of(model).loss(model, nothing)
    views = model.views(shown, is_masked, drop=0.0)
    second = view_contrast(*map(model.item_tower, views), temperature=0.3)
    torch.testing.assert_close(both, main + 0.7 * second)


def test_batches_can_be_made_again_from_any_place() -> None:
    settings = {**SSL, "history": "others", "num_negatives": 2}
    whole = list(objective_of(toy_model(**settings)).batches(2))
    assert len(whole) == 3  # 12 items, each a target once
    rest = list(objective_of(toy_model(**settings)).batches(2, first=1))
    for one, other in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    other_epoch = next(iter(objective_of(toy_model(**settings)).batches(3)))
    assert not torch.equal(other_epoch[3], whole[0][3])


def test_a_resumed_training_equals_one_never_stopped(tmp_path: Path) -> None:
    settings = {**SSL, "value_dropout": 0.4, "logq": "streaming"}
    whole = train(tmp_path / "whole", epochs=4, **settings)
    train(tmp_path / "parts", epochs=2, **settings)
    model = toy_model(**settings)
    config = TrainingConfig(
        epochs=4, patience=None, learning_rate=0.05, weight_decay=0.0, optimizer="adagrad"
    )
    TrainingLoop(model, objective_of(model), config, directory=tmp_path / "parts").run(resume=True)
    assert_same_state(whole, model)


def test_items_of_the_second_task() -> None:
    model = toy_model(**{**SSL, "ssl_batch_size": None})
    for batch in objective_of(model).batches(1):
        shown = batch[-2]
        assert len(shown.unique()) == len(shown) == min(len(batch[3]), 5)
        assert 1 <= shown.min() <= shown.max() <= 5
    of_batch = toy_model(**SSL, ssl_items="batch")
    for batch in objective_of(of_batch).batches(1):
        assert batch[-2].tolist() == batch[3].unique().tolist()


def test_uniform_items_are_uniform() -> None:
    objective = objective_of(toy_model(**{**SSL, "ssl_batch_size": 2}))
    counts = np.zeros(6)
    for epoch in range(300):
        for batch in objective.batches(epoch):
            counts[batch[-2].numpy()] += 1
    np.testing.assert_allclose(counts[1:] / counts.sum(), 0.2, atol=0.02)


def test_log_q_of_exact_counts() -> None:
    model = toy_model(num_negatives=10, logq="exact")
    objective = objective_of(model, batch_size=4)
    targets, candidates = torch.tensor([1, 2, 2]), torch.tensor([1, 5])
    found = objective.log_q(model, candidates, targets)
    assert found is not None
    # Items 1 and 5 are 3 and 2 of 12 events; 3 targets a batch, and 10 draws of 5 items.
    np.testing.assert_allclose(found.exp(), [3 * 3 / 12 + 2, 3 * 2 / 12 + 2], rtol=1e-5)
    plain = toy_model(logq="none")
    assert objective_of(plain).log_q(plain, candidates, targets) is None


def test_the_stream_learns_while_training_alone() -> None:
    model = toy_model(logq="streaming")
    objective = objective_of(model)
    batch = next(iter(objective.batches(1)))
    assert model.frequency is not None
    model.eval()
    objective.loss(model, batch)
    assert model.frequency.step == 0
    model.train()
    objective.loss(model, batch)
    assert model.frequency.step == 1


def two_copies() -> FeatureTable:
    """Return features of 60 items: two copies of the item's own number, and a random one."""
    one = np.arange(61, dtype=np.int32)
    random = np.random.default_rng(0).integers(1, 4, 61).astype(np.int32)
    random[0] = 0
    columns = tuple(FeatureColumn(name, "categorical", 60) for name in ("one", "copy", "other"))
    return FeatureTable(columns, (one, one, random))


@pytest.mark.slow
def test_copied_features_give_each_other_away_unless_they_are_masked_together() -> None:
    """The known answer of the method: random halves let a view show a copy of what it hides."""
    table = two_copies()
    rng = np.random.default_rng(1)
    data = histories_of([rng.integers(1, 61, 6).tolist() for _ in range(40)])
    losses = {}
    for ssl in ("rfm", "cfm"):
        torch.manual_seed(0)
        config = TwoTowerConfig(
            ssl=ssl,  # type: ignore[arg-type]
            ids="query",
            dim=16,
            feature_dim=16,
            hidden=[],
            num_correlated=1,
            ssl_batch_size=60,
        )
        model = TwoTower(
            config, num_users=40, num_items=60, features=FeatureSchema(table.columns, ())
        )
        model.fill_features_(table, EMPTY)
        objective = TwoTowerObjective(model, data, batch_size=64, seed=0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        found = []
        for step in range(160):
            batch = next(iter(objective.batches(step)))
            views = model.views(batch[-2], batch[-1], drop=0.0)
            loss = view_contrast(*map(model.item_tower, views), temperature=0.1)
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses[ssl] = found[-30:]
    # Random halves hide one feature of three. Where that is a copy the other copy tells all; CFM
    # shows, but for the seed "other", a copy to neither view or the random feature alone to one.
    assert np.median(losses["rfm"]) < 0.3 * np.median(losses["cfm"])


def test_information_counts_ids_where_items_have_them() -> None:
    found = feature_information(toy_model())
    assert found.names == ("id", "color", "tags", "price")
    assert found.raw[0, 1] == pytest.approx(found.entropies[1])
    assert feature_information(toy_model(ids="query")).names == ("color", "tags", "price")


def test_settings_that_do_not_fit_the_features() -> None:
    one = FeatureTable(ITEMS.columns[:1], ITEMS.values[:1])
    with pytest.raises(ConfigError, match="two features or more, item ids counted; there is 1"):
        objective_of(toy_model(items=one, ids="query", ssl="rfm"))
    with pytest.raises(ConfigError, match=r"ssl=dropout leaves out values .* have none"):
        objective_of(toy_model(items=one, ssl="dropout"))
    with pytest.raises(ConfigError, match="num_correlated must be 0 to 2 with 4 features; got 3"):
        objective_of(toy_model(ssl="cfm", num_correlated=3))


def test_a_bag_may_be_empty() -> None:
    bags = Bags(np.zeros(0, np.int32), np.zeros(7, np.int64))
    table = FeatureTable(ITEMS.columns[1:2], (bags,))
    model = toy_model(items=table, ssl="cfm")
    objective = objective_of(model)
    loss = objective.loss(model, next(iter(objective.batches(1))))
    loss.backward()
    assert loss.isfinite()
