"""A heterogeneous GraphSAGE for `benchmarks.medres`: trained by PyTorch Geometric, kept as a run.

`benchmarks/_medres_pyg.py` trains it, in a process of another Python. What it finds is evaluated
here, as that of all other methods.
Shapes: U users, I items, D width, B histories of a batch.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.config import Config
from ensue.data.dataset import Dataset, Part
from ensue.data.graphs import Graph, interaction_graph
from ensue.data.histories import HistoryBatch
from ensue.evaluation.evaluator import evaluate
from ensue.models.base import Model
from ensue.runs.environment import describe_making
from ensue.runs.run import Run, save_run

METHOD = "hetero-sage"
METRIC = "pap@10"
PARTS: tuple[Part, ...] = ("train", "train+validation")
# steps: of an epoch, each with its share of the interactions. loss: bpr or bce. The best of some
# ten settings on the validation part of Cora.
SETTINGS: dict[str, Any] = {
    "dim": 64,
    "layers": 2,
    "dropout": 0.3,
    "loss": "bce",
    "num_negatives": 10,
    "learning_rate": 0.005,
    "weight_decay": 1e-5,
    "steps": 8,
    "epochs": 200,
    "validate_every": 5,
    "patience": 6,
}


class VectorsConfig(Config):
    """Width D of the vectors."""

    dim: int


class Vectors(Model):
    """Vectors of users [U + 1, D] and items [I + 1, D], those of padding zero.

    Scores are their products; what is in a history counts for nothing.
    """

    Config = VectorsConfig
    users: Tensor
    items: Tensor

    def __init__(self, config: VectorsConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.register_buffer("users", torch.zeros(num_users + 1, config.dim))
        self.register_buffer("items", torch.zeros(num_items + 1, config.dim))

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        return self.users[batch.users] @ self.items.T


class VectorsRun(Run):
    """A run of `train`: its model is none that Ensue trains."""

    @cached_property
    def model(self) -> Vectors:
        """The vectors for the test."""
        counts = self.info["dataset"]["counts"]
        config = VectorsConfig(**self.info["config"])
        model = Vectors(config, num_users=counts["users"], num_items=counts["items"])
        return self.fill_(model)


def train(
    dataset: Dataset,
    graphs: Sequence[str] | None,
    settings: dict[str, Any],
    out: Path,
    reference: Path,
) -> None:
    """Train on a dataset, and store what is found as a run at `out`.

    Args:
        graphs: names of graphs beside the interactions; None is all.
        settings: `SETTINGS` and a seed.
        reference: Python of an environment with PyTorch Geometric.

    Raises:
        RuntimeError: the script measures something else on the validation part than Ensue.
    """
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        problem, answers = Path(folder) / "problem.npz", Path(folder) / "answers.npz"
        np.savez(problem, settings=json.dumps(settings), **_problem(dataset, graphs))
        program = Path(__file__).with_name("_medres_pyg.py")
        subprocess.run([reference, program, problem, answers], check=True)
        with np.load(answers) as stored:
            found = dict(stored)
    model = _vectors(dataset, found["validation_users"], found["validation_items"])
    metrics = evaluate(model, dataset, split="validation", ks=(10, 20), num_resamples=0).metrics
    if abs(metrics[METRIC] - float(found["value"])) > 1e-3:  # rounding may swap near ties
        raise RuntimeError(f"{METRIC} is {metrics[METRIC]}; {program.name} has {found['value']}.")
    info = {
        "model": METHOD,
        "fit": "train",
        "config": model.config.model_dump(),
        "training": settings,
        "seed": settings["seed"],
        "dataset": {
            "name": dataset.info.name,
            "hash": dataset.info.hash,
            "counts": dataset.info.counts,
        },
        "best_epoch": int(found["epoch"]),
        "metrics": {"validation": metrics},
        **describe_making(started),
    }
    save_run(out, _vectors(dataset, found["test_users"], found["test_items"]), dataset, info)


def _vectors(dataset: Dataset, users: NDArray[Any], items: NDArray[Any]) -> Vectors:
    """Return the model of vectors of users [U, D] and items [I, D]."""
    config = VectorsConfig(dim=users.shape[1])
    model = Vectors(config, num_users=dataset.num_users, num_items=dataset.num_items)
    model.users[1:], model.items[1:] = torch.from_numpy(users), torch.from_numpy(items)
    return model


def _problem(dataset: Dataset, names: Sequence[str] | None) -> dict[str, Any]:
    """Return what the script reads beside the settings; ids are from 0 on there."""
    found: dict[str, Any] = {}
    for part in PARTS:
        own = [dataset.interaction_graph(part), *dataset.graphs(part, names).values()]
        for number, graph in enumerate(own):
            found[f"{part}_{number}"] = _pairs(graph)
    found["kinds"] = np.array([[g.schema.types[0], g.schema.name, g.schema.types[1]] for g in own])
    sizes = {
        kind: size
        for graph in own
        for kind, size in zip(graph.schema.types, graph.schema.sizes, strict=True)
    }
    found["sizes"] = json.dumps(sizes)
    held_out = interaction_graph(dataset.targets("validation"), dataset.num_items)
    found["validation"] = _pairs(held_out)
    return found


def _pairs(graph: Graph) -> NDArray[np.int64]:
    return np.stack([graph.sources, graph.targets]).astype(np.int64) - 1
