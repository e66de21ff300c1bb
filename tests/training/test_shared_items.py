"""Models of items over N workers give the numbers of one process: losses, gradients, weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from ensue.config import Config
from ensue.data.context import ContextSchema
from ensue.data.feature_schema import FeatureSchema
from ensue.data.histories import Histories
from ensue.distributed.items import SharedItems
from ensue.distributed.shards import joined
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError
from ensue.models.base import Model
from ensue.models.baselines.bpr import BPR, BPRConfig
from ensue.models.table import build_model, get_method
from ensue.optim.clipping import clip_whole_gradient_
from ensue.training.config import TrainingConfig
from ensue.training.objective import Batch, Objective
from ensue.training.objectives import make_objective
from ensue.training.optimizers import make_optimizer
from ensue.training.peers import NO_WISHES
from ensue.training.shared_objectives import share_objective
from ensue.training.shared_peers import WorkerPeers
from tests.contracts.planted import histories_of
from tests.distributed.spawn import run_workers
from tests.models.retrieval.toy import HISTORIES, USERS, toy_model

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

STEPS, NUM_ITEMS, NUM_USERS = 10, 15, 9
SMALL: dict[str, dict[str, Any]] = {
    "sasrec": {"dim": 4, "num_blocks": 1, "max_len": 6},
    "gru4rec": {"dim": 4, "hidden_dim": 3, "max_len": 6},
    "m3": {"dim": 4, "max_len": 6},
    "caser": {"dim": 3, "window": 3, "num_targets": 2, "num_horizontal": 2, "num_vertical": 1},
    "two_tower": {"temperature": 0.5, "value_dropout": 0.0, "users": USERS},
}


def histories(name: str) -> Histories:
    if name == "two_tower":
        return histories_of(HISTORIES)
    rng = np.random.default_rng(0)
    lengths = (2, 9, 5, 14, 6, 7, 3, 5, 4)
    return histories_of([rng.integers(1, NUM_ITEMS + 1, n).tolist() for n in lengths])


def build(name: str, config: Config) -> Model:
    return build_model(
        name,
        config,
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        context=ContextSchema(),
        features=FeatureSchema(),
    )


def make(name: str, settings: dict[str, Any], batch_size: int) -> tuple[Model, Objective]:
    torch.manual_seed(1)
    chosen = {**SMALL[name], **settings}
    if name == "two_tower":
        model: Model = toy_model(**chosen)
    else:
        config = get_method(name).model.Config(**chosen, dropout=0.0)
        model = build(name, config)
    model = model.double()
    return model, make_objective(model, histories(name), batch_size=batch_size, seed=0)


def steps_of(objective: Objective) -> Iterator[Batch]:
    """Batches of as many epochs as ten steps take."""
    epochs = (objective.batches(epoch) for epoch in itertools.count(1))
    return itertools.islice(itertools.chain.from_iterable(epochs), STEPS)


def train_alone(name: str, settings: dict[str, Any], batch_size: int) -> dict[str, Any]:
    model, objective = make(name, settings, batch_size)
    optimizer = make_optimizer(model, TrainingConfig(optimizer="adagrad", learning_rate=0.03))
    model.train()
    losses, grads = [], {}
    for batch in steps_of(objective):
        loss = objective.loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        grads = {
            n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for n, p in model.named_parameters()
        }
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    model.eval()
    return {"losses": losses, "grads": grads, "state": model.state_dict()}


def train_shared(
    workers: Workers, name: str, settings: dict[str, Any], batch_size: int, divide: bool
) -> dict[str, Any]:
    whole, objective = make(name, settings, batch_size)
    model = SharedItems(whole, workers, divide=divide)
    shared = share_objective(model, objective)
    optimizer = make_optimizer(model, TrainingConfig(optimizer="adagrad", learning_rate=0.03))
    model.train()
    losses, grads, counts = [], {}, []
    for batch in steps_of(shared):
        counts.append(shared.count(batch))
        loss = shared.loss(model, batch)
        loss.backward()
        losses.append(model.sum_gradients_(loss.detach()[None]).item())
        grads = {
            n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for n, p in model.model.named_parameters()
        }
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    with model.whole() as found:
        assert found is model.model
        state = {n: v.clone() for n, v in found.state_dict().items()}
    return {
        "losses": losses,
        "grads": grads,
        "state": state,
        "pieces": model.pieces,
        "counts": counts,
    }


def clip_alone() -> list[float]:
    model, objective = make("m3", {"loss": "gbce", "num_negatives": 4}, 3)
    norms = []
    for batch in steps_of(objective):
        objective.loss(model, batch).backward()
        norms.append(float(clip_whole_gradient_(model.parameters(), threshold=1.0)))
        model.zero_grad()
    return norms


def clip_shared(workers: Workers) -> list[float]:
    whole, objective = make("m3", {"loss": "gbce", "num_negatives": 4}, 3)
    model = SharedItems(whole, workers, divide=True)
    shared, peers, norms = share_objective(model, objective), WorkerPeers(model), []
    for batch in steps_of(shared):
        loss = shared.loss(model, batch)
        loss.backward()
        peers.combine(loss.detach()[None], NO_WISHES)
        norm = peers.gradient_norm()
        assert norm is not None
        norms.append(float(norm))
        model.zero_grad(set_to_none=False)
    return norms


def test_the_norm_of_a_divided_gradient_is_that_of_one_process() -> None:
    expected = clip_alone()
    for norms in (found := run_workers(clip_shared, 3)):
        assert norms == pytest.approx(expected, rel=1e-12)
        assert norms == found[0]  # all workers clip alike, bit for bit


def compare(value: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(
        value, expected, rtol=0, atol=1e-12, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def check(
    name: str, size: int, settings: dict[str, Any], *, batch_size: int = 3, divide: bool = True
) -> None:
    alone = train_alone(name, settings, batch_size)
    _, objective = make(name, settings, batch_size)
    counts = [objective.count(batch) for batch in steps_of(objective)]
    shared = run_workers(train_shared, size, name, settings, batch_size, divide)
    pieces = [one["pieces"] for one in shared]
    assert bool(pieces[0]) == divide
    for one in shared:
        assert one["losses"] == pytest.approx(alone["losses"], rel=1e-12, abs=1e-12)
        assert one["counts"] == counts
    for kind in ("grads", "state"):
        for parameter, value in shared[0][kind].items():
            if parameter not in pieces[0]:
                compare(value, alone[kind][parameter], f"{kind} {parameter}")
                continue
            whole = joined(
                [one[kind][parameter] for one in shared], [own[parameter] for own in pieces]
            )
            compare(whole, alone[kind][parameter.removesuffix(".weight")], f"{kind} {parameter}")


LOSSES: list[dict[str, Any]] = [
    {"loss": "softmax"},
    {"loss": "gbce", "num_negatives": 5},
    {"loss": "sampled_softmax", "num_negatives": 6, "negatives": "popularity"},
    {"loss": "sampled_softmax", "negatives": "in_batch"},
]


@pytest.mark.parametrize("settings", LOSSES, ids=lambda s: "-".join(map(str, s.values())))
def test_sasrec(settings: dict[str, Any]) -> None:
    check("sasrec", 3, settings)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "m3", "caser", "two_tower"])
def test_two_workers(name: str) -> None:
    check(name, 2, {}, batch_size=5)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("loss", ["softmax", "gbce"])
def test_workers_without_a_history_of_their_own(size: int, loss: str) -> None:
    """A batch has one long history, or two short ones."""
    check("sasrec", size, {"loss": loss}, batch_size=1)


@pytest.mark.parametrize("settings", LOSSES[:3], ids=lambda s: s["loss"])
@pytest.mark.parametrize(
    "options", [{"output": "own"}, {"output": "tied"}], ids=lambda o: o["output"]
)
def test_m3(options: dict[str, Any], settings: dict[str, Any]) -> None:
    check("m3", 3, {**options, **settings})


@pytest.mark.parametrize("settings", LOSSES[:2], ids=lambda s: s["loss"])
def test_gru4rec(settings: dict[str, Any]) -> None:
    check("gru4rec", 3, settings)


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_caser(loss: str) -> None:
    check("caser", 3, {"loss": loss}, batch_size=7)


def test_caser_with_more_workers_than_windows() -> None:
    check("caser", 4, {}, batch_size=2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_tables": False, "logq": "none", "hits": "target", "num_negatives": 3},
        {"ids": "query", "query": "ids", "ssl": "no_complement", "ssl_batch_size": 4},
        {"ssl": "spread_out", "hidden": [], "ssl_batch_size": 5},
        {"ssl": "spread_out_square", "history": "others", "num_targets": 2, "ssl_batch_size": 4},
        {"ssl": "rfm", "ssl_items": "batch", "logq": "streaming"},
    ],
    ids=str,
)
def test_two_tower(settings: dict[str, Any]) -> None:
    check("two_tower", 3, settings, batch_size=5)


def test_two_tower_with_more_workers_than_queries() -> None:
    check("two_tower", 4, {"num_negatives": 2}, batch_size=2)


@pytest.mark.parametrize("name", ["sasrec", "caser", "two_tower"])
def test_tables_that_all_workers_have(name: str) -> None:
    check(name, 2, {}, divide=False)


def test_models_without_tables_to_divide_are_refused() -> None:
    model = BPR(BPRConfig(), num_users=2, num_items=3)
    with pytest.raises(ConfigError, match="got BPR"):
        SharedItems(model, Workers.alone(), divide=True)
    config = get_method("gru4rec").model.Config(growth={})
    with pytest.raises(ConfigError, match="growth"):
        SharedItems(build("gru4rec", config), Workers.alone(), divide=True)
