"""The models Ensue ships, by name: a closed list, so a run directory can build nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ensue.config import Config
from ensue.data.context import ContextSchema
from ensue.data.feature_schema import FeatureSchema
from ensue.data.graphs import GraphSchema
from ensue.errors import UsageError, did_you_mean
from ensue.models.base import FittedModel, Model
from ensue.models.baselines.bpr import BPR
from ensue.models.baselines.cml import CML
from ensue.models.baselines.ease import EASE
from ensue.models.baselines.item_knn import ItemKNN
from ensue.models.baselines.markov import Markov
from ensue.models.baselines.mult_vae import MultVAE
from ensue.models.baselines.neumf import NeuMF
from ensue.models.baselines.popularity import Popularity
from ensue.models.baselines.wrmf import WRMF
from ensue.models.graph.lightgcn import LightGCN
from ensue.models.graph.medres import Medres
from ensue.models.retrieval.deep_retrieval import DeepRetrieval
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.sequential.caser import Caser
from ensue.models.sequential.gru4rec import GRU4Rec
from ensue.models.sequential.m3 import M3
from ensue.models.sequential.sasrec import SASRec
from ensue.models.space import Changes, Choice, Range, Space


@dataclass(frozen=True)
class Method:
    """A model, and settings of it and of its training.

    presets: named groups of settings.
    defaults: where they differ from those of the configs.
    space: what `ensue tune` tries, by setting; empty where there is nothing to search.
    changes: what `ensue ablate` changes where the caller names nothing.
    """

    model: type[Model]
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)

    @property
    def is_fitted(self) -> bool:
        """Whether the model is computed in one go instead of trained step by step."""
        return issubclass(self.model, FittedModel)


# Of the training, for every model that is trained step by step.
_TRAINING_SPACE: Space = {
    "learning_rate": Range(1e-4, 2e-2, log=True),
    "weight_decay": Range(1e-8, 1e-3, log=True),
}

# An example is a whole history: with hundreds in a step, an epoch of a small log has few steps.
_SEQUENCE_DEFAULTS: dict[str, Any] = {"batch_size": 32, "weight_decay": 0.0}
# Known numbers of epochs: the rate falls to zero over them, and validation does not end them early.
_SASREC_SCHEDULE: dict[str, Any] = {
    "learning_rate": 0.002,
    "decay": "cosine",
    "warmup_steps": 200,
    "metric": "ndcg@10",
    "patience": None,
}

_TWO_TOWER_DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.005,
    "weight_decay": 0.0,
    "batch_size": 1024,
}

# An example is a user, and a step goes through all graphs.
_MEDRES_DEFAULTS: dict[str, Any] = {
    "batch_size": 1024,
    "learning_rate": 0.005,
    "epochs": 200,
    "validate_every": 5,
    "metric": "pap@10",
}

METHODS: dict[str, Method] = {
    "caser": Method(
        Caser,
        presets={
            "author_pytorch": {},
            "paper": {"loss": "sum", "num_negatives": None, "batch_size": 100},
            # The authors' settings for Gowalla, but for 30 negatives in place of 3, and a learning
            # rate that falls to zero.
            "gowalla": {
                "decay": "linear",
                "patience": None,
                "num_targets": 1,
                "num_negatives": 30,
                "num_vertical": 2,
                "conv_activation": "identity",
                "hidden_activation": "sigmoid",
            },
        },
        space={
            **_TRAINING_SPACE,
            "dim": Range(16, 128, log=True),
            "window": Range(2, 9),
            "num_targets": Range(1, 3),
            "num_negatives": Range(1, 30, log=True),
            "dropout": Range(0.0, 0.7),
        },
    ),
    "sasrec": Method(
        SASRec,
        presets={
            "ml-1m": {
                **_SASREC_SCHEDULE,
                "max_len": 200,
                "crop": "random",
                "num_heads": 2,
                "hidden_dim": 256,
                "dropout": 0.2,
                "epochs": 32,
            },
            "beauty": {
                **_SASREC_SCHEDULE,
                "num_heads": 2,
                "dropout": 0.5,
                "batch_size": 128,
                "epochs": 20,
            },
        },
        defaults=_SEQUENCE_DEFAULTS,
        space={
            "learning_rate": Range(3e-4, 3e-3, log=True),
            "dim": Range(32, 128, log=True),
            "num_blocks": Range(1, 3),
            "dropout": Range(0.0, 0.6),
        },
    ),
    "gru4rec": Method(
        GRU4Rec,
        defaults={**_SEQUENCE_DEFAULTS, "clip_norm": 1.0},
        space={
            "learning_rate": Range(3e-4, 5e-3, log=True),
            "dim": Range(32, 128, log=True),
            "num_layers": Range(1, 2),
            "dropout": Range(0.0, 0.5),
        },
    ),
    "m3": Method(
        M3,
        presets={"m3r": {}, "m3c": {"short": "conv"}},
        defaults={"batch_size": 32, "clip_norm": 1.0},
        space={
            "learning_rate": Range(3e-4, 5e-3, log=True),
            "dim": Range(32, 128, log=True),
            "dropout": Range(0.0, 0.5),
        },
        changes=Changes(vary={"parts": ("ts", "tl", "sl", "t", "s", "l"), "gates": ("fixed",)}),
    ),
    "deep_retrieval": Method(
        DeepRetrieval,
        defaults={**_SEQUENCE_DEFAULTS, "clip_norm": 1.0, "epochs": 10},
        space={
            "learning_rate": Range(3e-4, 5e-3, log=True),
            "dim": Range(32, 128, log=True),
            "dropout": Range(0.0, 0.5),
        },
    ),
    "two_tower": Method(
        TwoTower,
        presets={
            "ssl": {"ssl": "cfm"},
            # Of Yao et al. for Wikipedia: millions of steps on hundreds of millions of pairs.
            "paper": {
                "ssl": "cfm",
                "dim": 128,
                "hidden": [1024],
                "logq": "none",
                "hits": "keep",
                "optimizer": "adagrad",
                "learning_rate": 0.01,
            },
        },
        defaults=_TWO_TOWER_DEFAULTS,
        space={
            "learning_rate": Range(0.001, 0.02, log=True),
            "temperature": Range(0.03, 0.3, log=True),
            "dim": Range(32, 128, log=True),
        },
        changes=Changes(without=("item_features.*", "user_features.*", "ssl", "logq")),
    ),
    "medres": Method(
        Medres,
        # On pAp@k: of a log in time, and of one without order, such as links.
        presets={
            "history": {
                "loss": "papk",
                "papk": {"form": "logistic", "k": 1000, "warmup_epochs": 20},
                "dynamic": "both",
                "ids": "items",
                "layers": 1,
                "dropout": 0.0,
            },
            "links": {
                "loss": "papk",
                "papk": {"form": "logistic", "k": 300, "warmup_epochs": 5},
                "history": "others",
                "layers": 3,
            },
        },
        defaults=_MEDRES_DEFAULTS,
        space={
            **_TRAINING_SPACE,
            "dim": Range(32, 128, log=True),
            "degree": Choice((0, 1, 2)),
            "layers": Range(1, 2),
            "dropout": Range(0.0, 0.6),
            "edge_dropout": Range(0.0, 0.6),
        },
        changes=Changes(
            without=["graphs.*", "interactions", "graphs+interactions", "dynamic"],
            vary={"degree": [0, 1, 2], "loss": ["bce", "papk"]},
        ),
    ),
    "bpr": Method(BPR, space={**_TRAINING_SPACE, "dim": Range(16, 256, log=True)}),
    "lightgcn": Method(
        LightGCN,
        presets={
            # A third of the arithmetic of the whole catalogue for each step.
            "gowalla": {
                "num_layers": 2,
                "batch_size": 1024,
                "num_negatives": 4096,
                "learning_rate": 0.03,
                "decay": "cosine",
                "epochs": 60,
                "patience": None,
                "metric": "ndcg@20",
            },
            # Of He et al., but for the penalty of the vectors.
            "paper": {
                "similarity": "dot",
                "temperature": 1.0,
                "loss": "bpr",
                "learning_rate": 0.001,
                "epochs": 1000,
                "patience": 50,
            },
        },
        defaults={"learning_rate": 0.02, "weight_decay": 0.0, "batch_size": 2048},
        space={
            "learning_rate": Range(0.002, 0.05, log=True),
            "temperature": Range(0.05, 0.3, log=True),
            "dim": Range(32, 256, log=True),
            "num_layers": Range(1, 4),
        },
    ),
    # Presets "injection": of the victims in Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876.
    "neumf": Method(
        NeuMF,
        presets={
            "injection": {
                "dim": 256,
                "mlp_dim": 64,
                "hidden": [],
                "num_negatives": 5,
                "learning_rate": 3e-4,
                "weight_decay": 1e-4,
                "epochs": 90,
                "patience": None,
            },
        },
        space={**_TRAINING_SPACE, "dim": Range(16, 128, log=True), "num_negatives": Range(1, 10)},
    ),
    "cml": Method(
        CML,
        presets={
            "injection": {
                "dim": 256,
                "margin": 10.0,
                "num_negatives": 10,
                "max_norm": None,
                "rank_weight": False,
                "weight_decay": 1e-4,
                "epochs": 100,
                "patience": None,
            },
        },
        defaults={"weight_decay": 0.0},
        space={
            "learning_rate": Range(1e-4, 2e-2, log=True),
            "dim": Range(16, 256, log=True),
            "margin": Range(0.1, 2.0, log=True),
            "num_negatives": Range(1, 50, log=True),
        },
    ),
    "mult_vae": Method(
        MultVAE,
        presets={
            "injection": {
                "dim": 256,
                "hidden": [512],
                "loss": "mean",
                "max_beta": 1.0,
                "anneal_steps": 10_000,
                "batch_size": 1024,
                "epochs": 70,
                "patience": None,
            },
        },
        defaults={"batch_size": 128, "weight_decay": 0.0, "epochs": 100},
        space={
            "learning_rate": Range(3e-4, 5e-3, log=True),
            "dim": Range(32, 256, log=True),
            "dropout": Range(0.1, 0.8),
            "max_beta": Range(0.0, 1.0),
        },
    ),
    "popularity": Method(Popularity),
    "item_knn": Method(
        ItemKNN,
        space={
            "num_neighbors": Range(10, 1000, log=True),
            "shrinkage": Range(0.1, 1000.0, log=True),
            "decay": Range(0.1, 1.0),
        },
    ),
    "markov": Method(Markov, space={"smoothing": Range(0.1, 1000.0, log=True)}),
    "ease": Method(EASE, space={"l2": Range(1.0, 10_000.0, log=True)}),
    "wrmf": Method(
        WRMF,
        # Of Tang et al., RecSys 2020, as surrogate and victim of attacks on Gowalla.
        presets={"gowalla": {"dim": 128, "weight": 20.0, "ridge": 0.05}},
        space={
            "dim": Range(16, 256, log=True),
            "weight": Range(1.0, 50.0, log=True),
            "ridge": Range(0.01, 1000.0, log=True),
        },
    ),
}


def get_method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"there is no model {name!r}.{did_you_mean(name, METHODS)}")
    return METHODS[name]


def get_preset(model: str, preset: str | None) -> dict[str, Any]:
    """Return the model's own defaults, and over them the settings of a preset; none for None.

    Raises:
        UsageError: the model has no such preset.
    """
    method = get_method(model)
    presets = method.presets
    if preset is None:
        return dict(method.defaults)
    if preset not in presets:
        known = did_you_mean(preset, presets) if presets else " It has none."
        raise UsageError(f"{model} has no preset {preset!r}.{known}")
    return {**method.defaults, **presets[preset]}


def build_model(
    name: str,
    config: Config,
    *,
    num_users: int,
    num_items: int,
    context: ContextSchema,
    features: FeatureSchema | None = None,
    graphs: Sequence[GraphSchema] = (),
) -> Model:
    """Return a new model of the method called `name`.

    Args:
        context: what the context columns hold that the config names; only models that read any
            take it.
        features: the features of items and users that it reads; likewise.
        graphs: the graphs between entities that it reads; likewise.
    """
    facts: dict[str, Any] = {"num_users": num_users, "num_items": num_items}
    if not context.is_empty:
        facts["context"] = context
    if features is not None and not features.is_empty:
        facts["features"] = features
    if graphs:
        facts["graphs"] = graphs
    return get_method(name).model(config, **facts)
