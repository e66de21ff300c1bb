"""Which operators of a model give way to sums: the first ones behind the vectors of columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ensue.distributed.crosses import CrossSums, DotSums
from ensue.distributed.owners import Owners
from ensue.distributed.substitution import (
    FirstLayerSum,
    FirstOrderSum,
    Operator,
    PairSums,
    Schedule,
    Source,
    Substitution,
)
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.dcn import DCNTrunk
from ensue.models.ranking.dcn_v2 import DCNv2Trunk
from ensue.models.ranking.deepfm import DeepFMTrunk
from ensue.models.ranking.dlrm import DLRMTrunk
from ensue.models.ranking.dnn import DNNTrunk
from ensue.models.ranking.fm import FM, FMTrunk
from ensue.models.ranking.lr import LR
from ensue.models.ranking.wide_deep import WideDeepTrunk
from ensue.nn.crosses import LowRankCross, VectorCross
from ensue.nn.field_embedding import FieldEmbedding, FirstOrder
from ensue.nn.perceptron import Perceptron


class _Maker:
    """Puts operators in the place of modules, with their sources."""

    def __init__(self, group: Substitution) -> None:
        self.group = group

    def source(self, fields: FieldEmbedding, *, whole_rows: bool = False) -> Source:
        """Return the source of the vectors of these columns."""
        owners, rank = self.group.owners, self.group.workers.rank
        source = Source(fields, owners, rank, whole_rows=whole_rows)
        self.group.sources.append(source)
        return source

    def put(self, parent: nn.Module, name: str, operator: Operator) -> None:
        """Put an operator in the place of a module of `parent`."""
        setattr(parent, name, operator)
        self.group.operators.append(operator)


def substitute_(
    model: RankingModel,
    owners: Owners,
    workers: Workers,
    schedule: Schedule,
    *,
    wire: torch.dtype | None = None,
) -> Substitution:
    """Put operators in the place of the first ones of a model, and return them.

    Raises:
        ConfigError: the first operators of the model are no functions of sums.
    """
    maker = _Maker(Substitution(owners, workers, schedule, wire=wire))
    for module in model.modules():
        if type(module) in _SUBSTITUTIONS:
            _SUBSTITUTIONS[type(module)](module, maker)
            break
    else:
        raise ConfigError(f"{type(model).__name__} has no operator that is a function of sums.")
    return maker.group


def _lr(model: LR, maker: _Maker) -> None:
    _first_order(model, "first_order", maker)


def _fm(model: FM, maker: _Maker) -> None:
    _pairs(model, maker.source(model.fields), maker)


def _fm_trunk(trunk: FMTrunk, maker: _Maker) -> None:
    _first_order(trunk, "first_order", maker)
    maker.put(trunk, "pairs", PairSums(trunk.pairs, maker.source(trunk.fields), maker.group))


def _dnn(trunk: DNNTrunk, maker: _Maker) -> None:
    _first_layer(trunk.layers, maker.source(trunk.fields), maker)


def _wide_deep(trunk: WideDeepTrunk, maker: _Maker) -> None:
    _first_order(trunk, "wide", maker)
    _dnn(trunk.deep, maker)


def _deepfm(trunk: DeepFMTrunk, maker: _Maker) -> None:
    vectors = maker.source(trunk.fields)
    _pairs(trunk, vectors, maker)
    _first_layer(trunk.layers, vectors, maker)


def _dcn(trunk: DCNv2Trunk, maker: _Maker) -> None:
    layers = list(trunk.crosses.layers)
    are_sums = all(isinstance(layer, (LowRankCross, VectorCross)) for layer in layers)
    if not (are_sums and trunk.is_stacked and isinstance(trunk.crosses.norm, nn.Identity)):
        raise ConfigError(
            "sums in the place of cross layers need structure=stacked, and of dcn_v2 cross_rank, "
            "one expert and no cross_norm. Set them, or send pooled vectors: table_wise or "
            "row_wise."
        )
    if maker.group.split:
        raise ConfigError(
            "sums in the place of cross layers need whole columns; with layout hash several "
            "workers have parts of them. Use layout field or column."
        )
    crosses = CrossSums(trunk.crosses, maker.source(trunk.fields), maker.group)
    trunk.add_module("crosses", crosses)
    _first_layer(trunk.layers, crosses, maker, at_once=False)


def _dlrm(trunk: DLRMTrunk, maker: _Maker) -> None:
    if not maker.group.owners.by_element:
        raise ConfigError(
            "sums in the place of products of pairs need some elements of all vectors on each "
            "worker. Use layout column, or send pooled vectors: table_wise or row_wise."
        )
    trunk.add_module("dots", DotSums(trunk.dots, maker.source(trunk.fields), maker.group))


def _pairs(parent: FM | DeepFMTrunk, vectors: Source, maker: _Maker) -> None:
    pairs = PairSums(parent.pairs, vectors, maker.group)
    _first_order(parent, "first_order", maker, less=pairs)
    maker.put(parent, "pairs", pairs)


def _first_order(
    parent: nn.Module, name: str, maker: _Maker, *, less: PairSums | None = None
) -> None:
    first_order: FirstOrder = getattr(parent, name)
    source = maker.source(first_order.fields, whole_rows=True)
    maker.put(parent, name, FirstOrderSum(first_order, source, less))


def _first_layer(
    layers: Perceptron, source: Source | CrossSums, maker: _Maker, *, at_once: bool = True
) -> None:
    """Put sums in the place of the first layer.

    at_once: its inputs are known before the model begins.
    """
    if not len(layers.layers):
        raise ConfigError(
            "a sum in the place of the first dense layer needs one; hidden is empty. Send pooled "
            "vectors: table_wise or row_wise."
        )
    first = layers.layers[0]
    assert isinstance(first, nn.Linear)
    layer = FirstLayerSum(first, source, maker.group, at_once=at_once)
    if at_once:
        maker.put(layers.layers, "0", layer)
    else:
        layers.layers[0] = layer


_SUBSTITUTIONS: dict[type[nn.Module], Callable[..., None]] = {
    LR: _lr,
    FM: _fm,
    FMTrunk: _fm_trunk,
    DNNTrunk: _dnn,
    WideDeepTrunk: _wide_deep,
    DeepFMTrunk: _deepfm,
    DCNTrunk: _dcn,
    DCNv2Trunk: _dcn,
    DLRMTrunk: _dlrm,
}
