from __future__ import annotations

import math

import pytest
import torch

from ensue.config import make_config
from ensue.data.histories import HistoryBatch
from ensue.errors import ConfigError
from ensue.losses.variational import gaussian_divergence
from ensue.models.baselines.mult_vae import MultVAE, MultVAEConfig
from ensue.training.bags import BagObjective
from tests.contracts.planted import histories_of

LISTS = [[2, 5, 2], [], [1], [6, 3, 4, 5]]
BAGS = [[2, 5], [1], [3, 4, 5, 6]]  # of the users 1, 3 and 4


def make(**settings: object) -> MultVAE:
    torch.manual_seed(0)
    config = MultVAEConfig(dim=3, hidden=[5, 4], **settings)
    return MultVAE(config, num_users=4, num_items=6).double()


def dense_latent(model: MultVAE, items: list[int]) -> torch.Tensor:
    """Mean and log variance from a row of the dense matrix, layer by layer."""
    x = torch.zeros(7, dtype=torch.float64)
    x[items] = 1.0
    x = torch.tanh(
        torch.nn.functional.normalize(x, dim=0) @ model.input_embedding + model.input_bias
    )
    first = model.encoder[0]
    x = torch.tanh(first.weight @ x + first.bias)
    return model.latent.weight @ x + model.latent.bias


def dense_logits(model: MultVAE, latent: torch.Tensor) -> torch.Tensor:
    for layer in (model.decoder[0], model.decoder[2]):
        latent = torch.tanh(layer.weight @ latent + layer.bias)
    return model.output_embedding @ latent + model.output_bias


@torch.no_grad()
def test_scores_are_those_of_the_dense_network() -> None:
    model = make().eval()
    for parameter in model.parameters():
        parameter.normal_()
    scores = model.score(HistoryBatch.from_lists(LISTS))
    for row, items in zip(scores[[0, 2, 3]], BAGS, strict=True):
        expected = dense_logits(model, dense_latent(model, items)[:3])
        torch.testing.assert_close(row, expected)
    empty = dense_logits(model, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(scores[1], empty)


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_the_objective_is_the_bound(loss: str) -> None:
    """With a variance near 0 the draw is the mean, and all is known."""
    model = make(loss=loss, dropout=0.0, max_beta=0.3, anneal_steps=0)
    with torch.no_grad():
        model.latent.weight[3:] = 0.0
        model.latent.bias[3:] = -60.0
    objective = BagObjective(model, histories_of(LISTS), batch_size=8, seed=0)
    (batch,) = objective.batches(1)
    assert sorted(batch[0].tolist()) == [1, 3, 4]
    assert objective.count(batch) == objective.num_examples == 3
    expected = 0.0
    for items in BAGS:
        latent = dense_latent(model, items)
        log_p = dense_logits(model, latent[:3])[1:].log_softmax(dim=0)
        nll = -sum(log_p[item - 1].item() for item in items)
        expected += nll / len(items) if loss == "mean" else nll
        expected += 0.3 * gaussian_divergence(latent[None, :3], latent[None, 3:]).item()
    found = objective.loss(
        model, [tensor.double() if n == 3 else tensor for n, tensor in enumerate(batch)]
    )
    assert found.item() == pytest.approx(expected / 3, rel=1e-6)


def test_beta_rises_with_the_steps_of_all_epochs() -> None:
    model = make(max_beta=0.35, anneal_steps=10)
    objective = BagObjective(model, histories_of(LISTS), batch_size=2, seed=0)
    betas = [batch[3].item() for epoch in (1, 2, 3) for batch in objective.batches(epoch)]
    assert betas == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.35, 0.35])
    (last,) = objective.batches(2, first=1)  # as a run that is resumed has it
    assert last[3].item() == pytest.approx(0.3)


def test_dropout_leaves_the_expectation() -> None:
    model = make(dropout=0.5).train()
    items, offsets = torch.arange(1, 7).repeat(4000), torch.arange(4001) * 6
    with torch.no_grad():
        model.input_embedding.fill_(1e-4)  # where tanh is the identity
        model.encoder = torch.nn.Sequential()
        model.latent = torch.nn.Sequential()
        draws = model.encode(items, offsets)[0][:, 0]
    assert draws.std() > 0.1 * draws.mean()
    assert draws.mean().item() == pytest.approx(1e-4 * math.sqrt(6), rel=0.05)


def test_a_layer_without_width_is_refused() -> None:
    for hidden in ([8, 0], []):
        with pytest.raises(ConfigError, match=r"hidden.* got"):
            make_config(MultVAEConfig, {"hidden": hidden})
