from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.nn import sparse_rows
from ensue.nn.bags import bag_sum
from ensue.nn.embedding import gather_rows
from ensue.nn.sparse_rows import bag_sum_sparse, distinct_rows, gather_rows_sparse


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def test_gradient_equals_that_of_indexing() -> None:
    torch.manual_seed(0)
    for shape in ((6, 3), (6,)):
        for ids in (torch.tensor([[0, 2, 2], [5, 2, 0]]), torch.empty(0, 3, dtype=torch.long)):
            ours, theirs = leaf(*shape), leaf(*shape)
            weight = torch.randn(*ids.shape, *shape[1:])
            for _ in range(2):  # gradients add up, as autograd's do
                out = gather_rows_sparse(ours, ids)
                assert torch.equal(out, theirs[ids])
                (out * weight).sum().backward()
                (theirs[ids] * weight).sum().backward()
            assert ours.grad.is_sparse
            torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)


def test_gradient_of_bags_equals_the_dense_one() -> None:
    ids = torch.tensor([4, 1, 4, 4, 0])
    for offsets in (torch.tensor([0, 2, 2, 5]), torch.tensor([0, 0, 5, 5])):
        for dtype in (torch.float32, torch.float64):
            ours, theirs = leaf(6, 3, dtype=dtype), leaf(6, 3, dtype=dtype)
            weights = torch.rand(5, dtype=dtype)
            sums = [
                take(table, ids, offsets, weights)
                for take, table in ((bag_sum_sparse, ours), (bag_sum, theirs))
            ]
            assert torch.equal(*sums)
            for out in sums:
                (out * torch.arange(9.0, dtype=dtype).view(3, 3)).sum().backward()
            assert ours.grad.is_sparse
            torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)


def test_gradient_names_the_rows_in_their_order() -> None:
    table = leaf(9, 1)
    (
        gather_rows_sparse(table, torch.tensor([7, 3, 7])) * torch.tensor([[1.0], [2], [4]])
    ).sum().backward()
    assert table.grad._indices().tolist() == [[7, 3, 7]]
    assert table.grad._values().tolist() == [[1.0], [2.0], [4.0]]
    for grad in (table.grad, table.grad.coalesce()):
        rows, sums = distinct_rows(grad)
        assert dict(zip(rows.tolist(), sums.flatten().tolist(), strict=True)) == {7: 5.0, 3: 2.0}


def test_clearing_in_place_leaves_nothing() -> None:
    table = leaf(4, 2)
    optimizer = torch.optim.SGD([table], lr=1.0)
    gather_rows_sparse(table, torch.tensor([1, 1])).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert table.grad.is_sparse
    assert table.grad._nnz() == 0
    gather_rows_sparse(table, torch.tensor([2])).sum().backward()
    assert table.grad.to_dense().tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


def test_dense_and_sparse_uses_of_a_table_add_up_in_any_order() -> None:
    expected = [[0, 0], [1, 1], [2, 2], [0, 0]]
    takes = (gather_rows, torch.tensor([1, 2])), (gather_rows_sparse, torch.tensor([2]))
    for uses in (takes, takes[::-1]):
        table = leaf(4, 2)
        for take, ids in uses:
            take(table, ids).sum().backward()
        assert table.grad.to_dense().tolist() == expected
    table = leaf(4, 2)
    (gather_rows_sparse(table, torch.tensor([2])).sum() + table.square().sum()).backward()
    expected_penalty = 2 * table.detach()
    expected_penalty[2] += 1
    torch.testing.assert_close(table.grad.to_dense(), expected_penalty)


def test_without_gradients_it_only_looks_up() -> None:
    table = torch.arange(6.0).view(3, 2).requires_grad_()
    bag = torch.tensor([0, 2]), torch.tensor([0, 2]), torch.ones(2)
    with torch.no_grad():
        rows, sums = (
            gather_rows_sparse(table, torch.tensor([[2], [0]])),
            bag_sum_sparse(table, *bag),
        )
    assert rows.tolist() == [[[4.0, 5.0]], [[0.0, 1.0]]]
    assert sums.tolist() == [[4.0, 6.0]]
    assert not rows.requires_grad
    assert not sums.requires_grad


def test_the_look_up_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_rows, "LEAST", 50)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        table = leaf(300, 7, dtype=dtype)
        ids = torch.randint(300, (11, 20))
        for num_threads in (1, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda n=num_threads: n)
            assert torch.equal(gather_rows_sparse(table, ids), table[ids])


@pytest.mark.parametrize("wrong", [-1, 4])
def test_an_id_outside_of_the_table(wrong: int) -> None:
    with pytest.raises(IndexError, match=rf"rows 0 to 3 of the table; got {min(wrong, 2)} to"):
        gather_rows_sparse(leaf(4, 2), torch.tensor([2, wrong]))
