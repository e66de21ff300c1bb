from __future__ import annotations

import pytest
import torch

from ensue.nn.slabs import Slabs

TYPES = [torch.float32, torch.float64, torch.int64, torch.int32, torch.bfloat16]  # last: no kernel


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_rows", [4, 19])
def test_rows_are_those_of_one_table(dtype: torch.dtype, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    slabs = Slabs(3, bits=2, dtype=dtype)
    slabs.reserve(num_rows)
    table = torch.randint(-99, 99, (num_rows, 3), generator=generator).to(dtype)
    slabs.put(torch.arange(num_rows), table)
    assert slabs.capacity == (num_rows + 3) // 4 * 4
    for _ in range(5):
        rows = torch.randperm(num_rows, generator=generator)[: num_rows // 2]
        assert torch.equal(slabs.take(rows), table[rows])
        repeated = rows[[0, 1, 0]]
        assert torch.equal(slabs.take(repeated, 2), table[repeated, :2])
        values = torch.randint(-99, 99, (len(rows), 2), generator=generator).to(dtype)
        slabs.put(rows, values)
        table[rows, :2] = values
    assert torch.equal(torch.cat(list(slabs.parts(num_rows))), table)
    assert torch.equal(torch.cat(list(slabs.parts(3))), table[:3])
    assert slabs.take(rows[:0]).shape == (0, 3)


def test_values_of_another_type() -> None:
    for dtype in TYPES:
        slabs = Slabs(2, bits=1, dtype=dtype)
        slabs.reserve(3)
        for given in (torch.int32, torch.float64):
            slabs.put(torch.arange(3), torch.arange(6).view(3, 2).to(given))
            assert slabs.take(torch.arange(3)).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_growth_moves_nothing() -> None:
    slabs = Slabs(2, bits=1, dtype=torch.float32)
    slabs.reserve(3)
    before = [slab.data_ptr() for slab in slabs.tensors]
    slabs.reserve(2)
    slabs.reserve(9)
    assert [slab.data_ptr() for slab in slabs.tensors][:2] == before
    assert len(slabs.tensors) == 5
    assert slabs.num_bytes == 10 * 2 * 4


def test_stored_and_changed() -> None:
    slabs, other = (Slabs(2, bits=1, dtype=torch.float32) for _ in range(2))
    slabs.reserve(5)
    slabs.put(torch.arange(5), torch.arange(10.0).view(5, 2))
    other.load([part.clone() for part in slabs.parts(5)])
    slabs.map(lambda slab: slab.double())
    rows = torch.tensor([4, 0])
    assert slabs.take(rows).dtype == torch.float64
    assert slabs.take(rows).tolist() == other.take(rows).tolist() == [[8, 9], [0, 1]]
