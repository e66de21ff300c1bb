"""The settings a search tries: what the model declares, changed by the caller, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from ensue.config import Config
from ensue.errors import ConfigError, UsageError
from ensue.models.space import Choice, Range, Space
from ensue.models.table import get_method
from ensue.runs.train import find_home

_LOG_RATIO = 100  # a range over so many times its low end is tried on a logarithmic scale


def parse_ranges(assignments: Iterable[str]) -> Space:
    """Return what NAME=LOW..HIGH and NAME=a,b,c say; a value is JSON where it is, else a string.

    >>> parse_ranges(["dim=16..64", "loss=mean,sum"])
    {'dim': Range(low=16, high=64, log=None), 'loss': Choice(values=('mean', 'sum'))}

    Raises:
        UsageError: an assignment is neither.
    """
    space: Space = {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        low, dots, high = text.partition("..")
        values = _parse_values(text)
        if not equals or not name or not text:
            raise UsageError(
                f"--range takes NAME=LOW..HIGH or NAME=VALUE,VALUE,...; got {assignment!r}."
            )
        if dots:
            space[name] = Range(_parse_number(low, assignment), _parse_number(high, assignment))
        else:
            space[name] = Choice(tuple(values))
    return space


def resolve_space(model: str, fixed: Mapping[str, Any], ranges: Space) -> Space:
    """Return what is searched: the declared space, with `ranges` over it, without what is fixed.

    Raises:
        UsageError: a setting is both fixed and searched, or nothing is left to search.
        ConfigError: a setting is unknown, a range is empty, or a value in it is not allowed.
    """
    both = [name for name in ranges if name in fixed]
    if both:
        raise UsageError(
            f"a setting is fixed or searched; {both[0]!r} is both. Leave out --set or --range."
        )
    declared = get_method(model).space
    space = {
        name: _resolve(model, name, given, declared.get(name))
        for name, given in {**declared, **ranges}.items()
        if name not in fixed
    }
    if not space:
        raise UsageError(
            f"a search needs a setting to vary; {model} has none left. Give one with --range."
        )
    return space


def _resolve(
    model: str, name: str, given: Range | Choice, declared: Range | Choice | None
) -> Range | Choice:
    """Return what is searched for one setting, with the type of its numbers and its scale."""
    if name == "metric":
        raise ConfigError("trials are compared by one metric; choose it with --set metric=NAME.")
    home = find_home(model, name)
    if isinstance(given, Choice):
        if len(given.values) < 2:
            raise ConfigError(
                f"a range needs two values or more; {name!r} has {list(given.values)}. "
                f"Use --set {name}=VALUE for one."
            )
        for value in given.values:
            _check_value(home, name, value)
        return given
    if not isinstance(given, Range):
        raise ConfigError(
            "what is searched is a Range or a Choice of ensue.models.space; "
            f"{name!r} has {given!r}."
        )
    annotation = home.model_fields[name].annotation
    types = get_args(annotation) or (annotation,)
    if int not in types and float not in types:
        raise ConfigError(
            f"a range LOW..HIGH needs a setting that is a number; {name!r} is not. "
            f"List its values: --range {name}=A,B."
        )
    low, high = given.low, given.high
    if not low < high:
        raise ConfigError(f"a range needs LOW < HIGH; {name!r} has {low}..{high}.")
    if float in types:
        low, high = float(low), float(high)
    elif low == int(low) and high == int(high):
        low, high = int(low), int(high)
    for value in (low, high):
        _check_value(home, name, value)
    log = given.log
    if log is None:
        is_declared = isinstance(declared, Range) and declared.log is True
        log = low > 0 and (is_declared or high >= _LOG_RATIO * low)
    if log and low <= 0:
        raise ConfigError(f"a range on a log scale needs LOW > 0; {name!r} has {low}..{high}.")
    return Range(low, high, log)


def _check_value(home: type[Config], name: str, value: Any) -> None:
    """Check one value of a setting by itself; what it means beside others, each trial checks."""
    try:
        home(**{name: value})
    except ValidationError as error:
        for found in error.errors():
            if found["loc"][:1] == (name,):
                raise ConfigError(
                    f"every value of a range must be allowed; {value!r} of {name!r} is not: "
                    f"{found['msg'].lower()}."
                ) from None


def _parse_values(text: str) -> list[Any]:
    try:
        return list(json.loads(f"[{text}]"))  # values that hold commas themselves
    except json.JSONDecodeError:
        return [_parse_value(part.strip()) for part in text.split(",")]


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _parse_number(text: str, assignment: str) -> float:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    raise UsageError(f"--range NAME=LOW..HIGH takes two numbers; got {assignment!r}.")
