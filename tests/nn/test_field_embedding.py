from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingSchema, Task
from ensue.errors import ConfigError, DataError
from ensue.nn.field_embedding import FieldEmbedding, FirstOrder, TableChoice
from ensue.nn.field_tables import StaticTable
from ensue.nn.history_attention import HistoryAttention
from ensue.training.optimizers import is_table
from tests.ranking_helpers import make_schema, random_batch, take

SCHEMA = make_schema()
BATCH = random_batch(SCHEMA, 7)
COUNTS = {"c1": [0, 3, 1, 5, 2, 9], "c2": [4, 2, 2, 1, 0, 7, 3], "tags": [1, 2, 9, 1, 4]}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def disturb(module: torch.nn.Module) -> None:
    """Draw all parameters anew, rows of what is missing too."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7)


def table_of(fields: FieldEmbedding, vocabulary: str) -> Tensor:
    """Return the rows [V + 1, D] of a vocabulary, laid out as the module says."""
    first = 0
    for name, size in SCHEMA.vocabularies.items():
        if name == vocabulary:
            return fields.table.weight.detach()[first : first + size + 1]
        first += size + 1
    raise KeyError(vocabulary)


def plain_attention(unit: HistoryAttention, past: list[Tensor], target: Tensor) -> Tensor:
    total = torch.zeros_like(target)
    for value in past:
        hidden = (
            unit.values.weight @ value
            + unit.values.bias
            + unit.products.weight @ (value * target)
            + unit.targets.weight @ target
        )
        total = total + (unit.output.weight[0] @ hidden.clamp(min=0) + unit.output.bias) * value
    return total / max(len(past), 1)


def plain(fields: FieldEmbedding, batch: RankingBatch, row: int) -> dict[str, Tensor]:
    """Return the vector of each field of a row, one value at a time."""
    dim, found = fields.dim, {}
    for number, column in enumerate(SCHEMA.of_kind("categorical")):
        found[column.name] = table_of(fields, column.vocabulary)[batch.codes[row, number]]
    for number, column in enumerate(SCHEMA.of_kind("multi", "history")):
        values, offsets = batch.bags[number]
        own = [int(code) for code in values[offsets[row] : offsets[row + 1]]]
        rows = [table_of(fields, column.vocabulary)[code] for code in own]
        if str(number) in fields.attention:
            unit = fields.attention[str(number)]
            found[column.name] = plain_attention(unit, rows, found[column.vocabulary])
        else:
            found[column.name] = sum(rows, torch.zeros(dim)) / max(len(rows), 1)
    for number, column in enumerate(SCHEMA.of_kind("numeric")):
        x = float(batch.numbers[row, number])
        missing = math.isnan(x)
        found[column.name] = (
            fields.missing_numbers[number] if missing else x * fields.numbers[number]
        )
    vector = batch.vectors[0][row]
    missing = bool(vector.isnan().any())
    found["vector"] = fields.missing_vectors[0] if missing else vector @ fields.maps[0]
    return found


@pytest.mark.parametrize("history", ["mean", "attention"])
def test_every_field_by_its_definition(history: str) -> None:
    fields = FieldEmbedding(SCHEMA, 4, history=history)
    disturb(fields)
    out = fields(BATCH)
    assert fields.names == ("c1", "c2", "tags", "past", "n1", "n2", "vector")
    assert out.vectors.shape == (7, 7, 4)
    assert out.dense.shape == (7, 0)
    assert fields.width == 28
    for row in range(len(BATCH)):
        for name, expected in plain(fields, BATCH, row).items():
            torch.testing.assert_close(out.vectors[row, fields.names.index(name)], expected)


def test_dense_inputs() -> None:
    fields = FieldEmbedding(SCHEMA, 4, dense=True)
    out = fields(BATCH)
    assert fields.names == ("c1", "c2", "tags", "past")
    assert fields.num_dense == out.dense.shape[1] == 2 + 2 + 3 + 1
    assert fields.width == out.flat().shape[1] == 4 * 4 + 8
    for row in range(len(BATCH)):
        numbers = [float(x) for x in BATCH.numbers[row]]
        expected = [0.0 if math.isnan(x) else x for x in numbers]
        expected += [float(math.isnan(x)) for x in numbers]
        vector = [float(x) for x in BATCH.vectors[0][row]]
        expected += [0.0 if math.isnan(x) else x for x in vector]
        expected += [float(any(math.isnan(x) for x in vector))]
        assert out.dense[row].tolist() == pytest.approx(expected)
    torch.testing.assert_close(out.flat()[:, :16], out.vectors.flatten(1))


def finite_differences(loss: Callable[[], Tensor], parameter: Tensor) -> Tensor:
    step, flat = 1e-6, parameter.detach().view(-1)
    slopes = torch.zeros_like(flat)
    for place in range(len(flat)):
        value = flat[place].item()
        sides = []
        for sign in (1, -1):
            flat[place] = value + sign * step
            sides.append(loss().item())
        flat[place] = value
        slopes[place] = (sides[0] - sides[1]) / (2 * step)
    return slopes.view_as(parameter)


@pytest.mark.parametrize("history", ["mean", "attention"])
def test_gradients_by_finite_differences(history: str) -> None:
    fields = FieldEmbedding(SCHEMA, 2, history=history).double()
    disturb(fields)
    upstream = torch.randn(4, 7, 2, dtype=torch.float64)
    batch = random_batch(SCHEMA, 4, seed=1)

    def loss() -> Tensor:
        return (fields(batch).vectors * upstream).sum()

    loss().backward()
    with torch.no_grad():
        for name, parameter in fields.named_parameters():
            expected = finite_differences(loss, parameter)
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("history", ["mean", "attention"])
@pytest.mark.parametrize("dense", [True, False])
def test_a_row_depends_on_itself_alone(history: str, dense: bool) -> None:
    fields = FieldEmbedding(SCHEMA, 4, history=history, dense=dense)
    disturb(fields)
    together = fields(BATCH).flat()
    for row in range(len(BATCH)):
        torch.testing.assert_close(fields(take(BATCH, [row])).flat()[0], together[row])
    order = [3, 3, 0, 6]
    torch.testing.assert_close(fields(take(BATCH, order)).flat(), together[order])
    assert fields(take(BATCH, [])).flat().shape == (0, fields.width)


def test_attention_begins_as_the_mean_where_it_weighs_all_alike() -> None:
    mean, attention = FieldEmbedding(SCHEMA, 4), FieldEmbedding(SCHEMA, 4, history="attention")
    attention.load_state_dict(mean.state_dict(), strict=False)
    torch.nn.init.zeros_(attention.attention["1"].output.weight)
    torch.testing.assert_close(attention(BATCH).vectors, mean(BATCH).vectors)


def test_attention_does_not_know_an_order_and_reads_the_target() -> None:
    unit = HistoryAttention(3)
    values, offsets, targets = torch.randn(4, 3), torch.tensor([0, 4]), torch.randn(1, 3)
    out = unit(values, offsets, targets)
    torch.testing.assert_close(unit(values[[2, 0, 3, 1]], offsets, targets), out)
    assert not torch.allclose(unit(values, offsets, targets + 1), out)


def test_a_history_shares_the_rows_of_its_column() -> None:
    fields = FieldEmbedding(SCHEMA, 4)
    batch = random_batch(SCHEMA, 1, missing=0.0)
    one = Bag(batch.codes[0, :1], torch.tensor([0, 1]))
    alone = RankingBatch(
        batch.codes, (batch.bags[0], one), batch.numbers, batch.vectors, batch.labels, batch.weights
    )
    vectors = fields(alone).vectors[0]
    torch.testing.assert_close(vectors[3], vectors[0])
    separate = FieldEmbedding(SCHEMA, 4, share=False)
    assert separate.table.sizes == {"c1": 5, "c2": 6, "tags": 4, "past": 5}
    vectors = separate(alone).vectors[0]
    assert not torch.allclose(vectors[3], vectors[0])


def test_attention_needs_a_history() -> None:
    with pytest.raises(ConfigError, match="needs a history column; the dataset has none"):
        FieldEmbedding(make_schema(kinds=("categorical",)), 4, history="attention")


def test_rare_values_are_the_unknown_one() -> None:
    counts = {name: torch.tensor(own) for name, own in COUNTS.items()}
    fields = FieldEmbedding(SCHEMA, 4, tables=TableChoice(min_count=3))
    disturb(fields)
    fields.count_values_(counts)
    whole = FieldEmbedding(SCHEMA, 4)
    whole.load_state_dict(fields.state_dict(), strict=False)

    def known(codes: Tensor, vocabulary: str) -> Tensor:
        return codes * (counts[vocabulary][codes] >= 3)

    codes = torch.stack([known(BATCH.codes[:, 0], "c1"), known(BATCH.codes[:, 1], "c2")], dim=1)
    (tags, tag_offsets), (past, past_offsets) = BATCH.bags
    bags = (Bag(known(tags, "tags"), tag_offsets), Bag(known(past, "c1"), past_offsets))
    mapped = RankingBatch(codes, bags, BATCH.numbers, BATCH.vectors, BATCH.labels, BATCH.weights)
    torch.testing.assert_close(fields(BATCH).vectors, whole(mapped).vectors)
    fields(BATCH).vectors.sum().backward()
    rare = torch.cat(
        [(torch.tensor(own) < 3) & (torch.arange(len(own)) > 0) for own in COUNTS.values()]
    )
    assert (fields.table.weight.grad[rare] == 0).all()

    stored = FieldEmbedding(SCHEMA, 4, tables=TableChoice(min_count=3))
    stored.load_state_dict(fields.state_dict())
    assert torch.equal(stored(BATCH).vectors, fields(BATCH).vectors)


def test_counts_that_do_not_fit() -> None:
    fields = FieldEmbedding(SCHEMA, 4, tables=TableChoice(min_count=2))
    with pytest.raises(DataError, match="each of the 7 codes of 'c2'; got none"):
        fields.count_values_({"c1": torch.ones(6)})
    with pytest.raises(DataError, match="each of the 6 codes of 'c1'; got 5"):
        fields.count_values_({"c1": torch.ones(5)})


def test_what_is_missing_is_zero_until_it_is_trained() -> None:
    fields = FieldEmbedding(SCHEMA, 4)
    nothing = random_batch(SCHEMA, 3, missing=1.0)
    numbers = nothing.numbers.fill_(torch.nan)
    assert numbers.isnan().all()
    vectors = fields(nothing).vectors
    assert (vectors == 0).all()
    vectors.sum().backward()
    for parameter in (fields.table.weight, fields.missing_numbers, fields.missing_vectors[0]):
        assert (parameter.grad != 0).any()


def test_tables_are_known_as_tables_and_nothing_else_is() -> None:
    fields = FieldEmbedding(SCHEMA, 4, history="attention")
    tables = {name for name, _ in fields.named_parameters() if is_table(name)}
    assert tables == {"table.weight"}


@pytest.mark.parametrize("kind", ["categorical", "multi", "numeric", "vector"])
@pytest.mark.parametrize("dense", [True, False])
def test_one_kind_of_column_alone(kind: str, dense: bool) -> None:
    schema = make_schema(kinds=(kind,))
    fields = FieldEmbedding(schema, 4, dense=dense).double()
    flat = fields(random_batch(schema, 5)).flat()
    assert flat.shape == (5, fields.width)
    assert flat.dtype == torch.float64
    assert flat.isfinite().all()


def test_first_order_weights_are_the_fields_summed() -> None:
    first = FirstOrder(SCHEMA)
    assert (first(BATCH) == 0).all()
    disturb(first)
    torch.testing.assert_close(first(BATCH), first.fields(BATCH).vectors.sum(dim=1))
    assert first(BATCH).shape == (7, 2)


def test_a_table_has_a_part_for_each_vocabulary() -> None:
    table = StaticTable({"a": 2, "b": 1}, 3)
    assert table.weight.shape == (5, 3)
    rows = table(torch.tensor([[2, 0, 1]]), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(rows[0], table.weight[[2, 3, 4]])
    assert (table.weight[[0, 3]] == 0).all()
    mean = table.bag(torch.tensor([1, 0]), torch.tensor([0, 2, 2]), 1)
    torch.testing.assert_close(mean, torch.stack([table.weight[4] / 2, torch.zeros(3)]))


def test_a_schema_of_numbers_has_no_table() -> None:
    schema = RankingSchema((RankingColumn("x", "numeric", 1),), (Task("t", "binary"),))
    assert FieldEmbedding(schema, 4).table is None
