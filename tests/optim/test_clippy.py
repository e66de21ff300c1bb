from __future__ import annotations

import io
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ensue.optim import clippy_kernels
from ensue.optim.clipping import adaptive_factor, clippy_factor, norm_factor, trust_factor
from ensue.optim.clippy import Clippy, Direction, Rule


@pytest.fixture(params=[torch.float32, torch.float64], ids=["kernels", "tensors"])
def dtype(request: pytest.FixtureRequest) -> Any:
    """The kernels take float32 only."""
    return request.param


def make(parameter: Tensor, lr: float = 1.0, weight_decay: float = 0.0, **settings: Any) -> Clippy:
    """Return the optimizer with settings of rule and direction under one roof."""
    ways = {"rule": Rule, "direction": Direction}
    of_way = {
        way: kind(
            **({"name": settings[way]} if way in settings else {}),
            **{key: settings[key] for key in kind.__dataclass_fields__ if key in settings},
        )
        for way, kind in ways.items()
    }
    return Clippy([parameter], lr=lr, weight_decay=weight_decay, **of_way)


def one_step(weight: Tensor, grad: Tensor, **settings: Any) -> tuple[Tensor, Clippy]:
    parameter = weight.clone().requires_grad_()
    parameter.grad = grad.clone()
    optimizer = make(parameter, **settings)
    optimizer.step()
    return parameter.detach(), optimizer


def factor_of(optimizer: Clippy) -> float:
    (state,) = optimizer.state.values()
    return float(state["factor"])


@pytest.mark.parametrize(
    ("direction", "factor", "after"),
    [
        ("adagrad", 0.158430, (0.842443, -0.609039, -0.010000)),
        ("delayed_adagrad", 0.053759, (0.490000, -0.551000, -0.003400)),
    ],
)
def test_worked_steps(
    dtype: torch.dtype, direction: Any, factor: float, after: tuple[float, ...]
) -> None:
    weight = torch.tensor([1.0, -0.5, 0.0], dtype=dtype)
    grad = torch.tensor([3.0, 0.3, 0.02], dtype=dtype)
    moved, optimizer = one_step(weight, grad, lr=1.0, direction=direction)
    assert factor_of(optimizer) == pytest.approx(factor, abs=2e-6)
    torch.testing.assert_close(moved, torch.tensor(after, dtype=dtype), atol=2e-6, rtol=0)
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["sum"], torch.tensor([9.1, 0.19, 0.1004], dtype=dtype))


def test_a_coordinate_near_zero_throttles_its_tensor(dtype: torch.dtype) -> None:
    weight, grad = torch.tensor([1.0, -0.5], dtype=dtype), torch.tensor([3.0, 0.3], dtype=dtype)
    _, optimizer = one_step(weight, grad, lr=1.0)
    assert factor_of(optimizer) == pytest.approx(0.377771, abs=1e-6)


def test_worked_factors_of_the_other_rules() -> None:
    weight, grad = torch.tensor([1.0, -0.5, 0.0]), torch.tensor([3.0, 0.3, 0.02])
    step = grad / (0.1 + grad**2).sqrt()
    assert float(norm_factor(grad, threshold=0.1)) == pytest.approx(0.033167, abs=1e-6)
    assert float(adaptive_factor(grad, weight, threshold=1e-3)) == pytest.approx(0.000371, abs=1e-6)
    found = trust_factor(step, weight, rate=1.0, multiplier=1.0)
    assert float(found) == pytest.approx(0.923182, abs=1e-6)


@pytest.mark.parametrize(
    ("weight", "step", "relative", "absolute", "factor"),
    [(5.0, 3.0, 0.2, 0.5, 0.5), (0.0, 0.0, 0.2, 0.0, 1.0), (0.0, 1.0, 0.2, 0.0, 0.0)],
)
def test_worked_bounds(
    weight: float, step: float, relative: float, absolute: float, factor: float
) -> None:
    found = clippy_factor(
        torch.tensor([step]), torch.tensor([weight]), relative=relative, absolute=absolute
    )
    assert float(found) == factor


def test_a_norm_hardly_sees_one_large_coordinate() -> None:
    grad = torch.full((1_000_000,), 1e-3).double()
    before = (
        norm_factor(grad, threshold=0.1),
        clippy_factor(grad, torch.zeros_like(grad), relative=0.5, absolute=1e-3),
    )
    grad[7] = 1.0
    after = (
        norm_factor(grad, threshold=0.1),
        clippy_factor(grad, torch.zeros_like(grad), relative=0.5, absolute=1e-3),
    )
    assert float(before[0] / after[0]) == pytest.approx(2**0.5, rel=1e-4)
    assert float(before[1] / after[1]) == pytest.approx(1000, rel=1e-4)


@pytest.mark.parametrize(("rate", "largest"), [(0.09, 8.0e-5), (0.11, 8.3e7)])
def test_plain_descent_diverges_past_two_over_the_curvature(rate: float, largest: float) -> None:
    """10 x^2 + y^2 / 2 has curvatures 20 and 1: the edge is a rate of 0.1."""
    point = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([point], lr=rate)
    curvature = torch.tensor([20.0, 1.0], dtype=torch.float64)
    for _ in range(100):
        optimizer.zero_grad()
        (0.5 * curvature * point**2).sum().backward()
        optimizer.step()
    assert float(point.detach().abs().max()) == pytest.approx(largest, rel=0.01)


def test_the_bound_keeps_a_descent_past_the_edge_near_the_minimum() -> None:
    point, curvature = torch.ones(2).double(), torch.tensor([20.0, 1.0]).double()
    for _ in range(1000):
        step = 0.11 * curvature * point
        point = point - step * clippy_factor(step, point, relative=0.5, absolute=0.01)
    # |x| shrinks where 2.2 |x| > 0.5 |x| + 0.01, and one step below that makes it 1.2 times that
    assert float(point.abs().max()) <= 1.2 * 0.01 / 1.7 + 1e-12


shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
numbers = st.floats(-100, 100, width=32).map(lambda x: 0.0 if abs(x) < 1e-6 else x)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Weights and gradients of one shape."""
    shape = draw(shapes)
    arrays = [draw(hnp.arrays(np.float32, shape, elements=numbers)) for _ in range(2)]
    weight, grad = (torch.from_numpy(np.asarray(array)) for array in arrays)
    return weight, grad


@given(
    pair=pairs(),
    lr=st.floats(1e-3, 100),
    relative=st.floats(0, 2),
    absolute=st.floats(1e-4, 1),
    direction=st.sampled_from(["adagrad", "delayed_adagrad"]),
    double=st.booleans(),
)
def test_no_weight_moves_by_more_than_its_bound(
    pair: tuple[Tensor, Tensor],
    lr: float,
    relative: float,
    absolute: float,
    direction: Any,
    double: bool,
) -> None:
    weight, grad = (t.double() if double else t for t in pair)
    moved, optimizer = one_step(
        weight, grad, lr=lr, relative=relative, absolute=absolute, direction=direction
    )
    square = grad**2 if direction == "adagrad" else 0
    step = lr * grad / (0.1 + square) ** 0.5
    bound = relative * weight.abs() + absolute
    factor = factor_of(optimizer)
    assert 0 <= factor <= 1
    slack = 1e-6 * (bound + weight.abs()) * (1 if not double else 1e-6)
    assert ((moved - weight).abs() <= bound + slack).all()
    torch.testing.assert_close(weight - factor * step, moved, rtol=1e-5, atol=1e-5)
    if factor < 1:  # as large as it can be: some weight is at its bound
        assert float((factor * step.abs() / bound).max()) == pytest.approx(1, rel=1e-5)


@given(
    pair=pairs(), lr=st.floats(0.5, 50), direction=st.sampled_from(["adagrad", "delayed_adagrad"])
)
def test_while_clipped_the_rate_does_not_matter(
    pair: tuple[Tensor, Tensor], lr: float, direction: Any
) -> None:
    once, optimizer = one_step(*pair, lr=lr, direction=direction)
    twice, _ = one_step(*pair, lr=2 * lr, direction=direction)
    if factor_of(optimizer) < 1:
        torch.testing.assert_close(once, twice)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"rule": "none"}, torch.optim.Adagrad),
        ({"absolute": 1e12}, torch.optim.Adagrad),
        ({"rule": "none", "direction": "adam"}, torch.optim.Adam),
    ],
)
def test_without_a_bound_it_is_that_of_torch(
    dtype: torch.dtype, settings: dict[str, Any], theirs: Any
) -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 5, dtype=dtype)
    one, other = start.clone().requires_grad_(), start.clone().requires_grad_()
    more = {"initial_accumulator_value": 0.1, "eps": 0} if theirs is torch.optim.Adagrad else {}
    optimizers = [
        make(one, lr=0.3, weight_decay=0.01, **settings),
        theirs([other], lr=0.3, weight_decay=0.01, **more),
    ]
    for _ in range(5):
        one.grad = torch.randn_like(start)
        other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("direction", ["adagrad", "adam"])
@pytest.mark.parametrize("rule", ["clippy", "gc", "agc", "lamb", "none"])
def test_the_step_is_the_direction_times_the_factor(rule: Any, direction: Any) -> None:
    torch.manual_seed(0)
    weight, grad = torch.randn(6, 4), torch.randn(6, 4)
    plain, _ = one_step(weight, grad, lr=0.5, rule="none", direction=direction)
    moved, _ = one_step(weight, grad, lr=0.5, rule=rule, direction=direction, threshold=0.02)
    step = weight - plain
    factors: dict[str, Tensor | float] = {
        "clippy": float(((0.5 * weight.abs() + 0.01) / step.abs()).min().clamp(max=1)),
        "gc": 0.02 / float(grad.norm()),
        "agc": 0.02 * weight.norm(dim=1, keepdim=True) / grad.norm(dim=1, keepdim=True),
        "lamb": 0.02 * 0.5 * float(weight.norm() / step.norm()),
        "none": 1.0,
    }
    torch.testing.assert_close(moved, weight - factors[rule] * step)


def test_a_norm_of_zero_gives_a_finite_step() -> None:
    nothing, grad = torch.zeros(3, 2), torch.ones(3, 2)
    for rule in ("agc", "lamb"):
        moved, _ = one_step(nothing, grad, lr=0.1, rule=rule, threshold=0.5)
        assert (moved < 0).all()
        assert moved.isfinite().all()
        still, _ = one_step(grad, nothing, lr=0.1, rule=rule)
        assert torch.equal(still, grad)


def test_a_sparse_gradient_is_the_dense_one_of_its_rows() -> None:
    torch.manual_seed(0)
    start = torch.randn(6, 3)
    rows = torch.tensor([4, 1, 4])
    values = torch.randn(3, 3)
    dense, sparse = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimizers = [make(p, lr=2.0) for p in (dense, sparse)]
    for _ in range(3):
        dense.grad = torch.zeros(6, 3).index_add_(0, rows, values)  # summed, then squared
        sparse.grad = torch.sparse_coo_tensor(rows[None], values, (6, 3), check_invariants=True)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(dense, sparse)
    assert factor_of(optimizers[0]) == pytest.approx(factor_of(optimizers[1]), rel=1e-5)
    assert factor_of(optimizers[0]) < 1


@pytest.mark.parametrize("direction", ["adagrad", "delayed_adagrad"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_kernels_equal_tensor_operations(
    monkeypatch: pytest.MonkeyPatch, direction: Any, decay: float
) -> None:
    monkeypatch.setattr(clippy_kernels, "STRETCH", 1000)  # of several threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    torch.manual_seed(0)
    start = torch.randn(7001)
    ours, theirs = start.clone().requires_grad_(), start.double().requires_grad_()
    settings = {"lr": 0.5, "direction": direction, "weight_decay": decay}
    optimizers = [make(p, **settings) for p in (ours, theirs)]
    for _ in range(4):
        ours.grad = torch.randn_like(start)
        theirs.grad = ours.grad.double()
        for optimizer in optimizers:
            optimizer.step()
        assert factor_of(optimizers[0]) == pytest.approx(factor_of(optimizers[1]), rel=1e-5)
        assert factor_of(optimizers[0]) < 1
    torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("direction", ["adagrad", "delayed_adagrad"])
def test_a_gradient_that_is_not_finite_is_skipped(
    dtype: torch.dtype, direction: Any, broken: float
) -> None:
    weight = torch.arange(1.0, 6.0, dtype=dtype).requires_grad_()
    optimizer = make(weight, lr=0.1, direction=direction)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    before = weight.detach().clone(), state["sum"].clone(), float(state["factor"])
    weight.grad[2] = broken
    optimizer.step()
    assert torch.equal(weight, before[0])
    assert torch.equal(state["sum"], before[1])
    assert float(state["factor"]) == before[2]
    assert int(state["step"]) == 1
    counts = optimizer.take_counts([("weight", weight)])
    assert counts == {"clipping": {"weight": before[2]}, "skipped_steps": 1}


def test_a_bound_of_zero_holds_without_skipping(dtype: torch.dtype) -> None:
    weight, grad = torch.zeros(3, dtype=dtype), torch.tensor([0.0, 0.0, 9.0], dtype=dtype)
    moved, optimizer = one_step(weight, grad, lr=1.0, absolute=0.0)
    torch.testing.assert_close(moved, weight, atol=1e-30, rtol=0)
    assert int(next(iter(optimizer.state.values()))["skipped"]) == 0


def test_zero_gradients_at_the_end_change_nothing_and_order_is_kept(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, grad = torch.randn(9, dtype=dtype), torch.randn(9, dtype=dtype)
    moved, optimizer = one_step(weight, grad, lr=3.0)
    longer, other = one_step(
        torch.cat([weight, weight.new_zeros(4)]), torch.cat([grad, grad.new_zeros(4)]), lr=3.0
    )
    assert torch.equal(longer[:9], moved)
    assert torch.equal(longer[9:], weight.new_zeros(4))
    assert factor_of(optimizer) == factor_of(other)
    order = torch.randperm(9)
    mixed, _ = one_step(weight[order], grad[order], lr=3.0)
    assert torch.equal(mixed, moved[order])


def test_every_setting_survives_a_round_trip() -> None:
    settings: dict[str, Any] = {
        "rule": "agc",
        "relative": 0.25,
        "absolute": 0.125,
        "threshold": 0.75,
        "direction": "adam",
        "initial": 0.5,
        "betas": (0.5, 0.75),
        "eps": 1e-3,
        "weight_decay": 0.25,
        "lr": 0.0625,
    }
    x = torch.randn(3, 2, requires_grad=True)
    one = make(x, **settings)
    x.grad = torch.ones(3, 2)
    one.step()
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    y = x.detach().clone().requires_grad_()
    other = Clippy([y])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert {k: v for k, v in other.param_groups[0].items() if k != "params"} == settings
    for parameter, optimizer in ((x, one), (y, other)):
        parameter.grad = torch.full((3, 2), 2.0)
        optimizer.step()
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, r"lr > 0; got 0\.0"),
        ({"relative": -1.0}, r"relative >= 0; got -1\.0"),
        ({"absolute": -1.0}, r"absolute >= 0; got -1\.0"),
        ({"threshold": 0.0}, r"threshold > 0; got 0\.0"),
        ({"initial": 0.0}, r"initial > 0, or eps > 0; got 0\.0"),
        ({"rule": "clip"}, r"rule in .*'gc'.*; got 'clip'"),
        ({"direction": "sgd"}, r"direction in .*; got 'sgd'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(torch.zeros(1, requires_grad=True), **settings)


def test_counts_are_of_what_has_a_rule_and_begin_anew() -> None:
    free, held = (torch.ones(3, requires_grad=True) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [held]}, {"params": [free], "rule": "none"}]
    optimizer = Clippy(groups, lr=1.0)
    factors = []
    for _ in range(3):
        for parameter in (free, held):
            parameter.grad = torch.full((3,), 5.0)
        optimizer.step()
        factors.append(float(optimizer.state[held]["factor"]))
    named = [("free", free), ("held", held), ("never", torch.zeros(1))]
    found = optimizer.take_counts(named)
    assert found == {"clipping": {"held": pytest.approx(sum(factors) / 3)}, "skipped_steps": 0}
    assert max(factors) < 1
    assert optimizer.take_counts(named)["clipping"] == {"held": 0.0}
