"""Training over N workers gives the numbers of one process: losses, gradients, weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.owners import by_hash
from ensue.distributed.ranker import SharedRanker
from ensue.distributed.shards import joined
from ensue.distributed.workers import Workers
from ensue.losses.multitask import task_losses
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import build_ranker, get_ranker
from ensue.training.config import TrainingConfig
from ensue.training.optimizers import make_optimizer, use_sparse_gradients_
from tests.distributed.spawn import run_workers
from tests.ranking_helpers import make_schema, random_batch

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

STEPS = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "lr": {},
    "fm": {"dim": 3},
    "wide_deep": {"dim": 3, "hidden": [5, 4]},
    "deepfm": {"dim": 3, "hidden": [5, 4]},
    "dcn_v2": {"dim": 3, "hidden": [5], "num_crosses": 2, "cross_rank": 2},
    "dcn": {"dim": 3, "hidden": [5], "num_crosses": 2, "structure": "stacked"},
    "dlrm": {"dim": 3, "hidden": [5], "bottom": [4]},
    "shared_bottom": {"dim": 3, "hidden": [5], "tower": [3]},
    "shared_bottom/fm": {"dim": 3, "hidden": [5], "tower": [3], "trunk": "fm"},
    "mmoe": {"dim": 3, "num_experts": 2, "expert": [4], "tower": [3]},
    "ple": {"dim": 3, "expert": [4], "tower": [3]},
}


def one_after_the_other(schema: RankingSchema, size: int) -> dict[str, tuple[int, ...]]:
    """Return the layout in which workers take whole vocabularies in turn."""
    return {name: (number % size,) for number, name in enumerate(schema.vocabularies)}


def make_model(name: str, schema: RankingSchema) -> RankingModel:
    torch.manual_seed(1)
    kind = name.split("/")[0]
    config = make_config(get_ranker(kind).model.Config, SETTINGS[name])
    model = build_ranker(kind, config, schema).double()
    with torch.no_grad():
        for parameter in model.parameters():  # no part of a model is silent
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64) * 0.1)
    return model


def batches(schema: RankingSchema, num_rows: int) -> list[RankingBatch]:
    made = []
    for step in range(STEPS):
        one = random_batch(schema, num_rows, seed=step)
        tensors = [t.double() if t.is_floating_point() else t for t in one.tensors()]
        made.append(RankingBatch.from_tensors(tensors, schema))
    return made


def mean_losses(workers: Workers, outputs: Tensor, batch: RankingBatch, whole: RankingBatch):
    kinds = ["binary", "regression"]
    shares = torch.where(whole.labels.isnan(), 0.0, whole.weights).sum(dim=0)
    own = torch.where(batch.labels.isnan(), 0.0, batch.weights).sum(dim=0)
    return task_losses(outputs, batch.labels, batch.weights, kinds) * own / shares


def train_alone(name: str, optimizer: str, num_rows: int) -> dict[str, Any]:
    schema = make_schema()
    model = make_model(name, schema)
    config = TrainingConfig(optimizer=optimizer, learning_rate=0.1)
    use_sparse_gradients_(model, config)
    steps = make_optimizer(model, config)
    losses, grads = [], {}
    for batch in batches(schema, num_rows):
        loss = mean_losses(None, model(batch), batch, batch).sum()
        loss.backward()
        grads = {n: p.grad.to_dense().clone() for n, p in model.named_parameters()}
        steps.step()
        steps.zero_grad(set_to_none=False)
        losses.append(loss.item())
    model.eval()
    last = model(batches(schema, num_rows)[0]).detach()
    return {"losses": losses, "grads": grads, "state": model.state_dict(), "predicted": last}


def train_shared(
    workers: Workers, name: str, optimizer: str, num_rows: int, options: dict[str, Any]
) -> dict[str, Any]:
    schema = make_schema()
    layout = {"hash": by_hash, "field": one_after_the_other, "column": None}[options["layout"]]
    model = SharedRanker(
        make_model(name, schema),
        workers,
        scheme=options["scheme"],
        holders=layout and layout(schema, workers.size),
        schedule=options.get("schedule", "scatter"),
    )
    config = TrainingConfig(optimizer=optimizer, learning_rate=0.1)
    use_sparse_gradients_(model, config)
    steps = make_optimizer(model.model, config)
    losses, grads = [], {}
    for whole in batches(schema, num_rows):
        batch = model.share(whole)
        loss = mean_losses(workers, model(batch), batch, whole).sum()
        loss.backward()
        losses.append(model.sum_gradients_(loss.detach()[None]).item())
        grads = {
            n: torch.zeros_like(p) if p.grad is None else p.grad.to_dense().clone()
            for n, p in model.model.named_parameters()
        }
        steps.step()
        steps.zero_grad(set_to_none=False)
    model.eval()
    predicted = model.outputs_of_all(batches(schema, num_rows)[0])
    state = {name: parameter.detach() for name, parameter in model.model.named_parameters()}
    return {
        "losses": losses,
        "grads": grads,
        "state": state,
        "predicted": predicted,
        "pieces": model.pieces,
    }


def check(name: str, size: int, options: dict[str, Any], optimizer: str, num_rows: int) -> None:
    alone = train_alone(name, optimizer, num_rows)
    shared = run_workers(train_shared, size, name, optimizer, num_rows, options)
    for one in shared:
        assert one["losses"] == pytest.approx(alone["losses"], rel=1e-12, abs=1e-12)
        torch.testing.assert_close(one["predicted"], alone["predicted"], rtol=0, atol=1e-12)
    for kind, whole in (("grads", alone["grads"]), ("state", alone["state"])):
        for parameter in shared[0]["state"]:
            if parameter in shared[0]["pieces"]:
                found = joined(
                    [one[kind][parameter] for one in shared],
                    [one["pieces"][parameter] for one in shared],
                )
                torch.testing.assert_close(found, whole[parameter], rtol=0, atol=1e-12)
                continue
            for one in shared:
                torch.testing.assert_close(
                    one[kind][parameter], whole[parameter], rtol=0, atol=1e-12
                )


POOLED = [
    {"scheme": "table_wise", "layout": "field"},
    {"scheme": "row_wise", "layout": "hash"},
    {"scheme": "row_wise", "layout": "field"},
    {"scheme": "replicated", "layout": "hash"},
]
SUMMED = [
    {"scheme": "des", "layout": layout, "schedule": schedule}
    for layout in ("field", "hash", "column")
    for schedule in ("scatter", "all_reduce")
]


FAST = ("deepfm", "ple")  # of those whose vectors are pooled; the others are slow tests


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS],
)
@pytest.mark.parametrize("options", POOLED, ids=lambda o: "-".join(o.values()))
def test_pooled_vectors_give_the_numbers_of_one_process(name: str, options: dict[str, Any]) -> None:
    check(name, 3, options, "adagrad", 7)


@pytest.mark.parametrize(
    "name", ["lr", "fm", "wide_deep", "deepfm", "shared_bottom", "shared_bottom/fm"]
)
@pytest.mark.parametrize("options", SUMMED, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize(
    "size", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 2, 4))]
)
def test_sums_give_the_numbers_of_one_process(
    name: str, options: dict[str, Any], size: int
) -> None:
    check(name, size, options, "adagrad", 8)


@pytest.mark.parametrize("name", ["dcn", "dcn_v2"])
@pytest.mark.parametrize("layout", ["field", "column"])
@pytest.mark.parametrize("schedule", ["scatter", "all_reduce"])
def test_sums_of_cross_layers_give_the_numbers_of_one_process(
    name: str, layout: str, schedule: str
) -> None:
    check(name, 3, {"scheme": "des", "layout": layout, "schedule": schedule}, "adam", 7)


@pytest.mark.parametrize("schedule", ["scatter", "all_reduce"])
def test_sums_of_products_of_pairs_give_the_numbers_of_one_process(schedule: str) -> None:
    check("dlrm", 3, {"scheme": "des", "layout": "column", "schedule": schedule}, "adam", 7)
