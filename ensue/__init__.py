"""Ensue: from a log file to recommendations that can be trusted.

Names are imported when they are first used: `import ensue` itself loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensue.data.dataset import Dataset
    from ensue.data.longitudinal.tables import read_visits
    from ensue.data.prepare import prepare
    from ensue.data.ranking.dataset import RankingDataset
    from ensue.data.ranking.prepare import prepare_ranking
    from ensue.data.sources import fetch
    from ensue.data.synthetic import SyntheticConfig, generate
    from ensue.errors import EnsueError
    from ensue.evaluation.evaluator import evaluate
    from ensue.evaluation.significance import compare
    from ensue.runs.ablate import ablate
    from ensue.runs.cascade import Cascade
    from ensue.runs.cluster import cluster
    from ensue.runs.distill import distill
    from ensue.runs.distill_classifier import distill_arrays, distill_classifier
    from ensue.runs.encode import encode
    from ensue.runs.longitudinal import longitudinal
    from ensue.runs.plan import plan
    from ensue.runs.profile import Profile, profile
    from ensue.runs.ranker import RankingRun, load_ranker
    from ensue.runs.run import Run, load
    from ensue.runs.stability import stability
    from ensue.runs.tradeoff import tradeoff
    from ensue.runs.train import train
    from ensue.runs.train_ranker import train_ranker
    from ensue.runs.tune import tune
    from ensue.serving.server import serve

__version__ = "0.1.0"

__all__ = [
    "Cascade",
    "Dataset",
    "EnsueError",
    "Profile",
    "RankingDataset",
    "RankingRun",
    "Run",
    "SyntheticConfig",
    "__version__",
    "ablate",
    "cluster",
    "compare",
    "distill",
    "distill_arrays",
    "distill_classifier",
    "encode",
    "evaluate",
    "fetch",
    "generate",
    "load",
    "load_ranker",
    "longitudinal",
    "plan",
    "prepare",
    "prepare_ranking",
    "profile",
    "read_visits",
    "serve",
    "stability",
    "tradeoff",
    "train",
    "train_ranker",
    "tune",
]

_HOMES = {
    "Cascade": "ensue.runs.cascade",
    "Dataset": "ensue.data.dataset",
    "EnsueError": "ensue.errors",
    "Profile": "ensue.runs.profile",
    "RankingDataset": "ensue.data.ranking.dataset",
    "RankingRun": "ensue.runs.ranker",
    "Run": "ensue.runs.run",
    "SyntheticConfig": "ensue.data.synthetic",
    "ablate": "ensue.runs.ablate",
    "cluster": "ensue.runs.cluster",
    "compare": "ensue.evaluation.significance",
    "distill": "ensue.runs.distill",
    "distill_arrays": "ensue.runs.distill_classifier",
    "distill_classifier": "ensue.runs.distill_classifier",
    "encode": "ensue.runs.encode",
    "evaluate": "ensue.evaluation.evaluator",
    "fetch": "ensue.data.sources",
    "generate": "ensue.data.synthetic",
    "load": "ensue.runs.run",
    "load_ranker": "ensue.runs.ranker",
    "longitudinal": "ensue.runs.longitudinal",
    "plan": "ensue.runs.plan",
    "prepare": "ensue.data.prepare",
    "prepare_ranking": "ensue.data.ranking.prepare",
    "profile": "ensue.runs.profile",
    "read_visits": "ensue.data.longitudinal.tables",
    "serve": "ensue.serving.server",
    "stability": "ensue.runs.stability",
    "tradeoff": "ensue.runs.tradeoff",
    "train": "ensue.runs.train",
    "train_ranker": "ensue.runs.train_ranker",
    "tune": "ensue.runs.tune",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported from its home; later uses find it here at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ensue' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
