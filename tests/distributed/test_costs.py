"""Bytes of a step against the worked examples of the paper's algebra, and against messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.distributed import costs
from ensue.distributed.costs import Split, rounds, sent

# b, N, F, n, D, U, h; then MB of a step: FM, first layer, row-wise, table-wise, servers, keys.
EXAMPLES = [
    ((2048, 8, 26, 26, 16, 20_000, 512), (1.95, 58.7, 47.7, 5.96, 3.04, 0.37)),
    ((2048, 8, 26, 26, 128, 20_000, 512), (14.8, 58.7, 382, 47.7, 21.0, 0.37)),
    ((512, 4, 200, 1000, 8, 150_000, 256), (0.11, 3.15, 19.7, 4.92, 13.2, 3.07)),
    ((512, 4, 1000, 2000, 8, 300_000, 256), (0.11, 3.15, 98.3, 24.6, 26.4, 6.14)),
]
COUNTS = st.integers(1, 64)
SPLITS = st.builds(Split, st.integers(2, 64), st.integers(1, 4096), st.sampled_from([2, 4]))


@pytest.mark.parametrize(("sizes", "expected"), EXAMPLES)
def test_worked_examples(sizes: tuple[int, ...], expected: tuple[float, ...]) -> None:
    b, workers, fields, ids, dim, unique, hidden = sizes
    split = Split(workers, b)
    _, keys = costs.key_exchange(split, ids, fields)  # the examples leave out the lengths
    found = [
        sent(costs.des_fm(split, dim)),
        sent(costs.des_first_layer(split, hidden)),
        sent(costs.row_wise(split, fields * dim)),
        sent(costs.table_wise(split, fields * dim)),
        sent(costs.parameter_server(unique, dim + 1)),
        keys.num_bytes,
    ]
    for value, rounded in zip(found, expected, strict=True):
        digits = len(str(rounded).split(".")[1]) if "." in str(rounded) else 0
        assert round(value / 1e6, digits) == rounded


def test_bytes_of_a_ring() -> None:
    split = Split(4, 256)
    assert costs.sums(split, 9) == (
        ("forward", "reduce_scatter", 27_648, 1),
        ("backward", "all_gather", 27_648, 1),
    )
    assert costs.sums(split, 9, "all_reduce") == (("forward", "all_reduce", 55_296, 1),)


@given(SPLITS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_table_of_formulas(split: Split, dim: int, layers: int, hidden: int, n: int) -> None:
    b, e, r = split.num_rows, split.wire_bytes, (split.num_workers - 1) / split.num_workers
    total, fields, unique = b * split.num_workers, layers, 7 * n
    expected = {
        8 * b * n * r + 4 * b * fields * r: costs.key_exchange(split, n, fields),
        2 * total * e * r: costs.des_lr(split),
        2 * total * (dim + 1) * e * r: costs.des_fm(split, dim),
        2 * total * hidden * e * r: costs.des_first_layer(split, hidden),
        2 * total * (dim + 1 + hidden) * e * r: costs.des_deepfm(split, dim, hidden),
        2 * total * (layers + 1 + hidden) * e * r: costs.des_dcn_v1(split, layers, hidden),
        2 * total * (n * (n - 1) // 2) * e * r: costs.des_dots(split, n),
        2 * total * fields * dim * e * r: costs.row_wise(split, fields * dim),
        2 * b * fields * dim * e * r: costs.table_wise(split, fields * dim),
        2 * b * n * dim * e * r: costs.unpooled(split, n, dim),
        2 * unique * (dim + 1) * e + 16 * unique: costs.parameter_server(unique, dim + 1, e),
        4 * total * layers * n * e * r: costs.des_crosses(split, layers, n),
        2 * total * (2 * layers + 1 + hidden) * e * r: costs.des_dcn_v1(
            split, layers, hidden, layer_by_layer=True
        ),
    }
    for number, transfers in expected.items():
        assert sent(transfers) == pytest.approx(number, rel=1e-12)
        assert sum(sent(transfers, part) for part in costs.PARTS) == sent(transfers)


@given(SPLITS, COUNTS, COUNTS)
def test_all_reduces_are_padded_to_a_number_for_each_worker(
    split: Split, weights: int, local: int
) -> None:
    r = (split.num_workers - 1) / split.num_workers
    least = 2 * weights * split.wire_bytes * r
    found = [
        (least, costs.replicated(split, weights)),
        (least, costs.gradients_everywhere(split, weights)),
        (least, costs.dense_gradients(split, weights + local, local=local)),
        (2 * weights * 8 * r, costs.label_weights(split, weights)),
    ]
    for least, transfers in found:
        most = least + 2 * (split.num_workers - 1) * 8
        assert least * (1 - 1e-12) <= sent(transfers) < most
        assert sent(transfers) % (2 * (split.num_workers - 1)) == 0
    assert costs.replicated(split, 0) == ()
    assert costs.dense_gradients(split, 5, local=5) == ()


def test_ids_in_bits() -> None:
    """Three cells a row, of 1, 1 and 4 bits, and codes of 15 and 7: each kind fills up a byte."""
    assert costs.packed_ids(3, 3, 6, 22) == 3 + 3 + 9
    assert costs.packed_ids(8, 3, 6, 22) == 3 + 6 + 22
    assert costs.packed_ids(8, 0, 0, 0) == 0
    assert sent(costs.ids_sent(31, 3)) == 31 + 3 * 8


@given(SPLITS, COUNTS, COUNTS)
def test_rows_for_all_others(split: Split, unique: int, dim: int) -> None:
    """Each other worker gets of two tables how many rows, which ones, and their D + 1 numbers."""
    message = 2 * 8 + unique * (2 * 8 + (dim + 1) * split.wire_bytes)
    found = costs.replicated_rows(split, unique, 2, dim + 1)
    assert sent(found) == message * (split.num_workers - 1)


@given(SPLITS, COUNTS)
def test_vectors_to_the_owners_of_columns(split: Split, dim: int) -> None:
    """Against each message: own rows to all others, whose columns differ, and gradients back."""
    held = [len(range(rank, dim, split.num_workers)) for rank in range(split.num_workers)]
    row = split.num_rows * split.wire_bytes
    for rank, own in enumerate(held):
        found = costs.spread(split, dim, own)
        others = [width for other, width in enumerate(held) if other != rank]
        assert sent(found, "forward") == sum(row * width for width in others)
        assert sent(found, "backward") == row * own * len(others)


@given(SPLITS, COUNTS)
def test_both_schedules_send_the_same_for_sums(split: Split, width: int) -> None:
    scatter, everywhere = costs.sums(split, width), costs.sums(split, width, "all_reduce")
    assert sent(scatter) == sent(everywhere)
    assert sent(scatter, "forward") == sent(scatter, "backward")
    assert sent(everywhere, "backward") == 0
    assert costs.dense_gradients(split, 5000, schedule="all_reduce") == ()


@given(SPLITS, st.integers(1, 600), COUNTS, COUNTS)
def test_where_substitution_sends_less(split: Split, width: int, fields: int, dim: int) -> None:
    pooled = fields * dim
    ours = sent(costs.sums(split, width))
    # In whole numbers, where a division could hide an equality.
    is_less = width * split.num_workers < pooled
    assert (ours < sent(costs.table_wise(split, pooled)) * (1 - 1e-12)) == is_less
    assert (ours < sent(costs.row_wise(split, pooled))) == (width < pooled)
    machine = sent(costs.des_fm(split, dim)) < sent(costs.table_wise(split, pooled)) * (1 - 1e-12)
    assert machine == (split.num_workers * (dim + 1) < fields * dim)


@given(SPLITS, st.lists(st.integers(0, 9), min_size=1, max_size=64))
def test_table_wise_of_workers_that_hold_different_widths(split: Split, few: list[int]) -> None:
    """Against each message: worker i sends its columns of j's rows to j, and gets gradients."""
    widths = [few[rank % len(few)] for rank in range(split.num_workers)]
    row = split.num_rows * split.wire_bytes
    for rank, own in enumerate(widths):
        others = [width for other, width in enumerate(widths) if other != rank]
        transfers = costs.table_wise(split, sum(widths), own)
        assert sent(transfers, "forward") == sum(own * row for _ in others)
        assert sent(transfers, "backward") == sum(width * row for width in others)


def test_rounds_wait_for_one_another() -> None:
    split = Split(4, 8)
    assert rounds(costs.des_deepfm(split, 4, 8)) == 2
    assert rounds(costs.des_lr(split, "all_reduce")) == 1
    assert rounds(costs.des_dcn_v1(split, 3, 8), "forward") == 1
    layers = costs.des_dcn_v1(split, 3, 8, layer_by_layer=True)
    assert (rounds(layers, "forward"), rounds(layers, "backward")) == (4, 4)


def test_one_dot_product_of_all_cross_layers_is_enough() -> None:
    """x' = x_0 (x . w) + b + x from the products x_0 . w alone, the claim of des_dcn_v1."""
    start, layers = (1.0, 2.0), [((0.5, -1.0), (0.1, 0.2)), ((0.3, 0.7), (-0.4, 0.0))]
    x, factor, rest = start, 1.0, (0.0, 0.0)
    for weights, bias in layers:
        product = x[0] * weights[0] + x[1] * weights[1]
        x = tuple(a * product + b + c for a, b, c in zip(start, bias, x, strict=True))
        from_start = start[0] * weights[0] + start[1] * weights[1]
        factor += factor * from_start + rest[0] * weights[0] + rest[1] * weights[1]
        rest = (rest[0] + bias[0], rest[1] + bias[1])
    assert x == pytest.approx([factor * a + c for a, c in zip(start, rest, strict=True)])


def test_one_worker_sends_nothing() -> None:
    split = Split(1, 64)
    for transfers in (
        costs.key_exchange(split, 26, 26),
        costs.des_deepfm(split, 16, 512),
        costs.des_crosses(split, 3, 8),
        costs.row_wise(split, 416),
        costs.table_wise(split, 416),
        costs.replicated(split, 1000),
        costs.unpooled(split, 26, 16),
        costs.dense_gradients(split, 1000),
    ):
        assert sent(transfers) == 0
