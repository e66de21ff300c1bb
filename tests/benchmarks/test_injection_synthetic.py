from __future__ import annotations

import pytest

from benchmarks.injection_synthetic import attack


@pytest.mark.slow
def test_the_more_steps_are_tracked_the_further_the_target_comes() -> None:
    found = {tracked: attack(1, tracked) for tracked in (100, 20, 5, 1)}
    assert found[100]["target HR@10, first"] < 0.06
    assert found[100]["last"] >= 0.5
    last = [row["last"] for row in found.values()]
    assert last == sorted(last, reverse=True)
    assert len(set(last)) == 4
    change = found[100]["test HR@10, last"] - found[100]["test HR@10, first"]
    assert abs(change) <= 0.03
