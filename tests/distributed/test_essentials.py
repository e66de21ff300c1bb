"""Of the tests with several processes those that say most; all of them are slow tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ensue.distributed.workers import Workers
from tests.distributed.spawn import run_workers
from tests.distributed.test_ranker import check
from tests.training import test_shared_items

DES = [
    ("fm", {"layout": "field", "schedule": "scatter"}),
    ("deepfm", {"layout": "hash", "schedule": "all_reduce"}),
    ("dcn_v2", {"layout": "field", "schedule": "scatter"}),
    ("dlrm", {"layout": "column", "schedule": "scatter"}),
]


@pytest.mark.parametrize(("name", "options"), DES, ids=[name for name, _ in DES])
def test_sums_give_the_numbers_of_one_process(name: str, options: dict[str, Any]) -> None:
    check(name, 3, {"scheme": "des", **options}, "adagrad", 7)


@pytest.mark.parametrize("scheme", ["table_wise", "replicated"])
def test_pooled_vectors_give_the_numbers_of_one_process(scheme: str) -> None:
    check("ple", 2, {"scheme": scheme, "layout": "field"}, "adagrad", 7)


def test_items_are_those_of_one_process() -> None:
    test_shared_items.test_two_workers("sasrec")


def sent(workers: Workers) -> dict[str, int]:
    workers.reduce_scatter(torch.zeros(1024, 9), purpose="forward")
    workers.all_gather(torch.zeros(256, 9), purpose="backward")
    return dict(workers.traffic.sent)


def test_bytes_are_those_of_a_ring() -> None:
    for own in run_workers(sent, 4):
        assert (own["forward"], own["backward"]) == (27_648, 27_648)
