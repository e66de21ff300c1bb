"""The attacks Ensue knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ensue.audit.base import Attack
from ensue.audit.simple import PROFILES, OneShotAttack, OneShotConfig
from ensue.config import Config, make_config
from ensue.errors import ConfigError, UsageError, did_you_mean


@dataclass(frozen=True)
class AttackKind:
    """An attack by name.

    configs: what its settings are, in the order in which `make` takes them. make: also takes k, of
    the hit rate that is to grow.
    """

    make: Callable[..., Attack]
    configs: tuple[type[Config], ...] = ()

    @property
    def fields(self) -> list[str]:
        """The names of its settings."""
        return [name for config in self.configs for name in config.model_fields]


def _one_shot(name: str, config: OneShotConfig, *, k: int) -> Attack:
    """Return an attack that looks at no ranking, and so needs no k."""
    return OneShotAttack(name, config)


ATTACKS: dict[str, AttackKind] = {
    **{name: AttackKind(partial(_one_shot, name), (OneShotConfig,)) for name in PROFILES},
}


def make_attacks(
    attacks: Sequence[str | Attack], settings: Mapping[str, Any], *, k: int
) -> dict[str, Attack]:
    """Return attacks by name, those that are given as they are.

    Args:
        attacks: names of ATTACKS, or attacks.
        settings: by NAME, of all attacks that have such a setting, or by ATTACK.NAME.
        k: a target among the first k unseen items is a hit.

    Raises:
        UsageError: there is no such attack, or there are two of a name.
        ConfigError: no attack has a setting, or a value does not fit.
    """
    made: dict[str, Attack] = {}
    unread = set(settings)
    for one in attacks:
        if not isinstance(one, str):
            attack = one
        else:
            if one not in ATTACKS:
                raise UsageError(f"there is no attack {one!r}.{did_you_mean(one, ATTACKS)}")
            kind = ATTACKS[one]
            chosen = _settings_of(one, kind, settings)
            unread -= {name for name in settings if name.removeprefix(f"{one}.") in chosen}
            configs = [
                make_config(cls, {n: v for n, v in chosen.items() if n in cls.model_fields})
                for cls in kind.configs
            ]
            attack = kind.make(*configs, k=k)
        if attack.name in made:
            raise UsageError(f"an audit needs each attack once; got {attack.name} twice.")
        made[attack.name] = attack
    if unread:
        name = min(unread)
        known = sorted({field for one in made if one in ATTACKS for field in ATTACKS[one].fields})
        hint = did_you_mean(name, known) if known else " They have none."
        raise ConfigError(f"none of the attacks has a setting {name!r}.{hint}")
    return made


def _settings_of(name: str, kind: AttackKind, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an attack; those that name it win."""
    for_all = {field: settings[field] for field in kind.fields if field in settings}
    own = {
        field: settings[f"{name}.{field}"] for field in kind.fields if f"{name}.{field}" in settings
    }
    return {**for_all, **own}
