from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensue.data.feature_schema import append_rows
from ensue.data.features import Bags, FeatureTable
from ensue.data.histories import HistoryBatch
from ensue.errors import ConfigError
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.retrieval.two_tower_config import TwoTowerConfig
from tests.models.retrieval.toy import EMPTY, ITEMS, NUM_ITEMS, NUM_USERS, USERS, toy_model

SETTINGS = [
    {},
    {"ids": "query"},
    {"ids": "none"},
    {"query": "ids"},
    {"query": "ids", "ids": "query", "share_tables": False},
    {"share_tables": False},
    {"pooling": "sum", "hidden": []},
]


@torch.no_grad()
def score(model: TwoTower, histories: list[list[int]], **facts: object) -> Tensor:
    return model.score(HistoryBatch.from_lists(histories, **facts))  # type: ignore[arg-type]


@torch.no_grad()
def item_by_hand(model: TwoTower, item: int) -> Tensor:
    """The input of the item tower, one feature after the other."""
    embedding = model.item_embedding
    parts = [] if embedding.ids is None else [embedding.ids[item]]
    color, tags, price = embedding.tables
    parts.append(color[int(ITEMS.values[0][item])])  # type: ignore[index]
    bags = ITEMS.values[1]
    assert isinstance(bags, Bags)
    own = bags.values[bags.offsets[item] : bags.offsets[item + 1]]
    rows = tags[torch.from_numpy(own.astype(np.int64))]
    total = rows.sum(dim=0)
    parts.append(total / max(1, len(own)) if model.config.pooling == "mean" else total)
    number = float(ITEMS.values[2][item])  # type: ignore[index]
    parts.append(price[0] * (0.0 if np.isnan(number) else number))
    return torch.cat(parts)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_item_vectors_by_hand(settings: dict[str, object]) -> None:
    model = toy_model(**settings).eval()
    with torch.no_grad():
        for item in range(1, NUM_ITEMS + 1):
            x = item_by_hand(model, item)
            for number, layer in enumerate(model.item_tower.layers):
                x = layer.weight @ (x.relu() if number else x) + layer.bias
            expected = x / x.norm()
            torch.testing.assert_close(model.output_embedding[item], expected)
    assert model.output_embedding[0].abs().max() == 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_are_cosines_of_the_mean_of_the_history(settings: dict[str, object]) -> None:
    model = toy_model(**settings).eval()
    found = score(model, [[2, 4, 4]])
    with torch.no_grad():
        parts = []
        if model.config.ids != "none":
            ids = (model.history_ids or model.item_embedding).ids
            parts.append((ids[2] + 2 * ids[4]) / 3)  # type: ignore[index]
        if model.config.query == "items":
            source = model.history_features or model.item_embedding
            items = torch.tensor([2, 4])
            slots = source(items, model.item_values.take(items))[-3:]
            own = torch.cat(slots, dim=1)
            parts.append((own[0] + 2 * own[1]) / 3)
        query = model.query_tower(torch.cat(parts)[None])
        assert query.norm().item() == pytest.approx(1.0)
        torch.testing.assert_close(found, query @ model.item_vectors.T)
    assert found.abs().max() <= 1 + 1e-6


def test_rows_are_independent_and_bounded_in_length() -> None:
    model = toy_model(users=USERS).eval()
    histories = [[1], [], [3, 4, 5, 1, 2], [2, 2], [5, 1]]
    users = [1, 2, 0, 3, 0]
    together = score(model, histories, users=users)
    for row, (history, user) in enumerate(zip(histories, users, strict=True)):
        alone = score(model, [history], users=[user])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-6)
        kept = score(model, [[0, *history][-4:]], users=[user])  # padding; max_len is 4
        torch.testing.assert_close(kept, alone, rtol=1e-5, atol=1e-6)


def test_who_nothing_is_known_of_gets_the_popular_items() -> None:
    for users in (EMPTY, USERS):
        model = toy_model(users=users).eval()
        model.log_popularity.copy_(torch.arange(NUM_ITEMS + 1.0))
        scores = score(model, [[], [3]])
        assert torch.equal(scores[0], model.log_popularity)
        assert scores[1].abs().max() <= 1 + 1e-6
        known = score(model, [[]], users=[2])
        assert torch.equal(known[0], model.log_popularity) == (users is EMPTY)


def test_given_features_are_those_of_a_user_who_has_them() -> None:
    model = toy_model(users=USERS).eval()
    one = FeatureTable(USERS.columns, tuple(v[[0, 2]] for v in USERS.values))  # type: ignore[index]
    for history in ([], [1, 3]):
        stored = score(model, [history], users=[2])
        given = score(model, [history], user_features=one)
        torch.testing.assert_close(given, stored)
        assert not torch.allclose(given, score(model, [history], users=[1]))


def test_masked_features_are_their_defaults() -> None:
    model = toy_model()
    items = torch.tensor([1, 4])
    is_masked = torch.tensor([[True, True, False, True], [False, False, True, False]])
    first, second = model.views(items, is_masked, drop=0.0)
    whole = model.item_input(items)
    widths = np.cumsum([0, 3, 2, 2, 2])
    for number, default in enumerate(model.item_embedding.defaults):
        place = slice(widths[number], widths[number + 1])
        for view, hidden in ((first, is_masked[0, number]), (second, is_masked[1, number])):
            expected = default.expand(2, -1) if hidden else whole[:, place]
            assert torch.equal(view[:, place], expected)


def test_masked_features_get_no_gradient() -> None:
    model = toy_model().double()
    is_masked = torch.tensor([[True, True, False, True], [False, False, True, False]])
    first, _ = model.views(torch.tensor([1, 2, 3]), is_masked, drop=0.0)
    model.item_tower(first)[:, 0].sum().backward()
    embedding = model.item_embedding
    color, tags, price = embedding.tables
    for hidden in (embedding.ids, color, price):
        assert hidden is not None
        assert hidden.grad is None or hidden.grad.abs().max() == 0
    assert tags.grad.abs().max() > 0
    gradients = [default.grad.abs().max().item() for default in embedding.defaults]
    assert [value > 0 for value in gradients] == [True, True, False, True]


def test_values_of_bags_are_left_out_at_the_rate_given() -> None:
    model = toy_model()
    none = torch.zeros(2, 4, dtype=torch.bool)
    items = torch.ones(4000, dtype=torch.long)  # item 1 has tags 1 and 2
    with torch.no_grad():
        first, second = model.views(items, none, drop=0.3)
        tags = model.item_embedding.tables[1]
        slots = first[:, 5:7], second[:, 5:7]
        kinds = torch.stack([torch.zeros(2), tags[1], tags[2], (tags[1] + tags[2]) / 2])
        expected = [0.3**2, 0.7 * 0.3, 0.7 * 0.3, 0.7**2]
        found = [((slots[0] - kind).abs().amax(dim=1) < 1e-6) for kind in kinds]
        np.testing.assert_allclose([f.double().mean() for f in found], expected, atol=0.04)
        both = ((slots[0] - slots[1]).abs().amax(dim=1) < 1e-6).double().mean()
        assert both.item() == pytest.approx(sum(p * p for p in expected), abs=0.04)  # apart
        whole = model.item_input(items)
        assert torch.equal(first[:, :5], whole[:, :5])
        assert torch.equal(first[:, 7:], whole[:, 7:])


def test_leaving_training_makes_the_vectors_anew() -> None:
    model = toy_model().eval()
    before = model.output_embedding.clone()
    model.train()
    with torch.no_grad():
        model.item_tower.layers[0].weight.mul_(-1.0)
    assert torch.equal(model.output_embedding, before)
    model.eval()
    assert not torch.allclose(model.output_embedding, before)


def test_all_is_in_the_saved_state(tmp_path: object) -> None:
    model = toy_model(users=USERS, logq="streaming").eval()
    save_file(model.state_dict(), f"{tmp_path}/model.safetensors")
    loaded = TwoTower(
        model.config, num_users=NUM_USERS, num_items=NUM_ITEMS, features=model.features
    )
    loaded.load_state_dict(load_file(f"{tmp_path}/model.safetensors"), assign=True)
    loaded.eval()
    batch = [[1, 2], []]
    assert torch.equal(score(loaded, batch, users=[1, 3]), score(model, batch, users=[1, 3]))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_new_items_are_what_their_features_say(settings: dict[str, object]) -> None:
    model = toy_model(users=USERS, **settings).eval()
    bags = ITEMS.values[1]
    assert isinstance(bags, Bags)
    twins = FeatureTable(  # of items 1 and 4
        ITEMS.columns,
        (
            np.array([0, 1, 3], dtype=np.int32),
            Bags(np.array([1, 2], dtype=np.int32), np.array([0, 0, 2, 2])),
            np.array([np.nan, 0.5, 2.0], dtype=np.float32),
        ),
    )
    larger = model.with_items(twins)
    assert larger.num_items == NUM_ITEMS + 2
    old = score(model, [[1, 2], []], users=[1, 0])
    new = score(larger, [[1, 2], []], users=[1, 0])
    torch.testing.assert_close(new[:, : NUM_ITEMS + 1], old)
    assert new[1, -1] == model.log_popularity[1:].min()
    for twin, item in ((6, 1), (7, 4)):
        if model.config.ids != "both":
            torch.testing.assert_close(larger.item_vectors[twin], model.item_vectors[item])
            continue
        with torch.no_grad():  # as the item with its id masked
            hidden = torch.tensor([[True, False, False, False]] * 2)
            masked, _ = model.views(torch.tensor([item]), hidden, drop=0.0)
            expected = model.item_tower(masked)[0]
        torch.testing.assert_close(larger.item_vectors[twin], expected)
    assert score(larger, [[6, 7]]).isfinite().all()
    again = larger.with_items(twins)
    torch.testing.assert_close(again.item_vectors[8:], larger.item_vectors[6:])


def test_rows_are_appended() -> None:
    twice = append_rows(ITEMS, ITEMS)
    bags = twice.values[1]
    assert isinstance(bags, Bags)
    assert len(bags.offsets) == 12
    for item in range(1, 6):
        own, copy = (bags.values[bags.offsets[n] : bags.offsets[n + 1]] for n in (item, item + 5))
        assert own.tolist() == copy.tolist()


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"items need an id or features .* ids is 'query'"):
        toy_model(items=EMPTY, ids="query")
    with pytest.raises(ValidationError, match="query=ids needs ids in histories; ids is 'none'"):
        TwoTowerConfig(ids="none", query="ids")
    with pytest.raises(ValidationError, match="widths of 1 or more"):
        TwoTowerConfig(hidden=[8, 0])
    with pytest.raises(ConfigError, match="new items are described by features"):
        toy_model(items=EMPTY).eval().with_items(EMPTY)
    with pytest.raises(ValueError, match=r"append_rows needs the columns \['color'"):
        toy_model().eval().with_items(USERS)
