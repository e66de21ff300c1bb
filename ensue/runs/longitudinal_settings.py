"""The settings of `ensue longitudinal`, sorted to those who read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensue.config import make_config
from ensue.data.longitudinal.measurements import ItemBags, Measurements
from ensue.errors import ConfigError, UsageError, did_you_mean
from ensue.models.representation.lssl import METHODS, READ_BY, LSSLConfig
from ensue.runs.longitudinal_fit import VALIDATION_METRIC, FitSettings
from ensue.training.config import TrainingConfig
from ensue.training.longitudinal import PairsConfig

# In place of the defaults of the training config.
TRAINING_DEFAULTS: dict[str, Any] = {
    "epochs": 60,
    "batch_size": 128,
    "metric": VALIDATION_METRIC,
    "patience": None,
}
# Of a training config: no training here reads them, or only one that validates.
_UNREAD = ("papk", "metric")
_VALIDATING = ("patience", "validate_every")


def settings_of(
    methods: Sequence[str], settings: Mapping[str, Any], measured: Measurements
) -> dict[str, FitSettings]:
    """Return the settings of the training of each method, by its name.

    A setting that only some methods read is theirs alone.

    Raises:
        UsageError: a method is unknown, asked for twice, or has no meaning for what was measured.
        ConfigError: no method reads a setting, or it has no meaning.
    """
    _check_methods(methods, measured)
    fields = {config: set(config.model_fields) for config in (LSSLConfig, PairsConfig)}
    known = {*TrainingConfig.model_fields, *set().union(*fields.values())} - {"method", *_UNREAD}
    for name in settings:
        if name not in known:
            raise ConfigError(f"longitudinal has no setting {name!r}.{did_you_mean(name, known)}")
        readers = READ_BY.get(name, METHODS)
        if not set(readers) & set(methods):
            raise ConfigError(
                f"{name} is read by {', '.join(readers)} only; got methods {', '.join(methods)}."
            )
        if name in _VALIDATING and not settings.get("validation_share"):
            raise ConfigError(f"{name} is read with validation_share above 0 only.")
    own = {
        config: {name: value for name, value in settings.items() if name in names}
        for config, names in fields.items()
    }
    training = make_config(
        TrainingConfig,
        {
            **TRAINING_DEFAULTS,
            **{n: v for n, v in settings.items() if n in TrainingConfig.model_fields},
        },
    )
    pairs = make_config(PairsConfig, own[PairsConfig])
    return {
        method: FitSettings(_model_config(method, own[LSSLConfig]), pairs, training)
        for method in methods
    }


def _model_config(method: str, settings: Mapping[str, Any]) -> LSSLConfig:
    read = {n: v for n, v in settings.items() if method in READ_BY.get(n, METHODS)}
    return make_config(LSSLConfig, {**read, "method": method})


def _check_methods(methods: Sequence[str], measured: Measurements) -> None:
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"method {method!r} is unknown.{did_you_mean(method, METHODS)}")
        if method == "pca" and isinstance(measured, ItemBags):
            raise UsageError("pca needs numbers; histories are bags of items.")
    if not methods or len(set(methods)) < len(methods):
        raise UsageError(f"at least one method is needed, each once; got {list(methods)}.")
