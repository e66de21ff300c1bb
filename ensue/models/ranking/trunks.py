"""The trunks that models of several tasks stand on, by name.

Shapes: B rows, H width of the representation.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import DeepConfig, Trunk
from ensue.models.ranking.dcn_v2 import DCNv2Trunk
from ensue.models.ranking.deepfm import DeepFMTrunk
from ensue.models.ranking.dlrm import DLRMTrunk
from ensue.models.ranking.dnn import DNNTrunk
from ensue.models.ranking.fm import FMTrunk
from ensue.models.ranking.wide_deep import WideDeepTrunk

TrunkName = Literal["dnn", "fm", "wide_deep", "deepfm", "dcn_v2", "dlrm"]

TRUNKS: dict[TrunkName, type[Trunk]] = {
    "dnn": DNNTrunk,
    "fm": FMTrunk,
    "wide_deep": WideDeepTrunk,
    "deepfm": DeepFMTrunk,
    "dcn_v2": DCNv2Trunk,
    "dlrm": DLRMTrunk,
}

# Settings that one trunk alone reads.
_READ_BY: dict[str, TrunkName] = {
    "num_crosses": "dcn_v2",
    "cross_rank": "dcn_v2",
    "cross_norm": "dcn_v2",
    "bottom": "dlrm",
}


class TrunkConfig(DeepConfig):
    """A trunk, and the layers of each task behind it.

    trunk: what all tasks read; `hidden` are its layers, where empty it ends before them.
    num_crosses, cross_rank, cross_norm: of dcn_v2, as there.
    bottom: of dlrm, as there.
    tower: widths of the layers of each task.
    """

    trunk: TrunkName = "dnn"
    num_crosses: int = Field(default=3, ge=1)
    cross_rank: int | None = Field(default=None, ge=1)
    cross_norm: bool = False
    bottom: list[int] = Field(default_factory=lambda: [256, 64])
    tower: list[int] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_read(self) -> TrunkConfig:
        for name, trunk in _READ_BY.items():
            value, field = getattr(self, name), type(self).model_fields[name]
            if self.trunk != trunk and value != field.get_default(call_default_factory=True):
                raise ValueError(f"{name}={value} needs trunk={trunk}; trunk is {self.trunk!r}")
        return self


def make_trunk(config: TrunkConfig, schema: RankingSchema) -> Trunk:
    """Return the trunk that the config names, with the settings that it reads."""
    trunk = TRUNKS[config.trunk]
    settings = config.model_dump(include=set(trunk.Config.model_fields))
    return trunk(trunk.Config(**settings), schema=schema)
