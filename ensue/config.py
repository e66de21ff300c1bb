"""Frozen, strict settings: an unknown key is an error that names the closest known one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ensue.errors import ConfigError, UsageError, did_you_mean

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every group of settings; fields are validated once, when the object is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def make_config(cls: type[ConfigT], settings: Mapping[str, Any]) -> ConfigT:
    """Return `cls` made from `settings`.

    Raises:
        ConfigError: a name is unknown or a value does not fit its field.
    """
    known = list(cls.model_fields)
    for name in settings:
        if name not in known:
            raise ConfigError(f"{cls.__name__} has no field {name!r}.{did_you_mean(name, known)}")
    try:
        return cls(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):  # of several fields together; it says all there is
            raise cause from None
        field = ".".join(str(part) for part in first["loc"]) or cls.__name__
        raise ConfigError(
            f"{cls.__name__}.{field}: {first['msg'].lower()}; got {first.get('input')!r}."
        ) from None


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Return {"dim": 64, "activation": "relu"} for ["dim=64", "activation=relu"].

    A value is read as JSON where it is JSON, as a list of strings where it is words in brackets,
    and is a string otherwise; it is never evaluated. The field's type is checked later, by
    `make_config`.

    >>> parse_settings(["dim=64", "layers=[1,2]", "activation=relu"])
    {'dim': 64, 'layers': [1, 2], 'activation': 'relu'}
    >>> parse_settings(["graphs=[tags,friends]"])
    {'graphs': ['tags', 'friends']}

    Raises:
        UsageError: an assignment has no "=" or an empty name.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE; got {assignment!r}.")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = _words(value.strip())
    return settings


def _words(value: str) -> str | list[str]:
    """Return the words of "[one, other]"; any other value as it is."""
    if not (value.startswith("[") and value.endswith("]")) or set(value[1:-1]) & set("[]{}\"'"):
        return value
    return [word.strip() for word in value[1:-1].split(",")]
