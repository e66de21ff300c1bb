"""Every optimizer takes the same steps from a sparse gradient as from the dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ensue.nn.bags import bag_sum
from ensue.nn.embedding import gather_rows
from ensue.nn.sparse_rows import bag_sum_sparse, gather_rows_sparse
from ensue.optim import row_updates
from ensue.optim.adagrad import Adagrad
from ensue.optim.clipping import clip_whole_gradient_
from ensue.optim.clippy import Clippy, Direction, Rule
from ensue.optim.lazy_adam import LazyAdam
from ensue.training.checkpoints import Checkpoints

ROWS, DIM = 50, 5
Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
FREE = Rule("none")
OPTIMIZERS: dict[str, Make] = {
    "adagrad": lambda p: Adagrad(p, lr=0.1),
    "adagrad, decay": lambda p: Adagrad(p, lr=0.1, weight_decay=0.1),
    "lazy adam": lambda p: LazyAdam(p, lr=0.1),
    "lazy adam, decay": lambda p: LazyAdam(p, lr=0.1, weight_decay=0.1),
    "clippy, free": lambda p: Clippy(p, lr=0.1, rule=FREE),
    "clippy, free, delayed": lambda p: Clippy(
        p, lr=0.01, rule=FREE, direction=Direction("delayed_adagrad", initial=9.0)
    ),
    "clippy": lambda p: Clippy(p, lr=0.1),
}


class Table(nn.Module):
    """Two look-ups and a bag of the same table, and a layer over them."""

    def __init__(self, *, is_sparse: bool, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Parameter(torch.randn(ROWS, DIM, dtype=dtype))
        self.bias = nn.Parameter(torch.randn(ROWS, dtype=dtype))
        self.layer = nn.Linear(DIM, 1, dtype=dtype)
        self._take = gather_rows_sparse if is_sparse else gather_rows
        self._bag = bag_sum_sparse if is_sparse else bag_sum

    def forward(self, ids: Tensor) -> Tensor:
        first, second = ids.chunk(2)
        offsets = torch.arange(0, 2 * len(first) + 1, 2)
        weights = self.table.new_ones(len(ids) // 2 * 2)
        bags = self._bag(self.table, ids[: len(weights)], offsets, weights)
        hidden = (self._take(self.table, first) * self._take(self.table, second) + bags).tanh()
        return self.layer(hidden).squeeze(1) + self._take(self.bias, first)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> list[float]:
    losses = []
    for step in steps:
        for part in range(2):  # two backward passes before a step
            generator = torch.Generator().manual_seed(2 * step + part)
            ids = (torch.rand(40, generator=generator) ** 4 * ROWS).long()
            loss = (model(ids) - 1).square().sum()
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_same_training_as_with_dense_gradients(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    ended = []
    for is_sparse in (True, False):
        model = Table(is_sparse=is_sparse, dtype=dtype)
        start = model.table.detach().clone()
        optimizer = OPTIMIZERS[name](model.parameters())
        losses = train(model, optimizer, range(8))
        assert model.table.grad.is_sparse == is_sparse
        assert (model.table - start).abs().max() > 0.01
        state = [v for p in model.parameters() for v in optimizer.state[p].values()]
        ended.append([torch.tensor(losses), *model.parameters(), *state])
    for ours, theirs in zip(*ended, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_kernels_equal_tensor_operations(
    name: str, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_updates, "LEAST", 4)  # rows of a thread
    monkeypatch.setattr(row_updates, "BLOCK", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    ended = []
    for use_kernels in (True, False):
        if not use_kernels:
            monkeypatch.setattr(row_updates, "_in_memory", lambda *_: False)
        model = Table(is_sparse=True, dtype=torch.float64)
        losses = train(model, OPTIMIZERS[name](model.parameters()), range(8))
        ended.append([torch.tensor(losses), *model.parameters()])
    for ours, theirs in zip(*ended, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_adagrad_is_that_of_torch() -> None:
    ended = []
    makes = OPTIMIZERS["adagrad"], lambda p: torch.optim.Adagrad(p, lr=0.1)
    for is_sparse, make in zip((True, False), makes, strict=True):
        model = Table(is_sparse=is_sparse, dtype=torch.float64)
        losses = train(model, make(model.parameters()), range(8))
        ended.append([torch.tensor(losses), *model.parameters()])
    for ours, theirs in zip(*ended, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_a_row_met_twice_is_summed_before_it_is_squared() -> None:
    table = torch.zeros(4, 1, requires_grad=True)
    optimizer = Adagrad([table], lr=0.5)
    (
        gather_rows_sparse(table, torch.tensor([2, 2])) * torch.tensor([[1.0], [2.0]])
    ).sum().backward()
    optimizer.step()
    assert optimizer.state[table]["sum"].flatten().tolist() == [0, 0, 9, 0]
    assert table.flatten().tolist() == pytest.approx([0, 0, -0.5, 0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_batch_without_look_ups_and_a_gradient_of_zero_move_nothing(name: str) -> None:
    table = torch.ones(4, 2, requires_grad=True)
    optimizer = OPTIMIZERS[name]([table])
    (gather_rows_sparse(table, torch.empty(0, dtype=torch.long)).sum() * 0).backward()
    optimizer.step()
    gather_rows_sparse(table, torch.tensor([1])).mul(0).sum().backward()
    optimizer.step()
    assert (table == 1).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, stopped, resumed = (Table(is_sparse=True, dtype=torch.float32) for _ in range(3))
    train(whole, OPTIMIZERS[name](whole.parameters()), range(6))
    optimizer = OPTIMIZERS[name](stopped.parameters())
    train(stopped, optimizer, range(3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last", stopped, optimizer, {}, {})
    states = [deepcopy(optimizer.state_dict())]
    optimizer = OPTIMIZERS[name](resumed.parameters())
    checkpoints.load("last", resumed, optimizer)
    train(resumed, optimizer, range(3, 6))
    again = OPTIMIZERS[name](stopped.parameters())
    again.load_state_dict(states[0])
    train(stopped, again, range(3, 6))
    for parameters in zip(
        whole.parameters(), resumed.parameters(), stopped.parameters(), strict=True
    ):
        assert torch.equal(parameters[0], parameters[1])
        assert torch.equal(parameters[0], parameters[2])


def test_clippy_skips_rows_that_are_not_finite() -> None:
    table = torch.ones(4, 2, requires_grad=True)
    optimizer = Clippy([table], rule=FREE)
    for value, is_moved in ((torch.nan, False), (torch.inf, False), (1.0, True)):
        table.grad = None
        gather_rows_sparse(table, torch.tensor([1, 2])).mul(value).sum().backward()
        optimizer.step()
        assert bool((table != 1).any()) == is_moved
    assert optimizer.take_counts([("table", table)]) == {"clipping": {}, "skipped_steps": 2}


def test_clipping_the_whole_gradient_counts_the_sums_of_rows() -> None:
    models = [Table(is_sparse=is_sparse, dtype=torch.float64) for is_sparse in (True, False)]
    ids = torch.tensor([3, 3, 1, 0])
    for model in models:
        (model(ids) * 5).square().sum().backward()
    sparse, dense = models
    norm = nn.utils.clip_grad_norm_(dense.parameters(), 0.25)
    assert float(clip_whole_gradient_(sparse.parameters(), threshold=0.25)) == pytest.approx(
        float(norm)
    )
    assert norm > 0.25
    for ours, theirs in zip(sparse.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)
