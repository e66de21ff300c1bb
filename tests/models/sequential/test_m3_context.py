"""M3 with context: its definition, and what a query must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.data.context import ContextColumn, ContextSchema
from ensue.errors import ConfigError
from ensue.models.sequential.m3 import M3, M3Config
from ensue.models.table import build_model
from ensue.training.objectives import make_objective
from tests.contracts.planted import histories_of

ITEMS = [3, 9, 3, 1, 7, 4]
PAGE, HOUR = ContextColumn("page", 3), ContextColumn("hour")
SCHEMA = ContextSchema(event=(PAGE, HOUR), request=(HOUR, PAGE))
NAN = math.nan
EVENT = torch.tensor([[1, 0.5], [3, 2], [0, NAN], [2, -1], [1, 7], [2, 3]]).double()[None]
REQUEST = torch.tensor([[4, 2], [NAN, 1], [1, 0], [-2, 3], [0.5, 3], [2, 1]]).double()[None]


def make(schema: ContextSchema = SCHEMA, **settings: object) -> M3:
    torch.manual_seed(0)
    names = {
        "context_in": [column.name for column in schema.event],
        "context_out": [column.name for column in schema.request],
    }
    config = M3Config(**{"dim": 16, "context_dim": 3, **names, **settings})
    model = M3(config, num_users=3, num_items=9, context=schema).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        model.item_embedding[0] = 0
    model.event_features.standardize_([(1.0, 2.0)] * len(model.event_features.numeric))
    model.request_features.standardize_([(0.5, 4.0)] * len(model.request_features.numeric))
    return model


@torch.no_grad()
def encode(model: M3, event: Tensor = EVENT, request: Tensor = REQUEST) -> Tensor:
    return model.encode(torch.tensor([ITEMS]), event, request)[0]


@pytest.mark.parametrize("settings", [{}, {"gates": "bottom"}, {"mixture": "sum"}], ids=str)
@torch.no_grad()
def test_equals_its_definition(settings: dict[str, object]) -> None:
    model = make(parts="tl", **settings)

    def features(page: float, hour: float, table: Tensor, mean: float, deviation: float) -> Tensor:
        number = 0.0 if math.isnan(hour) else (hour - mean) / deviation
        return torch.cat([table[int(page)], torch.tensor([number]).double()])

    of_event = [features(p, h, model.event_features.table, 1.0, 2.0) for p, h in EVENT[0].tolist()]
    hour, page = REQUEST[0, -1].tolist()
    of_request = features(page, hour, model.request_features.table, 0.5, 4.0)
    z = [
        model.input(torch.cat([model.item_embedding[item], own])).clamp(min=0)
        for item, own in zip(ITEMS, of_event, strict=True)
    ]
    weights = torch.softmax(torch.stack([event @ z[-1] / 4.0 for event in z]), dim=0)
    encodings = [z[-1], sum(w * event for w, event in zip(weights, z, strict=True))]
    bottom = model.config.gates == "bottom"
    switch = z[-1] if bottom else torch.cat([of_event[-1], of_request])
    gates = torch.sigmoid(model.gate.linear(switch))
    gated = [gate * encoding for gate, encoding in zip(gates, encodings, strict=True)]
    mixed = torch.cat(gated) if model.config.mixture == "concat" else sum(gated)
    expected = model.output(model.hidden(torch.cat([mixed, of_request])).clamp(min=0))
    torch.testing.assert_close(encode(model)[-1], expected)


@pytest.mark.parametrize("gates", ["context", "bottom", "top", "fixed"])
@pytest.mark.parametrize("place", range(len(ITEMS)))
def test_a_query_reads_the_context_of_its_own_request_alone(gates: str, place: int) -> None:
    model = make(gates=gates)
    changed = REQUEST.clone()
    changed[0, place] = torch.tensor([9.0, 2.0 if changed[0, place, 1] != 2 else 1.0])
    before, after = encode(model), encode(model, request=changed)
    same = [step for step in range(len(ITEMS)) if step != place]
    assert torch.equal(before[same], after[same])
    assert not torch.allclose(before[place], after[place])


@pytest.mark.parametrize("gates", ["context", "bottom", "top", "fixed"])
@pytest.mark.parametrize("place", range(len(ITEMS)))
def test_a_query_does_not_read_the_context_of_later_events(gates: str, place: int) -> None:
    model = make(gates=gates)
    changed = EVENT.clone()
    changed[0, place:] = torch.tensor([2.0, 55.0])
    before, after = encode(model), encode(model, event=changed)
    assert torch.equal(before[:place], after[:place])
    assert not torch.allclose(before[place], after[place])


def test_a_column_of_events_alone_says_nothing_of_the_request() -> None:
    """The watch time of the target: it is context of an event, once the event is over."""
    model = make(ContextSchema(event=(HOUR,)))
    event = EVENT[..., 1:].clone()
    event[0, -1] = 100.0  # of the event that query len - 2 is to predict
    before = encode(model, EVENT[..., 1:], REQUEST[..., :0])
    after = encode(model, event, REQUEST[..., :0])
    assert torch.equal(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_no_context_is_missing_context() -> None:
    model = make()
    missing = torch.tensor([[[0.0, NAN]]]).double().expand(1, len(ITEMS), 2)
    explicit = encode(model, missing, missing.flip(-1))
    with torch.no_grad():
        torch.testing.assert_close(model.encode(torch.tensor([ITEMS]))[0], explicit)
    assert explicit.isfinite().all()


def test_a_missing_value_has_a_vector_of_its_own_and_a_missing_number_is_the_mean() -> None:
    model = make()
    event, request = EVENT.clone(), REQUEST.clone()
    event[0, 2, 1], request[0, 1, 0] = 1.0, 0.5  # the means, in place of NaN
    torch.testing.assert_close(encode(model, event, request), encode(model))
    event[0, 2, 0] = 1.0
    assert not torch.allclose(encode(model, event)[2], encode(model)[2])
    with torch.no_grad():
        model.event_features.table[0] += 1  # of value 0 of the first column
    assert not torch.allclose(encode(model)[2], encode(make())[2])
    assert torch.equal(encode(model)[1], encode(make())[1])


def test_a_missing_value_says_nothing_before_training() -> None:
    schema = ContextSchema(event=(PAGE, ContextColumn("device", 2)))
    config = M3Config(context_in=["page", "device"], dim=4)
    table = M3(config, num_users=1, num_items=3, context=schema).event_features.table
    assert table.shape == (4 + 3, config.context_dim)
    assert (table == 0).all(dim=1).nonzero().flatten().tolist() == [0, 4]


def test_columns_have_vectors_of_their_own() -> None:
    device = ContextColumn("device", 2)
    model = make(ContextSchema(event=(PAGE, device, HOUR, ContextColumn("shop", 1))))
    (table,) = [p for name, p in model.named_parameters() if name == "event_features.table"]
    with torch.no_grad():
        features = model.event_features(torch.tensor([[2.0, 1.0, 3.0, 1.0]]).double())[0]
    expected = [table[2], table[4 + 1], table[4 + 3 + 1], torch.ones(1).double()]  # (3 - 1) / 2
    torch.testing.assert_close(features, torch.cat(expected))


def test_training_in_bfloat16_gives_nearly_the_same_loss() -> None:
    torch.manual_seed(0)
    config = M3Config(dim=16, context_in=["page", "hour"], context_out=["hour", "page"])
    model = M3(config, num_users=3, num_items=9, context=SCHEMA).eval()
    page, hour = EVENT[0].numpy().T
    histories = replace(
        histories_of([ITEMS]), event_context=(page, hour), request_context=(hour, page)
    )
    objective = make_objective(model, histories, batch_size=2, seed=0)
    (batch,) = objective.batches(1)
    whole = objective.loss(model, batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(whole, rel=0.01)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_without_context_nothing_is_there_for_it() -> None:
    model = M3(M3Config(dim=4), num_users=1, num_items=3)
    assert model.config.switch == "bottom"
    assert not [name for name in model.state_dict() if "features" in name]
    assert model.input.weight.shape == (4, 4)
    assert model.hidden.weight.shape == (4, 12)


def test_auto_gates_depend_on_context_where_there_is_any() -> None:
    assert make().config.switch == "context"
    assert make().gate.linear.weight.shape == (3, (3 + 1) + (1 + 3))
    assert make(gates="bottom").gate.linear.weight.shape == (3, 16)


def test_gates_of_context_see_the_context_alone() -> None:
    model = make()
    with torch.no_grad():
        gates = model.open_gates(torch.tensor([ITEMS]), EVENT, REQUEST)
        others = model.open_gates(torch.tensor([ITEMS]) % 9 + 1, EVENT, REQUEST)
    assert torch.equal(gates, others)
    assert gates.std(dim=1).min() > 0.01


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="gates 'context' need columns in context_in or"):
        make_config(M3Config, {"gates": "context"})
    with pytest.raises(ConfigError, match=r"context_in: .*name each column once; got \['a', 'a'\]"):
        make_config(M3Config, {"context_in": ["a", "a"]})
    with pytest.raises(ConfigError, match=r"M3Config\.context_out"):
        make_config(M3Config, {"context_out": 3})
    assert make_config(M3Config, {"context_out": "page"}).context_out == ["page"]
    config = M3Config(context_in=["page"])
    with pytest.raises(ValueError, match=r"\['page'\] and \[\]; got \[\] and \[\]"):
        build_model("m3", config, num_users=1, num_items=3, context=ContextSchema())
