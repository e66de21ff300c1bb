from __future__ import annotations

import pytest
import torch

from ensue.distributed.reductions import exchange, sum_all, sum_scatter
from ensue.distributed.workers import Workers
from tests.distributed.spawn import run_workers

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

ROWS, COLUMNS, WIDTH = 12, 5, 3  # 12 rows are a multiple of every number of workers


def problem(dtype=torch.float64):
    """Return inputs [B, C], a weight [C, c] to shard, one [c] for all, and targets [B]."""
    generator = torch.Generator().manual_seed(7)
    shapes = [(ROWS, COLUMNS), (COLUMNS, WIDTH), (WIDTH,), (ROWS,)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def loss_of(y, upper, targets):
    return ((torch.tanh(y) @ upper - targets) ** 2).sum() / ROWS


def whole():
    """Return y, the loss and the gradients of the weight and of `upper`, of one process."""
    x, weight, upper, targets = problem()
    weight.requires_grad_()
    upper.requires_grad_()
    y = x @ weight
    loss = loss_of(y, upper, targets)
    loss.backward()
    return y.detach(), loss.item(), weight.grad, upper.grad


def own_columns(rank, size):
    """Return the columns of a worker: with 4 workers, worker 1 has none."""
    bounds = {1: [0, 5], 2: [0, 1, 5], 3: [0, 2, 3, 5], 4: [0, 2, 2, 4, 5]}[size]
    return slice(bounds[rank], bounds[rank + 1])


def own_rows(workers):
    rows = ROWS // workers.size
    return slice(rows * workers.rank, rows * (workers.rank + 1))


def partial_sum(workers, dtype=torch.float64):
    """Return the sharded weight, this worker's part of y, and the rest of the problem."""
    x, weight, upper, targets = problem(dtype)
    columns = own_columns(workers.rank, workers.size)
    weight = weight[columns].clone().requires_grad_()
    part = x[:, columns] @ weight
    if not len(weight):
        part = torch.zeros(ROWS, WIDTH, dtype=dtype)  # has no gradient
    return weight, part, upper.requires_grad_(), targets


def scatter(workers):
    weight, part, upper, targets = partial_sum(workers)
    y = sum_scatter(part, workers)
    loss = loss_of(y, upper, targets[own_rows(workers)])
    loss.backward()
    return y.detach(), loss.item(), weight.grad, upper.grad, workers.traffic.take()


def reduce_all(workers):
    weight, part, upper, targets = partial_sum(workers)
    before = part.detach().clone()
    y = sum_all(part, workers)
    assert torch.equal(part, before)
    loss = loss_of(y, upper, targets)
    loss.backward()
    return y.detach(), loss.item(), weight.grad, upper.grad, workers.traffic.take()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def sharded_grads(grads):
    return torch.cat([grad for grad in grads if grad is not None])


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_sum_scatter_is_one_process(size):
    y, loss, weight_grad, upper_grad = whole()
    ys, losses, grads, upper_grads, sent = zip(*run_workers(scatter, size), strict=True)
    close(torch.cat(ys), y)
    assert sum(losses) == pytest.approx(loss, abs=1e-13)
    close(sharded_grads(grads), weight_grad)
    close(sum(upper_grads), upper_grad)
    one_way = ROWS * WIDTH * 8 * (size - 1) // size
    assert {(each["forward"], each["backward"]) for each in sent} == {(one_way, one_way)}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_sum_all_is_one_process_on_each(size):
    y, loss, weight_grad, upper_grad = whole()
    answers = run_workers(reduce_all, size)
    for found_y, found_loss, _, found_upper_grad, sent in answers:
        close(found_y, y)
        assert torch.equal(found_y, answers[0][0])
        assert found_loss == pytest.approx(loss, abs=1e-13)
        close(found_upper_grad, upper_grad)
        assert sent["forward"] == 2 * ROWS * WIDTH * 8 * (size - 1) // size
        assert sent["backward"] == 0
    close(sharded_grads([answer[2] for answer in answers]), weight_grad)


def differences(workers, name, step):
    """Return the gradient of each worker's weights by central differences of the whole loss."""
    function = {"scatter": sum_scatter, "all": sum_all}[name]
    numeric = torch.zeros(COLUMNS, WIDTH, dtype=torch.float64)
    x, weight, upper, targets = problem()
    columns = own_columns(workers.rank, workers.size)
    rows = own_rows(workers) if name == "scatter" else slice(None)
    with torch.no_grad():
        for at in range(COLUMNS * WIDTH):
            for sign in (1, -1):
                moved = weight.clone()
                moved.view(-1)[at] += sign * step
                y = function(x[:, columns] @ moved[columns], workers)
                assert not y.requires_grad
                loss = loss_of(y, upper, targets[rows])
                if name == "scatter":
                    workers.all_reduce_(loss, purpose="other")
                numeric.view(-1)[at] += sign * loss.item() / (2 * step)
    return numeric[columns]


@pytest.mark.parametrize("name", ["scatter", "all"])
def test_gradients_are_finite_differences(name):
    analytic = run_workers({"scatter": scatter, "all": reduce_all}[name], 3)
    numeric = run_workers(differences, 3, name, 1e-5)
    for (_, _, grad, _, _), expected in zip(analytic, numeric, strict=True):
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-8)


def exchanged(workers, wire=None, dtype=torch.float64):
    x, weight, _, targets = problem(dtype)
    columns = own_columns(workers.rank, workers.size)
    scale = torch.ones(x[:, columns].shape[1], dtype=dtype, requires_grad=True)
    mine = (x[:, columns] * scale).view(workers.size, ROWS // workers.size, scale.numel())
    sizes = [own_columns(rank, workers.size) for rank in range(workers.size)]
    widths = [columns.stop - columns.start for columns in sizes]
    out = exchange(mine, widths, workers, wire=wire)
    loss = ((torch.tanh(out) @ weight).sum(1) * targets[own_rows(workers)]).sum() / ROWS
    loss.backward()
    return out.detach(), loss.item(), scale.grad, workers.traffic.take()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_exchange_is_one_process(size):
    x, weight, _, targets = problem()
    scale = torch.ones(COLUMNS, dtype=torch.float64, requires_grad=True)
    loss = ((torch.tanh(x * scale) @ weight).sum(1) * targets).sum() / ROWS
    loss.backward()
    outs, losses, grads, sent = zip(*run_workers(exchanged, size), strict=True)
    assert torch.equal(torch.cat(outs), x)
    assert sum(losses) == pytest.approx(loss.item(), abs=1e-13)
    close(torch.cat(grads), scale.grad)
    for rank, each in enumerate(sent):
        columns = own_columns(rank, size)
        own = columns.stop - columns.start
        rows = ROWS // size
        assert each["forward"] == (size - 1) * rows * own * 8
        assert each["backward"] == rows * (COLUMNS - own) * 8
    assert sum(each["forward"] for each in sent) == sum(each["backward"] for each in sent)


def unit_gradients(workers):
    """Return gradients of plain sums of the outputs: autograd gives them without memory."""
    x = torch.zeros(2 * workers.size, 3, requires_grad=True)
    split = torch.zeros(workers.size, 2, 3, requires_grad=True)
    weight = workers.rank + 1
    (weight * sum_scatter(x, workers).sum()).backward()
    exchange(split, [3] * workers.size, workers).sum().backward()
    return x.grad, split.grad


def test_gradients_without_memory_of_their_own():
    for grad, split_grad in run_workers(unit_gradients, 3):
        assert grad[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
        assert torch.equal(split_grad, torch.ones(3, 2, 3))


def short_scatter(workers, wire):
    weight, part, upper, targets = partial_sum(workers, torch.float32)
    y = sum_scatter(part, workers, wire=wire)
    loss_of(y, upper, targets[own_rows(workers)]).backward()
    return y.detach(), part.detach(), weight.grad, workers.traffic.take()


def short_all(workers, wire):
    weight, part, upper, targets = partial_sum(workers, torch.float32)
    y = sum_all(part, workers, wire=wire)
    loss_of(y, upper, targets).backward()
    return y.detach(), part.detach(), weight.grad, workers.traffic.take()


@pytest.mark.parametrize("function", [short_scatter, short_all])
def test_half_the_bytes_with_bfloat16(function):
    size = 3
    exact, _, exact_grads, full = zip(*run_workers(function, size, None), strict=True)
    ys, parts, grads, sent = zip(*run_workers(function, size, torch.bfloat16), strict=True)
    scale = torch.stack(parts).abs().sum(0)  # of the terms of each sum
    if function is short_scatter:
        y, exact_y = torch.cat(ys), torch.cat(exact)
    else:
        y, exact_y = ys[0], exact[0]
        assert all(torch.equal(each, y) for each in ys)
    rounding = 2.0**-8  # relative, of a number of 8 bits: once for the terms, once for the sum
    assert ((y - exact_y).abs() <= 2.02 * rounding * scale).all()
    assert not torch.equal(y, exact_y)
    for grad, exact_grad in zip(grads, exact_grads, strict=True):
        torch.testing.assert_close(grad, exact_grad, rtol=0.02, atol=0.02)
    for short, long in zip(sent, full, strict=True):
        assert all(2 * short[purpose] == long[purpose] for purpose in ("forward", "backward"))


def test_half_the_bytes_of_an_exchange():
    size, float32 = 3, torch.float32
    long = run_workers(exchanged, size, None, float32)
    for (out, *_, short), (exact, *_, full) in zip(
        run_workers(exchanged, size, torch.bfloat16, float32), long, strict=True
    ):
        assert torch.equal(out, exact.to(torch.bfloat16).float())
        assert all(2 * short[purpose] == full[purpose] for purpose in ("forward", "backward"))


def test_shapes_that_do_not_fit():
    workers = Workers(1, 2, torch.device("cpu"))  # each check comes before anything is sent
    for shape, widths in (
        ((2, 3, 4), [4, 5]),
        ((2, 3), [3, 3]),
        ((3, 3, 4), [4, 4]),
        ((2, 3, 4), [4]),
    ):
        with pytest.raises(ValueError, match=r"N, rank = \(2, 1\); got \(\d, 3.* and widths \["):
            exchange(torch.zeros(shape), widths, workers)
    with pytest.raises(ValueError, match=r"N=2 workers; got \(3, 1\)"):
        sum_scatter(torch.zeros(3, 1), workers)
