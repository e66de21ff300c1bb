from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.losses import full_softmax
from ensue.losses.full_softmax import full_softmax_loss

BLOCKS = ["one block", "rows", "tiles"]


@pytest.fixture(params=BLOCKS)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sizes that make the work fall into one block, blocks of 5 rows, or tiles of 7 x 6 items."""
    set_blocks(monkeypatch, request.param)
    return request.param


def set_blocks(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "one block":
        return
    monkeypatch.setattr(full_softmax, "MIN_ROWS", 1 if kind == "rows" else 10**9)
    monkeypatch.setattr(full_softmax, "TILE_ROWS", 7)
    size = 5 * 40 if kind == "rows" else 7 * 6
    monkeypatch.setattr(full_softmax, "BLOCK_BYTES", {"cpu": size * 8})


def problem(num_positions: int = 23, num_items: int = 40, dim: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(0)
    double = torch.float64
    return {
        "queries": torch.randn(num_positions, dim, dtype=double, requires_grad=True),
        "table": torch.randn(num_items + 1, dim, dtype=double, requires_grad=True),
        "bias": torch.randn(num_items + 1, dtype=double, requires_grad=True),
        "targets": torch.randint(1, num_items + 1, (num_positions,)),
        "weights": torch.rand(num_positions, dtype=double),
    }


def dense_loss(queries, table, targets, *, bias=None, weights=None):
    logits = queries @ table[1:].T
    if bias is not None:
        logits = logits + bias[1:]
    losses = F.cross_entropy(logits, targets - 1, reduction="none")
    return (losses if weights is None else losses * weights).sum()


@pytest.mark.parametrize("names", [(), ("bias",), ("weights",), ("bias", "weights")])
def test_value_and_gradient_are_those_of_the_dense_softmax(
    blocks: str, names: tuple[str, ...]
) -> None:
    given = problem()
    inputs = [given["queries"], given["table"]] + [given["bias"]] * ("bias" in names)
    options = {name: given[name] for name in names}
    results = []
    for loss in (full_softmax_loss, dense_loss):
        value = 3.0 * loss(given["queries"], given["table"], given["targets"], **options)
        results.append((value, *torch.autograd.grad(value, inputs)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_finite_differences(blocks: str) -> None:
    given = problem(num_positions=9, num_items=13, dim=3)

    def loss(queries: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return full_softmax_loss(queries, table, given["targets"], bias=bias)

    assert torch.autograd.gradcheck(loss, (given["queries"], given["table"], given["bias"]))


@settings(deadline=None, max_examples=30)
@given(
    num_positions=st.integers(1, 30),
    num_items=st.integers(1, 60),
    kind=st.sampled_from(BLOCKS),
)
def test_any_size_in_any_blocks(num_positions: int, num_items: int, kind: str) -> None:
    given = problem(num_positions, num_items)
    arguments = (given["queries"], given["table"], given["targets"])
    with pytest.MonkeyPatch.context() as patch:
        set_blocks(patch, kind)
        value = full_softmax_loss(*arguments)
    torch.testing.assert_close(value, dense_loss(*arguments), rtol=1e-12, atol=1e-12)


def test_no_position_gives_zero(blocks: str) -> None:
    table = torch.randn(5, 3, requires_grad=True)
    loss = full_softmax_loss(torch.zeros(0, 3), table, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert table.grad.count_nonzero() == 0


@pytest.mark.parametrize("scale", [200.0, -200.0])
def test_extreme_logits_in_float32(blocks: str, scale: float) -> None:
    queries = torch.tensor([[scale], [-scale]], requires_grad=True)
    table = torch.tensor([[0.0], [1.0], [-1.0], [0.5]], requires_grad=True)
    loss = full_softmax_loss(queries, table, torch.tensor([1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    assert queries.grad.isfinite().all()
    assert table.grad.abs().max().item() == pytest.approx(200.0)


def test_padding_has_no_probability_and_no_gradient(blocks: str) -> None:
    table = torch.zeros(3, 2)
    table[0] = 1e6
    table.requires_grad_()
    loss = full_softmax_loss(torch.ones(1, 2), table, torch.tensor([2]))
    loss.backward()
    assert loss.item() == pytest.approx(0.6931472)
    assert table.grad[0].tolist() == [0.0, 0.0]


def test_autocast_is_near_float32(blocks: str) -> None:
    given = {
        name: value.detach().float() if value.is_floating_point() else value
        for name, value in problem(50).items()
    }
    gradients, values = [], []
    for enabled in (False, True):
        table = given["table"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = full_softmax_loss(given["queries"], table, given["targets"])
        value.backward()
        values.append(value.item())
        gradients.append(table.grad)
    assert values[1] == pytest.approx(values[0], rel=0.02)
    assert values[1] != values[0]
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert gradients[1].dtype == torch.float32
    assert error < 0.02


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(9, 2\)"):
        full_softmax_loss(torch.zeros(4, 3), torch.zeros(9, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"one target for each query, \[4\]; got \(5,\)"):
        full_softmax_loss(torch.zeros(4, 3), torch.zeros(9, 3), torch.zeros(5, dtype=torch.long))
