"""The attacks Ensue knows, by name.

Defaults of the learned ones are the authors' (Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876),
but for the gradient of `wrmf-sgd`, which goes through all epochs and not the last 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.audit.base import Attack
from ensue.audit.clicks import Clicks
from ensue.audit.item_ae import ItemAe, ItemAeConfig
from ensue.audit.learned import LearnedAttack, OuterConfig, Surrogate
from ensue.audit.simple import PROFILES, OneShotAttack, OneShotConfig
from ensue.audit.wrmf_als import WrmfAls, WrmfAlsConfig
from ensue.audit.wrmf_sgd import WrmfSgd, WrmfSgdConfig
from ensue.config import Config, make_config
from ensue.errors import ConfigError, UsageError, did_you_mean


@dataclass(frozen=True)
class AttackKind:
    """An attack by name.

    make: takes its configs in their order. defaults: where they differ from those of the configs.
    """

    make: Callable[..., Attack]
    configs: tuple[type[Config], ...]
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, tuple[int, str]]:
        """The names of its settings, with the number of the config and the field there.

        A field of the outer loop that the surrogate has too is called outer_NAME.
        """
        found: dict[str, tuple[int, str]] = {}
        for number, config in enumerate(self.configs):
            for name in config.model_fields:
                found[f"outer_{name}" if name in found else name] = (number, name)
        return found


class _Learned:
    """Makes a learned attack with one kind of surrogate."""

    def __init__(self, name: str, surrogate: Callable[..., Surrogate]) -> None:
        self._name, self._surrogate = name, surrogate

    def __call__(self, config: Config, outer: OuterConfig) -> Attack:
        def make(
            real: Clicks, targets: NDArray[np.int64], *, seed: int, num_fakes: int
        ) -> Surrogate:
            return self._surrogate(real, targets, config, seed, num_fakes=num_fakes)

        return LearnedAttack(self._name, make, outer)


ATTACKS: dict[str, AttackKind] = {
    "wrmf-sgd": AttackKind(_Learned("wrmf-sgd", WrmfSgd), (WrmfSgdConfig, OuterConfig)),
    "wrmf-als": AttackKind(
        _Learned("wrmf-als", WrmfAls),
        (WrmfAlsConfig, OuterConfig),
        {"threshold": 0.1, "click_targets": True},
    ),
    "item-ae": AttackKind(
        _Learned("item-ae", ItemAe), (ItemAeConfig, OuterConfig), {"threshold": 0.1}
    ),
    "item-ae-partial": AttackKind(
        _Learned("item-ae-partial", ItemAe),
        (ItemAeConfig, OuterConfig),
        {"tracked_epochs": 0, "click_targets": True},
    ),
    **{name: AttackKind(partial(OneShotAttack, name), (OneShotConfig,)) for name in PROFILES},
}


def make_attacks(
    attacks: Sequence[str | Attack], settings: Mapping[str, Any], *, k: int
) -> dict[str, Attack]:
    """Return attacks by name, those that are given as they are.

    Args:
        attacks: names of ATTACKS, or attacks.
        settings: by NAME, of all attacks that have such a setting, or by ATTACK.NAME.
        k: a target among the first k unseen items is a hit; of surrogates, unless set otherwise.

    Raises:
        UsageError: there is no such attack, or there are two of a name.
        ConfigError: no attack has a setting, or a value does not fit.
    """
    made: dict[str, Attack] = {}
    known: set[str] = set()
    for one in attacks:
        if isinstance(one, str):
            if one not in ATTACKS:
                raise UsageError(f"there is no attack {one!r}.{did_you_mean(one, ATTACKS)}")
            names = ATTACKS[one].names
            known |= {*names, *(f"{one}.{name}" for name in names)}
            attack = _make(one, settings, k)
        else:
            attack = one
        if attack.name in made:
            raise UsageError(f"an audit needs each attack once; got {attack.name} twice.")
        made[attack.name] = attack
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, sorted(known)) if known else " They have none."
            raise ConfigError(f"none of the attacks has a setting {name!r}.{hint}")
    return made


def _make(name: str, settings: Mapping[str, Any], k: int) -> Attack:
    """Return an attack of the table; a setting that names it wins over one of all."""
    kind = ATTACKS[name]
    chosen = {**kind.defaults, "k": k}
    for prefix in ("", f"{name}."):
        chosen |= {own: settings[prefix + own] for own in kind.names if prefix + own in settings}
    fields: list[dict[str, Any]] = [{} for _ in kind.configs]
    for own, (number, place) in kind.names.items():
        if own in chosen:
            fields[number][place] = chosen[own]
    return kind.make(*map(make_config, kind.configs, fields))
