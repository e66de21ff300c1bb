from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.nn.id_table import LEAST_LOG, CompiledIndex, IdTable, TensorIndex, log_of_slots

KINDS = (CompiledIndex, TensorIndex)
FEW = st.integers(-4, 6) | st.sampled_from([2**63 - 1, -(2**63), 2**40])
CALLS = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "find"]), st.lists(FEW, max_size=12)),
    max_size=12,
)


def ids_of(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


class DictTable:
    """What the table must do, by a dict."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.free: list[int] = []
        self.next_row = 1

    def insert(self, ids: list[int]) -> tuple[list[int], list[int]]:
        new = []
        for place, key in enumerate(ids):
            if key and key not in self.rows:
                new.append(place)
                if self.free:
                    self.rows[key] = self.free.pop()
                else:
                    self.rows[key] = self.next_row
                    self.next_row += 1
        return self.find(ids), new

    def find(self, ids: list[int]) -> list[int]:
        return [self.rows.get(key, 0) for key in ids]

    def delete(self, ids: list[int]) -> list[int]:
        gone = [self.rows.pop(key) for key in dict.fromkeys(ids) if key in self.rows]
        self.free += gone
        return gone


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(calls=CALLS)
def test_any_calls_give_what_a_dict_gives(kind: type, calls: list[tuple[str, list[int]]]) -> None:
    table, expected = IdTable(bits=2, index=kind), DictTable()
    for name, ids in calls:
        if name == "insert":
            rows, new = table.insert(ids_of(ids))
            assert (rows.tolist(), new.tolist()) == expected.insert(ids)
        elif name == "delete":
            distinct = list(dict.fromkeys(ids))
            assert table.delete(ids_of(distinct)).tolist() == expected.delete(distinct)
        assert table.find(ids_of(ids)).tolist() == expected.find(ids)
        assert len(table) == len(expected.rows)
    by_row = torch.cat([part.squeeze(1) for part in table.ids.parts(table.num_rows)]).tolist()
    assert {key: row for row, key in enumerate(by_row) if key} == expected.rows


def test_both_searches_agree_through_growth_and_removal() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = [IdTable(bits=8, index=kind) for kind in KINDS]
    for _ in range(6):
        # ids close together, and multiples of a large power of two
        ids = torch.randint(1, 6000, (2000,), generator=generator)
        ids = torch.where(ids % 3 == 0, ids << 45, ids)
        gone = ids[::5].unique()
        (ours, new), (theirs, also_new) = (table.insert(ids) for table in tables)
        assert torch.equal(ours, theirs)
        assert torch.equal(new, also_new)
        given_back = [table.delete(gone) for table in tables]
        assert torch.equal(*given_back)
        assert torch.equal(*(table.find(ids) for table in tables))
    assert len(tables[0]) == len(tables[1]) > 3 << LEAST_LOG >> 2  # it has grown


def test_ids_that_begin_at_one_slot_survive_the_removal_of_each() -> None:
    """Removal moves up what stands behind: no other id may be lost, at the end of the slots too."""
    table = IdTable()
    ids = torch.arange(1, (3 << LEAST_LOG >> 2) + 1)  # as full as it gets
    rows, _ = table.insert(ids)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))
    for part in order.split(64):
        table.delete(ids[part])
        rows[part] = 0
        assert torch.equal(table.find(ids), rows)
    assert len(table) == 0
    assert not table.index.slots.any()  # type: ignore[attr-defined]


def test_rows_come_back_and_slots_do_not_grow() -> None:
    for kind in KINDS:
        table = IdTable(index=kind)
        for turn in range(20):
            ids = torch.arange(500) + 1 + 500 * turn
            rows, new = table.insert(ids)
            assert len(new) == 500
            assert rows.max() == 500
            table.delete(ids)
        assert table.index.log == LEAST_LOG


@pytest.mark.parametrize("kind", KINDS)
def test_state(kind: type) -> None:
    table, other = IdTable(bits=3, index=kind), IdTable(bits=3, index=kind)
    table.insert(torch.arange(1, 40) * 1001)
    table.delete(ids_of([1001, 5005, 7007]))
    other.insert(ids_of([5, 6]))
    other.load({name: value.clone() for name, value in table.state().items()})
    ids = torch.arange(0, 50) * 1001
    assert torch.equal(other.find(ids), table.find(ids))
    assert len(other) == len(table) == 36
    assert torch.equal(other.insert(ids)[0], table.insert(ids)[0])


def test_number_of_slots() -> None:
    assert log_of_slots(0) == LEAST_LOG
    assert log_of_slots(3 << 20, 5) == 22
    assert log_of_slots((3 << 20) + 1, 5) == 23


def test_other_types() -> None:
    table = IdTable()
    for call in (table.find, table.insert, table.delete):
        with pytest.raises(ValueError, match=r"ids \[N\] int64; got \(2,\) torch.int32"):
            call(torch.ones(2, dtype=torch.int32))


@pytest.mark.gpu
def test_same_on_the_gpu() -> None:
    ids = torch.randint(1, 5000, (8000,))
    here, there = IdTable(bits=8), IdTable(bits=8, device="cuda")
    for part in ids.split(1000):
        ours, theirs = here.insert(part), there.insert(part.cuda())
        assert torch.equal(ours[0], theirs[0].cpu())
        assert torch.equal(ours[1], theirs[1].cpu())
        here.delete(part[:50].unique())
        there.delete(part[:50].unique().cuda())
