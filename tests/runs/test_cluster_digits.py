"""The chain from images to clusters, on the digits and at the bars of benchmarks/clustering.py."""

from __future__ import annotations

import pytest

from benchmarks.clustering import MAIN, cluster_parts, read_images
from ensue.runs.encode import encode


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_digits_are_found_without_labels(shared_data, tmp_path):
    images, labels = read_images("mnist-t10k")
    encoded = encode(images["train"], out=tmp_path / "encoded", epochs=5)
    again = encode(images["test"], out=tmp_path / "test", encoder=tmp_path / "encoded")
    features = {"train": encoded.features["train"], "test": again.features["train"]}
    found = cluster_parts(features, labels, over=[0.5, 5])
    figures = [row["scores"]["test"] for row in found.info["table"]]
    pixels = cluster_parts(images, labels)
    assert figures[0][MAIN] >= 0.8
    assert pixels.scores["test"][MAIN] <= 0.6
    by_clusters = [figures[at][MAIN] for at in (1, 0, 2)]
    assert by_clusters[0] < by_clusters[1] - 0.2 < by_clusters[2]
    assert figures[0]["ari"] > max(figures[1]["ari"], figures[2]["ari"])
