from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.nn import weighted_ridge
from ensue.nn.weighted_ridge import solve_rows, whiten

LENGTHS = [0, 1, 3, 4, 5, 9, 30, 0, 4, 2, 17]  # width 5: some fewer, some more
GENERATOR = torch.Generator().manual_seed(0)
VECTORS = torch.randn(40, 5, generator=GENERATOR, dtype=torch.float64)
MEMBERS = torch.cat([torch.randperm(40, generator=GENERATOR)[:n] for n in LENGTHS])
IDENTITY = torch.eye(5, dtype=torch.float64)
OFFSETS = torch.tensor([0, *LENGTHS]).cumsum(0)
RIGHT = torch.randn(len(LENGTHS), 5, generator=GENERATOR, dtype=torch.float64)


def dense(right: Tensor | None, weight: float, ridge: float) -> Tensor:
    rows = []
    for row in range(len(LENGTHS)):
        own = VECTORS[MEMBERS[OFFSETS[row] : OFFSETS[row + 1]]]
        matrix = VECTORS.T @ VECTORS + ridge * IDENTITY + (weight - 1) * own.T @ own
        side = weight * own.sum(dim=0) if right is None else right[row]
        rows.append(torch.linalg.solve(matrix, side))
    return torch.stack(rows)


@pytest.mark.parametrize("block_numbers", [1, 60, 1 << 20])
@pytest.mark.parametrize("has_right", [False, True])
def test_solutions_are_those_of_each_row_alone(
    monkeypatch: pytest.MonkeyPatch, block_numbers: int, has_right: bool
) -> None:
    monkeypatch.setattr(weighted_ridge, "_BLOCK_NUMBERS", block_numbers)
    rows, root = whiten(VECTORS, 0.7)
    right = RIGHT if has_right else None
    side = None if right is None else right @ root
    found = solve_rows(rows, OFFSETS, MEMBERS, 20.0, side) @ root.T
    torch.testing.assert_close(found, dense(right, 20.0, 0.7), rtol=0, atol=1e-13)


def test_whitened_vectors_have_the_identity_and_keep_products() -> None:
    rows, root = whiten(VECTORS, 0.7)
    gram = rows.T @ rows + 0.7 * root.T @ root
    torch.testing.assert_close(gram, IDENTITY, rtol=0, atol=1e-13)
    found = solve_rows(rows, OFFSETS, MEMBERS, 3.0)
    torch.testing.assert_close(found @ rows.T, found @ root.T @ VECTORS.T, rtol=0, atol=1e-13)


def test_nearly_dependent_vectors_do_no_harm_in_float32() -> None:
    """A million times longer in one direction than in the others, and a small ridge."""
    stretched = VECTORS * torch.tensor([1e3, 1.0, 1.0, 1e-3, 1e-3], dtype=torch.float64)
    expected = solve_rows(whiten(stretched, 1e-4).rows, OFFSETS, MEMBERS, 20.0)
    rows = whiten(stretched.float(), 1e-4).rows
    found = solve_rows(rows, OFFSETS, MEMBERS, 20.0)
    scores = expected @ whiten(stretched, 1e-4).rows.T
    torch.testing.assert_close((found @ rows.T).double(), scores, rtol=0, atol=1e-4)
