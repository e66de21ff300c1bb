from __future__ import annotations

import gzip
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ensue.data.dataset import Dataset
from ensue.data.histories import HistoryBatch
from ensue.errors import DataError, RunError, UsageError
from ensue.evaluation import evaluator
from ensue.evaluation.evaluator import evaluate
from tests.evaluation.models import LastItemModel, TableModel
from tests.helpers import make_dataset


def table_model(rows: list[list[float]]) -> TableModel:
    """Return a model with the given scores of items 1.. for users 1.."""
    table = torch.full((len(rows) + 1, len(rows[0]) + 1), math.nan)
    table[1:, 1:] = torch.tensor(rows)
    return TableModel(table)


def random_dataset(path: Path, *, num_users: int, num_items: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    histories = [
        (rng.integers(1, num_items + 1, rng.integers(1, 30))).tolist() for _ in range(num_users)
    ]
    return make_dataset(path, histories, split="ratio", num_items=num_items)


@pytest.fixture
def tiny(tmp_path: Path) -> Dataset:
    """User 1: train 1 2, validation 3, test 4 5 4. User 2: no test. User 3: train 6, test 1 6."""
    return make_dataset(
        tmp_path / "tiny",
        [[1, 2, 3, 4, 5, 4], [1, 2], [6, 1, 6]],
        split=[(2, 3), (2, 2), (1, 1)],
        notes=["a note on the split"],
    )


SCORES = [
    [9.0, 8.0, 7.0, 1.0, 3.0, 2.0],  # user 1: candidates 4 5 6 -> 5, 6, 4
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [5.0, 5.0, 6.0, 4.0, 0.0, 9.0],  # user 3: candidates 1..5 -> 3, 1, 2 (tie: smaller id), 4, 5
]


def test_test_split_by_hand(tiny: Dataset) -> None:
    result = evaluate(table_model(SCORES), tiny, ks=(1, 2, 5))
    users = result.users
    assert users["user"].to_list() == [1, 3]
    assert users["num_targets"].to_list() == [2, 2]  # user 1's item 4 is one target
    # User 1: targets 4 and 5 have ranks 3 and 1. User 3: target 1 has rank 2, 6 was seen.
    expected = {
        "map": [(1 / 1 + 2 / 3) / 2, (1 / 2) / 2],
        "mrr": [1, 1 / 2],
        "hr@1": [1, 0],
        "precision@2": [1 / 2, 1 / 2],
        "precision@5": [2 / 3, 1 / 5],  # the ranking of user 1 has three items
        "recall@1": [1 / 2, 0],
        "recall@5": [1, 1 / 2],
        "ndcg@2": [1 / (1 + 1 / math.log2(3)), (1 / math.log2(3)) / (1 + 1 / math.log2(3))],
        "map@2": [1 / 2, 1 / 4],
        "mrr@1": [1, 0],
    }
    for name, values in expected.items():
        assert users[name].to_list() == pytest.approx(values), name
        assert result.metrics[name] == pytest.approx(sum(values) / 2), name
    # Top 1: items 5 and 3. Top 2: 5 6, 3 1. Top 5: 5 6 4, 3 1 2 4 5.
    assert result.coverage == pytest.approx(
        {"coverage@1": 2 / 6, "coverage@2": 4 / 6, "coverage@5": 6 / 6}
    )


def test_seen_items_can_stay_in_the_ranking(tiny: Dataset) -> None:
    result = evaluate(table_model(SCORES), tiny, ks=(1,), exclude_seen=False)
    # User 1: order 1 2 3 5 6 4. User 3: order 6 3 1 2 4 5.
    assert result.users["map"].to_list() == pytest.approx(
        [(1 / 4 + 2 / 6) / 2, (1 / 1 + 2 / 3) / 2]
    )
    assert result.protocol["num_seen_targets"] == 0


def test_validation_split_sees_only_the_training_part(tiny: Dataset) -> None:
    result = evaluate(table_model(SCORES), tiny, split="validation", ks=(1,))
    # Only user 1 has a validation item, 3; candidates 3 4 5 6 -> 3, 5, 6, 4.
    assert result.users["user"].to_list() == [1]
    assert result.metrics["mrr"] == 1.0


def test_protocol_states_what_was_done(tiny: Dataset) -> None:
    protocol = evaluate(table_model(SCORES), tiny, ks=(5, 1)).protocol
    assert protocol["split"] == "test"
    assert protocol["history"] == "train+validation"
    assert protocol["dataset"] == {"name": "tiny", "hash": tiny.info.hash}
    assert protocol["candidates"] == "full catalogue"
    assert protocol["num_candidates"] == 6
    assert protocol["ks"] == [1, 5]
    assert (protocol["num_users"], protocol["num_targets"]) == (2, 4)
    assert protocol["num_seen_targets"] == 1
    assert protocol["notes"] == ["a note on the split"]


def test_slices_by_hand(tiny: Dataset) -> None:
    result = evaluate(table_model(SCORES), tiny, ks=(2,))
    # Before the test part: items 1 and 2 twice, 3 and 6 once (6 rows); 4 and 5 never.
    # Head: item 1 (0 of 6 rows before it). Torso: item 2 (2 of 6). Tail: 3 and 6 (4, 5 of 6).
    slices = result.slices
    assert {name: slices[name]["items"] for name in slices} == {
        "head": 1,
        "torso": 1,
        "tail": 2,
        "new": 2,
        "top_tenth": 1,  # of the four that occur
        "rest": 5,
    }
    assert {name: slices[name]["targets"] for name in slices} == {
        "head": 1,
        "torso": 0,
        "tail": 1,
        "new": 2,
        "top_tenth": 1,
        "rest": 3,
    }
    assert slices["head"]["metrics"]["map"] == 1 / 2  # user 3, item 1 at rank 2
    assert slices["head"]["metrics"]["recall@2"] == 1.0
    assert slices["torso"]["metrics"] == slices["torso"]["intervals"] == {}
    assert slices["tail"]["metrics"]["map"] == 0.0  # user 3, item 6, seen before
    assert slices["new"]["metrics"]["map"] == pytest.approx((1 + 2 / 3) / 2)  # user 1
    assert slices["new"]["users"] == 1


def test_one_user_at_a_time_gives_the_same_values(tmp_path: Path) -> None:
    data = random_dataset(tmp_path / "data", num_users=600, num_items=50, seed=3)
    model = LastItemModel(data.num_items)
    whole = evaluate(model, data, num_resamples=0)
    for size in (1, 17, 300):
        part = evaluate(model, data, num_resamples=0, max_users=size, seed=size)
        assert len(part.users) == size
        same = whole.users.filter(whole.users["user"].is_in(part.users["user"].to_list()))
        assert part.users.equals(same)


@pytest.mark.parametrize("block_bytes", [1, 1 << 12, 1 << 30])
def test_the_block_size_changes_nothing(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random_dataset(tmp_path / "data", num_users=300, num_items=80, seed=4)
    model = LastItemModel(data.num_items)
    expected = evaluate(model, data)
    monkeypatch.setattr(evaluator, "BLOCK_BYTES", block_bytes)
    result = evaluate(model, data)
    assert result.to_dict() == expected.to_dict()
    assert result.users.equals(expected.users)


def test_every_block_has_the_same_size(tmp_path: Path) -> None:
    data = random_dataset(tmp_path / "data", num_users=700, num_items=20, seed=5)
    model = TableModel(torch.rand(701, 21))
    evaluate(model, data, num_resamples=0)
    assert model.batch_sizes == {256}


def test_metrics_equal_a_brute_force_sort(tmp_path: Path) -> None:
    data = random_dataset(tmp_path / "data", num_users=40, num_items=30, seed=6)
    table = torch.randint(0, 8, (41, 31)).float()
    result = evaluate(TableModel(table), data, ks=(3,))
    history, held_out = data.histories("train+validation"), data.targets("test")
    expected = []
    for user in range(1, 41):
        targets = set(held_out[user].tolist())
        if not targets:
            continue
        seen = set(history[user].tolist())
        candidates = [item for item in range(1, 31) if item not in seen]
        ranking = sorted(candidates, key=lambda item, row=table[user]: (-row[item].item(), item))
        hits = [item in targets for item in ranking]
        average = sum((sum(hits[: n + 1])) / (n + 1) for n in range(len(hits)) if hits[n])
        expected.append([average / len(targets), sum(hits[:3]) / 3, sum(hits[:3]) / len(targets)])
    found = result.users.select("map", "precision@3", "recall@3").to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_shared_scores_are_not_changed(tiny: Dataset) -> None:
    class Constant:
        num_items = 6
        max_len: int | None = None
        scores = torch.arange(7.0)

        def score(self, batch: HistoryBatch) -> Tensor:
            return self.scores.expand(len(batch), -1)

    model = Constant()
    evaluate(model, tiny)
    assert model.scores.tolist() == list(range(7))


def test_a_module_is_evaluated_in_evaluation_mode_without_gradients(tiny: Dataset) -> None:
    class Noisy(nn.Module):
        num_items = 6
        max_len: int | None = None

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(7.0))

        def score(self, batch: HistoryBatch) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return self.weight.expand(len(batch), -1)

    model = Noisy().train()
    evaluate(model, tiny)
    assert model.training


def test_nan_names_the_user(tiny: Dataset) -> None:
    scores = [list(row) for row in SCORES]
    scores[2][3] = math.nan
    with pytest.raises(RunError, match="TableModel gave NaN for user 'u3'"):
        evaluate(table_model(scores), tiny)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "train"}, "split must be 'validation' or 'test'; got 'train'"),
        ({"ks": ()}, r"ks must be cut-offs of 1 or more; got \[\]"),
        ({"ks": (0, 5)}, r"ks must be cut-offs of 1 or more; got \[0, 5\]"),
        ({"max_users": 0}, "max_users must be 1 or more; got 0"),
        ({"num_resamples": -1}, "num_resamples must be 0 or more; got -1"),
        ({"confidence": 95}, "confidence must lie between 0 and 1; got 95"),
    ],
)
def test_arguments_without_meaning(settings: Any, message: str, tiny: Dataset) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(table_model(SCORES), tiny, **settings)


def test_model_of_another_catalogue(tiny: Dataset) -> None:
    with pytest.raises(UsageError, match=r"it has 9 items, .*tiny has 6"):
        evaluate(LastItemModel(9), tiny)


def test_scores_of_another_shape(tiny: Dataset) -> None:
    model = LastItemModel(5)
    model.num_items = 6
    model.score = lambda batch: torch.zeros(len(batch), 6)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"\(256, 7\); LastItemModel gave \(256, 6\)"):
        evaluate(model, tiny)


def test_dataset_without_held_out_items(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [[1, 2, 3]], split="none")
    with pytest.raises(DataError, match="has none in its test part"):
        evaluate(LastItemModel(3), data)


def test_progress_goes_to_standard_error(tiny: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(table_model(SCORES), tiny, progress=True)
    assert capsys.readouterr().out == ""


def test_memory_stays_within_a_few_blocks(tmp_path: Path) -> None:
    """[users, items] would take 480 MB here; a block of scores takes 64 MB at most."""
    num_items = 400_000
    data = make_dataset(
        tmp_path / "data", [[u + 1, u + 2, u + 3] for u in range(300)], num_items=num_items
    )
    row = torch.rand(num_items + 1)

    class Shifted(LastItemModel):
        def score(self, batch: HistoryBatch) -> Tensor:
            assert len(batch) * (num_items + 1) * 4 <= 64 << 20
            return row + batch.users[:, None]

    model = Shifted(num_items)
    evaluate(model, data, num_resamples=0, max_users=1)  # compiled and imported
    tracemalloc.start()
    evaluate(model, data, num_resamples=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20  # numpy's share; the block of scores is torch's


@pytest.mark.slow
def test_popularity_reproduces_the_published_results(shared_data: Path, tmp_path: Path) -> None:
    """Table 2 of the Caser paper, ML-1M: Prec@1, 5, 10 and MAP of recommending by popularity."""
    with gzip.open(shared_data / "ml-1m" / "sequences.txt.gz", "rt") as file:
        histories = [[int(item) for item in line.split()[1:]] for line in file]
    data = make_dataset(tmp_path / "ml-1m", histories, split="ratio")
    counts = data.histories("train+validation").item_counts(data.num_items)
    model = TableModel(torch.from_numpy(counts).float().expand(data.num_users + 1, -1))
    found = evaluate(model, data).metrics
    expected = {"precision@1": 0.1280, "precision@5": 0.1113, "precision@10": 0.1011, "map": 0.0687}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=5e-5)
