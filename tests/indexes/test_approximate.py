"""HNSW and IVF: how much they find, in which order, and what their settings do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ensue.config import make_config
from ensue.errors import ConfigError, ExtraError, RunError, UsageError
from ensue.indexes.base import Index
from ensue.indexes.table import KINDS, get_kind
from ensue.models.baselines.bpr import BPR
from tests.indexes.brute import make_model

APPROXIMATE = ["hnsw", "ivf"]
MODEL = make_model(800)
QUERIES = MODEL.user_embedding.detach().numpy()[:80]


def build(kind: str, model: BPR = MODEL, **settings: int) -> Index:
    return KINDS[kind].build(model, make_config(KINDS[kind].config, settings))


def recall(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    pairs = zip(found, expected, strict=True)
    return float(np.mean([len({*a.tolist()} & {*b.tolist()}) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_the_widest_search_finds_what_exact_search_finds(kind: str) -> None:
    expected_ids, expected = build("exact").search(QUERIES, 20)
    widest = {"hnsw": {"ef_search": 800}, "ivf": {"nprobe": 800}}[kind]
    ids, scores = build(kind, **widest).search(QUERIES, 20)
    assert recall(ids, expected_ids) > 0.999
    same = ids == expected_ids
    np.testing.assert_allclose(scores[same], expected[same], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_wider_search_finds_more(kind: str) -> None:
    (name, _) = next(iter(KINDS[kind].sweep.items()))
    index = build(kind, **({"num_links": 4, "ef_construction": 10} if kind == "hnsw" else {}))
    expected, _ = build("exact").search(QUERIES, 10)
    found = []
    for value in (1, 4, 64):
        setattr(index, name, value)
        found.append(recall(index.search(QUERIES, 10)[0], expected))
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.05


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_scores_are_those_of_the_model_biases_included(kind: str) -> None:
    ids, scores = build(kind).search(QUERIES, 5)
    table, bias = MODEL.item_embedding.detach().numpy(), MODEL.item_bias.detach().numpy()
    expected = np.einsum("bd,bkd->bk", QUERIES, table[ids]) + bias[ids]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_equal_scores_come_by_ascending_id_and_padding_last(kind: str) -> None:
    model = make_model(60, dim=4, bias=0.0)
    model.item_embedding.data[:] = model.item_embedding[1].clone()
    model.item_embedding.data[31:] *= -1
    queries = model.item_embedding.detach().numpy()[1:2]
    widest = {"hnsw": {"ef_search": 100}, "ivf": {"nprobe": 60}}[kind]
    ids, scores = build(kind, model, **widest).search(queries, 70)
    found = ids[0][ids[0] > 0]
    assert len(found) >= 30
    assert found.tolist() == [*sorted(found[found <= 30]), *sorted(found[found > 30])]
    assert (ids[0, len(found) :] == 0).all()
    assert (scores[0, len(found) :] == -np.inf).all()
    assert len(ids[0]) == 70


def test_lists_read_bound_what_ivf_can_find() -> None:
    ids, scores = build("ivf", num_lists=20, nprobe=1).search(QUERIES[:5], 800)
    counts = (ids > 0).sum(axis=1)
    assert (counts < 800).all()
    assert (counts > 0).all()
    assert ((ids > 0) == (scores > -np.inf)).all()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_stored_index_answers_the_same(kind: str, tmp_path: Path) -> None:
    index, chosen = build(kind), KINDS[kind]
    chosen.save(index, tmp_path)
    loaded = chosen.load(tmp_path, MODEL, make_config(chosen.config, {}))
    for one, other in zip(index.search(QUERIES, 9), loaded.search(QUERIES, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "index.faiss").write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match="must be an index written by FAISS; reading it failed"):
        chosen.load(tmp_path, MODEL, make_config(chosen.config, {}))
    chosen.save(build(kind, make_model(100)), tmp_path)
    with pytest.raises(RunError, match="hold 800 vectors of width 17; it holds 100 of 17"):
        chosen.load(tmp_path, MODEL, make_config(chosen.config, {}))


@pytest.mark.parametrize("kind", [*APPROXIMATE, "exact"])
def test_wrong_use_is_one_sentence(kind: str) -> None:
    index = build(kind)
    wrong = np.full((1, 16), np.nan, dtype=np.float32)
    with pytest.raises(UsageError, match="finite queries; query 0"):
        index.search(wrong, 3)
    for name in KINDS[kind].sweep:
        setattr(index, name, 0)
        with pytest.raises(UsageError, match=f"{name} >= 1; got 0"):
            index.search(QUERIES[:1], 3)
    broken = make_model(20)
    broken.item_bias.data[3] = torch.nan
    with pytest.raises(UsageError, match="vectors of items must be finite"):
        build(kind, broken)


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most the number of items, 20; got 21"):
        build("ivf", make_model(20), num_lists=21)
    with pytest.raises(UsageError, match=r"no kind of index 'hnws'\. Did you mean 'hnsw'"):
        get_kind("hnws")


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_without_faiss_the_error_names_the_extra(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ExtraError, match=r"needs the package 'faiss-cpu'.*'ensue\[ann\]'"):
        build(kind)


def test_every_sweep_is_a_setting_and_an_attribute() -> None:
    for name, kind in KINDS.items():
        assert len(kind.sweep) <= 1
        for setting, values in kind.sweep.items():
            assert setting in kind.config.model_fields
            if name != "paths":  # which are of one model, see test_paths
                assert getattr(build(name), setting) == kind.config.model_fields[setting].default
            assert list(values) == sorted(values)
