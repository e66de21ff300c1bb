from __future__ import annotations

import os
import time

import pytest
import torch

from tests.distributed.spawn import WorkerError, run_workers

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast


def who_am_i(workers, offset):
    return workers.rank + offset, workers.size, torch.get_num_threads()


def fail_on_one(workers, rank):
    if workers.rank == rank:
        raise ValueError(f"worker {rank} had enough")
    workers.all_gather(torch.ones(1), purpose="other")


def end_one(workers, rank):
    if workers.rank == rank:
        os._exit(3)
    return workers.rank


def my_process(workers):
    return os.getpid()


def sleep(workers, seconds):
    time.sleep(seconds)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_values_come_in_rank_order(size):
    assert run_workers(who_am_i, size, 10) == [(10 + rank, size, 1) for rank in range(size)]


def test_processes_are_used_again():
    processes = run_workers(my_process, 4)
    assert len(set(processes)) == 4
    assert run_workers(my_process, 3) == processes[:3]


@pytest.mark.parametrize("rank", [0, 2])
def test_the_first_failure_is_raised_with_its_traceback(rank):
    with pytest.raises(WorkerError, match=rf"worker {rank} of 3:[^!]*worker {rank} had enough"):
        run_workers(fail_on_one, 3, rank)
    assert len(run_workers(my_process, 3)) == 3


def test_a_process_that_ends_is_an_error_and_the_pool_goes_on():
    with pytest.raises(WorkerError, match="worker 1 of 2: the process has ended"):
        run_workers(end_one, 2, 1)
    assert len(set(run_workers(my_process, 2))) == 2


def test_a_function_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr("tests.distributed.spawn.START_SECONDS", 0.2)
    with pytest.raises(WorkerError, match="worker 0 of 1: no answer in time"):
        run_workers(sleep, 1, 60, timeout_seconds=0.1)
