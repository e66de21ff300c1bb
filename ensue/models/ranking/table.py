"""The ranking models Ensue ships, by name: a closed list, so a run can build nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ensue.config import Config
from ensue.data.ranking.schema import RankingSchema
from ensue.errors import UsageError, did_you_mean
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.dcn import DCN
from ensue.models.ranking.dcn_v2 import DCNv2
from ensue.models.ranking.deepfm import DeepFM
from ensue.models.ranking.dlrm import DLRM
from ensue.models.ranking.fm import FM
from ensue.models.ranking.lr import LR
from ensue.models.ranking.mmoe import MMoE
from ensue.models.ranking.ple import PLE
from ensue.models.ranking.shared_bottom import SharedBottom
from ensue.models.ranking.wide_deep import WideDeep


@dataclass(frozen=True)
class Ranker:
    """A ranking model, and settings of it and of its training.

    presets: named groups of settings.
    defaults: where they differ from those of the configs.
    """

    model: type[RankingModel]
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


# Tables of rankers are large: an optimizer that touches the rows of a batch alone.
_DEFAULTS: dict[str, Any] = {
    "batch_size": 4096,
    "weight_decay": 0.0,
    "optimizer": "lazy_adam",
    "epochs": 10,
    "patience": 2,
}
RANKERS: dict[str, Ranker] = {
    "lr": Ranker(LR, defaults={**_DEFAULTS, "learning_rate": 0.01}),
    "fm": Ranker(FM, defaults=_DEFAULTS),
    "wide_deep": Ranker(WideDeep, defaults=_DEFAULTS),
    "deepfm": Ranker(DeepFM, defaults=_DEFAULTS),
    "dcn": Ranker(DCN, defaults=_DEFAULTS),
    "dcn_v2": Ranker(
        DCNv2,
        presets={"full": {}, "mixture": {"cross_rank": 64, "cross_experts": 4}},
        defaults=_DEFAULTS,
    ),
    "dlrm": Ranker(DLRM, defaults=_DEFAULTS),
    "shared_bottom": Ranker(
        SharedBottom,
        # The models of Tang et al., KDD 2023, but for the inputs, which are not public.
        presets={
            "small": {"hidden": [512, 512]},
            "large": {"hidden": [4096] * 4},
            "large_dcn": {
                "hidden": [4096] * 4,
                "trunk": "dcn_v2",
                "num_crosses": 1,
                "cross_norm": True,
            },
        },
        defaults=_DEFAULTS,
    ),
    "mmoe": Ranker(MMoE, defaults=_DEFAULTS),
    "ple": Ranker(PLE, defaults=_DEFAULTS),
}


def get_ranker(name: str) -> Ranker:
    """Return the ranking model called `name`, with its settings.

    Raises:
        UsageError: there is none.
    """
    if name not in RANKERS:
        raise UsageError(f"there is no ranking model {name!r}.{did_you_mean(name, RANKERS)}")
    return RANKERS[name]


def get_ranker_preset(name: str, preset: str | None) -> dict[str, Any]:
    """Return the model's own defaults, and over them the settings of a preset; none for None.

    Raises:
        UsageError: the model has no such preset.
    """
    ranker = get_ranker(name)
    if preset is None:
        return dict(ranker.defaults)
    if preset not in ranker.presets:
        known = did_you_mean(preset, ranker.presets) if ranker.presets else " It has none."
        raise UsageError(f"{name} has no preset {preset!r}.{known}")
    return {**ranker.defaults, **ranker.presets[preset]}


def build_ranker(
    name: str,
    config: Config,
    schema: RankingSchema,
    counts: Mapping[str, Tensor] | None = None,
) -> RankingModel:
    """Return a new ranking model of the kind called `name`.

    Args:
        counts: for each vocabulary, the number of training rows with each code [V + 1]: what
            min_count is compared with. A model whose state is loaded has no need of them.

    Raises:
        UsageError: there is no such model.
        DataError: the schema has no column, or no task.
    """
    model = get_ranker(name).model(config, schema=schema)
    if counts is not None:
        model.count_values_(counts)
    return model
