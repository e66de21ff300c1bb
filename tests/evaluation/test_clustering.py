from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from ensue.evaluation.assignment import best_assignment
from ensue.evaluation.clustering import (
    MAPS,
    SCORES,
    accuracy,
    agreement,
    chance_scores,
    contingency,
    expected_mutual_information,
    fit_map,
    mutual_information,
    score_parts,
)

CLASSES = np.repeat([0, 1, 2], 4)
N = np.arange(997)
# Values of scikit-learn 1.9.1: ARI, AMI, NMI, V-measure, FMI of clusters and classes.
REFERENCE = {
    "few": (
        (N * N % 7, (N * 3 + N // 5) % 5),
        (
            -0.0029628088886691916,
            -0.0037039371097927934,
            0.00039803175861651387,
            0.0003980317586165139,
            0.2271848471029626,
        ),
    ),
    "many": (
        (N * N % 83, N * N * N % 97 // 3),
        (
            -0.0008715283462111739,
            -0.01120475539476516,
            0.1312125337072877,
            0.13121253370728772,
            0.03464883700078798,
        ),
    ),
    "near": (
        (N // 13, N // 11),
        (
            0.6234135370015715,
            0.7905862389156713,
            0.8866100363406335,
            0.8866100363406334,
            0.6301298005929213,
        ),
    ),
    "one class": ((N % 4, N * 0), (0.0, 0.0, 0.0, 0.0, 0.4992471764864465)),
    "one cluster": ((N * 0, N % 4), (0.0, 0.0, 0.0, 0.0, 0.4992471764864465)),
    "singles": ((N, N % 9), (0.0, 0.0, 0.48280052237663273, 0.4828005223766328, 0.0)),
    "all singles": ((N, N), (1.0, 1.0, 1.0, 1.0, 0.0)),
    "singles of one class": ((N, N * 0), (0.0, 0.0, 0.0, 0.0, 0.0)),
}


def test_the_tiny_case_of_the_specification():
    counts = contingency(np.array([0, 0, 1, 0, 1, 1, 1, 2, 2, 0, 2, 2]), CLASSES)
    assert counts.tolist() == [[3, 0, 1], [1, 3, 0], [0, 1, 3]]
    assert [accuracy(counts, fit_map(counts, kind)) for kind in MAPS] == [0.75, 0.75]
    found = agreement(counts)
    assert found["ari"] == pytest.approx(0.3125, abs=1e-12)
    assert found["nmi"] == found["v_measure"] == pytest.approx(0.488140, abs=1e-6)
    assert found["ami"] == pytest.approx(0.350066, abs=1e-6)
    assert found["fmi"] == pytest.approx(0.5, abs=1e-12)


def test_over_clustering_and_where_the_majority_is_better():
    counts = contingency(np.array([0, 0, 1, 0, 1, 1, 3, 3, 4, 4, 2, 2]), CLASSES)
    assert counts.tolist() == [[3, 0, 0], [1, 2, 0], [0, 0, 2], [0, 2, 0], [0, 0, 2]]
    matched = best_assignment(counts)
    assert counts[np.arange(5), matched][matched >= 0].sum() == 7
    assert [accuracy(counts, fit_map(counts, kind)) * 12 for kind in MAPS] == [11, 11]
    counts = np.array([[5, 0], [4, 3], [0, 2]])
    found = [accuracy(counts, fit_map(counts, kind)) * 14 for kind in MAPS]
    assert found == pytest.approx([10, 11])


@pytest.mark.parametrize("name", list(REFERENCE))
def test_agreement_equals_scikit_learn(name):
    (clusters, classes), expected = REFERENCE[name]
    found = agreement(contingency(clusters, classes))
    assert [found[score] for score in SCORES] == pytest.approx(expected, rel=0, abs=1e-10)


def test_ari_counts_pairs():
    rng = np.random.default_rng(0)
    clusters, classes = rng.integers(0, 4, 30), rng.integers(0, 3, 30)
    first, second = np.triu_indices(30, 1)
    a, b = clusters[first] == clusters[second], classes[first] == classes[second]
    expected = a.sum() * b.sum() / len(a)
    ari = ((a & b).sum() - expected) / ((a.sum() + b.sum()) / 2 - expected)
    found = agreement(contingency(clusters, classes))
    assert found["ari"] == pytest.approx(ari, abs=1e-12)
    assert found["fmi"] == pytest.approx((a & b).sum() / np.sqrt(a.sum() * b.sum()), abs=1e-12)


def test_the_expected_information_is_the_mean_over_all_permutations():
    classes = np.array([0, 0, 0, 1, 1, 2, 2])
    clusters = np.array([0, 0, 1, 1, 1, 1, 2])
    found = [
        mutual_information(contingency(np.array(order), classes))
        for order in set(permutations(clusters.tolist()))
    ]
    rows, columns = np.bincount(clusters), np.bincount(classes)
    assert expected_mutual_information(rows, columns) == pytest.approx(np.mean(found), abs=1e-12)


def test_the_expected_information_keeps_its_digits_in_large_tables():
    # Of two halves of n it is 1 / (2 n) to leading order: what is lost to n is seen.
    n = 10_000_000
    half = np.array([n // 2, n // 2])
    assert expected_mutual_information(half, half) * 2 * n == pytest.approx(1, abs=1e-6)


def test_relabeling_and_order_change_nothing():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 5, 500)
    clusters = np.where(rng.random(500) < 0.5, classes, rng.integers(0, 8, 500))
    counts = contingency(clusters, classes, num_clusters=8)
    order = rng.permutation(500)
    other = contingency(rng.permutation(8)[clusters][order], classes[order], num_clusters=8)
    assert agreement(other) == pytest.approx(agreement(counts), abs=1e-12)
    for kind in MAPS:
        found = accuracy(other, fit_map(other, kind))
        assert found == pytest.approx(accuracy(counts, fit_map(counts, kind)))
    same = contingency(rng.permutation(5)[classes], classes)
    assert set(agreement(same).values()) == {1.0}
    assert accuracy(same, fit_map(same, "hungarian")) == 1


def test_splitting_a_cluster_never_lowers_the_majority_on_the_same_part_alone():
    train, test = np.array([[4, 3], [0, 5]]), np.array([[4, 3], [0, 5]])
    split_train, split_test = np.array([[4, 1], [0, 2], [0, 5]]), np.array([[0, 3], [4, 0], [0, 5]])

    def figures(fitted, scored):
        return accuracy(scored, fit_map(fitted, "majority"))

    assert figures(split_train, split_train) > figures(train, train)
    assert figures(split_train, split_test) < figures(train, test)


def test_random_clusters_are_at_chance_under_the_map_of_another_part():
    rng = np.random.default_rng(2)
    labels = {"train": rng.integers(0, 20, 2000), "test": rng.integers(0, 20, 2000)}
    clusters = {part: rng.integers(0, 200, 2000) for part in labels}
    sizes = {"num_clusters": 200, "num_classes": 20}
    found = score_parts(clusters, labels, **sizes)["test"]
    assert abs(found["majority, fitted on train"] - 1 / 20) < 0.02
    assert found["majority, fitted on test"] > 0.2
    assert abs(found["ari"]) < 0.01
    assert abs(found["ami"]) < 0.01
    assert found["nmi"] > 0.2
    chance = chance_scores(clusters, labels, **sizes, num_permutations=3, rng=rng)["test"]
    assert chance["majority, fitted on test"] == pytest.approx(
        found["majority, fitted on test"], abs=0.02
    )
    assert abs(chance["ami"]) < 0.01


def test_examples_without_a_label_are_left_out():
    labels = {"train": np.array([0, 0, 1, -1, -1])}
    found = score_parts({"train": np.array([0, 0, 1, 0, 1])}, labels, num_clusters=2, num_classes=2)
    assert found["train"]["hungarian, fitted on train"] == 1
    assert found["train"]["ari"] == 1


def test_a_cluster_without_examples_stands_for_the_largest_class():
    counts = np.array([[0, 4, 1], [0, 0, 0], [2, 0, 0]])
    assert fit_map(counts, "majority").tolist() == [1, 1, 0]


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (1, 4), (0, 3)])
def test_the_assignment_is_the_best_of_all(shape):
    rng = np.random.default_rng(3)
    for _ in range(20):
        values = rng.integers(-3, 4, shape)
        columns = best_assignment(values)
        given = columns[columns >= 0]
        assert len(set(given.tolist())) == len(given) == min(shape)
        total = sum(values[row, column] for row, column in enumerate(columns) if column >= 0)
        wide = values if shape[0] <= shape[1] else values.T
        best = max(
            sum(wide[row, column] for row, column in enumerate(order))
            for order in permutations(range(wide.shape[1]), wide.shape[0])
        )
        assert total == best


@pytest.mark.parametrize(
    ("clusters", "labels", "text"),
    [
        ([0, 1], [0], r"got \(2,\) and \(1,\)"),
        ([0, 3], [0, 1], "clusters in 0..2 and labels in 0..1; got 3 and 1"),
        ([0, 1], [0, -1], "got 1 and -1"),
    ],
)
def test_what_cannot_be_counted(clusters, labels, text):
    with pytest.raises(ValueError, match=text):
        contingency(np.array(clusters), np.array(labels), num_clusters=3, num_classes=2)


def test_counting():
    clusters, labels = np.array(list(product(range(3), range(2)))).T
    assert contingency(clusters, labels).tolist() == [[1, 1]] * 3
