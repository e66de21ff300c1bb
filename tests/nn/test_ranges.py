"""The encoders of M3: the worked example, empty cases, and steps against whole sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.nn.ranges import (
    AttentionRange,
    ConvolutionRange,
    RangeEncoder,
    RecurrentRange,
    TinyRange,
)

EVENTS = torch.tensor([[[1, 0], [0, 1], [1, 1]]], dtype=torch.float64)


def test_attention_of_the_worked_example() -> None:
    read = AttentionRange(2, includes_last=True)(EVENTS)
    expected = torch.tensor([0.751745, 0.751745], dtype=torch.float64)
    torch.testing.assert_close(read[0, 2], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(read[0, 0], EVENTS[0, 0])


def test_attention_without_the_last_event() -> None:
    read = AttentionRange(2, includes_last=False)(EVENTS)
    expected = torch.tensor([[0, 0], [1, 0], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(read[0], expected)


def test_an_event_with_nothing_to_read_sends_no_gradient() -> None:
    events = EVENTS.clone().requires_grad_()
    AttentionRange(2, includes_last=False)(events)[0, 0].sum().backward()
    assert events.grad is not None
    assert events.grad.count_nonzero() == 0
    assert events.grad.isfinite().all()


ENCODERS = {
    "tiny": lambda: TinyRange(),
    "gru": lambda: RecurrentRange(4),
    "conv": lambda: ConvolutionRange(4, num_layers=2, width=3),
    "attention": lambda: AttentionRange(4, includes_last=True),
    "others": lambda: AttentionRange(4, includes_last=False),
}


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_the_last_alone_and_step_by_step_equal_the_whole(name: str) -> None:
    torch.manual_seed(0)
    encoder: RangeEncoder = ENCODERS[name]().double()
    x = torch.randn(3, 9, 4, dtype=torch.float64)
    whole: Tensor = encoder(x)
    last = torch.tensor([0, 8, 3])
    torch.testing.assert_close(encoder.last(x, last), whole[torch.arange(3), last])
    past = encoder.no_past()
    for t in range(9):
        own, past = encoder.step(x[0, t : t + 1], past)
        torch.testing.assert_close(own[0], whole[0, t])


def test_what_is_kept_for_the_next_step() -> None:
    conv = ConvolutionRange(4, num_layers=2, width=3)
    past = conv.no_past()
    for _ in range(9):
        _, past = conv.step(torch.ones(1, 4), past)
    assert conv.num_read == 5
    assert len(past) == 5
