from __future__ import annotations

import torch

from ensue.nn.embedding import gather_rows


def test_gradient_equals_that_of_indexing() -> None:
    torch.manual_seed(0)
    for shape in ((6, 3), (6,)):
        ours, theirs = (torch.ones(shape).requires_grad_() for _ in range(2))
        ids = torch.tensor([[0, 2, 2], [5, 2, 0]])
        weight = torch.randn(*ids.shape, *shape[1:])
        for _ in range(2):  # gradients add up, as autograd's do
            (gather_rows(ours, ids) * weight).sum().backward()
            (theirs[ids] * weight).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_padding_row_gets_none() -> None:
    weight = torch.ones(4, 2, requires_grad=True)
    gather_rows(weight, torch.tensor([0, 1, 0]), padding_idx=0).sum().backward()
    assert weight.grad.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_without_gradients_it_only_looks_up() -> None:
    weight = torch.arange(6.0).view(3, 2).requires_grad_()
    with torch.no_grad():
        rows = gather_rows(weight, torch.tensor([[2], [0]]))
    assert rows.tolist() == [[[4.0, 5.0]], [[0.0, 1.0]]]
    assert not rows.requires_grad
