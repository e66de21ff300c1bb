"""A ranking model as a module over encoded columns: what `torch.export` makes a graph of.

Shapes: B rows; C categorical, K numeric columns; M tasks; S values in the bags of B rows; D width
of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.errors import UsageError
from ensue.models.ranking.base import RankingModel
from ensue.runs.export.formats import Compute
from ensue.runs.export.graphs import BATCH, Signature
from ensue.runs.export.parity import check


class RowGraph(nn.Module):
    """The prediction of every task [B, M] from the tensors of a batch; see `RankingBatch`.

    inputs: what `forward` takes, in this order: codes, numbers, values and offsets of each bag,
        vectors.
    """

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        if model.reads_ids:
            raise UsageError(
                "a graph reads codes of values that were there in training; the tables of this "
                "model grow with any value. Use format npz."
            )
        self.model, self.num_bags = model, len(model.schema.of_kind("multi", "history"))
        self.inputs = row_inputs(model.schema)
        self.outputs = (Signature("predictions", "float32", (BATCH, len(model.schema.tasks))),)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the predictions [B, M] of the inputs."""
        codes, numbers, *rest = tensors
        # One row more, without values: a graph made for any number of rows is wrong for one row.
        bags = tuple(
            Bag(rest[2 * n], torch.cat([rest[2 * n + 1], rest[2 * n + 1][-1:]]))
            for n in range(self.num_bags)
        )
        vectors = tuple(F.pad(values, (0, 0, 0, 1)) for values in rest[2 * self.num_bags :])
        codes, numbers = (F.pad(values, (0, 0, 0, 1)) for values in (codes, numbers))
        labels = torch.zeros(codes.shape[0], len(self.model.schema.tasks))
        batch = RankingBatch(codes, bags, numbers, vectors, labels, labels)
        return self.model.predict(batch)[:-1]


def row_inputs(schema: RankingSchema) -> tuple[Signature, ...]:
    """Return what a graph of rows takes."""
    inputs = [
        Signature("codes", "int64", (BATCH, len(schema.of_kind("categorical")))),
        Signature("numbers", "float32", (BATCH, len(schema.of_kind("numeric")))),
    ]
    for number, column in enumerate(schema.of_kind("multi", "history"), start=1):
        inputs.append(Signature(f"values_{column.name}", "int64", (f"values{number}",)))
        inputs.append(Signature(f"offsets_{column.name}", "int64", (f"{BATCH} + 1",)))
    for column in schema.of_kind("vector"):
        inputs.append(Signature(f"vector_{column.name}", "float32", (BATCH, column.size)))
    return tuple(inputs)


def row_inputs_of(batch: RankingBatch, inputs: Sequence[Signature]) -> dict[str, Tensor]:
    """Return the tensors of a batch by the names of the inputs, in their order."""
    bags = [tensor for bag in batch.bags for tensor in bag]
    tensors = [batch.codes, batch.numbers, *bags, *batch.vectors]
    return {given.name: tensor for given, tensor in zip(inputs, tensors, strict=True)}


def check_rows(compute: Compute, graph: RowGraph, num_rows: int) -> float:
    """Return the largest difference between the predictions of a file and those of the model.

    Raises:
        RunError: it is larger than `BAR`, or is not a number.
    """
    batch = sample_rows(graph.model.schema, num_rows)
    with torch.no_grad():
        expected = graph.model.predict(batch)
    (found,) = compute(row_inputs_of(batch, graph.inputs))
    return check(float((found - expected).abs().max()))


def sample_rows(schema: RankingSchema, num_rows: int) -> RankingBatch:
    """Return rows of any codes and numbers, with missing ones among them, and bags of 0 to 4."""
    rng = np.random.default_rng(num_rows)

    def codes(sizes: Sequence[int], number: int) -> Tensor:
        columns = [rng.integers(0, size + 1, number) for size in sizes]
        return torch.from_numpy(np.array(columns, dtype=np.int64).reshape(-1, number).T.copy())

    def numbers(width: int) -> Tensor:
        values = rng.normal(size=(num_rows, width))
        values[rng.random(values.shape) < 0.2] = np.nan
        return torch.from_numpy(values.astype(np.float32))

    bags = []
    for column in schema.of_kind("multi", "history"):
        lengths = rng.integers(0, 5, num_rows)
        lengths[0] = 2  # a graph is made of an example whose sizes are not 0 or 1
        offsets = torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))
        bags.append(Bag(codes([column.size], int(offsets[-1]))[:, 0], offsets))
    labels = torch.zeros(num_rows, len(schema.tasks))
    return RankingBatch(
        codes([column.size for column in schema.of_kind("categorical")], num_rows),
        tuple(bags),
        numbers(len(schema.of_kind("numeric"))),
        tuple(numbers(column.size) for column in schema.of_kind("vector")),
        labels,
        labels,
    )
