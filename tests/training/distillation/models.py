"""Small models with random weights, and histories for them to answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ensue.data.context import ContextColumn, ContextSchema
from ensue.data.histories import Histories
from ensue.models.base import FittedModel, Model
from ensue.models.baselines.item_knn import ItemKNN, ItemKNNConfig
from ensue.models.baselines.markov import Markov, MarkovConfig
from ensue.models.baselines.popularity import Popularity, PopularityConfig
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from ensue.models.sequential.m3 import M3, M3Config
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from tests.contracts.planted import histories_of

NUM_ITEMS = 23
LENGTHS = (9, 0, 1, 14, 5, 2, 11)  # of the training parts
NUM_USERS = len(LENGTHS)
PAGE, HOUR = ContextColumn("page", 3), ContextColumn("hour")


def make_log(*, num_later: int = 2, seed: int = 0) -> Histories:
    """Return training histories, with repeats; `num_later` interactions of each user are later."""
    rng = np.random.default_rng(seed)
    whole = histories_of([rng.integers(1, NUM_ITEMS + 1, n + num_later).tolist() for n in LENGTHS])
    ends = np.where(np.arange(NUM_USERS + 1) > 0, whole.ends - num_later, 0)
    num_rows = len(whole.items)
    page = rng.integers(0, 4, num_rows).astype(np.int32)
    hour = np.where(rng.random(num_rows) < 0.2, np.nan, rng.integers(0, 24, num_rows))
    return Histories(whole.items, whole.starts, ends, (page, hour), (page,))


def without_context(log: Histories) -> Histories:
    return Histories(log.items, log.starts, log.ends)


def make_model(name: str, log: Histories, *, seed: int = 0, **settings: Any) -> Model:
    """Return a model in float64 and evaluation mode, far from the start of a training."""
    sizes = {"num_users": NUM_USERS, "num_items": NUM_ITEMS}
    torch.manual_seed(seed)
    if name == "caser":
        model: Model = Caser(CaserConfig(**{"dim": 4, "window": 3, **settings}), **sizes)
    elif name == "sasrec":
        model = SASRec(SASRecConfig(**{"dim": 4, "max_len": 20, **settings}), **sizes)
    elif name == "gru4rec":
        model = GRU4Rec(GRU4RecConfig(**{"dim": 4, "max_len": 6, **settings}), **sizes)
    elif name == "m3":
        model = M3(M3Config(**{"dim": 4, "max_len": 6, **settings}), **sizes)
    elif name == "m3-context":
        config = M3Config(
            dim=4, max_len=6, context_in=["page", "hour"], context_out=["page"], **settings
        )
        model = M3(config, **sizes, context=ContextSchema((PAGE, HOUR), (PAGE,)))
    elif name == "popularity":
        model = Popularity(PopularityConfig(), **sizes)
    elif name == "markov":
        model = Markov(MarkovConfig(), **sizes)
    else:
        model = ItemKNN(ItemKNNConfig(**{"decay": 0.8, **settings}), **sizes)
    if isinstance(model, FittedModel):
        model.fit_(log)
        return model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        model.item_embedding[0] = 0
    if isinstance(model, SequenceModel):
        model.observe_(log)
    return model.double().eval().requires_grad_(requires_grad=False)
