"""M3 against the figures and the invariants of its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.data.histories import HistoryBatch
from ensue.errors import ConfigError
from ensue.losses.full_softmax import full_softmax_loss
from ensue.losses.sampled_softmax import sampled_softmax_loss
from ensue.models.sequential.m3 import M3, M3Config
from ensue.models.table import get_preset
from ensue.training.objectives import make_objective
from tests.contracts.planted import histories_of

LAST = torch.tensor([1.0, 1.0], dtype=torch.float64)
ITEMS = [3, 9, 3, 1, 7, 4]


def make(num_items: int = 9, **settings: object) -> M3:
    torch.manual_seed(0)
    config = M3Config(**{"dim": 4, "max_len": 6, **settings})
    model = M3(config, num_users=3, num_items=num_items).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        model.item_embedding[0] = 0
    return model


@torch.no_grad()
def encode(model: M3, items: list[int]) -> Tensor:
    return model.encode(torch.tensor([items]))[0]


def set_gates(model: M3, bias: list[float]) -> None:
    """Make the gates the same for every event."""
    assert model.gate is not None
    with torch.no_grad():
        model.gate.linear.weight.zero_()
        model.gate.linear.bias.copy_(torch.tensor(bias, dtype=torch.float64))


def by_definition(model: M3, items: list[int]) -> Tensor:
    """The last query, encoder by encoder, one vector at a time."""
    config = model.config
    events = [
        (model.input.weight @ model.item_embedding[i] + model.input.bias).clamp(min=0)
        for i in items
    ]
    last, encodings = events[-1], []
    for part, encoder in zip(config.parts, model.encoders, strict=True):
        if part == "t":
            encodings.append(last)
        elif part == "l":
            read = events if config.long_reads_last else events[:-1]
            images = [(encoder.key(event), encoder.value(event)) for event in read]
            query = encoder.query(last) / math.sqrt(config.dim)
            weights = torch.stack([key @ query for key, _ in images]).exp()
            weights = weights / weights.sum()
            mixed = sum(w * value for w, (_, value) in zip(weights, images, strict=True))
            encodings.append(mixed)
        elif config.short == "gru":
            encodings.append(encoder.gru(torch.stack(events)[None])[0][0, -1])
        else:
            layer_below = events
            for layer in encoder.layers:
                above = []
                for t in range(len(items)):
                    total = layer.bias
                    for k in range(config.conv_width):  # k steps back
                        if t - k >= 0:
                            total = total + layer.weight[:, :, -1 - k] @ layer_below[t - k]
                    above.append(total.clamp(min=0))
                layer_below = above
            encodings.append(layer_below[-1])
    if config.norm:
        for n, encoding in enumerate(encodings):
            scaled = (encoding - encoding.mean()) / (encoding.var(correction=0) + 1e-5).sqrt()
            encodings[n] = scaled * model.norm.weight + model.norm.bias
    switch = last if config.switch == "bottom" else torch.cat(encodings)
    gates = torch.ones(len(encodings)).double()
    if model.gate is not None:
        gates = 1 / (1 + (-model.gate.linear.weight @ switch - model.gate.linear.bias).exp())
    gated = [gate * encoding for gate, encoding in zip(gates, encodings, strict=True)]
    mixed = torch.cat(gated) if config.mixture == "concat" else sum(gated)
    hidden = (model.hidden.weight @ mixed + model.hidden.bias).clamp(min=0)
    return model.output.weight @ hidden + model.output.bias


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"short": "conv"},
        {"short": "conv", "conv_layers": 3, "conv_width": 2, "gates": "top"},
        {"mixture": "sum", "gates": "fixed", "long_reads_last": False},
        {"parts": "sl", "gates": "top"},
        {"attention": "projected", "norm": True, "hidden_dim": 11},
        {"attention": "projected", "norm": True, "gates": "top", "long_reads_last": False},
    ],
    ids=str,
)
@torch.no_grad()
def test_equals_its_definition(settings: dict[str, object]) -> None:
    model = make(**settings)
    torch.testing.assert_close(encode(model, ITEMS)[-1], by_definition(model, ITEMS))


@torch.no_grad()
def test_gates_and_mixture_of_the_worked_example() -> None:
    tiny, short = LAST, torch.tensor([0.2, -0.6]).double()
    long = torch.tensor([0.7517449, 0.7517449]).double()
    bias = [0.0, math.log(3), -math.log(3)]
    for mixture, expected in (
        ("concat", [0.5, 0.5, 0.15, -0.45, 0.187936, 0.187936]),
        ("sum", [0.837936, 0.237936]),
    ):
        model = make(dim=2, mixture=mixture)
        set_gates(model, bias)
        seen: list[Tensor] = []
        model.hidden.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        none = LAST.new_zeros(0)  # context features
        model._mix(LAST, [tiny, short, long], none, none)
        torch.testing.assert_close(seen[0], torch.tensor(expected).double(), rtol=0, atol=1e-6)
    gates = model.open_gates(torch.tensor([ITEMS]))
    torch.testing.assert_close(gates[0, 0], torch.tensor([0.5, 0.75, 0.25]).double())


def test_losses_of_the_worked_example() -> None:
    query = torch.tensor([[0.5, -0.2]], dtype=torch.float64)
    table = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [-1, 0]]).double()  # row 0 is padding
    full = full_softmax_loss(query, table, torch.tensor([3]))
    assert full.item() == pytest.approx(1.1870084343, abs=1e-9)
    logits = table[1:] @ query[0]
    q = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64)
    negatives, log_q = [0, 3], (2 * q).log()
    sampled = sampled_softmax_loss(
        logits[2][None],
        logits[negatives][None],
        is_hit=torch.tensor([[False, False]]),
        positive_log_q=log_q[2][None],
        negative_log_q=log_q[negatives],
    )
    assert sampled.item() == pytest.approx(1.1829653736, abs=1e-9)
    others, none = [0, 1, 3], torch.zeros(3).double()
    every = sampled_softmax_loss(
        logits[2][None],
        logits[others][None],
        is_hit=torch.zeros(1, 3, dtype=torch.bool),
        positive_log_q=none[:1],
        negative_log_q=none,
    )
    assert every.item() == pytest.approx(full.item(), abs=1e-12)


@torch.no_grad()
def test_the_tiny_range_reads_the_last_event_alone() -> None:
    queries = encode(make(parts="t"), [3, 9, 3, 1, 3])
    torch.testing.assert_close(queries[0], queries[2])
    torch.testing.assert_close(queries[0], queries[4])
    assert not torch.allclose(queries[0], queries[1])


@pytest.mark.parametrize("reads_last", [True, False])
def test_the_long_range_does_not_know_the_order_of_earlier_events(reads_last: bool) -> None:
    model = make(parts="l", long_reads_last=reads_last)
    one, other = encode(model, [3, 9, 2, 1, 7])[-1], encode(model, [1, 2, 9, 3, 7])[-1]
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, encode(model, [3, 9, 2, 7, 1])[-1])


@pytest.mark.parametrize("short", ["gru", "conv"])
def test_the_short_range_knows_the_order(short: str) -> None:
    model = make(parts="s", short=short)
    one, other = encode(model, [3, 9, 2, 1, 7])[-1], encode(model, [3, 9, 1, 2, 7])[-1]
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(("layers", "width", "reads"), [(2, 3, 5), (1, 2, 2), (3, 2, 4)])
def test_convolutions_read_so_many_events_and_no_more(layers: int, width: int, reads: int) -> None:
    torch.manual_seed(2)
    model = make(dim=16, parts="s", short="conv", conv_layers=layers, conv_width=width)
    rows = [[5, *ITEMS], [2, *ITEMS]]
    one, other = (encode(model, row) for row in rows)
    torch.testing.assert_close(one[reads:], other[reads:], rtol=0, atol=0)
    assert not torch.allclose(one[reads - 1], other[reads - 1])


@pytest.mark.parametrize("kind", ["bottom", "top"])
@torch.no_grad()
def test_gates_are_between_zero_and_one(kind: str) -> None:
    model = make(gates=kind)
    gates = model.open_gates(torch.tensor([ITEMS]))
    assert gates.shape == (1, len(ITEMS), 3)
    assert 0 < gates.min() < gates.max() < 1
    set_gates(model, [0.0, 0.0, 0.0])
    assert model.open_gates(torch.tensor([ITEMS])).unique().tolist() == [0.5]


def test_gates_start_half_open() -> None:
    gate = M3(M3Config(dim=16, gates="top"), num_users=1, num_items=3).gate
    assert gate is not None
    assert gate.linear.bias.count_nonzero() == 0
    assert gate.linear.weight.abs().max() <= (3 * 16) ** -0.5


def test_fixed_gates_equal_gates_that_are_wide_open() -> None:
    fixed, free = make(gates="fixed"), make(gates="bottom")
    free.load_state_dict(fixed.state_dict(), strict=False)
    set_gates(free, [30.0, 30.0, 30.0])
    torch.testing.assert_close(encode(free, ITEMS), encode(fixed, ITEMS))


@pytest.mark.parametrize("parts", ["t", "s", "l", "ts", "tl", "sl"])
@torch.no_grad()
def test_leaving_out_an_encoder_equals_closing_its_gate(parts: str) -> None:
    whole, part = make(), make(parts=parts)
    kept = ["tsl".index(name) for name in parts]
    state = whole.state_dict()
    for name in ("weight", "bias"):
        state[f"gate.linear.{name}"] = state[f"gate.linear.{name}"][kept]
    columns = state["hidden.weight"].unflatten(1, (3, -1))
    state["hidden.weight"] = columns[:, kept].flatten(1)
    for number, place in enumerate(kept):
        for name in [name for name in state if name.startswith(f"encoders.{place}.")]:
            state[name.replace(f".{place}.", f".{number}.")] = state[name]
    part.load_state_dict({name: state[name] for name in part.state_dict()})
    for place in set(range(3)) - set(kept):
        whole.gate.linear.weight[place] = 0
        whole.gate.linear.bias[place] = -1e4
    torch.testing.assert_close(encode(whole, ITEMS), encode(part, ITEMS))


@torch.no_grad()
def test_a_table_of_its_own_or_the_one_of_the_input() -> None:
    own, tied = make(), make(output="tied")
    assert tied.output_embedding is tied.item_embedding
    assert own.output_embedding is not own.item_embedding
    for model in (own, tied):
        (scores,) = model.score(HistoryBatch.from_lists([ITEMS]))
        query = encode(model, ITEMS)[-1]
        expected = model.output_embedding @ query + model.item_bias
        torch.testing.assert_close(scores, expected)


def test_names_of_variants() -> None:
    assert make_config(M3Config, {"short": get_preset("m3", "m3c")["short"]}).short == "conv"
    with pytest.raises(ConfigError, match=r"M3Config\.parts: .*'tsl'; got 'st'"):
        make_config(M3Config, {"parts": "st"})


def test_training_in_bfloat16_gives_nearly_the_same_loss() -> None:
    torch.manual_seed(0)
    model = M3(M3Config(dim=16, gates="top"), num_users=3, num_items=9).eval()
    objective = make_objective(model, histories_of([ITEMS, [2, 5, 8]]), batch_size=2, seed=0)
    (batch,) = objective.batches(1)
    whole = objective.loss(model, batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(whole, rel=0.01)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
