"""The softmax over a divided catalogue is that over the whole one: loss and all gradients."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from ensue.distributed.catalogue_softmax import catalogue_softmax_loss
from ensue.distributed.shared_rows import SharedRows
from ensue.distributed.traffic import all_reduce_bytes
from ensue.distributed.workers import Workers
from tests.distributed.spawn import run_workers

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

COUNTS, DIM = [3, 0, 4, 2], 3


def problem(num_items: int, size: int) -> tuple[Tensor, ...]:
    """Return a table [I + 1, D], biases, queries [S, D] of all workers, and targets [S]."""
    generator = torch.Generator().manual_seed(3)
    total = sum(COUNTS[:size])
    shapes = [(num_items + 1, DIM), (num_items + 1,), (total, DIM)]
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return *parts, torch.randint(1, num_items + 1, (total,), generator=generator)


def divided(workers: Workers, num_items: int, has_bias: bool, block_bytes: int) -> dict[str, Any]:
    counts = COUNTS[: workers.size]
    table, bias, queries, targets = problem(num_items, workers.size)
    rows = SharedRows(table, workers, has_padding=True)
    biases = SharedRows(bias, workers, has_padding=True) if has_bias else None
    own = queries.split(counts)[workers.rank].clone().requires_grad_()
    with (
        patch.dict("ensue.losses.full_softmax.BLOCK_BYTES", {"cpu": block_bytes}),
        patch("ensue.losses.full_softmax.TILE_ROWS", 2),
    ):
        loss = catalogue_softmax_loss(own, rows, targets, counts, bias=biases)
    (loss / 7).backward()
    return {
        "loss": loss.item(),
        "query": own.grad,
        "table": rows.weight.grad,
        "bias": biases.weight.grad if biases else None,
        "places": rows.piece.places,
        "sent": dict(workers.traffic.sent),
    }


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_items", [2, 11], ids=["few", "many"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "plain"])
def test_loss_and_gradients_are_those_of_the_whole(
    size: int, num_items: int, has_bias: bool
) -> None:
    """In tiles of some rows and items, and where a worker has no item or no query."""
    counts = COUNTS[:size]
    table, bias, queries, targets = problem(num_items, size)
    for tensor in (table, bias, queries):
        tensor.requires_grad_()
    logits = (queries @ table.T + has_bias * bias)[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits, targets - 1, reduction="sum")
    (loss / 7).backward()
    found = run_workers(divided, size, num_items, has_bias, 2 * 2 * 8)
    assert sum(one["loss"] for one in found) == pytest.approx(loss.item(), rel=1e-12)
    assert queries.grad is not None
    assert table.grad is not None
    assert bias.grad is not None
    for rank, one in enumerate(found):
        places = one["places"]
        expected = queries.grad.split(counts)[rank]
        torch.testing.assert_close(one["query"], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(one["table"], table.grad[places], rtol=0, atol=1e-12)
        if has_bias:
            torch.testing.assert_close(one["bias"], bias.grad[places], rtol=0, atol=1e-12)
        total, others = sum(counts), size - 1
        # Queries to all, the largest logit, and the sum and the target's logit of each query.
        expected_bytes = 8 * DIM * counts[rank] * others
        expected_bytes += all_reduced(total, size) + all_reduced(2 * total, size)
        assert one["sent"]["forward"] == expected_bytes
        assert one["sent"]["backward"] == 8 * DIM * (total - counts[rank]) * (size > 1)


def all_reduced(numbers: int, size: int) -> int:
    return all_reduce_bytes(numbers, 8, size)
