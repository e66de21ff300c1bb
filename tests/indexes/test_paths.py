from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ensue.errors import UsageError
from ensue.indexes.base import Index
from ensue.indexes.path_kernels import search_leaves
from ensue.indexes.path_tree import PathNetwork, PathTree
from ensue.indexes.paths import PathIndex, PathsConfig
from ensue.models.retrieval.deep_retrieval import DeepRetrieval, DeepRetrievalConfig
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig

NUM_ITEMS = 40


def make_model(depth: int = 3, width: int = 4, num_paths: int = 2, whole: bool = False):
    torch.manual_seed(depth)
    config = DeepRetrievalConfig(
        dim=6, depth=depth, width=width, num_paths=num_paths, node_dim=3, path_dim=8
    )
    model = DeepRetrieval(config, num_users=3, num_items=NUM_ITEMS)
    with torch.no_grad():
        for parameter in model.path_layers.parameters():
            parameter.copy_(torch.randn_like(parameter))
        if whole:
            model.item_embedding.copy_(torch.randint(-2, 3, model.item_embedding.shape).float())
            model.item_embedding[0] = 0
    return model


def brute_force(model: DeepRetrieval, queries: np.ndarray, k: int):
    scores = model.match(torch.from_numpy(queries)).detach().numpy()[:, 1:]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order + 1, np.take_along_axis(scores, order, axis=1)


def log_probabilities(model: DeepRetrieval, query: np.ndarray) -> dict[int, float]:
    """Return log p of every path that has items."""
    layers = model.path_layers
    paths = torch.tensor(list(itertools.product(range(layers.width), repeat=layers.depth)))
    log_p = layers.log_probs(torch.from_numpy(query)[None], paths[None])[0].tolist()
    return {int(code): log_p[code] for code in np.unique(model.paths[1:].numpy())}


def search_by_hand(model: DeepRetrieval, query: np.ndarray, beam: int) -> list[int]:
    """Return the codes of a beam search over occupied prefixes, from sums over their paths."""
    layers, occupied = model.path_layers, log_probabilities(model, query)
    every = torch.tensor(list(itertools.product(range(layers.width), repeat=layers.depth)))
    p = (
        layers.log_probs(torch.from_numpy(query)[None], every[None])[0]
        .detach()
        .exp()
        .double()
        .numpy()
    )
    kept = {0}
    for layer in range(layers.depth):
        below = layers.width ** (layers.depth - layer - 1)
        mass = {
            prefix: p[prefix * below : (prefix + 1) * below].sum()
            for prefix in {code // below for code in occupied}
            if layer == 0 or prefix // layers.width in kept
        }
        kept = set(sorted(mass, key=lambda prefix: -mass[prefix])[:beam])
    return sorted(kept)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)


def test_the_tree_of_the_docstring():
    tree = PathTree.from_paths(np.array([[1, 12], [1, 2]]), depth=2, width=4)
    assert tree.starts.tolist() == [0, 2, 5]
    assert tree.choices.tolist() == [0, 3, 1, 2, 0]
    assert tree.first_child.tolist() == [2, 4, 5]
    assert tree.first_item.tolist() == [0, 2, 3, 4]
    assert tree.leaf_items.tolist() == [1, 2, 2, 1]
    assert tree.num_leaves == 3


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 7, NUM_ITEMS, NUM_ITEMS + 5])
def test_a_beam_over_all_paths_equals_brute_force(depth, k, queries):
    model = make_model(depth, width={1: 60, 2: 8, 3: 4}[depth])
    index = PathIndex.build(model, PathsConfig(beam=10_000))
    ids, scores = index.search(queries, k)
    expected_ids, expected_scores = brute_force(model, queries, k)
    found = expected_ids.shape[1]
    assert ids.shape == scores.shape == (9, k)
    assert np.array_equal(ids[:, :found], expected_ids)
    np.testing.assert_allclose(scores[:, :found], expected_scores, rtol=1e-5, atol=1e-6)
    assert (ids[:, found:] == 0).all()
    assert (scores[:, found:] == -np.inf).all()


def test_equal_scores_come_by_id():
    model = make_model(whole=True)
    queries = np.random.default_rng(1).integers(-1, 2, (20, 6)).astype(np.float32)
    index = PathIndex.build(model, PathsConfig(beam=10_000))
    for k in (3, 20):
        ids, scores = index.search(queries, k)
        expected_ids, expected_scores = brute_force(model, queries, k)
        assert np.array_equal(ids, expected_ids)
        assert np.array_equal(scores, expected_scores)


@pytest.mark.parametrize("beam", [1, 2, 5, 20])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_beam_takes_the_likeliest_occupied_prefixes(depth, beam, queries):
    model = make_model(depth)
    network, tree = (
        PathNetwork.from_layers(model.path_layers),
        PathTree.from_paths(model.paths[1:].numpy(), depth=depth, width=4),
    )
    codes = np.unique(model.paths[1:].numpy())
    for query in queries:
        leaves = search_leaves(query, tuple(network), tuple(tree), beam)
        assert codes[leaves].tolist() == search_by_hand(model, query, beam)


def test_the_answer_is_the_best_of_the_items_of_the_paths(queries):
    model = make_model()
    index = PathIndex.build(model, PathsConfig(beam=3))
    ids, _, counts = index.search_counted(queries, NUM_ITEMS)
    paths = model.paths[1:].numpy()
    for row, query in enumerate(queries):
        kept = search_by_hand(model, query, 3)
        allowed = {item + 1 for item in range(NUM_ITEMS) if set(paths[item]) & set(kept)}
        order = brute_force(model, query[None], NUM_ITEMS)[0][0]
        expected = [item for item in order.tolist() if item in allowed]
        assert ids[row, : counts[row]].tolist() == expected
        assert counts[row] == len(expected)


def test_batches_and_repeated_searches_change_nothing(queries, monkeypatch):
    index = PathIndex.build(make_model(), PathsConfig(beam=4))
    whole = index.search(queries, 5)
    for row in range(len(queries)):
        ids, scores = index.search(queries[row : row + 1], 5)
        assert np.array_equal(ids[0], whole[0][row])
        assert np.array_equal(scores[0], whole[1][row])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert np.array_equal(index.search(queries, 5)[0], whole[0])
    index._marks.stamp = np.iinfo(np.int32).max - 2  # the next search begins anew
    monkeypatch.undo()
    assert np.array_equal(index.search(queries, 5)[0], whole[0])


def test_a_wider_beam_scores_more_items(queries):
    index = PathIndex.build(make_model(), PathsConfig())
    assert isinstance(index, Index)
    assert index.beam == 50
    seen = []
    for beam in (1, 2, 4, 8, 16):
        index.beam = beam
        seen.append(index.search_counted(queries, 5)[2].mean())
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


def test_no_query_has_no_answer():
    ids, scores = PathIndex.build(make_model(), PathsConfig()).search(
        np.zeros((0, 6), np.float32), 3
    )
    assert ids.shape == scores.shape == (0, 3)


def test_bad_arguments():
    index = PathIndex.build(make_model(), PathsConfig())
    with pytest.raises(UsageError, match=r"queries \[B, 6\]; got \(2, 5\)"):
        index.search(np.zeros((2, 5), np.float32), 3)
    index.beam = 0
    with pytest.raises(UsageError, match="beam >= 1; got 0"):
        index.search(np.zeros((2, 6), np.float32), 3)


def test_only_a_model_with_paths_has_a_path_index():
    model = GRU4Rec(GRU4RecConfig(dim=4), num_users=2, num_items=3)
    with pytest.raises(UsageError, match=r"learns paths \(deep_retrieval\); GRU4Rec does not"):
        PathIndex.build(model, PathsConfig())
