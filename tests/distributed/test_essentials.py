"""What training over several workers is in one process: the others of its tests are slow tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ensue.distributed.workers import Workers
from tests.distributed.spawn import run_workers
from tests.distributed.test_ranker import train_alone, train_shared

DES = [
    ("fm", {"layout": "field", "schedule": "scatter"}),
    ("deepfm", {"layout": "hash", "schedule": "all_reduce"}),
    ("dcn", {"layout": "field", "schedule": "scatter"}),
    ("dlrm", {"layout": "column", "schedule": "scatter"}),
]


@pytest.mark.parametrize(("name", "options"), DES, ids=[name for name, _ in DES])
def test_sums_give_the_numbers_of_the_model_itself(name: str, options: dict[str, Any]) -> None:
    found = train_shared(Workers.alone(), name, "adagrad", 7, {"scheme": "des", **options})
    expected = train_alone(name, "adagrad", 7)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-12, abs=1e-12)
    torch.testing.assert_close(found["predicted"], expected["predicted"], rtol=0, atol=1e-12)


def sent(workers: Workers) -> dict[str, int]:
    workers.reduce_scatter(torch.zeros(1024, 9), purpose="forward")
    workers.all_gather(torch.zeros(256, 9), purpose="backward")
    return dict(workers.traffic.sent)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 4])
def test_bytes_are_those_of_a_ring(num_workers: int) -> None:
    others = num_workers - 1
    for own in run_workers(sent, num_workers):
        assert own["forward"] == others * 1024 * 9 * 4 // num_workers
        assert own["backward"] == others * 256 * 9 * 4
