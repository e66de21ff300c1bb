"""A growing table in the place of one with a row for each item of a catalogue."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ensue.nn.embedding import dot_rows, gather_rows
from ensue.nn.growing_items import (
    GrowingItems,
    all_rows,
    count_numbers,
    item_tables,
    name_items_,
    see_items_,
    take_rows_,
)
from ensue.nn.hashing import start_values
from ensue.nn.table_config import TableConfig

NUM_ITEMS = 6


def items(dim: int | None = 3, *, std: float = 0.5, **settings: Any) -> GrowingItems:
    config = TableConfig(**{"slab_bits": 3, "rule": {"name": "sgd"}, **settings})
    return GrowingItems(NUM_ITEMS, dim, config, std=std)


def follow(loss: Any) -> None:
    """Make the gradient of a loss."""
    loss.backward()


def codes(*values: int) -> Tensor:
    return torch.tensor(values)


def test_an_item_has_a_row_once_it_was_seen() -> None:
    table = items()
    table.see_(codes(4, 0, 2))
    expected = torch.zeros(NUM_ITEMS + 1, 3)
    settings: Any = {"seed": 0, "name": "normal", "scale": 0.5, "dtype": torch.float32}
    expected[[4, 2]] = start_values(codes(4, 2), 3, **settings)
    assert torch.equal(table.whole(), expected)
    assert table.shape == expected.shape
    assert len(table.rows) == 2
    wanted = torch.tensor([[2, 5], [0, 4]])
    assert torch.equal(gather_rows(table, wanted), expected[wanted])


def test_look_ups_are_rows_of_the_whole_and_padding_is_row_0() -> None:
    table = items().eval()
    table.train().see_(codes(1, 2, 3))
    table.eval()
    wanted = torch.tensor([[3, 0], [6, 3]])
    part, own = table.fetch(wanted)
    assert own[0, 1] == 0
    assert (own.flatten()[[0, 2, 3]] > 0).all()
    whole = table.whole()
    assert torch.equal(part[own], whole[wanted])
    assert torch.equal(table.fetch(wanted)[1], wanted)  # now of the whole one
    queries = torch.randn(2, 3)
    expected = (queries[:, None] * whole[wanted]).sum(2)
    torch.testing.assert_close(dot_rows(queries, table, wanted), expected)


def test_to_be_read_is_no_sight() -> None:
    table = items(admission={"min_count": 2}, expiry={"max_age": 1, "every": 1})
    table.see_(codes(1, 1, 2))
    for _ in range(3):
        follow(all_rows(table).sum())
        follow(gather_rows(table, codes(2, 3)).sum())
        assert [code for code in range(1, 7) if table.whole()[code].any()] == [1]
        table.rows.apply_gradients_(0.1)
    assert len(table.rows) == 0  # its last sight was before the first step
    table.see_(codes(2, 2))
    assert table.whole()[2].any()


@pytest.mark.parametrize("reads_all_first", [True, False])
def test_all_reads_of_a_step_are_one_gradient(reads_all_first: bool) -> None:
    table = items()
    table.see_(codes(1, 2, 3))
    before = table.whole().detach().clone()
    if not reads_all_first:
        table.see_(codes(3))  # what was read is of before
    vectors, factors = gather_rows(table, codes(2, 2)), torch.arange(7.0)[:, None]
    follow((table.whole() * factors).sum() + 10 * vectors.sum())
    norm = nn.utils.clip_grad_norm_(table.rows.read_rows(), 1e9)
    assert norm.item() == pytest.approx((3 * (1 + 22**2 + 9)) ** 0.5)  # each row once
    table.rows.apply_gradients_(0.1)
    expected = torch.tensor([0, 1, 22, 3, 0, 0, 0])[:, None] * 0.1
    torch.testing.assert_close(before - table.whole(), expected.expand(7, 3))


def test_the_whole_is_read_again_when_a_row_changed() -> None:
    table = items()
    table.see_(codes(1))
    with torch.no_grad():
        first = table.whole()
        assert table.whole() is first
    follow(table.whole().sum())
    table.rows.apply_gradients_(0.5)
    with torch.no_grad():
        torch.testing.assert_close(first[1] - table.whole()[1], torch.full((3,), 0.5))
        state = {name: value.clone() for name, value in table.state_dict().items()}
        table.rows.delete_(codes(1))
        assert not table.whole().any()
        table.load_state_dict(state)
        assert table.whole()[1].any()
    with torch.inference_mode():
        table.eval().whole()
    query = torch.ones(3, requires_grad=True)
    follow((table.whole() @ query).sum())  # what was read for inference takes no part


def test_numbers_in_place_of_vectors() -> None:
    table = items(None, std=0.0)
    table.see_(codes(1, 5))
    assert table.shape == table.whole().shape == (7,)
    follow(gather_rows(table, torch.tensor([[5, 1], [5, 2]])).sum() - table.whole()[1])
    table.rows.apply_gradients_(0.1)
    torch.testing.assert_close(table.whole(), torch.tensor([0, 0, 0, 0, 0, -0.2, 0]))


def test_start_values_are_the_models_unless_told() -> None:
    config = TableConfig(seed=4, slab_bits=3)
    own = GrowingItems(5, 2, config, std=0.25, place=1).rows.config
    assert (own.seed, own.start, own.start_scale) == (5, "normal", 0.25)
    told = GrowingItems(5, 2, config.model_copy(update={"start_scale": 1.0}), std=0.25).rows.config
    assert (told.seed, told.start, told.start_scale) == (4, "uniform", 1.0)
    assert items(None, std=0.0, start_scale=1.0).rows.config.start_scale == 0


def test_rows_follow_their_items_into_a_longer_catalogue() -> None:
    old, new = items(), GrowingItems(8, 3, TableConfig(slab_bits=3), std=0.5)
    old.name_(codes(0, 11, -12, 13, 14, 15, 16))
    new.name_(codes(0, 16, 99, -12, 11, 13, 98, 15, 14))
    old.see_(codes(1, 2, 6))
    follow(old.whole().sum())
    old.rows.apply_gradients_(0.1)
    take_rows_(new, old)
    assert new.rows.step == 0
    expected = torch.zeros(9, 3)
    expected[[4, 3, 1]] = old.whole()[[1, 2, 6]].detach()
    assert torch.equal(new.eval().whole(), expected)


def test_rows_are_taken_by_new_tables_alone() -> None:
    old = nn.ModuleList([items(), items(None, std=0.0)])
    with pytest.raises(ValueError, match=r"other model has, 2; got tables of \[0\] rows"):
        take_rows_(items(), old)
    used = items()
    used.see_(codes(1, 2))
    with pytest.raises(ValueError, match=r"got tables of \[2\] rows"):
        take_rows_(used, items())


def test_rows_that_moved_without_a_sight_are_among_the_changes() -> None:
    table, copy = items(), items().eval()
    table.see_(codes(1, 2))
    follow(table.whole().sum())
    table.rows.apply_gradients_(0.1)
    copy.rows.apply_changes_(table.rows.export_changes())
    follow(table.whole().square().sum())
    table.rows.apply_gradients_(0.1)
    copy.rows.apply_changes_(table.rows.export_changes(since=copy.rows.step))
    assert torch.equal(copy.whole(), table.eval().whole())
    again = items()
    again.load_state_dict(table.state_dict())
    assert len(again.rows.export_changes(since=1).ids) == 2


def test_state_of_before_reads_without_a_sight() -> None:
    table = items()
    table.see_(codes(1, 2))
    state = table.state_dict()
    state["rows.counters"] = state["rows.counters"][:2]
    again = items()
    again.load_state_dict(state)
    assert torch.equal(again.whole(), table.whole())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (codes(0, 1, 2), r"ids \[7\].*got \(3,\)"),
        (codes(9, 1, 2, 3, 4, 5, 6), r"begin with \[9\]"),
        (codes(0, 1, 2, 5, 4, 5, 6), "got 5 more than once"),
        (codes(0, 1, 2, 0, 4, 5, 6), "got 0 more than once"),
    ],
)
def test_wrong_names(ids: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        items().name_(ids)


def test_tables_of_a_model() -> None:
    model = nn.ModuleDict({"a": items(), "b": items(None, std=0.0), "c": nn.Linear(2, 3)})
    assert item_tables(model) == [model["a"], model["b"]]
    name_items_(model, torch.arange(7) * 10)
    see_items_(model, torch.tensor([[1, 0], [2, 2]]), codes(3))
    assert [len(table.rows) for table in item_tables(model)] == [3, 3]
    assert count_numbers(model) == 3 * 3 + 3 + 2 * 7 + 9
    with torch.no_grad():
        see_items_(model, codes(4))
    see_items_(model.eval(), codes(4))
    assert [len(table.rows) for table in item_tables(model)] == [3, 3]
    see_items_(nn.Linear(2, 3), codes(1))  # none: nothing to do
