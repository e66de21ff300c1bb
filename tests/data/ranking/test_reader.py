"""The order of batches, and where it can be taken up again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.data.ranking.reader import RankingReader
from ensue.errors import UsageError
from tests.data.ranking.tables import FEATURES, random_rows, write_rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RankingDataset:
    folder = tmp_path_factory.mktemp("reader")
    rows = write_rows(folder / "rows.csv", random_rows(103, 0))
    return prepare_ranking(rows, folder / "data", targets="click", features=FEATURES)


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def order_of(reader: RankingReader, epoch: int, first: int = 0) -> list[list[int]]:
    return [rows.tolist() for rows, _ in reader.numbered_epoch(epoch, first)]


def test_strict_order(dataset: RankingDataset) -> None:
    reader = RankingReader(dataset, batch_size=10, window=1)
    first, end = dataset.bounds("train")
    assert end - first == 83
    assert flat(order_of(reader, 3)) == list(range(83))
    assert [len(rows) for rows in order_of(reader, 0)] == [10] * 8 + [3]
    assert reader.num_batches == 9


@pytest.mark.parametrize(("window", "rounded"), [(2, 10), (10, 10), (15, 20), (999, 1000)])
def test_windows_are_whole_batches(dataset: RankingDataset, window: int, rounded: int) -> None:
    reader = RankingReader(dataset, batch_size=10, window=window)
    assert reader.window == rounded
    rows = flat(order_of(reader, 0))
    for start in range(0, 83, rounded):
        end = min(start + rounded, 83)
        assert sorted(rows[start:end]) == list(range(start, end))
    assert rows != list(range(83))


def test_the_whole_part(dataset: RankingDataset) -> None:
    rows = flat(order_of(RankingReader(dataset, batch_size=10, window=None), 0))
    assert sorted(rows) == list(range(83))
    assert max(rows[:10]) > 40


@pytest.mark.parametrize("window", [1, 20, None])
def test_taken_up_at_any_batch(dataset: RankingDataset, window: int | None) -> None:
    reader = RankingReader(dataset, batch_size=8, window=window, seed=5)
    whole = list(reader.epoch(2))
    for first in range(reader.num_batches + 1):
        again = RankingReader(dataset, batch_size=8, window=window, seed=5)
        rest = list(again.epoch(2, first))
        assert len(rest) == len(whole) - first
        for ours, theirs in zip(rest, whole[first:], strict=True):
            for one, other in zip(ours.tensors(), theirs.tensors(), strict=True):
                assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def test_seeds_and_epochs_differ(dataset: RankingDataset) -> None:
    orders = [
        order_of(RankingReader(dataset, batch_size=8, window=40, seed=seed), epoch)
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert all(orders[a] != orders[b] for a in range(4) for b in range(a))
    assert orders[0] == order_of(RankingReader(dataset, batch_size=8, window=40), 0)


@pytest.mark.parametrize("window", [1, 16, None])
@pytest.mark.parametrize("as_ids", [False, True])
def test_batches_are_the_rows(dataset: RankingDataset, window: int | None, as_ids: bool) -> None:
    for part in ("train", "validation", "test"):
        reader = RankingReader(dataset, part, batch_size=8, window=window, as_ids=as_ids)  # type: ignore[arg-type]
        for rows, batch in reader.numbered_epoch(1):
            expected = dataset.rows(rows, as_ids=as_ids)
            for one, other in zip(batch.tensors(), expected.tensors(), strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def test_an_empty_part(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", random_rows(10, 0))
    dataset = prepare_ranking(rows, tmp_path / "data", targets="click", split="none")
    for window in (1, None, 5):
        reader = RankingReader(dataset, "test", batch_size=4, window=window)
        assert (reader.num_batches, list(reader.epoch(0))) == (0, [])


def test_wrong_sizes(dataset: RankingDataset) -> None:
    with pytest.raises(UsageError, match="batch_size is 1 or more; got 0"):
        RankingReader(dataset, batch_size=0)
    with pytest.raises(UsageError, match="window is 1 or more; got -3"):
        RankingReader(dataset, batch_size=4, window=-3)
    with pytest.raises(UsageError, match="9 batches has no batch 10"):
        next(RankingReader(dataset, batch_size=10).epoch(0, 10))
    with pytest.raises(UsageError, match=r"part 'tset' is unknown. Did you mean 'test'"):
        RankingReader(dataset, "tset", batch_size=10)  # type: ignore[arg-type]


def test_slices_and_indices(dataset: RankingDataset) -> None:
    taken = dataset.rows(slice(5, 20)).tensors()
    for one, other in zip(taken, dataset.rows(np.arange(5, 20)).tensors(), strict=True):
        assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
