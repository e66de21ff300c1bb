"""pAp@k against its definition, pair by pair, and the worked examples of its specification."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.errors import UsageError
from ensue.evaluation.metrics import TargetRanks, all_metrics, partial_auc
from ensue.evaluation.papk import (
    SHORT_LISTS,
    TIES,
    pap_at_k,
    pap_of_lists,
    pooled_pap_at_k,
)

NUM_TRIALS = 20_000


def by_pairs(scores, labels, k, ties, short_lists, *, all_positives=False) -> float:
    """The definition: the best positives against the best negatives, one pair after the other."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    positives = [i for i in order if labels[i]]
    negatives = [i for i in order if not labels[i]]
    if not positives or not negatives:
        return float("nan")
    high = len(positives) if all_positives else min(k, len(positives))
    wide = min(k, len(negatives)) if short_lists == "shrink" else k
    won = float(high * max(wide - len(negatives), 0))
    for i, j in itertools.product(positives[:high], negatives[:wide]):
        if scores[i] != scores[j]:
            won += scores[i] > scores[j]
        elif ties == "half":
            won += 0.5
        elif ties == "rank":
            won += i < j
    return won / (high * wide)


def one(scores, labels, k, **choices) -> float:
    found = pap_at_k(
        np.array(scores, dtype=float),
        np.array(labels, dtype=bool),
        np.array([0, len(scores)]),
        k,
        **choices,
    )
    return float(found.values[0])


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(TIES), st.sampled_from(SHORT_LISTS), st.booleans())
def test_by_pairs(data, ties, short_lists, all_positives):
    lists = data.draw(
        st.lists(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12), max_size=4)
    )
    k = data.draw(st.integers(1, 6))
    flat = [pair for own in lists for pair in own]
    scores = np.array([score for score, _ in flat], dtype=np.float64)
    labels = np.array([label for _, label in flat], dtype=bool)
    offsets = np.cumsum([0, *map(len, lists)])
    choices = {"ties": ties, "short_lists": short_lists, "all_positives": all_positives}
    found = pap_at_k(scores, labels, offsets, k, **choices)
    expected = [
        by_pairs(
            *map(list, zip(*own, strict=True)), k, ties, short_lists, all_positives=all_positives
        )
        if own
        else np.nan
        for own in lists
    ]
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert ((found.pairs > 0) == ~np.isnan(found.values)).all()


@pytest.mark.parametrize(
    ("labels", "k", "pap", "precision", "pauc"),
    [
        ("01011001", 1, 0, 0, None),
        ("01011001", 2, 0.25, 0.5, 0.125),
        ("01011001", 3, 4 / 9, 1 / 3, 1 / 3),
        ("01011001", 4, 0.4375, None, 0.4375),
        ("00100000", 1, 0, None, None),
        ("00100000", 2, 0, None, None),
        ("00100000", 3, 1 / 3, None, None),
        ("00100000", 4, 0.5, 0.25, None),
        ("10111100", 1, 1, None, None),
        ("10111100", 2, 0.75, 0.5, 0.6),
        ("10111100", 3, 7 / 9, 2 / 3, 11 / 15),
    ],
)
def test_worked_examples(labels, k, pap, precision, pauc):
    """Scores 8, 7, ..., 1; by scores and by ranks."""
    is_positive, scores = [c == "1" for c in labels], range(8, 0, -1)
    ranks = [place for place, positive in enumerate(is_positive, 1) if positive]
    metrics = all_metrics(TargetRanks.of([ranks], length=8), [k])
    assert one(scores, is_positive, k) == pytest.approx(pap, abs=1e-12)
    assert metrics[f"pap@{k}"][0] == pytest.approx(pap, abs=1e-12)
    if precision is not None:
        assert metrics[f"precision@{k}"][0] == pytest.approx(precision, abs=1e-12)
    if pauc is not None:
        assert one(scores, is_positive, k, all_positives=True) == pytest.approx(pauc, abs=1e-12)
        assert metrics[f"pauc@{k}"][0] == pytest.approx(pauc, abs=1e-12)


def test_aggregation_by_users_and_by_pairs():
    labels = np.array([1, 0, 0, 0, 0, 0, 1, 1, 0, 0], dtype=bool)
    found = pap_at_k(np.tile(np.arange(5.0, 0, -1), 2), labels, np.array([0, 5, 10]), k=2)
    assert found.values.tolist() == [1.0, 0.5]
    assert found.macro == 0.75
    assert found.micro == pytest.approx(2 / 3)


def test_pooled_is_one_list_of_all_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 9, 40).astype(float), rng.random(40) < 0.4
    offsets = np.array([0, 7, 7, 30, 40])
    expected = by_pairs(scores.tolist(), labels.tolist(), 4 * 3, "half", "shrink")
    assert pooled_pap_at_k(scores, labels, offsets, k=3) == pytest.approx(expected)


def test_users_without_a_pair_have_no_value():
    found = pap_at_k(np.ones(3), np.array([True, True, False]), np.array([0, 2, 3, 3]), k=2)
    assert np.isnan(found.values).all()
    assert np.isnan(found.macro)
    assert np.isnan(found.micro)


def random_case(rng):
    size = int(rng.integers(2, 14))
    labels = rng.random(size) < rng.random()
    labels[rng.integers(size)] ^= True
    if labels.all() or not labels.any():
        labels[0] ^= True
    return rng.permutation(size).astype(float), labels


@pytest.mark.parametrize("k", range(1, 8))
def test_dual_behaviour(k):
    """As pAUC@k with few positives; with many, 1 where precision@k is 1; in the limit the AUC."""
    rng = np.random.default_rng(k)
    cases = [random_case(rng) for _ in range(NUM_TRIALS // 7 + 1)]
    scores, labels = (np.concatenate(parts) for parts in zip(*cases, strict=True))
    offsets = np.cumsum([0, *(len(own) for own, _ in cases)])
    paps = pap_at_k(scores, labels, offsets, k).values
    aucs = pap_at_k(scores, labels, offsets, k, all_positives=True).values
    for (own, is_positive), pap, auc in zip(cases, paps, aucs, strict=True):
        num_positive = int(is_positive.sum())
        if num_positive <= k:
            assert pap == auc
        if num_positive >= k:
            assert (pap == 1) == is_positive[np.argsort(-own)[:k]].all()
        if k >= max(num_positive, len(own) - num_positive):
            pairs = own[is_positive][:, None] > own[~is_positive]
            assert pap == pytest.approx(pairs.mean(), abs=1e-12)
    assert (pap_at_k(np.exp(scores), labels, offsets, k).values == paps).all()  # by order alone


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_of_ranks_is_of_scores(data):
    """The metric of an evaluation, whose ranking has no ties, and of targets never ranked."""
    size, k = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    labels = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    ranks = [place for place, positive in enumerate(labels, 1) if positive]
    if not ranks:
        return
    for all_targets in (False, True):
        targets = TargetRanks.of([ranks], length=size)
        found = partial_auc(targets, k, all_targets=all_targets)[0]
        expected = one(range(size, 0, -1), labels, k, all_positives=all_targets)
        assert found == pytest.approx(1.0 if np.isnan(expected) else expected, abs=1e-12)


def test_a_target_that_is_never_ranked_loses():
    assert partial_auc(TargetRanks.of([[1, 0]], length=5), 2).tolist() == [0.5]
    assert partial_auc(TargetRanks.of([[0]], length=0), 2).tolist() == [0.0]


def test_lists_as_rectools_counts_them():
    """A user with positives {1, 2} and the list 3, 2; and lists that hold the whole ranking."""
    hits, offsets, num_positives = np.array([False, True]), np.array([0, 2]), np.array([2])
    assert pap_of_lists(hits, offsets, num_positives, 3).values[0] == pytest.approx(1 / 3)
    assert pap_of_lists(hits, offsets, num_positives, 1).values[0] == 0
    rng = np.random.default_rng(0)
    for _ in range(200):
        (scores, labels), k = random_case(rng), int(rng.integers(1, 8))
        ordered = labels[np.argsort(-scores)]
        found = pap_of_lists(ordered, np.array([0, len(ordered)]), labels.sum(keepdims=True), k)
        expected = by_pairs(scores.tolist(), labels.tolist(), k, "rank", "rectools")
        assert found.values[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k": 0}, "k >= 1; got 0"),
        ({"ties": "lucky"}, "ties must be one of strict, half, rank"),
        ({"short_lists": "long"}, "short_lists must be one of shrink, rectools"),
        ({"offsets": np.array([0, 9])}, "ascending offsets within them"),
        ({"labels": np.ones(2, bool)}, "a label for each score"),
        ({"scores": np.array([1.0, np.nan, 0.0])}, "got NaN"),
    ],
)
def test_what_does_not_fit_is_told(change, told):
    given = {"scores": np.ones(3), "labels": np.ones(3, bool), "offsets": np.array([0, 3]), "k": 2}
    with pytest.raises(UsageError, match=told):
        pap_at_k(**given | change)
