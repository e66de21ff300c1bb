from __future__ import annotations

import numpy as np
import pytest

from ensue.audit.clicks import Clicks
from ensue.audit.table import ATTACKS, make_attacks
from ensue.errors import ConfigError, UsageError

SMALL = {"epochs": 2, "sweeps": 2, "hidden": [6, 4], "dim": 4, "iterations": 2, "k": 3}


def test_every_attack_makes_fake_users_and_the_same_ones_again() -> None:
    rng = np.random.default_rng(0)
    real = Clicks.from_dense(rng.random((40, 20)) < 0.3)
    names = [name for kind in ATTACKS.values() for name in kind.names]
    settings = {name: value for name, value in SMALL.items() if name in names}
    attacks = make_attacks(list(ATTACKS), settings, k=5)
    assert list(attacks) == list(ATTACKS)
    for name, attack in attacks.items():
        assert attack.name == name
        found = attack.run(real, np.array([1, 7]), 3, seed=0)
        again = attack.run(real, np.array([1, 7]), 3, seed=0)
        assert (found.fakes.num_users, found.fakes.num_items) == (3, 20)
        assert (found.fakes.columns == again.fakes.columns).all()


def test_settings_are_of_all_attacks_or_of_one() -> None:
    kind = ATTACKS["wrmf-sgd"]
    assert kind.names["lr"] == (0, "lr")
    assert kind.names["outer_lr"] == (1, "lr")
    attacks = make_attacks(["random", "popular"], {"clicks": 4, "popular.clicks": 7}, k=5)
    real = Clicks.from_dense(np.ones((5, 9), dtype=bool))
    lengths = {n: a.run(real, np.array([1]), 2, seed=0).fakes.lengths for n, a in attacks.items()}
    assert {name: own.tolist() for name, own in lengths.items()} == {
        "random": [4, 4],
        "popular": [7, 7],
    }
    with pytest.raises(ConfigError, match=r"has a setting 'epoch'. Did you mean 'epochs'"):
        make_attacks(["wrmf-sgd"], {"epoch": 4}, k=5)
    with pytest.raises(ConfigError, match=r"OuterConfig.threshold: .*; got 2"):
        make_attacks(["wrmf-sgd"], {"threshold": 2}, k=5)
    with pytest.raises(UsageError, match=r"no attack 'wrmf'. Did you mean"):
        make_attacks(["wrmf"], {}, k=5)
