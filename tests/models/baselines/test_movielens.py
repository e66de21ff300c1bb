"""The published check: whole-list ranking of ML-1M, history the first 80% of each user.

Tang and Wang, WSDM 2018, table 2: popularity Prec@1/5/10 .1280/.1113/.1011, MAP .0687.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ensue.data.histories import Histories
from ensue.models.base import FittedModel
from ensue.models.baselines.ease import EASE, EASEConfig
from ensue.models.baselines.item_knn import ItemKNN, ItemKNNConfig
from ensue.models.baselines.markov import Markov, MarkovConfig
from ensue.models.baselines.popularity import Popularity, PopularityConfig
from ensue.models.baselines.wrmf import WRMF, WRMFConfig
from ensue.nn.jagged import row_numbers
from tests.contracts.planted import histories_of

pytestmark = pytest.mark.slow
NUM_ITEMS = 3416


@pytest.fixture(scope="module")
def movielens(shared_data: Path) -> tuple[Histories, Histories]:
    """The first 80% of every history, and the rest."""
    with gzip.open(shared_data / "ml-1m" / "sequences.txt.gz", "rt") as file:
        raw = [line.split()[1:] for line in file]
    names = sorted({int(name) for history in raw for name in history})
    ids = {str(name): number for number, name in enumerate(names, start=1)}
    whole = histories_of([[ids[name] for name in history] for history in raw])
    cut = whole.starts + np.ceil(0.8 * whole.lengths).astype(np.int64)
    return Histories(whole.items, whole.starts, cut), Histories(whole.items, cut, whole.ends)


def figures(model: FittedModel, train: Histories, test: Histories) -> list[float]:
    """Return [Prec@1, Prec@5, Prec@10, MAP] by sorting the whole catalog for every user."""
    values = []
    for first in range(1, train.num_users + 1, 512):
        users = np.arange(first, min(first + 512, train.num_users + 1))
        seen, targets = train.batch(users), test.batch(users)
        scores = model.score(seen)
        scores[:, 0] = -torch.inf
        scores[row_numbers(seen.offsets), seen.items] = -torch.inf
        is_target = torch.zeros_like(scores, dtype=torch.bool)
        is_target[row_numbers(targets.offsets), targets.items] = True
        order = scores.sort(dim=1, descending=True, stable=True).indices
        hits = is_target.gather(1, order).double()
        precision = hits.cumsum(1) / torch.arange(1, NUM_ITEMS + 2)
        average = (hits * precision).sum(1) / hits.sum(1)
        values.append(torch.stack([*precision[:, [0, 4, 9]].T, average], dim=1))
    return torch.cat(values).mean(0).tolist()


def test_popularity_reproduces_the_published_figures(
    movielens: tuple[Histories, Histories],
) -> None:
    train, test = movielens
    model = Popularity(PopularityConfig(), num_users=6040, num_items=NUM_ITEMS)
    model.fit_(train)
    expected = [0.1280, 0.1113, 0.1011, 0.0687]
    assert figures(model, train, test) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(
    ("model", "map_at_least", "seconds"),
    [
        # the factorized chain of the paper reaches .0949
        (Markov(MarkovConfig(), num_users=6040, num_items=NUM_ITEMS), 0.0949, 2),
        (ItemKNN(ItemKNNConfig(), num_users=6040, num_items=NUM_ITEMS), 0.09, 10),
        (ItemKNN(ItemKNNConfig(decay=0.8), num_users=6040, num_items=NUM_ITEMS), 0.12, 10),
        (EASE(EASEConfig(), num_users=6040, num_items=NUM_ITEMS), 0.10, 10),
        (WRMF(WRMFConfig(), num_users=6040, num_items=NUM_ITEMS), 0.095, 30),
        (
            WRMF(WRMFConfig(weight=3.0, ridge=50.0), num_users=6040, num_items=NUM_ITEMS),
            0.105,
            30,
        ),
    ],
    ids=["markov", "item-knn", "item-knn-recent", "ease", "wrmf", "wrmf-ridge"],
)
def test_personal_baselines_beat_popularity_in_seconds(
    movielens: tuple[Histories, Histories], model: FittedModel, map_at_least: float, seconds: float
) -> None:
    train, test = movielens
    model.fit_(histories_of([[1, 2], [2, 1]]))  # compiled before the clock starts
    start = time.perf_counter()
    model.fit_(train)
    assert time.perf_counter() - start < seconds
    assert figures(model, train, test)[3] >= map_at_least
