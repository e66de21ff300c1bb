"""Rows fetched from their owners are those of an index_select, and so are their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.distributed.fetch import Division
from ensue.distributed.shared_rows import SharedRows
from ensue.distributed.uneven import gather_uneven, share_of
from ensue.distributed.workers import Workers
from ensue.nn.embedding import dot_rows, gather_rows
from tests.distributed.spawn import WorkerError, run_workers

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

NUM_ROWS, DIM = 12, 3


def whole_table(shape: tuple[int, ...], *, has_padding: bool) -> Tensor:
    table = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if has_padding:
        table[0] = 0
    return table


def ids_of(rank: int) -> Tensor:
    """Ids of a worker: repeated, shared with others, padding, and of worker 1 none at all."""
    own = {0: [[3, 3, 7], [0, 11, 3]], 1: [], 2: [[7, 8, 9], [10, 11, 1]], 3: [[2, 2, 2]]}
    return torch.tensor(own[rank], dtype=torch.long).view(-1, 3)


def factors_of(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 + rank)
    return torch.randn(*ids_of(rank).shape, DIM, generator=generator, dtype=torch.float64)


def look_up(workers: Workers, shape: tuple[int, ...], has_padding: bool) -> dict[str, Any]:
    rank = workers.rank
    table = SharedRows(
        whole_table(shape, has_padding=has_padding), workers, has_padding=has_padding
    )
    ids, factors = ids_of(rank), factors_of(rank)
    wanted = table.ask(ids)
    table.borrow_(wanted, table.places(wanted))
    padding = 0 if has_padding else None
    rows = gather_rows(table, ids, padding_idx=padding)
    loss = (rows * (factors if len(shape) == 2 else factors[..., 0])).sum()
    if len(shape) == 2:  # a second look-up of the same rows
        loss = loss + dot_rows(factors.sum(dim=1), table, ids).square().sum()
    if loss.requires_grad:
        loss.backward()
    table.return_gradients_()
    table.gather_()
    return {
        "rows": rows.detach(),
        "grad": table.weight.grad,
        "places": table.piece.places,
        "whole": table.whole(),
        "wanted": len(wanted.keys),
        "sent": dict(workers.traffic.sent),
        "take": wanted.counts[0].tolist(),
        "give": wanted.counts[1].tolist(),
    }


def expected(
    shape: tuple[int, ...], size: int, *, has_padding: bool
) -> tuple[list[Tensor], Tensor]:
    table = whole_table(shape, has_padding=has_padding).requires_grad_()
    found, loss = [], torch.zeros((), dtype=torch.float64)
    for rank in range(size):
        ids, factors = ids_of(rank), factors_of(rank)
        rows = table.index_select(0, ids.flatten()).view(*ids.shape, *shape[1:])
        found.append(rows.detach())
        loss = loss + (rows * (factors if len(shape) == 2 else factors[..., 0])).sum()
        if len(shape) == 2:
            loss = loss + (rows * factors.sum(dim=1)[:, None]).sum(dim=2).square().sum()
    loss.backward()
    assert table.grad is not None
    if has_padding:
        table.grad[0] = 0
    return found, table.grad


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(NUM_ROWS, DIM), (NUM_ROWS,)], ids=["vectors", "numbers"])
@pytest.mark.parametrize("has_padding", [True, False], ids=["padding", "rows"])
def test_rows_and_gradients_are_those_of_one_table(
    size: int, shape: tuple[int, ...], has_padding: bool
) -> None:
    rows, grad = expected(shape, size, has_padding=has_padding)
    held = torch.zeros(NUM_ROWS, dtype=torch.long)
    for rank, one in enumerate(run_workers(look_up, size, shape, has_padding)):
        torch.testing.assert_close(one["rows"], rows[rank], rtol=0, atol=0)
        torch.testing.assert_close(one["grad"], grad[one["places"]], rtol=0, atol=1e-12)
        assert torch.equal(one["whole"], whole_table(shape, has_padding=has_padding))
        held[one["places"]] += 1
        distinct = set(ids_of(rank).flatten().tolist()) | ({0} if has_padding else set())
        assert one["wanted"] == sum(one["take"]) == len(distinct)
        others = [number for number in range(size) if number != rank]
        row_bytes = 8 * (DIM if len(shape) == 2 else 1)
        take, give = (sum(one[name][r] for r in others) for name in ("take", "give"))
        assert one["sent"]["ids"] == 4 * take + 4 * len(others)
        assert one["sent"]["forward"] == row_bytes * give
        assert one["sent"]["backward"] == row_bytes * take
    assert held[int(has_padding) :].tolist() == [1] * (NUM_ROWS - has_padding)


@given(num_rows=st.integers(1, 40), size=st.integers(1, 6), has_padding=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_division_gives_each_row_one_place(num_rows: int, size: int, has_padding: bool) -> None:
    division = Division(num_rows, size, has_padding)
    ids = torch.arange(int(has_padding), num_rows)
    keys = division.keys(ids)
    assert len(keys.unique()) == len(ids)
    assert torch.equal(division.ids(keys), ids)
    counts = [len(division.own_ids(rank)) for rank in range(size)]
    assert max(counts) == division.width
    assert max(counts) - min(counts) <= 1
    for rank in range(size):
        own = division.own_ids(rank)
        rows = torch.arange(len(own))
        if has_padding:
            assert own[0] == 0
            assert int(division.keys(torch.tensor(0))) == 0
            assert int(division.ids(torch.tensor(0))) == 0
            own, rows = own[1:], rows[1:]
            local = division.local(ids, rank)
            assert torch.equal(local[local > 0], rows)
            assert torch.equal(ids[local > 0], own)
        assert torch.equal(division.keys(own), rank * division.width + rows)


def test_local_rows_need_padding() -> None:
    with pytest.raises(ValueError, match="a table with padding"):
        Division(4, 2, has_padding=False).local(torch.tensor([1]), 0)


def test_a_table_is_whole_where_it_was_gathered_alone() -> None:
    table = SharedRows(torch.eye(3), Workers.alone(), has_padding=True)
    assert (table.shape, table.dtype, table.device.type) == ((3, 3), torch.float32, "cpu")
    with pytest.raises(RuntimeError, match="with several workers"):
        table.whole()
    table.gather_()
    assert table.fetch(torch.tensor([2]))[0] is table.whole()
    table.drop_()
    with pytest.raises(RuntimeError, match="with several workers"):
        table.whole()


COUNTS = [2, 0, 3, 1]


def gather(workers: Workers) -> tuple[Tensor, Tensor, dict[str, int]]:
    counts = COUNTS[: workers.size]
    rows = torch.arange(sum(counts) * 2, dtype=torch.float64).view(-1, 2)
    own = rows.split(counts)[workers.rank].clone().requires_grad_()
    everyone = gather_uneven(own, counts, workers)
    (everyone.square() * (workers.rank + 1)).sum().backward()
    assert own.grad is not None
    return everyone.detach(), own.grad, dict(workers.traffic.sent)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_uneven_rows_go_to_all_and_their_gradients_come_back_as_sums(size: int) -> None:
    counts = COUNTS[:size]
    rows = torch.arange(sum(counts) * 2, dtype=torch.float64).view(-1, 2)
    grads = (2 * rows * sum(range(1, size + 1))).split(counts)
    for rank, (everyone, grad, sent) in enumerate(run_workers(gather, size)):
        assert torch.equal(everyone, rows)
        torch.testing.assert_close(grad, grads[rank])
        assert sent["forward"] == (size - 1) * counts[rank] * 16
        assert sent["backward"] == (sum(counts) - counts[rank]) * 16 * (size > 1)


def gather_too_many(workers: Workers) -> None:
    gather_uneven(torch.zeros(2, 1), [1, 1], workers)


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WorkerError, match=r"got \(2, 1\) and counts \[1, 1\]"):
        run_workers(gather_too_many, 2)


@given(total=st.integers(0, 50), size=st.integers(1, 7))
def test_shares_are_all_of_it_in_turn(total: int, size: int) -> None:
    shares = [range(total)[share_of(total, rank, size)] for rank in range(size)]
    assert [one for share in shares for one in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
