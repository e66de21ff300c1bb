"""Small ranking schemas and random batches of them, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingKind, RankingSchema, Task, TaskKind

KINDS: tuple[RankingKind, ...] = ("categorical", "multi", "history", "numeric", "vector")


def make_schema(
    *,
    kinds: Sequence[RankingKind] = KINDS,
    tasks: Sequence[TaskKind] = ("binary", "regression"),
    num_categorical: int = 2,
    num_numeric: int = 2,
) -> RankingSchema:
    """Return a schema with columns of these kinds.

    Categorical columns are c1, c2, ... with 5, 6, ... values; "tags" has 4 values, "past" is a
    history of c1; numbers are n1, n2, ...; "vector" has 3 elements. Tasks are t1, t2, ...
    """
    columns = {
        "categorical": [
            RankingColumn(f"c{n}", "categorical", 4 + n, f"c{n}")
            for n in range(1, num_categorical + 1)
        ],
        "multi": [RankingColumn("tags", "multi", 4, "tags")],
        "history": [RankingColumn("past", "history", 5, "c1")],
        "numeric": [RankingColumn(f"n{n}", "numeric", 1) for n in range(1, num_numeric + 1)],
        "vector": [RankingColumn("vector", "vector", 3)],
    }
    return RankingSchema(
        tuple(column for kind in kinds for column in columns[kind]),
        tuple(Task(f"t{n}", kind) for n, kind in enumerate(tasks, start=1)),
    )


def random_batch(
    schema: RankingSchema,
    num_rows: int,
    *,
    seed: int = 0,
    missing: float = 0.2,
    unlabeled: float = 0.2,
    longest: int = 4,
) -> RankingBatch:
    """Return rows whose values and labels are drawn at random.

    Args:
        missing: share of codes that are 0, and of numbers and vectors that are NaN.
        unlabeled: share of labels that are NaN.
        longest: bags have 0, 1, ..., longest values.
    """
    generator = torch.Generator().manual_seed(seed)
    categorical = schema.of_kind("categorical")
    codes = torch.stack(
        [_codes(c.size, num_rows, missing, generator) for c in categorical] or [_none(num_rows)],
        dim=1,
    )[:, : len(categorical)]
    bags = []
    for column in schema.of_kind("multi", "history"):
        lengths = torch.randint(longest + 1, (num_rows,), generator=generator)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        bags.append(Bag(_codes(column.size, int(offsets[-1]), missing, generator), offsets))
    numbers = torch.randn(num_rows, len(schema.of_kind("numeric")), generator=generator)
    vectors = [torch.randn(num_rows, c.size, generator=generator) for c in schema.of_kind("vector")]
    for values in vectors:
        values[torch.rand(num_rows, generator=generator) < missing] = torch.nan
    shape = (num_rows, len(schema.tasks))
    labels = torch.randn(shape, generator=generator)
    for number, task in enumerate(schema.tasks):
        if task.kind == "binary":
            labels[:, number] = (labels[:, number] > 0).float()
    return RankingBatch(
        codes,
        tuple(bags),
        _hide(numbers, missing, generator),
        tuple(vectors),
        _hide(labels, unlabeled, generator),
        torch.rand(shape, generator=generator) + 0.5,
    )


def take(batch: RankingBatch, rows: Sequence[int]) -> RankingBatch:
    """Return the batch of these rows, in this order."""
    bags = []
    for values, offsets in batch.bags:
        own = [values[offsets[row] : offsets[row + 1]] for row in rows]
        lengths = torch.tensor([0, *[len(part) for part in own]])
        bags.append(Bag(torch.cat([values[:0], *own]), lengths.cumsum(0)))
    index = torch.tensor(list(rows), dtype=torch.long)
    return RankingBatch(
        batch.codes[index],
        tuple(bags),
        batch.numbers[index],
        tuple(values[index] for values in batch.vectors),
        batch.labels[index],
        batch.weights[index],
    )


def _none(num_rows: int) -> Tensor:
    return torch.zeros(num_rows, dtype=torch.long)


def _codes(size: int, count: int, missing: float, generator: torch.Generator) -> Tensor:
    codes = torch.randint(1, size + 1, (count,), generator=generator)
    return codes * (torch.rand(count, generator=generator) >= missing)


def _hide(values: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return values.masked_fill(torch.rand(values.shape, generator=generator) < share, torch.nan)
