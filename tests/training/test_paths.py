from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensue.data.histories import Histories
from ensue.models.retrieval.deep_retrieval import DeepRetrieval, DeepRetrievalConfig
from ensue.nn.path_layers import unpack_codes
from ensue.training.checkpoints import Progress, load_tensors
from ensue.training.config import TrainingConfig
from ensue.training.log import read_log
from ensue.training.loop import TrainingLoop
from ensue.training.path_start import cluster_candidates, k_means, nearest_codes
from ensue.training.paths import PathObjective
from tests.contracts.planted import plant

PLANTED = plant(0.9, num_users=120, num_items=30, length=8)
SETTINGS: dict[str, Any] = {
    "dim": 8, "width": 4, "depth": 2, "num_paths": 2, "node_dim": 4, "path_dim": 16,
    "num_candidates": 8, "score_share": 0.5, "path_size": 8, "max_len": 8,
}  # fmt: skip


def make_model(**settings: Any) -> DeepRetrieval:
    torch.manual_seed(0)
    config = DeepRetrievalConfig(**{**SETTINGS, **settings})
    return DeepRetrieval(config, num_users=PLANTED.train.num_users, num_items=PLANTED.num_items)


def make_loop(
    model: DeepRetrieval, folder: Path, *, validate: Any = None, **settings: Any
) -> TrainingLoop:
    config = TrainingConfig(
        **{"epochs": 4, "batch_size": 16, "learning_rate": 0.01, "weight_decay": 0.0, **settings}
    )
    objective = PathObjective(model, PLANTED.train, batch_size=config.batch_size, seed=0)
    return TrainingLoop(model, objective, config, directory=folder, validate=validate)


class Stopped(Exception):  # noqa: N818
    """What stops a training after some steps, like a power cut after a checkpoint."""


def stop_after(loop: TrainingLoop, steps: int) -> None:
    """Make the loop write a checkpoint at every step, and stop at one."""
    save = loop._save

    def save_and_count(progress: Progress) -> None:
        save(progress)
        if progress.steps == steps:
            raise Stopped

    loop._save = save_and_count  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["random", "kmeans"])
def test_a_resumed_training_equals_one_that_never_stopped(start, tmp_path):
    whole = make_model(start=start, joint_epochs=2)
    loop = make_loop(whole, tmp_path / "whole")
    steps = loop.run().steps
    for stop in (steps // 4 + 1, steps // 2, 3 * steps // 4 + 2):
        folder = tmp_path / f"{stop}"
        broken = make_loop(make_model(start=start, joint_epochs=2), folder, checkpoint_seconds=0.0)
        stop_after(broken, stop)
        with pytest.raises(Stopped):
            broken.run()
        resumed = make_model(start=start, joint_epochs=2)
        again = make_loop(resumed, folder)
        again.run(resume=True)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), (stop, name)
        for name, value in loop.objective.state().items():
            assert torch.equal(value, again.objective.state()[name]), (stop, name)


def test_the_log_tells_of_paths(tmp_path):
    make_loop(make_model(), tmp_path).run()
    first, *later = read_log(tmp_path)
    assert "paths" not in first
    assert all(line["path_loss"] > 0 for line in (first, *later))
    assert later[-1]["path_loss"] < first["path_loss"]
    for line in later:
        facts = line["paths"]
        assert facts["objective"] >= facts["objective_before"]
        assert 0 < facts["largest"] <= PLANTED.num_items
        assert 0 < facts["num_paths"] <= 16


@pytest.mark.slow
def test_the_path_loss_falls_below_that_of_paths_that_never_change(tmp_path):
    """What the assignment is for: random paths say less of an item than assigned ones."""
    losses = {}
    for assigns in (True, False):
        model = make_model(dim=16)
        loop = make_loop(model, tmp_path / str(assigns), epochs=6)
        if not assigns:
            loop.objective._assign = lambda *_: {}  # type: ignore[attr-defined]
        loop.run()
        losses[assigns] = loop.objective.end_epoch()["path_loss"]
    assert losses[True] < losses[False]


def test_after_the_joint_epochs_only_the_paths_are_trained(tmp_path):
    model = make_model(joint_epochs=1)
    kept: dict[str, torch.Tensor] = {}

    class Watch(PathObjective):
        def start_epoch(self, model: Any, epoch: int, *, is_resumed: bool) -> dict[str, Any]:
            facts = super().start_epoch(model, epoch, is_resumed=is_resumed)
            if epoch == 2:
                kept.update({name: value.clone() for name, value in model.state_dict().items()})
            return facts

    config = TrainingConfig(epochs=3, batch_size=16, learning_rate=0.01, clip_norm=1.0)
    objective = Watch(model, PLANTED.train, batch_size=16, seed=0)
    TrainingLoop(model, objective, config, directory=tmp_path).run()
    for name, value in model.state_dict().items():
        moved = not torch.equal(value, kept[name])
        assert moved == (name.startswith("path_layers.") or name == "paths"), name


def test_the_last_weights_are_kept(tmp_path):
    falling = iter([0.5, 0.4, 0.3])
    model = make_model()
    loop = make_loop(
        model, tmp_path, epochs=3, patience=1, validate=lambda _: {"map": next(falling)}
    )
    progress = loop.run()
    last, _ = load_tensors(tmp_path / "checkpoints" / "last.safetensors")
    assert progress.best_epoch == 3
    assert torch.equal(model.paths, last["model.paths"])


def test_the_loss_is_that_of_the_softmax_and_of_the_paths():
    model = make_model().double().eval()
    objective = PathObjective(model, PLANTED.train, batch_size=8, seed=0)
    objective.start_epoch(model, 1, is_resumed=False)
    batch = next(objective.batches(1))
    queries = objective.queries(model, batch)
    targets = batch[1][batch[1] > 0]
    softmax = torch.nn.functional.cross_entropy(
        model.match(queries)[:, 1:], targets - 1, reduction="mean"
    )
    choices = unpack_codes(model.paths[targets], depth=2, width=4)
    of_paths = -model.path_layers.log_probs(queries, choices).logsumexp(1).mean()
    torch.testing.assert_close(objective.query_loss(model, queries, batch), softmax + of_paths)


def test_what_is_noted_is_the_sum_of_probabilities():
    model = make_model(num_candidates=16, score_share=1.0).double().eval()
    objective = PathObjective(model, PLANTED.train, batch_size=8, seed=0)
    batch = next(objective.batches(1))
    queries = objective.queries(model, batch).detach()
    objective.query_loss(model, queries, batch)
    targets = batch[1][batch[1] > 0]
    item = int(targets[0])
    every = unpack_codes(torch.arange(16), depth=2, width=4)
    own = queries[targets == item]
    expected = model.path_layers.log_probs(own, every.expand(len(own), -1, -1)).exp().sum(0)
    state = objective.state()
    assert state["codes"][item].tolist() == list(range(16))
    torch.testing.assert_close(state["scores"][item].double(), expected, rtol=1e-5, atol=1e-7)


def test_items_count_as_often_as_they_are_targets():
    items = np.array([3, 1, 3, 2, 2, 2], dtype=np.int32)
    histories = Histories(items, np.array([0, 0, 3, 3]), np.array([0, 3, 3, 6]))
    counts = PathObjective._target_counts(histories, 3)
    assert counts.tolist() == [1.0, 2.0, 1.0]


def test_k_means_finds_clusters():
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = centers.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=generator)
    errors = []
    for seed in range(5):  # Lloyd's method may end in a local optimum
        centroids = k_means(vectors, 3, torch.Generator().manual_seed(seed))
        errors.append(float((torch.cdist(centers, centroids).min(1).values).max()))
    assert min(errors) < 0.1
    assert k_means(vectors[:2], 5, generator).shape == (5, 2)


def test_codes_near_a_vector_come_in_the_order_of_their_errors():
    generator = torch.Generator().manual_seed(0)
    books = [torch.randn(4, 3, generator=generator) for _ in range(2)]
    vectors = torch.randn(6, 3, generator=generator)
    codes, errors = nearest_codes(vectors, books, beam=16)
    sums = (books[0][:, None] + books[1]).flatten(0, 1)
    expected = torch.cdist(vectors, sums).square().sort(dim=1)
    assert torch.equal(codes, expected.indices)
    torch.testing.assert_close(errors, expected.values, rtol=1e-4, atol=1e-5)


def test_candidates_of_a_cluster_are_shared():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.eye(4).repeat_interleave(10, 0) * 5
    vectors += 0.01 * torch.randn(40, 4, generator=generator)
    found = cluster_candidates(vectors, depth=2, width=4, num_candidates=3, generator=generator)
    assert found.codes.shape == found.scores.shape == (40, 3)
    assert (found.scores[:, 0] == 1).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    layers = found.codes[:, 0] // 4
    assert [len(set(layers[first : first + 10])) for first in range(0, 40, 10)] == [1] * 4
