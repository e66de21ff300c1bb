from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ensue.training.spikes import (
    LASTING_STEPS,
    LOOK_BACK,
    SpikeDetector,
    SpikeWatch,
    median_and_mad,
)


def noise(steps: int, count: int = 1, seed: int = 0) -> np.ndarray:
    return 1 + 0.01 * np.random.default_rng(seed).standard_normal((steps, count))


def detect(losses: np.ndarray, norms: np.ndarray | None = None) -> SpikeDetector:
    norms = np.ones((len(losses), 1)) if norms is None else norms
    detector = SpikeDetector(
        [f"task {n}" for n in range(losses.shape[1])],
        [f"tensor {n}" for n in range(norms.shape[1])],
    )
    for row, norm in zip(losses, norms, strict=True):
        detector.add(row.tolist(), norm)
    return detector


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
@settings(max_examples=50)
def test_median_and_mad_are_those_of_their_definition(values: list[float]) -> None:
    array = np.array(values)[:, None]
    median, mad = median_and_mad(array)
    expected = np.median(array)
    assert median[0] == expected
    assert mad[0] == max(np.median(np.abs(array - expected)), 1e-3 * abs(expected))


def test_a_planted_spike_is_found_with_its_task_height_and_length() -> None:
    losses = noise(300, 3)
    losses[200:207, 1] = 2.0
    losses[203, 1] = 3.0
    losses[207, 1] = 1.0  # within one deviation for certain
    detector = detect(losses)
    median, mad = median_and_mad(losses[:200, 1])
    (spike,) = detector.take()
    assert (spike["step"], spike["task"], spike["steps"]) == (201, "task 1", 7)
    assert spike["height"] == pytest.approx((3.0 - median) / mad)
    assert detector.take() == []
    assert detector.is_calm


def test_two_steps_above_are_no_spike_and_three_are() -> None:
    for length, count in ((1, 0), (2, 0), (3, 1)):
        losses = noise(100)
        losses[60 : 60 + length] = 1.5
        assert len(detect(losses).take()) == count


def test_the_bound_is_six_deviations() -> None:
    losses = np.tile([1.0, 1.1, 1.2, 1.3, 1.4], 20)[:, None]  # median 1.2, deviation 0.1
    for height, count in ((1.79, 0), (1.81, 1)):
        assert len(detect(np.vstack([losses, np.full((3, 1), height)])).take()) == count


def test_it_is_over_within_one_deviation() -> None:
    losses = np.tile([1.0, 1.1, 1.2, 1.3, 1.4], 20)[:, None]
    for back, is_over in ((1.31, False), (1.29, True)):
        series = np.vstack([losses, np.full((3, 1), 9.0), [[back]]])
        assert detect(series).is_calm == is_over


def test_what_lasts_is_a_divergence_and_no_part_of_the_median() -> None:
    losses = noise(200 + LASTING_STEPS)
    losses[100 : 101 + LASTING_STEPS] = 1.5
    losses[101 + LASTING_STEPS] = 1.0
    detector = detect(losses[: 100 + LASTING_STEPS])
    assert detector.diverged_step is None
    assert not detector.is_calm
    detector = detect(losses[: 101 + LASTING_STEPS])
    assert detector.diverged_step == 101
    assert detector.take()[0]["steps"] is None
    (spike,) = detect(losses).take()
    assert spike["steps"] == LASTING_STEPS + 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_spike_at_once(value: float) -> None:
    losses = noise(40, 2)
    losses[30, 0] = value
    detector = detect(losses[:31])
    (spike,) = detector.take()
    assert (spike["step"], spike["task"], spike["height"]) == (31, "task 0", None)
    assert detector.diverged_step == 31
    early = detect(np.array([[value]]))
    assert early.diverged_step == 1


def test_the_leap_is_the_largest_loss_over_the_first() -> None:
    losses = np.array([[2.0, 8.0], [7.0, 9.0], [1.0, 8.0]])
    assert detect(losses).leap == 3.5
    losses[2, 1] = math.nan
    assert detect(losses).leap == math.inf
    assert detect(np.vstack([losses, [[1.0, 1.0]]])).leap == math.inf


def test_noise_and_descent_have_no_spikes() -> None:
    for seed in range(3):
        assert detect(noise(700, 2, seed)).take() == []
    falling = noise(600) + np.exp(-np.arange(600) / 50)[:, None]
    assert detect(falling).take() == []


def test_the_tensor_that_rose_first_is_named() -> None:
    losses, norms = noise(200), noise(200, 3, seed=1)
    losses[150:160] = 4.0
    norms[147:160, 2] = 5.0  # first
    norms[149:160, 0] = 90.0  # later, and more
    norms[100:104, 1] = 90.0  # long before
    assert LOOK_BACK < 150 - 104
    assert detect(losses, norms).take()[0]["tensor"] == "tensor 2"
    norms[147, 0] = 90.0  # as early, and more
    assert detect(losses, norms).take()[0]["tensor"] == "tensor 0"
    norms[147, 1] = math.nan
    assert detect(losses, norms).take()[0]["tensor"] == "tensor 1"


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def fill(model: nn.Module, step: int) -> torch.Tensor:
    """Give the gradients of a step, those of 1.weight large from step 50 on; return the losses."""
    generator = torch.Generator().manual_seed(step)
    for name, parameter in model.named_parameters():
        scale = 100.0 if name == "1.weight" and step >= 50 else 1.0
        parameter.grad = scale * (1 + 0.1 * torch.rand(parameter.shape, generator=generator))
    return 1 + 0.1 * torch.rand(2, generator=generator) + torch.tensor([0.0, 5.0 * (step > 50)])


def test_the_watch_names_the_bad_tensor_and_goes_on_from_its_state() -> None:
    model = two_layers()
    watch, stopped = (SpikeWatch(model, ["click", "like"]) for _ in range(2))
    for step in range(70):
        losses = fill(model, step)
        watch.observe(losses)
        stopped.observe(losses)
        if step in (0, 33, 52, 54, 60):  # stored, and gone on with by another
            state = stopped.state()
            stopped = SpikeWatch(model, ["click", "like"])
            stopped.load_state(state)
    found = watch.take()
    assert [(s["step"], s["task"], s["tensor"]) for s in found] == [(52, "like", "1.weight")]
    assert stopped.take() == found
    losses = fill(model, 0)
    for each in (watch, stopped):
        each.observe(losses)
        each.look()
        assert each.detector.is_calm


def test_a_stored_spike_that_lasts_is_one_spike() -> None:
    model = two_layers()
    watch = SpikeWatch(model, ["click", "like"])
    for step in range(60):
        watch.observe(fill(model, step))
    other = SpikeWatch(model, ["click", "like"])
    other.load_state(watch.state())
    for step in (60, 0):
        other.observe(fill(model, step))
    assert [spike["steps"] for spike in other.take()] == [10]


def test_norms_are_those_of_the_gradients_sparse_ones_summed() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    other = nn.Linear(2, 1)
    model = nn.ModuleList([table, other])
    watch = SpikeWatch(model, ["loss"])
    rows = torch.tensor([[1, 1, 3]])
    values = torch.tensor([[1.0, 2.0], [2.0, 2.0], [0.0, 1.0]])
    table.weight.grad = torch.sparse_coo_tensor(rows, values, (5, 2), check_invariants=True)
    other.weight.grad = torch.tensor([[3.0, 4.0]])
    watch.observe(torch.tensor(1.0))
    watch.look()
    np.testing.assert_allclose(watch.detector.norms[0], [26**0.5, 5.0, 0.0], rtol=1e-6)
