"""MEDRES: scores against the definition, what a step hides, folding in, new items, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.data.feature_schema import FeatureSchema
from ensue.data.features import FeatureColumn, FeatureTable, make_bags
from ensue.data.graphs import GraphSchema, feature_graph, make_graph
from ensue.data.histories import HistoryBatch
from ensue.errors import ConfigError
from ensue.evaluation.papk import pap_at_k
from ensue.losses.papk import PapkConfig
from ensue.models.graph import entity_graphs
from ensue.models.graph.entity_graphs import EntityGraphs
from ensue.models.graph.medres import Medres
from ensue.models.graph.medres_config import MedresConfig
from ensue.training.cuts import Cut
from ensue.training.medres import MedresObjective
from ensue.training.papk import PapkObjective
from tests.contracts.planted import histories_of

LOG = [[1, 2, 3], [2, 4, 2], [5], [1, 5, 6, 4]]
NUM_USERS, NUM_ITEMS, NUM_TAGS, DIM = len(LOG), 7, 3, 4  # nobody has item 7
TAGS = GraphSchema("tags", ("item", "tag"), (NUM_ITEMS, NUM_TAGS))
FRIENDS = GraphSchema("friends", ("user", "user"), (NUM_USERS, NUM_USERS))
TAGGED = make_graph(TAGS, np.array([1, 2, 2, 5, 6]), np.array([1, 1, 2, 3, 3]))
FRIENDLY = make_graph(FRIENDS, np.array([1, 2, 4]), np.array([2, 1, 3]), np.array([1.0, 1.0, 2.0]))
GENRES = FeatureColumn("genres", "multi", 3)
OF_GENRES = GraphSchema("items.genres", ("item", "items.genres"), (NUM_ITEMS, 3))
GENRE_BAGS = make_bags(
    np.array([1, 1, 2, 3, 6, 7, 7]), np.array([1, 2, 1, 3, 2, 2, 3]), num_rows=NUM_ITEMS + 1
)
GENRE_TABLE = FeatureTable((GENRES,), (GENRE_BAGS,))


def make(*, with_genres: bool = False, with_friends: bool = True, **settings: Any) -> Any:
    """Return a model in float64 that knows the log and the graphs, with random weights."""
    torch.manual_seed(0)
    own = {"dim": DIM, "layers": 1, "dropout": 0.0, "edge_dropout": 0.0}
    own |= {"activation": "relu", "head": "dot"}
    graphs = [TAGS, *([FRIENDS] if with_friends else []), *([OF_GENRES] if with_genres else [])]
    model = Medres(
        MedresConfig(**{**own, **settings}),
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        graphs=graphs,
        features=FeatureSchema(items=(GENRES,)) if with_genres else None,
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    edges = {"tags": TAGGED, "friends": FRIENDLY}
    if with_genres:
        model.fill_features_(GENRE_TABLE, FeatureTable((), ()))
        edges["items.genres"] = feature_graph(OF_GENRES, GENRE_BAGS)
    model.fill_graphs_(edges)
    model.observe_(histories_of(LOG))
    return model


def normalized(weights: Tensor) -> Tensor:
    scale = [weights.sum(axis, keepdim=True) for axis in (0, 1)]
    return torch.where(weights > 0, weights / (scale[0] * scale[1]).sqrt(), 0.0)


def dense(graph: Any) -> Tensor:
    weights = torch.zeros(graph.schema.sizes, dtype=torch.float64)
    weights[graph.sources - 1, graph.targets - 1] = torch.from_numpy(graph.weights).double()
    return weights


def interactions() -> Tensor:
    weights = torch.zeros(NUM_USERS, NUM_ITEMS, dtype=torch.float64)
    for user, history in enumerate(LOG):
        for item in history:
            weights[user, item - 1] += 1
    return weights


def by_definition(model: Medres, degree: int) -> tuple[Tensor, Tensor]:
    """Return users [U, D] and items [I, D] of one layer, by dense matrices."""
    users, items, tags = (model.entities.embeddings[str(kind)] for kind in range(3))
    graphs = [(interactions(), users, items), (dense(TAGGED), items, tags)]
    graphs.append((dense(FRIENDLY), users, users))
    layer: Any = model.entities.rounds[0]
    parts: dict[int, list[Tensor]] = {0: [], 1: []}
    for place, side in enumerate(layer.sides):
        weights, first, second = graphs[side.graph]
        w = normalized(weights)
        own, other = (first, second) if side.is_first else (second, first)
        w = w if side.is_first else w.T
        theta, bias = layer.weights[place].theta, layer.weights[place].bias
        total = own @ theta[0] + bias
        if degree > 0:
            total = total + w @ other @ theta[1]
        if degree > 1:
            total = total + (w @ w.T) @ own @ theta[2]
        parts[side.own].append(total.relu())
    merged = []
    for kind in (0, 1):
        merge, x = layer.merges[str(kind)], torch.cat(parts[kind], dim=1)
        hidden = (x @ merge.first.weight.T + merge.first.bias).relu()
        merged.append(merge.second(hidden) + sum(parts[kind]))
    return merged[0], merged[1]


def whole_batch(users: list[int] | None = None) -> HistoryBatch:
    return HistoryBatch.from_lists(LOG, users or list(range(1, NUM_USERS + 1)))


@pytest.mark.parametrize("degree", [0, 1, 2])
@torch.no_grad()
def test_scores_are_those_of_the_definition(degree: int) -> None:
    model = make(degree=degree).eval()
    users, items = by_definition(model, degree)
    head = model.head
    queries = users @ head.of_users.weight.T + head.of_users.bias
    vectors = items @ head.of_items.weight.T + head.of_items.bias
    expected = queries @ vectors.T + (items @ head.bias.weight.T + head.bias.bias).T
    found = model.score(whole_batch())
    torch.testing.assert_close(found[:, 1:], expected)
    model.train()
    torch.testing.assert_close(model.score(whole_batch())[:, 1:], expected)


@torch.no_grad()
def test_without_weights_for_neighbors_it_is_a_perceptron_on_each_entity() -> None:
    plain, second = make(degree=0).eval(), make(degree=2)
    second.load_state_dict(plain.state_dict(), strict=False)
    for weights in second.entities.rounds[0].weights:
        for theta in weights.theta[1:]:
            theta.zero_()
    torch.testing.assert_close(second.eval().score(whole_batch()), plain.score(whole_batch()))


@pytest.mark.parametrize(("degree", "is_connected"), [(1, False), (2, True)])
@torch.no_grad()
def test_second_order_connects_users_who_share_an_item(degree: int, is_connected: bool) -> None:
    model = make(degree=degree, with_friends=False)
    scores = model.eval().queries(whole_batch())[0].clone()
    model.entities.embeddings["0"][3] += 1.0  # user 4 has items 1 and 5: so have users 1 and 3
    changed = ~torch.isclose(model.train().eval().queries(whole_batch())[0], scores).all(dim=1)
    assert changed.tolist() == [is_connected, is_connected, is_connected, True]


@torch.no_grad()
def test_entities_may_be_numbered_in_any_order() -> None:
    model, other = make(), make()
    order = torch.tensor([2, 0, 1])  # tag n + 1 is called order[n] + 1
    tags = make_graph(TAGS, TAGGED.sources, order.numpy()[TAGGED.targets - 1] + 1)
    other.entities.embeddings["2"][order] = model.entities.embeddings["2"].clone()
    other.fill_graphs_({"tags": tags, "friends": FRIENDLY})
    other.observe_(histories_of(LOG))
    torch.testing.assert_close(other.eval().score(whole_batch()), model.eval().score(whole_batch()))


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_a_user_never_seen_is_folded_in_by_the_same_formula(layers: int) -> None:
    model = make(with_friends=False, layers=layers)
    model.entities.embeddings["0"][:] = model.entities.embeddings["0"].mean(dim=0)
    model.eval()
    known, unknown = model.score(whole_batch()), model.score(HistoryBatch.from_lists(LOG))
    torch.testing.assert_close(unknown, known)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_answers_need_no_edges(layers: int) -> None:
    model = make(with_genres=True, layers=layers).eval()
    graphs = [TAGS, FRIENDS, OF_GENRES]
    features = FeatureSchema(items=(GENRES,))
    stored = Medres(
        model.config, num_users=NUM_USERS, num_items=NUM_ITEMS, graphs=graphs, features=features
    )
    stored.load_state_dict(model.state_dict(), assign=True)
    batch = HistoryBatch.from_lists([*LOG, [6, 2]], [1, 2, 3, 4, 0])
    assert torch.equal(stored.eval().score(batch), model.score(batch))
    with pytest.raises(RuntimeError, match="no edges to train on"):
        stored.train().score(batch)


@torch.no_grad()
def test_a_step_reads_the_graph_without_what_it_is_to_find() -> None:
    model = make(degree=1)
    batch = HistoryBatch.from_lists([[2, 4], [1, 6]], [2, 4])  # user 4 without 5 and 4
    model.train()
    hidden = model._hidden(batch)
    pairs = [(int(key) // (NUM_ITEMS + 1), int(key) % (NUM_ITEMS + 1)) for key in model._pairs]
    assert [pair for pair, flag in zip(pairs, hidden, strict=True) if flag] == [(4, 4), (4, 5)]
    before = model.encode(batch).items.clone()
    model.entities.embeddings["0"][3] += 1.0  # user 4, whom items 1 and 6 alone still see
    is_same = torch.isclose(model.encode(batch).items, before).all(dim=1)[1:]
    assert is_same.tolist() == [False, True, True, True, True, False, True]


def test_edge_dropout_keeps_sums_right_on_average() -> None:
    model = make(edge_dropout=0.25)
    graphs = model._edges
    x = torch.randn(NUM_ITEMS, DIM, dtype=torch.float64)
    whole = graphs[0].propagate(x)
    torch.manual_seed(1)
    drawn = torch.stack([model.entities.thin(graphs, None)[0].propagate(x) for _ in range(400)])
    assert (drawn[0] != whole).any()
    error = drawn.std(dim=0) / len(drawn) ** 0.5
    assert ((drawn.mean(dim=0) - whole).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("loss", ["bce", "softmax", "papk"])
@pytest.mark.parametrize("settings", [{}, {"head": "mlp", "layers": 2, "dynamic": "both"}])
def test_gradient_of_the_loss(loss: str, settings: dict[str, Any]) -> None:
    own = {} if loss == "papk" else {"loss": loss}
    model = make(with_genres=True, history="others", num_negatives=4, **own, **settings)
    histories = histories_of(LOG)
    objective: Any = (
        PapkObjective(model, histories, PapkConfig(k=2, warmup_epochs=0), batch_size=9, seed=0)
        if loss == "papk"
        else MedresObjective(model, histories, batch_size=9, seed=0)
    )
    objective.start_epoch(model, 1, is_resumed=False)
    (batch,) = objective.batches(1)
    model.train()
    objective.loss(model, batch).backward()
    generator = torch.Generator().manual_seed(3)
    trained = [p for p in model.parameters() if p.grad is not None]
    ways = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in trained]
    expected = sum(float((p.grad * way).sum()) for p, way in zip(trained, ways, strict=True))
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, way in zip(trained, ways, strict=True):
                parameter.add_(step * way)
            values.append(float(objective.loss(model, batch)))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("head", "whole"), [("cosine", 32), ("cosine", 0), ("dot", 0)])
def test_the_loss_on_papk_is_that_of_all_scores(
    head: str, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.training.papk.WHOLE", whole)
    model = make(head=head)
    objective = PapkObjective(
        model, histories_of(LOG), PapkConfig(k=2, warmup_epochs=1), batch_size=9, seed=0
    )
    objective.start_epoch(model, 2, is_resumed=False)
    (batch,) = objective.batches(2)
    model.train()

    class Plain(torch.nn.Module):
        score = staticmethod(model.score)

    found, expected = objective.loss(model, batch), objective.loss(Plain(), batch)
    torch.testing.assert_close(found, expected)
    of_items = model.entities.embeddings["1"]
    (slope,), (wanted,) = (torch.autograd.grad(loss, of_items) for loss in (found, expected))
    assert wanted.abs().max() > 0
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_a_new_item_is_what_its_features_say(layers: int) -> None:
    model = make(with_genres=True, layers=layers)
    vectors = model.entities.embeddings["1"]
    vectors[6] = vectors[:6].mean(dim=0)  # of item 7, which has genres alone
    rows = FeatureTable((GENRES,), (make_bags(np.array([1, 1]), np.array([2, 3]), num_rows=2),))
    grown = model.eval().with_items(rows)
    assert grown.num_items == NUM_ITEMS + 1
    known, found = model.score(whole_batch()), grown.score(whole_batch())
    torch.testing.assert_close(found[:, : NUM_ITEMS + 1], known)
    torch.testing.assert_close(found[:, NUM_ITEMS + 1], known[:, 7])
    again = grown.with_items(rows)
    torch.testing.assert_close(again.score(whole_batch())[:, NUM_ITEMS + 2], known[:, 7])
    with pytest.raises(ConfigError, match="this model reads none"):
        make().with_items(rows)


def test_a_graph_must_lead_to_users_or_items() -> None:
    graphs = [GraphSchema("related", ("tag", "tag"), (NUM_TAGS, NUM_TAGS)), TAGS]
    sizes = {"num_users": NUM_USERS, "num_items": NUM_ITEMS}
    with pytest.raises(ConfigError, match="'related' joins 'tag' and 'tag'"):
        EntityGraphs(MedresConfig(layers=1), graphs, **sizes)
    EntityGraphs(MedresConfig(layers=2), graphs, **sizes)


def test_edges_must_be_given_for_a_training() -> None:
    model = make()
    model.fill_graphs_({"tags": TAGGED})
    with pytest.raises(ValueError, match=r"\['friends'\]"):
        model.observe_(histories_of(LOG))


def test_large_graphs_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(entity_graphs, "WHOLE_EDGES", 4)
    monkeypatch.setattr(entity_graphs, "MAX_NEIGHBORS", 1)
    found = model.entities.thin(model._edges, None)
    assert [int(graph.to_a.offsets.diff().max()) for graph in found] == [1, 1, 1]
    assert found[2].num_edges == 3  # of friends: it is not large
    model.train()
    assert model.encode(whole_batch()).items.isfinite().all()


@pytest.mark.slow
def test_it_can_learn_a_small_log_by_heart() -> None:
    rng = np.random.default_rng(0)
    log = [rng.choice(50, 10, replace=False) + 1 for _ in range(20)]
    histories = histories_of([own.tolist() for own in log])
    torch.manual_seed(0)
    config = MedresConfig(dim=32, dropout=0.0, edge_dropout=0.0, history="others")
    model = Medres(config, num_users=20, num_items=50)
    objective = PapkObjective(
        model, histories, PapkConfig(k=5, warmup_epochs=10), batch_size=20, seed=0
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(1, 201):
        objective.start_epoch(model, epoch, is_resumed=False)
        for batch in objective.batches(epoch):
            model.train()
            objective.loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    cut = Cut.of(next(objective.batches(1)))
    with torch.no_grad():
        scores = model.eval().score(cut.before)
    scores[:, 0] = -torch.inf
    labels = torch.zeros_like(scores, dtype=torch.bool)
    labels.scatter_(1, cut.positives, True)
    labels[:, 0] = False
    seen = ~cut.is_negative(50) & ~labels
    scores[seen] = -1e9
    offsets = np.arange(21) * scores.shape[1]
    found = pap_at_k(scores.numpy().ravel(), labels.numpy().ravel(), offsets, 5)
    assert found.macro == 1.0
