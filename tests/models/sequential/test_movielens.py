"""Caser on ML-1M, shortened: a few epochs already beat every baseline.

The full figures are in docs/methods.md, by `python -m benchmarks.caser ml-1m`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import ensue


@pytest.mark.slow
def test_four_epochs_beat_the_baselines(shared_data: Path, tmp_path: Path) -> None:
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
