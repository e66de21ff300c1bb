"""What every model must do, whatever it computes. A new model joins with one line in CASES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import FittedModel, Model
from ensue.models.baselines.bpr import BPR, BPRConfig
from ensue.models.baselines.cml import CML, CMLConfig
from ensue.models.baselines.ease import EASE, EASEConfig
from ensue.models.baselines.item_knn import ItemKNN, ItemKNNConfig
from ensue.models.baselines.markov import Markov, MarkovConfig
from ensue.models.baselines.mult_vae import MultVAE, MultVAEConfig
from ensue.models.baselines.neumf import NeuMF, NeuMFConfig
from ensue.models.baselines.popularity import Popularity, PopularityConfig
from ensue.models.baselines.wrmf import WRMF, WRMFConfig
from ensue.models.graph.lightgcn import LightGCN, LightGCNConfig
from ensue.models.graph.medres import Medres
from ensue.models.graph.medres_config import MedresConfig
from ensue.models.retrieval.deep_retrieval import DeepRetrieval, DeepRetrievalConfig
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.retrieval.two_tower_config import TwoTowerConfig
from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from ensue.models.sequential.m3 import M3, M3Config
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from ensue.protocols import Scorer
from ensue.training.config import TrainingConfig
from ensue.training.loop import TrainingLoop
from ensue.training.objectives import make_objective
from ensue.training.optimizers import is_table
from tests.contracts.planted import Planted, hit_rate, plant


@dataclass(frozen=True)
class ModelCase:
    """make(histories, num_users, num_items) returns a trained model.

    personalized: whether scores depend on the history.
    """

    name: str
    make: Callable[[Histories, int, int], Model]
    personalized: bool = True


def fitted(model: FittedModel, histories: Histories) -> FittedModel:
    model.fit_(histories)
    return model


def popularity(data: Histories, num_users: int, num_items: int) -> Model:
    config = PopularityConfig()
    return fitted(Popularity(config, num_users=num_users, num_items=num_items), data)


def markov(data: Histories, num_users: int, num_items: int) -> Model:
    return fitted(Markov(MarkovConfig(), num_users=num_users, num_items=num_items), data)


def item_knn(data: Histories, num_users: int, num_items: int) -> Model:
    return fitted(ItemKNN(ItemKNNConfig(), num_users=num_users, num_items=num_items), data)


def recent_item_knn(data: Histories, num_users: int, num_items: int) -> Model:
    config = ItemKNNConfig(decay=0.8)
    return fitted(ItemKNN(config, num_users=num_users, num_items=num_items), data)


def ease(data: Histories, num_users: int, num_items: int) -> Model:
    return fitted(EASE(EASEConfig(l2=20.0), num_users=num_users, num_items=num_items), data)


def wrmf(data: Histories, num_users: int, num_items: int) -> Model:
    config = WRMFConfig(dim=32, weight=5.0, ridge=10.0)
    return fitted(WRMF(config, num_users=num_users, num_items=num_items), data)


def trained(model: Model, histories: Histories, **settings: float) -> Model:
    config = TrainingConfig(patience=None, checkpoint_seconds=1e9, **settings)
    objective = make_objective(model, histories, batch_size=config.batch_size, seed=0)
    with TemporaryDirectory() as folder:
        TrainingLoop(model, objective, config, directory=Path(folder)).run()
    return model


def bpr(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    model = BPR(BPRConfig(dim=16), num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=20, batch_size=256, learning_rate=0.01, weight_decay=1e-4)


def lightgcn(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    model = LightGCN(LightGCNConfig(dim=16), num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=10, batch_size=64, learning_rate=0.05, weight_decay=0.0)


def neumf(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    config = NeuMFConfig(dim=16, mlp_dim=16, hidden=[16, 8])
    model = NeuMF(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=4, batch_size=256, learning_rate=0.04, weight_decay=1e-4)


def cml(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    model = CML(CMLConfig(dim=16, num_negatives=10), num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=4, batch_size=256, learning_rate=0.02)


def mult_vae(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    config = MultVAEConfig(dim=16, hidden=[32])
    model = MultVAE(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=8, batch_size=64, learning_rate=0.03, weight_decay=0.0)


def caser(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    config = CaserConfig(dim=16, window=3, num_targets=1, num_horizontal=4, dropout=0.2)
    model = Caser(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=4, batch_size=128, learning_rate=0.005)


def sasrec(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    config = SASRecConfig(dim=16, num_heads=2, max_len=20, dropout=0.1)
    model = SASRec(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=6, batch_size=32, learning_rate=0.005)


def gru4rec(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    config = GRU4RecConfig(dim=16, max_len=20, dropout=0.1)
    model = GRU4Rec(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=6, batch_size=32, learning_rate=0.01)


def deep_retrieval(data: Histories, num_users: int, num_items: int) -> Model:
    torch.manual_seed(0)
    config = DeepRetrievalConfig(
        dim=16, max_len=20, dropout=0.1, width=6, depth=2, num_candidates=12, path_dim=16
    )
    model = DeepRetrieval(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=6, batch_size=32, learning_rate=0.01)


def m3(data: Histories, num_users: int, num_items: int, **settings: Any) -> Model:
    torch.manual_seed(0)
    config = M3Config(dim=16, max_len=20, dropout=0.1, **settings)
    model = M3(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=5, batch_size=32, learning_rate=0.01)


def m3c(data: Histories, num_users: int, num_items: int) -> Model:
    settings = {"short": "conv", "gates": "top", "mixture": "sum", "long_reads_last": False}
    return m3(data, num_users, num_items, **settings)


def two_tower(data: Histories, num_users: int, num_items: int) -> Model:
    """From item to item: the ring is a matter of the last one."""
    torch.manual_seed(0)
    config = TwoTowerConfig(dim=16, id_dim=16, max_len=1, share_tables=False, temperature=0.1)
    model = TwoTower(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=6, batch_size=256, learning_rate=0.01)


def medres(data: Histories, num_users: int, num_items: int) -> Model:
    """The ring is a matter of the last item: the dynamic component reads it."""
    torch.manual_seed(0)
    config = MedresConfig(dim=16, dynamic="history", recent=5, dropout=0.1, num_negatives=20)
    model = Medres(config, num_users=num_users, num_items=num_items)
    return trained(model, data, epochs=8, batch_size=64, learning_rate=0.02)


CASES = [
    ModelCase("caser", caser),
    ModelCase("sasrec", sasrec),
    ModelCase("gru4rec", gru4rec),
    ModelCase("deep-retrieval", deep_retrieval),
    ModelCase("m3", m3),
    ModelCase("m3c", m3c),
    ModelCase("two-tower", two_tower),
    ModelCase("medres", medres),
    ModelCase("bpr", bpr),
    ModelCase("lightgcn", lightgcn),
    ModelCase("neumf", neumf),
    ModelCase("cml", cml),
    ModelCase("mult-vae", mult_vae),
    ModelCase("popularity", popularity, personalized=False),
    ModelCase("markov", markov),
    ModelCase("item-knn", item_knn),
    ModelCase("item-knn-recent", recent_item_knn),
    ModelCase("ease", ease),
    ModelCase("wrmf", wrmf),
]

NEW_ITEMS = 2  # in the catalog, in no training history
STRUCTURE = plant(0.9)
NOISE = plant(0.0, num_users=1000)
NUM_ITEMS = STRUCTURE.num_items + NEW_ITEMS
LONG = [int(item) for item in np.random.default_rng(5).integers(1, NUM_ITEMS + 1, 300)]
HISTORIES: list[list[int]] = [
    [7],
    [],
    [3, 4, 5],
    LONG,
    [NUM_ITEMS],
    [9, 2, 9, 9],
    list(range(1, 30)),
]
USERS = [1, 2, 0, 600, 0, 3, 17]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> ModelCase:
    return request.param


@pytest.fixture(scope="module")
def model(case: ModelCase) -> Model:
    return case.make(STRUCTURE.train, STRUCTURE.train.num_users, NUM_ITEMS).eval()


def test_what_has_a_row_for_each_item_or_user_is_known_as_a_table(model: Model) -> None:
    counts = (model.num_items + 1, STRUCTURE.train.num_users, STRUCTURE.train.num_users + 1)
    for name, parameter in model.named_parameters():
        assert is_table(name) or len(parameter) not in counts, name


@torch.no_grad()
def score(model: Model, histories: Sequence[Sequence[int]], users: Sequence[int]) -> Tensor:
    return model.score(HistoryBatch.from_lists(histories, users))


def test_is_a_scorer_of_the_catalog(model: Model) -> None:
    assert isinstance(model, Scorer)
    assert model.num_items == NUM_ITEMS
    assert model.num_users == STRUCTURE.train.num_users


def test_one_history_gives_one_finite_row(model: Model) -> None:
    for history, user in zip(HISTORIES, USERS, strict=True):
        scores = score(model, [history], [user])
        assert scores.shape == (1, NUM_ITEMS + 1)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all(), history


def test_a_batch_of_no_history_gives_no_rows(model: Model) -> None:
    none = torch.zeros(0, dtype=torch.long)
    with torch.no_grad():
        scores = model.score(HistoryBatch(none, none, torch.zeros(1, dtype=torch.long)))
    assert scores.shape == (0, NUM_ITEMS + 1)


def test_a_batch_of_empty_histories_is_finite(model: Model) -> None:
    scores = score(model, [[], []], [0, 1])
    assert scores.shape == (2, NUM_ITEMS + 1)
    assert scores.isfinite().all()


def test_a_batch_equals_its_single_rows(model: Model) -> None:
    singles = [score(model, [h], [u]) for h, u in zip(HISTORIES, USERS, strict=True)]
    together = score(model, HISTORIES, USERS)
    tolerance = 1e-6 * together.abs().max().item()
    torch.testing.assert_close(together, torch.cat(singles), rtol=0, atol=tolerance)


def test_rows_move_with_their_histories(model: Model) -> None:
    order = [4, 0, 6, 2, 5, 1, 3]
    moved = score(model, [HISTORIES[i] for i in order], [USERS[i] for i in order])
    expected = score(model, HISTORIES, USERS)[order]
    tolerance = 1e-6 * expected.abs().max().item()
    torch.testing.assert_close(moved, expected, rtol=0, atol=tolerance)


def test_padding_before_a_history_changes_nothing(model: Model) -> None:
    padded = [[0] * 5 + history for history in HISTORIES]
    torch.testing.assert_close(
        score(model, padded, USERS), score(model, HISTORIES, USERS), rtol=0, atol=1e-6
    )


def test_max_len_says_how_much_is_read(model: Model) -> None:
    if model.max_len is None:
        return
    kept = [history[len(history) - min(model.max_len, len(history)) :] for history in HISTORIES]
    torch.testing.assert_close(
        score(model, kept, USERS), score(model, HISTORIES, USERS), rtol=0, atol=1e-6
    )


def test_scoring_twice_gives_the_same_and_changes_nothing(model: Model) -> None:
    batch = HistoryBatch.from_lists(HISTORIES, USERS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        first = model.score(batch)
        kept = first.clone()
        first.fill_(-1.0)  # the caller owns the result
        assert torch.equal(model.score(batch), kept)
    assert batch.items.tolist() == [item for history in HISTORIES for item in history]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_all_that_was_learned_is_in_the_saved_state(model: Model, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = type(model.config).model_validate_json(model.config.model_dump_json())
    loaded = type(model)(config, num_users=model.num_users, num_items=model.num_items)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    loaded.eval()
    assert torch.equal(score(loaded, HISTORIES, USERS), score(model, HISTORIES, USERS))


def test_an_unknown_user_is_served_from_the_history(case: ModelCase, model: Model) -> None:
    one, other = score(model, [[10, 11, 12], [40, 41, 42]], [0, 0])[:, 1:]
    assert (not torch.equal(one, other)) == case.personalized
    assert one.unique().numel() > 1


def test_learns_planted_structure(case: ModelCase, model: Model) -> None:
    baseline = popularity(STRUCTURE.train, STRUCTURE.train.num_users, NUM_ITEMS)
    if case.personalized:
        assert hit_rate(model, STRUCTURE, 5) > 3 * hit_rate(baseline, STRUCTURE, 5)
    else:
        assert hit_rate(model, STRUCTURE, 5) == hit_rate(baseline, STRUCTURE, 5)


@pytest.mark.slow
def test_learns_nothing_from_noise(case: ModelCase) -> None:
    model = case.make(NOISE.train, NOISE.train.num_users, NOISE.num_items).eval()
    chance = NOISE.chance(5)
    deviation = (chance * (1 - chance) / NOISE.train.num_users) ** 0.5
    assert hit_rate(model, NOISE, 5) == pytest.approx(chance, abs=4 * deviation)


def follows_the_ring(planted: Planted) -> float:
    """Share of targets that a reader of the ring itself would have named."""
    named = []
    for user, target in zip(planted.users, planted.targets, strict=True):
        seen = set(planted.train[user].tolist())
        item = int(planted.train[user][-1]) % planted.num_items + 1
        while item in seen:
            item = item % planted.num_items + 1
        named.append(item == target)
    return float(np.mean(named))


def test_the_planted_data_hold_what_they_say() -> None:
    assert follows_the_ring(plant(1.0)) == 1.0
    assert follows_the_ring(STRUCTURE) == pytest.approx(0.9, abs=0.05)
    assert follows_the_ring(NOISE) == pytest.approx(1 / 49, abs=0.02)
    for user in NOISE.users:
        items = NOISE.train[user].tolist()
        assert len(items) == 11
        assert len({*items, int(NOISE.targets[user - 1])}) == 12
