"""The variants of an ablation: the full model, and one for each thing that is changed in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ensue.data.dataset import Dataset
from ensue.errors import UsageError, did_you_mean
from ensue.models.space import Changes, Choice
from ensue.progress import note
from ensue.runs.search_space import parse_ranges
from ensue.runs.train import find_home, resolve_settings
from ensue.training.config import override

FULL = "full"


@dataclass(frozen=True)
class Variant:
    """A model to train.

    changes: what is set otherwise than in the full one; empty for that.
    settings: all of them.
    """

    name: str
    changes: dict[str, Any]
    settings: dict[str, Any]


def parse_variations(assignments: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Return setting -> values for "NAME=VALUE,VALUE,..."; a value is JSON where it is.

    >>> parse_variations(["degree=0,1", "loss=papk"])
    {'degree': (0, 1), 'loss': ('papk',)}

    Raises:
        UsageError: an assignment is not of this form.
    """
    varied = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        choice = None if ".." in text else parse_ranges([assignment]).get(name.strip())
        if not isinstance(choice, Choice):
            raise UsageError(f"--vary takes NAME=VALUE,VALUE,...; got {assignment!r}.")
        varied[name.strip()] = choice.values
    return varied


def make_variants(
    model: str, settings: Mapping[str, Any], changes: Changes, dataset: Dataset
) -> list[Variant]:
    """Return the full model, and a variant for each change; one that changes nothing is left out.

    Args:
        settings: of the full model.

    Raises:
        UsageError: nothing is left to change, or a change has no meaning.
        ConfigError: a setting is unknown, or has a value that it cannot have.
    """
    full = Variant(FULL, {}, dict(settings))
    resolved = resolve_settings(model, settings)
    values = {
        name: value for group in resolved if group for name, value in group.model_dump().items()
    }
    variants = [full]
    named: list[tuple[str, dict[str, Any]]] = []
    for text in changes.without:
        parts = [_without(model, part.strip(), values, dataset) for part in text.split("+")]
        for together in itertools.product(*parts):
            labels = "+".join(label for label, _ in together)
            named.append((f"without {labels}", dict(change for _, change in together)))
    for name, tried in changes.vary.items():
        named += [(f"{name}={_show(value)}", {name: value}) for value in tried]
    for label, change in named:
        variant = Variant(label, change, override(settings, change))
        if resolve_settings(model, variant.settings) == resolved:
            note(f"{label} is the full model.")
        elif label not in [other.name for other in variants]:
            variants.append(variant)
    if len(variants) == 1:
        raise UsageError(
            f"an ablation needs something to change in {model}; there is nothing. Name settings "
            "with --without NAME or --vary NAME=VALUE,VALUE (without=..., vary=...)."
        )
    return variants


def _without(
    model: str, name: str, values: Mapping[str, Any], dataset: Dataset
) -> list[tuple[str, tuple[str, Any]]]:
    """Return (label, (setting, value)) of each way to do without what is named."""
    setting, dot, member = name.partition(".")
    home = find_home(model, setting)
    value = values[setting]
    if not dot:
        annotation = home.model_fields[setting].annotation
        return [(name, (setting, _off(setting, value, annotation)))]
    members = list(value) if isinstance(value, (list, tuple)) else _all_of(setting, value, dataset)
    if member != "*" and member not in members:
        raise UsageError(
            f"{model} has no {member!r} among its {setting}."
            + (did_you_mean(member, members) if members else " There are none.")
        )
    left_out = members if member == "*" else [member]
    return [(f"{setting}.{one}", (setting, [m for m in members if m != one])) for one in left_out]


def _off(setting: str, value: Any, annotation: Any) -> Any:
    """Return the value with which a setting does nothing."""
    choices = get_args(annotation)
    if isinstance(value, bool):
        return False
    if isinstance(value, str) and "none" in choices:
        return "none"
    if isinstance(value, (int, float)) and type(None) not in choices:
        return 0
    if isinstance(value, (list, tuple)) or setting in _MEMBERS:
        return []
    if type(None) in choices:
        return None
    raise UsageError(
        f"it is not clear what a model without {setting!r} is, which has the value {value!r}. Say "
        f"so with --vary {setting}=VALUE."
    )


# Settings that are lists of things of the dataset, None being all of them.
_MEMBERS: dict[str, Callable[[Dataset], list[str]]] = {
    "graphs": lambda dataset: list(dataset.graph_schemas),
    "item_features": lambda dataset: _feature_names(dataset, "items"),
    "user_features": lambda dataset: _feature_names(dataset, "users"),
}


def _all_of(setting: str, value: Any, dataset: Dataset) -> list[str]:
    if value is not None or setting not in _MEMBERS:
        raise UsageError(f"a part is left out of a setting that is a list; {setting} is {value!r}.")
    return _MEMBERS[setting](dataset)


def _feature_names(dataset: Dataset, side: str) -> list[str]:
    info = dataset.info.features.get(side)
    return [column.name for column in info.columns] if info else []


def _show(value: object) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
