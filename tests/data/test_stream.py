from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ensue.data.ranking.batch import RankingBatch
from ensue.data.synthetic.stream import StreamConfig, SyntheticStream

SMALL = StreamConfig(num_dense=20, num_categorical=3, num_values=5, jump_every=10)


def test_shapes_are_those_of_the_schema() -> None:
    stream = SyntheticStream()
    assert [task.kind for task in stream.schema.tasks] == ["binary"] * 4 + ["regression"] * 2
    assert len(stream.schema.of_kind("categorical")) + stream.schema.columns[-1].size == 200
    batch = stream.batch(3, 7)
    assert batch.codes.shape == (7, 8)
    assert batch.codes.min() >= 1
    assert batch.codes.max() <= 50
    assert [tuple(vector.shape) for vector in batch.vectors] == [(7, 192)]
    assert batch.labels.shape == batch.weights.shape == (7, 6)
    assert set(batch.labels[:, :4].unique().tolist()) == {0.0, 1.0}
    again = RankingBatch.from_tensors(batch.tensors(), stream.schema)
    assert torch.equal(again.vectors[0], batch.vectors[0])


def test_a_batch_depends_on_seed_step_and_draw_alone() -> None:
    one, other = SyntheticStream(SMALL, seed=3), SyntheticStream(SMALL, seed=3)
    later = [one.batch(step, 16).tensors() for step in (0, 25, 4)]
    for step, expected in zip((4, 25, 0), reversed(later), strict=False):
        if step != 25:
            found = other.batch(step, 16).tensors()
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    same = [t.vectors[0] for t in (one.batch(4, 16, draw=1), SyntheticStream(SMALL).batch(4, 16))]
    rows = torch.cat([later[2][-1], one.batch(5, 16).vectors[0], *same])
    assert len(torch.unique(rows, dim=0)) == 64


def test_the_teacher_jumps_by_its_share_and_keeps_its_size() -> None:
    for share in (0.0, 0.3, 1.0):
        stream = SyntheticStream(SMALL.model_copy(update={"jump": share, "num_binary": 200}))
        first, same, then, far = (stream.weights(step) for step in (0, 9, 10, 35))
        assert np.array_equal(first, same)
        assert np.array_equal(first, then) == (share == 0)
        correlation = np.corrcoef(first.ravel(), then.ravel())[0, 1]
        assert correlation == pytest.approx((1 - share) ** 0.5, abs=0.15)
        assert far.std() == pytest.approx(first.std(), rel=0.15)
        assert np.array_equal(stream.weights(4), first)  # and back


def test_labels_follow_the_truth() -> None:
    config = SMALL.model_copy(update={"noise": 0.0, "drift": 0.0})
    stream = SyntheticStream(config, seed=1)
    batch = stream.batch(12, 20_000)
    latent = batch.vectors[0].numpy()  # without a drift the features are what the teacher reads
    truth = stream.truth(12, latent, batch.codes.numpy())
    np.testing.assert_allclose(batch.labels[:, 4:].numpy(), truth[:, 4:], rtol=1e-5)
    assert truth.std(axis=0) == pytest.approx(1, abs=0.35)
    chance = 1 / (1 + np.exp(-3.0 * truth[:, :4]))
    for low in (0.0, 0.3, 0.7):  # in each range of chances there are as many as promised
        chosen = (chance >= low) & (chance < low + 0.3)
        error = (batch.labels[:, :4].numpy()[chosen] - chance[chosen]).mean()
        assert abs(error) < 4 * 0.5 / chosen.sum() ** 0.5


def test_scales_drift_within_their_bounds_and_change_no_label() -> None:
    still, moving = (
        SyntheticStream(SMALL.model_copy(update={"drift": drift})) for drift in (0.0, 0.7)
    )
    scales = np.array([moving.scales(step) for step in range(0, 400, 10)])
    assert np.abs(np.log(scales)).max() <= 0.7
    assert (scales.max(axis=0) / scales.min(axis=0)).min() > np.exp(1.3)
    assert np.abs(np.diff(np.log(scales), axis=0)).max() < 0.3
    assert np.array_equal(still.scales(17), np.ones(20))
    one, other = still.batch(33, 50), moving.batch(33, 50)
    assert torch.equal(one.labels, other.labels)
    expected = one.vectors[0] * torch.from_numpy(moving.scales(33))
    torch.testing.assert_close(other.vectors[0], expected)


def test_bad_settings() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        StreamConfig(jump=1.5)
