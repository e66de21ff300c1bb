from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ensue.data.ranking.batch import RankingBatch
from ensue.data.synthetic.stream import StreamConfig, SyntheticStream
from ensue.training.stream import StreamObjective

STREAM = SyntheticStream(StreamConfig(num_dense=6, num_categorical=2, num_values=4), seed=5)


def test_batches_go_on_from_any_place_and_from_epoch_to_epoch() -> None:
    objective = StreamObjective(STREAM, num_steps=4, batch_size=8)
    assert objective.num_examples == 32
    for epoch, first, steps in ((1, 0, range(4)), (1, 2, range(2, 4)), (3, 1, range(9, 12))):
        found = list(objective.batches(epoch, first=first))
        expected = [STREAM.batch(step, 8).tensors() for step in steps]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
            assert objective.count(one) == 8


def test_losses_are_cross_entropy_and_squared_error() -> None:
    objective = StreamObjective(STREAM, num_steps=1, batch_size=8)
    predictions = torch.randn(8, 6, requires_grad=True)

    def model(batch: RankingBatch) -> Any:
        return predictions

    (batch,) = objective.batches(1)
    labels = batch[0]
    loss = objective.loss(model, batch)
    expected = [F.binary_cross_entropy_with_logits(predictions[:, n], labels[:, n]) for n in (0, 3)]
    torch.testing.assert_close(objective.seen_losses[[0, 3]], torch.stack(expected).detach())
    error = (predictions[:, 5] - labels[:, 5]).square().mean()
    torch.testing.assert_close(objective.seen_losses[5], error.detach())
    torch.testing.assert_close(loss.detach(), objective.seen_losses.sum())
    assert objective.tasks == tuple(task.name for task in STREAM.schema.tasks)
    loss.backward()
    assert predictions.grad is not None
    sigmoid = (torch.sigmoid(predictions[:, :4]) - labels[:, :4]) / 8
    torch.testing.assert_close(predictions.grad[:, :4], sigmoid.detach())
