"""Every model against its formula, written out for one row at a time."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ensue.config import make_config
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import RANKERS, build_ranker
from ensue.nn.crosses import VectorCross
from ensue.nn.field_embedding import FieldEmbedding
from tests.ranking_helpers import make_schema, random_batch, take

SCHEMA = make_schema()
BATCH = random_batch(SCHEMA, 5)
NUM_TASKS = len(SCHEMA.tasks)


def build(name: str, schema: Any = SCHEMA, **settings: Any) -> RankingModel:
    torch.manual_seed(0)
    config = make_config(RANKERS[name].model.Config, settings)
    model = build_ranker(name, config, schema).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def vectors_of(fields: FieldEmbedding, row: int) -> list[Tensor]:
    """Return the vector of each field of a row; how they come about, test_field_embedding holds."""
    return list(fields(take(BATCH, [row])).vectors[0])


def inputs_of(fields: FieldEmbedding, row: int) -> Tensor:
    out = fields(take(BATCH, [row]))
    return torch.cat([*out.vectors[0], out.dense[0]])


def through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = torch.stack(
            [(w @ x + b).clamp(min=0) for w, b in zip(layer.weight, layer.bias, strict=True)]
        )
    return x


def dot(head: nn.Linear, x: Tensor) -> Tensor:
    return sum(w * value for w, value in zip(head.weight[0], x, strict=True)) + head.bias[0]


def first_order(part: nn.Module, row: int, task: int) -> Tensor:
    return sum(vector[task] for vector in vectors_of(part.fields, row))


def pairs(vectors: list[Tensor]) -> Tensor:
    return sum(one * other for one, other in combinations(vectors, 2))


def softmax(logits: Tensor) -> list[Tensor]:
    powers = [math.e**logit for logit in logits]
    return [power / sum(powers) for power in powers]


def mix(gate: nn.Module, x: Tensor, experts: list[Tensor]) -> Tensor:
    weights = softmax(gate.linear.weight @ x)
    return sum(weight * expert for weight, expert in zip(weights, experts, strict=True))


def lr(model: Any, row: int, task: int) -> Tensor:
    return model.bias[task] + first_order(model.first_order, row, task)


def fm(model: Any, row: int, task: int) -> Tensor:
    second = pairs(vectors_of(model.fields, row)) @ model.pairs.readout[task]
    return lr(model, row, task) + second


def wide_deep(model: Any, row: int, task: int) -> Tensor:
    deep = model.trunk.deep
    hidden = through(deep.layers.layers, inputs_of(deep.fields, row))
    return dot(model.heads.outputs[task], hidden) + first_order(model.trunk.wide, row, task)


def deepfm(model: Any, row: int, task: int) -> Tensor:
    trunk = model.trunk
    vectors = vectors_of(trunk.fields, row)
    machine = first_order(trunk.first_order, row, task) + pairs(vectors) @ trunk.pairs.readout[task]
    return machine + dot(
        model.heads.outputs[task], through(trunk.layers.layers, torch.cat(vectors))
    )


def crossed(network: nn.Module, start: Tensor) -> Tensor:
    x = start
    for layer in network.layers:
        if isinstance(layer, VectorCross):
            x = start * (layer.down.weight[0] @ x) + layer.bias + x
            continue
        x = start * (layer.linear.weight @ x + layer.linear.bias) + x
    if isinstance(network.norm, nn.LayerNorm):
        variance = ((x - x.mean()) ** 2).mean()
        x = (x - x.mean()) / (variance + network.norm.eps).sqrt()
        x = x * network.norm.weight + network.norm.bias
    return x


def dcn_v2(model: Any, row: int, task: int) -> Tensor:
    trunk, start = model.trunk, inputs_of(model.trunk.fields, row)
    x = crossed(trunk.crosses, start)
    if trunk.is_stacked:
        return dot(model.heads.outputs[task], through(trunk.layers.layers, x))
    return dot(model.heads.outputs[task], torch.cat([x, through(trunk.layers.layers, start)]))


def dlrm(model: Any, row: int, task: int) -> Tensor:
    trunk = model.trunk
    out = trunk.fields(take(BATCH, [row]))
    bottom = through(trunk.bottom.layers, out.dense[0])
    vectors = [bottom, *out.vectors[0]]
    dots = [vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i)]
    top = through(trunk.layers.layers, torch.cat([bottom, torch.stack(dots)]))
    return dot(model.heads.outputs[task], top)


def tower(model: Any, task: int, x: Tensor) -> Tensor:
    hidden = through(model.towers.towers[task].layers, x)
    return dot(model.towers.outputs[task], hidden)


def shared_bottom(model: Any, row: int, task: int) -> Tensor:
    trunk = model.trunk
    return tower(model, task, through(trunk.layers.layers, inputs_of(trunk.fields, row)))


def shared_bottom_fm(model: Any, row: int, task: int) -> Tensor:
    trunk = model.trunk
    hidden = through(trunk.layers.layers, pairs(vectors_of(trunk.fields, row)))
    return tower(model, task, hidden) + first_order(trunk.first_order, row, task)


def shared_bottom_dcn(model: Any, row: int, task: int) -> Tensor:
    x = crossed(model.trunk.crosses, inputs_of(model.trunk.fields, row))
    return tower(model, task, through(model.trunk.layers.layers, x))


def mmoe(model: Any, row: int, task: int) -> Tensor:
    x = inputs_of(model.trunk.fields, row)
    experts = [through(expert.layers, x) for expert in model.experts.experts.experts]
    return tower(model, task, mix(model.experts.gates[task], x, experts))


def ple(model: Any, row: int, task: int) -> Tensor:
    x = inputs_of(model.trunk.fields, row)
    inputs, shared_input = [x] * NUM_TASKS, x
    for level in model.experts.levels:
        own = [
            [through(expert.layers, one) for expert in experts.experts]
            for experts, one in zip(level.own, inputs, strict=True)
        ]
        shared = [through(expert.layers, shared_input) for expert in level.shared.experts]
        mixed = [
            mix(gate, one, experts + shared)
            for gate, one, experts in zip(level.gates, inputs, own, strict=True)
        ]
        if level.shared_gate is not None:
            shared_input = mix(level.shared_gate, shared_input, [*own[0], *own[1], *shared])
        inputs = mixed
    return tower(model, task, inputs[task])


DEEP: dict[str, Any] = {"dim": 3, "hidden": [5, 4]}
CASES = [
    ("lr", lr, {}),
    ("fm", fm, {"dim": 3}),
    ("wide_deep", wide_deep, DEEP),
    ("deepfm", deepfm, DEEP),
    ("dcn", dcn_v2, {**DEEP, "num_crosses": 2}),
    ("dcn", dcn_v2, {**DEEP, "num_crosses": 2, "structure": "stacked"}),
    ("dcn_v2", dcn_v2, {**DEEP, "num_crosses": 2}),
    ("dcn_v2", dcn_v2, {**DEEP, "num_crosses": 2, "structure": "parallel", "cross_norm": True}),
    ("dlrm", dlrm, {**DEEP, "bottom": [4]}),
    ("shared_bottom", shared_bottom, {**DEEP, "tower": [3]}),
    ("shared_bottom", shared_bottom, DEEP),
    ("shared_bottom", shared_bottom_fm, {**DEEP, "trunk": "fm"}),
    (
        "shared_bottom",
        shared_bottom_dcn,
        {**DEEP, "trunk": "dcn_v2", "num_crosses": 1, "cross_norm": True},
    ),
    ("mmoe", mmoe, {"dim": 3, "num_experts": 3, "expert": [4], "tower": [3]}),
    ("ple", ple, {"dim": 3, "expert": [4], "tower": [], "num_levels": 3}),
    ("ple", ple, {"dim": 3, "expert": [4], "tower": [3], "num_levels": 2, "shared_experts": 0}),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "plain", "settings"), CASES)
def test_a_model_is_its_formula(name: str, plain: Any, settings: dict[str, Any]) -> None:
    model = build(name, **settings)
    expected = [
        [float(plain(model, row, task)) for task in range(NUM_TASKS)] for row in range(len(BATCH))
    ]
    torch.testing.assert_close(model(BATCH), torch.tensor(expected, dtype=torch.float64))


@torch.no_grad()
def test_a_factorization_machine_of_one_task_is_the_published_one() -> None:
    schema = make_schema(kinds=("categorical", "numeric"), tasks=("binary",))
    model = build("fm", schema, dim=3)
    assert model.pairs.readout is None
    batch = random_batch(schema, 4)
    for row in range(4):
        vectors = list(model.fields(take(batch, [row])).vectors[0])
        expected = model.bias[0] + sum(
            float(one @ other) for one, other in combinations(vectors, 2)
        )
        expected = expected + model.first_order.fields(take(batch, [row])).vectors.sum()
        torch.testing.assert_close(model(batch)[row, 0], expected)


@torch.no_grad()
def test_dlrm_without_dense_inputs() -> None:
    schema = make_schema(kinds=("categorical", "multi"))
    model = build("dlrm", schema, dim=3, hidden=[])
    batch = random_batch(schema, 4)
    vectors = model.trunk.fields(batch).vectors
    dots = [(vectors[:, i] * vectors[:, j]).sum(1) for i, j in [(1, 0), (2, 0), (2, 1)]]
    for task, head in enumerate(model.heads.outputs):
        expected = torch.stack(dots, dim=1) @ head.weight[0] + head.bias[0]
        torch.testing.assert_close(model(batch)[:, task], expected)


@torch.no_grad()
def test_one_expert_is_a_shared_bottom() -> None:
    mixture = build("mmoe", dim=3, num_experts=1, expert=[5, 4], tower=[3])
    shared = build("shared_bottom", dim=3, hidden=[5, 4], tower=[3])
    shared.trunk.fields.load_state_dict(mixture.trunk.fields.state_dict())
    shared.trunk.layers.load_state_dict(mixture.experts.experts.experts[0].state_dict())
    shared.towers.load_state_dict(mixture.towers.state_dict())
    torch.testing.assert_close(mixture(BATCH), shared(BATCH))


@torch.no_grad()
def test_one_level_without_shared_experts_is_a_tower_for_each_task() -> None:
    settings: dict[str, Any] = {"dim": 3, "num_levels": 1, "shared_experts": 0}
    model = build("ple", task_experts=1, expert=[4], tower=[3], **settings)
    separate = build("shared_bottom", dim=3, hidden=[], tower=[4, 3])
    separate.trunk.fields.load_state_dict(model.trunk.fields.state_dict())
    for task in range(NUM_TASKS):
        expert = model.experts.levels[0].own[task].experts[0]
        own = separate.towers.towers[task].layers
        own[0].load_state_dict(expert.layers[0].state_dict())
        own[1].load_state_dict(model.towers.towers[task].layers[0].state_dict())
        separate.towers.outputs[task].load_state_dict(model.towers.outputs[task].state_dict())
    torch.testing.assert_close(model(BATCH), separate(BATCH))


@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_the_order_of_columns_does_not_matter_to_pairs(name: str) -> None:
    model = build(name, dim=3)
    fields = model.fields if name == "fm" else model.trunk.fields
    vectors = fields(BATCH).vectors
    machine = model.pairs if name == "fm" else model.trunk.pairs
    torch.testing.assert_close(machine(vectors[:, [4, 1, 6, 0, 5, 3, 2]]), machine(vectors))
