"""Sequential intensity of MovieLens-1M, against a dictionary of every run of every user."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import ensue


@pytest.mark.slow
def test_rules_of_movielens(shared_data: Path, tmp_path: Path) -> None:
    data = ensue.prepare(shared_data / "ml-1m" / "sequences.txt.gz", tmp_path / "ml-1m")
    found = ensue.profile(data)
    histories = [data.histories("all")[user].tolist() for user in range(1, data.num_users + 1)]
    supports: dict[int, Counter[tuple[int, ...]]] = {}
    for length in (1, 2, 3):
        supports[length] = Counter()
        for history in histories:
            starts = range(len(history) - length + 1)
            supports[length].update({tuple(history[i : i + length]) for i in starts})
    for length in (1, 2):
        of_x = supports[length]
        rules = sum(
            support >= 5 and support / of_x[run[:-1]] >= 0.5
            for run, support in supports[length + 1].items()
        )
        assert found.intensity.rules[length] == rules
    assert found.intensity.value == pytest.approx(0.1290, abs=5e-5)  # the paper: 0.3265
    assert found.shuffled_intensity.value == 0.0
    above = found.dependence.total.value - found.dependence.total.floor
    assert above[1] > 0.05 > 0.0 > above[50]
