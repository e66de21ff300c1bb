"""What a plan needs to know of a ranking model: how much it looks up, and what is summed of it.

An operator of a model can be substituted where what follows the lookup is a sum over columns: the
weights of values, the parts of a factorization machine, a linear layer, products of vectors. What
then travels is the sum, of `width` numbers a row, in place of all vectors.
Shapes: F columns that are looked up, D width of a vector, M tasks, n ids of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.packing import bits_of
from ensue.errors import UsageError
from ensue.models.ranking.base import RankingModel, Trunk
from ensue.models.ranking.dcn import DCNConfig
from ensue.models.ranking.dcn_v2 import DCNv2Config, DCNv2Trunk
from ensue.models.ranking.deepfm import DeepFMTrunk
from ensue.models.ranking.dlrm import DLRMTrunk
from ensue.models.ranking.dnn import DNNTrunk
from ensue.models.ranking.fm import FM, FMTrunk
from ensue.models.ranking.lr import LR
from ensue.models.ranking.table import build_ranker
from ensue.models.ranking.wide_deep import WideDeepTrunk
from ensue.nn.field_embedding import FirstOrder
from ensue.nn.field_tables import StaticTable

Layout = Literal["", "hash", "field", "column"]

_LARGE = 25_000_000  # weights of a layer, at most
_GROWING_ROW_BYTES = 32  # the id, its place in the index, its count and when it was last seen


class Operator(NamedTuple):
    """Part of a model that a sum over columns can take the place of.

    width: numbers of a row that are summed.
    layout: what its tables must be shared by: any way ("hash"), whole numbers of the vectors side
        by side ("field"), or the same columns of all vectors ("column").
    everywhere: all workers go on with the sums of all rows, and need those of the gradients, too.
    of_bag: more of them for each bag that several workers have rows of: squares of its sum.
    shared: weights of all workers that each of them uses for columns of its own.
    """

    name: str
    width: int
    layout: Layout = "hash"
    everywhere: bool = False
    of_bag: int = 0
    shared: int = 0


class Vocabulary(NamedTuple):
    """Rows that values are found in.

    columns: how many columns have its values. bags: of these, those with several in a row, and the
        most that each of them has.
    numbers: weights of a row, over all tables that the vocabulary has one in.
    lookups: ids of it in a row of the batch.
    """

    name: str
    rows: int
    columns: int
    bags: tuple[int, ...]
    numbers: int
    lookups: float

    def id_bits(self, sharers: int) -> int:
        """Return the bits of a code, where so many workers divide the rows."""
        return bits_of((self.rows - 1) // sharers)

    def length_bits(self, sharers: int) -> int:
        """Return the bits of how many values the columns of a row have, of which one has a share.

        Those of a bag are taken to be spread evenly.
        """
        return self.columns - len(self.bags) + sum(bits_of(-(-n // sharers)) for n in self.bags)


class Sizes(NamedTuple):
    """Sizes of a ranking model on a schema.

    num_fields: F. dim: D, 0 without vectors. weights: numbers of a row's first order, 0 without.
    ids_per_row: n.
    operators: what can be summed; none where `obstacle` says why not.
    attends: whether histories are attended to.
    dense: weights outside of the tables. local: those of them that stay with the columns they
        belong to, when operators are substituted.
    spread: dense numbers of a row that the owners of columns need, when they are.
    tasks: M.
    activations: numbers of a row that the layers give.
    row_bytes: kept for each row of a table beside its weights.
    """

    model: str
    num_fields: int
    dim: int
    weights: int
    ids_per_row: float
    operators: tuple[Operator, ...]
    obstacle: str
    attends: bool
    vocabularies: tuple[Vocabulary, ...]
    dense: int
    local: int
    spread: int
    tasks: int
    activations: int
    row_bytes: int

    @property
    def width(self) -> int:
        """Numbers of a row's pooled vectors and weights, side by side."""
        return self.num_fields * (self.dim + self.weights)

    @property
    def num_rows(self) -> int:
        """Rows of all vocabularies."""
        return sum(one.rows for one in self.vocabularies)

    @property
    def num_weights(self) -> int:
        """Weights of all tables."""
        return sum(one.rows * one.numbers for one in self.vocabularies)

    @property
    def grows(self) -> bool:
        """Whether rows are made when their ids come."""
        return self.row_bytes > 0

    @property
    def num_tables(self) -> int:
        """Tables that a column has a row in: of vectors, of weights."""
        return (self.dim > 0) + (self.weights > 0)


class _Substitute(NamedTuple):
    """Operators of a model, the weights that stay with columns, what is spread; or an obstacle."""

    operators: tuple[Operator, ...] = ()
    local: int = 0
    spread: int = 0
    obstacle: str = ""


def sizes_of(
    name: str,
    config: Any,
    schema: RankingSchema,
    *,
    ids_per_row: Mapping[str, float] | None = None,
    longest: Mapping[str, int] | None = None,
) -> Sizes:
    """Return the sizes of the ranking model called `name`; no table is made.

    Args:
        config: of the model's Config class.
        ids_per_row: the mean number of ids in each column that is looked up; a column that is
            left out has 1.
        longest: the most ids of a row in each bag; one that is left out has twice the mean.

    Raises:
        UsageError: there is no such model, or a name is that of no column with a vocabulary.
        DataError: the schema has no column, or no task.
    """
    means = dict.fromkeys((c.name for c in schema.columns if c.vocabulary), 1.0)
    for column, mean in (ids_per_row or {}).items():
        if column not in means or not mean >= 0:
            raise UsageError(
                "ids_per_row has a number of 0 or more for columns with a vocabulary; got "
                f"{column!r}: {mean}."
            )
        means[column] = float(mean)
    model = _on_paper(name, config, schema)
    parts = {id(m.fields): m for m in model.modules() if isinstance(m, FirstOrder)}
    vectors = [f for f in model.field_embeddings() if id(f) not in parts]
    tables = [f.table for f in model.field_embeddings() if isinstance(f.table, StaticTable)]
    dim = vectors[0].dim if vectors else 0
    weights = len(schema.tasks) if parts else 0
    substitute = _substitute(model, len(means), dim, weights)
    linear = [one for one in model.modules() if isinstance(one, nn.Linear)]
    return Sizes(
        model=name,
        num_fields=len(means),
        dim=dim,
        weights=weights,
        ids_per_row=sum(means.values()),
        operators=substitute.operators,
        obstacle=substitute.obstacle,
        attends=any(len(fields.attention) for fields in vectors),
        vocabularies=_vocabularies(schema, means, longest or {}, dim, weights),
        dense=sum(p.numel() for p in model.parameters()) - sum(t.weight.numel() for t in tables),
        local=substitute.local,
        spread=substitute.spread,
        tasks=len(schema.tasks),
        activations=sum(one.out_features for one in linear),
        row_bytes=0 if config.growth is None else _GROWING_ROW_BYTES,
    )


def _on_paper(name: str, config: Any, schema: RankingSchema) -> RankingModel:
    """Return the model for one value of each column, on a table that does not grow.

    A large one has tensors of a shape without memory. Those take torch seconds to get ready for,
    which a model of the usual size is spared. The state of random numbers stays what it is.
    """
    columns = tuple(replace(c, size=1) if c.vocabulary else c for c in schema.columns)
    width = getattr(config, "dim", 1) * len(columns) + sum(c.size for c in columns)
    widest = max([width, *getattr(config, "hidden", ())])
    device = torch.device("cpu" if widest**2 < _LARGE else "meta")
    with torch.random.fork_rng(devices=[]), device:
        changed = config.model_copy(update={"growth": None})
        return build_ranker(name, changed, RankingSchema(columns, schema.tasks))


def _vocabularies(
    schema: RankingSchema,
    means: Mapping[str, float],
    longest: Mapping[str, int],
    dim: int,
    weights: int,
) -> tuple[Vocabulary, ...]:
    """Return the vocabularies; columns share its vectors, and each has weights of its own."""
    found = []
    for name, size in schema.vocabularies.items():
        columns = [column for column in schema.columns if column.vocabulary == name]
        bags = tuple(
            longest.get(column.name, math.ceil(2 * means[column.name]))
            for column in columns
            if column.kind != "categorical"
        )
        lookups = sum(means[column.name] for column in columns)
        numbers = dim + weights * len(columns)
        found.append(Vocabulary(name, size + 1, len(columns), bags, numbers, lookups))
    return tuple(found)


def _substitute(model: RankingModel, num_fields: int, dim: int, weights: int) -> _Substitute:
    """Return what of a model sums over columns can take the place of."""
    if not num_fields:
        return _Substitute(obstacle="no column is looked up")
    if getattr(model.config, "history", "mean") == "attention":
        return _Substitute(obstacle="attention over histories is no sum over columns")
    linear = (Operator("weights of values", weights),) if weights else ()
    # For several tasks the products are weighed by a number of each.
    pairs = Operator("pairs", dim, of_bag=dim, shared=weights * dim if weights > 1 else 0)
    if isinstance(model, LR):
        return _Substitute(linear)
    if isinstance(model, FM):
        return _Substitute((*linear, pairs))
    trunk = next(module for module in model.children() if isinstance(module, Trunk))
    if isinstance(trunk, FMTrunk):  # reads the products themselves, not their sum
        return _Substitute((*linear, Operator("pairs", 2 * dim, of_bag=dim)))
    if isinstance(trunk, DLRMTrunk):
        spread = dim if trunk.bottom is not None else 0
        return _Substitute((Operator("dots", trunk.dots.num_pairs, "column"),), spread=spread)
    hidden = model.config.hidden
    if not hidden:
        return _Substitute(obstacle="with no hidden layers the vectors themselves are read")
    first = Operator("first layer", hidden[0], "field")
    local = num_fields * dim * hidden[0]
    if isinstance(trunk, (DNNTrunk, WideDeepTrunk)):
        return _Substitute((*linear, first), local)
    if isinstance(trunk, DeepFMTrunk):
        return _Substitute((*linear, pairs, first), local)
    if isinstance(trunk, DCNv2Trunk):
        return _crosses(model, num_fields * dim, first, local)
    return _Substitute(obstacle=f"no sum over columns is known for {type(trunk).__name__}")


def _crosses(model: RankingModel, width: int, first: Operator, local: int) -> _Substitute:
    """Return the cross layers over `width` numbers, and the layer that reads them."""
    config: DCNv2Config | DCNConfig = model.config
    if getattr(config, "structure", "stacked") != "stacked":
        return _Substitute(obstacle="the outputs read parallel crosses; set structure=stacked")
    if isinstance(config, DCNConfig):
        rank, weights = 1, 2  # of each input: one that it is summed with, and its bias
    elif config.cross_rank is None:
        return _Substitute(obstacle="crosses of full rank read all vectors; set cross_rank")
    elif getattr(config, "cross_experts", 1) > 1:
        return _Substitute(obstacle="a mixture of crosses reads all vectors; set cross_experts=1")
    elif config.cross_norm:
        return _Substitute(obstacle="cross_norm reads the mean over all vectors")
    else:
        # Both matrices and the bias of a layer have a row for each number of the inputs.
        rank, weights = config.cross_rank, 2 * config.cross_rank + 1
    crosses = [
        Operator(f"cross {number + 1}", rank, "field", everywhere=True)
        for number in range(config.num_crosses)
    ]
    local += config.num_crosses * width * weights
    return _Substitute((*crosses, first), local)
