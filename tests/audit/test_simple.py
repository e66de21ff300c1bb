from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ensue.audit.clicks import Clicks
from ensue.audit.simple import PROFILES, OneShotAttack, OneShotConfig
from ensue.errors import UsageError

TARGETS = np.array([7, 2])
HEAD, OTHERS = [0, 1, 3, 4], [5, 6, 8, 9, 10, 11]


def rows(clicks: Clicks) -> list[list[int]]:
    return [clicks.columns[i:j].tolist() for i, j in pairwise(clicks.offsets)]


def make_real() -> Clicks:
    """Items 0, 1, 3 and 4 are clicked by all 40 users, 5, 6 and 8 by a fifth, 9 to 11 by none."""
    return Clicks.from_rows(
        [np.array([*HEAD, 5, 6, 8] if user % 5 == 0 else HEAD) for user in range(40)], 12
    )


REAL = make_real()


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("block_cells", [24, 1 << 22])
def test_budget_order_and_seed(
    monkeypatch: pytest.MonkeyPatch, name: str, block_cells: int
) -> None:
    monkeypatch.setattr("ensue.audit.simple._BLOCK_CELLS", block_cells)
    attack = OneShotAttack(name)
    fakes = attack.run(REAL, TARGETS, 30, seed=3).fakes
    assert fakes.num_users == 30
    assert fakes.num_items == 12
    assert set(fakes.lengths.tolist()) == {4, 7}
    assert all(row == sorted(set(row)) for row in rows(fakes))
    assert rows(attack.run(REAL, TARGETS, 30, seed=3).fakes) == rows(fakes)
    assert rows(attack.run(REAL, TARGETS, 30, seed=4).fakes) != rows(fakes)
    random = OneShotAttack("random").run(REAL, TARGETS, 30, seed=3).fakes
    assert random.lengths.tolist() == fakes.lengths.tolist()


@pytest.mark.parametrize("name", PROFILES)
def test_targets_are_clicked_by_those_attacks_that_say_so(name: str) -> None:
    attack = OneShotAttack(name, OneShotConfig(clicks=4))
    found = attack.run(REAL, TARGETS, 200, seed=0).fakes
    assert set(found.lengths.tolist()) == {4}
    shares = found.counts()[TARGETS] / 200
    if PROFILES[name].clicks_targets:
        assert shares.tolist() == [1, 1]
    else:  # nobody clicked them: 4 of 12 items at random, or none
        assert shares == pytest.approx(1 / 3 if name == "random" else 0, abs=0.1)


def test_bandwagon_clicks_the_most_popular_items_and_others_at_random() -> None:
    attack = OneShotAttack("bandwagon", OneShotConfig(clicks=8))
    counts = attack.run(REAL, TARGETS, 300, seed=0).fakes.counts()
    assert counts[[2, 7, 0, 1, 3]].tolist() == [300] * 5  # three of the six that are no target
    np.testing.assert_allclose(counts[[4, *OTHERS]] / 300, 3 / 7, atol=0.1)


def test_popular_follows_the_clicks_of_real_users() -> None:
    """One draw of each fake user: 40 of 184 clicks are on an item of the head, 8 on another."""
    found = OneShotAttack("popular", OneShotConfig(clicks=2)).run(REAL, TARGETS[:1], 4000, seed=0)
    one = OneShotAttack("popular", OneShotConfig(clicks=1)).run(REAL, TARGETS[:1], 4000, seed=0)
    np.testing.assert_allclose(one.fakes.counts()[HEAD] / 4000, 40 / 184, atol=0.03)
    np.testing.assert_allclose(one.fakes.counts()[[5, 6, 8]] / 4000, 8 / 184, atol=0.02)
    assert found.fakes.counts()[[2, 7, 9, 10, 11]].sum() == 0


def test_items_that_nobody_clicked_come_after_all_others() -> None:
    counts = (
        OneShotAttack("target-popular", OneShotConfig(clicks=10))
        .run(REAL, TARGETS, 50, seed=0)
        .fakes.counts()
    )
    assert counts[[*HEAD, 5, 6, 8, 2, 7]].tolist() == [50] * 9
    assert counts[[9, 10, 11]].sum() == 50


def test_no_fake_users() -> None:
    found = OneShotAttack("bandwagon").run(REAL, TARGETS, 0, seed=0).fakes
    assert found.offsets.tolist() == [0]
    assert found.num_items == 12


def test_requests_that_cannot_be_met() -> None:
    with pytest.raises(UsageError, match=r"no one-shot attack 'popluar'.*popular"):
        OneShotAttack("popluar")
    with pytest.raises(UsageError, match=r"targets <= clicks <= num items; got 2, 13 and 12"):
        OneShotAttack("random", OneShotConfig(clicks=13)).run(REAL, TARGETS, 1, seed=0)
    with pytest.raises(UsageError, match=r"no real user has 8. Set clicks"):
        OneShotAttack("random").run(REAL, np.arange(8), 1, seed=0)
