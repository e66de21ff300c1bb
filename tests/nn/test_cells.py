from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.nn import cells as module
from ensue.nn.cells import Cells, cell_means
from ensue.nn.sparse_rows import distinct_rows

FIRSTS = torch.tensor([2, 9, 2])  # the first and the last column have the same rows
NUM_ROWS = 21
SHAPE = (2, 3, 4)  # N, G, b


@pytest.fixture(params=["marks", "hashing"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 100 if request.param == "marks" else 0)


def draw() -> Cells:
    """Return cells of no, one and many values, some of them repeated, of some also elsewhere."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(0, 4, SHAPE, generator=generator, dtype=torch.int32)
    lengths[1, 1] = 0
    elsewhere = torch.randint(0, 2, SHAPE, generator=generator, dtype=torch.int32)
    values = torch.randint(0, 7, (int(lengths.sum()),), generator=generator)
    return Cells(values, lengths, lengths + elsewhere)


def by_definition(table: Tensor, cells: Cells) -> Tensor:
    """Return the means [N, b, G, D], one value after the other."""
    values = iter(cells.values.tolist())
    out = []
    for n in range(SHAPE[0]):
        for g in range(SHAPE[1]):
            for i in range(SHAPE[2]):
                total = torch.zeros_like(table[0])
                for _ in range(int(cells.lengths[n, g, i])):
                    total = total + table[int(FIRSTS[g]) + next(values)]
                out.append(total / max(1, int(cells.totals[n, g, i])))
    return torch.stack(out).view(*SHAPE, table.shape[1]).transpose(1, 2)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("is_sparse", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 8, 11])
def test_means_and_gradients(width: int, dtype: torch.dtype, is_sparse: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(NUM_ROWS, width, generator=generator, dtype=dtype)
    cells, ours, plain = draw(), start.clone().requires_grad_(), start.clone().requires_grad_()
    upstream = torch.randn(2, 4, 3, width, generator=generator, dtype=dtype)
    for _ in range(2):  # gradients add up
        found = cell_means(ours, cells, FIRSTS, is_sparse=is_sparse)
        expected = by_definition(plain, cells)
        torch.testing.assert_close(found, expected)
        for one in (found, expected):
            (one * upstream).sum().backward()
    assert ours.grad.is_sparse == is_sparse
    torch.testing.assert_close(ours.grad.to_dense() if is_sparse else ours.grad, plain.grad)
    with torch.no_grad():
        torch.testing.assert_close(cell_means(ours, cells, FIRSTS), expected)


@pytest.mark.parametrize("is_sparse", [True, False])
def test_tensor_operations_give_the_same(is_sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, found = draw(), []
    for is_compiled in (True, False):
        monkeypatch.setattr(module, "_in_memory", lambda _, on=is_compiled: on)
        table = torch.arange(NUM_ROWS * 2, dtype=torch.float64).view(-1, 2).requires_grad_()
        out = cell_means(table, cells, FIRSTS, is_sparse=is_sparse)
        out.square().sum().backward()
        found.append((out, table.grad.to_dense() if is_sparse else table.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_sparse_gradient_has_each_row_once_and_ascending() -> None:
    cells, table = draw(), torch.zeros(NUM_ROWS, 2, requires_grad=True)
    cell_means(table, cells, FIRSTS, is_sparse=True).sum().backward()
    rows, _ = distinct_rows(table.grad)
    first = FIRSTS.repeat(2).repeat_interleave(cells.lengths.sum(dim=2).flatten())
    assert table.grad.is_coalesced()
    assert rows.tolist() == sorted(set((first + cells.values).tolist()))


@pytest.mark.usefixtures("_way")
def test_rows_are_found_once_for_tables_of_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = draw()
    found = cells.group_ahead(FIRSTS, NUM_ROWS)
    assert cells.group_ahead(FIRSTS.clone(), NUM_ROWS) is found
    assert cells.group_ahead(FIRSTS + 1, NUM_ROWS) is not found
    rows, groups, _ = cells.grouped(FIRSTS, NUM_ROWS)
    assert torch.equal(rows[groups], cells.values + cells.of_values(FIRSTS))
    assert len(rows.unique()) == len(rows)


@pytest.mark.usefixtures("_way")
def test_no_values() -> None:
    none = torch.zeros(1, 2, 3, dtype=torch.int32)
    table = torch.ones(5, 2, requires_grad=True)
    cells = Cells(torch.zeros(0, dtype=torch.int64), none, none)
    out = cell_means(table, cells, torch.tensor([0, 2]), is_sparse=True)
    assert out.tolist() == [[[[0.0, 0.0]] * 2] * 3]
    out.sum().backward()
    assert table.grad.to_dense().tolist() == [[0.0, 0.0]] * 5
