"""Models on real data, shortened: a few epochs already beat the baselines.

The full figures are in docs/methods.md, by `python -m benchmarks.caser` and `benchmarks.sasrec`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import ensue


@pytest.mark.slow
def test_four_epochs_of_caser_beat_the_baselines_on_movielens(
    shared_data: Path, tmp_path: Path
) -> None:
    log = shared_data / "ml-1m" / "sequences.txt.gz"
    dataset = ensue.prepare(log, tmp_path / "data", split="ratio:0.7,0.1,0.2")
    counts = dataset.info.counts
    assert (counts["users"], counts["items"]) == (6040, 3416)
    assert (counts["validation"], counts["test"]) == (99_683, 197_526)
    run = ensue.train("caser", dataset, out=tmp_path / "run", fit="train+validation", epochs=4)
    assert [line["examples"] for line in run.log()] == [759_805] * 4
    metrics = run.evaluate(num_resamples=0).metrics
    assert metrics["map"] > 0.14  # the best baseline, EASE, has .104
    assert metrics["precision@1"] > 0.22


@pytest.mark.slow
def test_eight_epochs_of_sasrec_beat_item_knn_on_beauty(shared_data: Path, tmp_path: Path) -> None:
    log = shared_data / "s3rec-beauty" / "Beauty.txt.gz"
    dataset = ensue.prepare(log, tmp_path / "data", split="leave-one-out")
    counts = dataset.info.counts
    assert (counts["users"], counts["items"], counts["test"]) == (22_363, 12_101, 22_363)
    baselines = [
        ensue.train(name, dataset, out=tmp_path / name).evaluate(num_resamples=0).metrics["ndcg@10"]
        for name in ("popularity", "item_knn")
    ]
    settings = {"num_heads": 2, "dropout": 0.4, "batch_size": 64}
    run = ensue.train("sasrec", dataset, out=tmp_path / "sasrec", epochs=8, **settings)
    assert [line["examples"] for line in run.log()] == [128_031] * 8
    assert run.evaluate(num_resamples=0).metrics["ndcg@10"] > max(baselines)  # .035
