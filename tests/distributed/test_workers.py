from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
import torch
import torch.distributed as dist

from ensue.distributed.traffic import PURPOSES
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError, RunError, UsageError
from tests.distributed.spawn import WorkerError, run_workers

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

SIZES = [2, 3, 4]
CPU = torch.device("cpu")


def numbers(rank, *shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rank)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(-99, 99, shape, generator=generator, dtype=dtype)


def call(workers, name, shape, dtype, kwargs):
    """Return a collective's value of this worker's numbers, what it sent and what it was given."""
    x = numbers(workers.rank, *shape, dtype=dtype)
    before = x.clone()
    value = getattr(workers, name)(x, purpose="backward", **kwargs)
    calls = workers.traffic.calls["backward"]
    sent = workers.traffic.take()
    assert calls == 1
    assert sum(sent.values()) == sent["backward"]
    assert (value is x) == name.endswith("_")
    assert name.endswith("_") or torch.equal(x, before)
    return value, sent["backward"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("size", SIZES)
def test_reduce_scatter(size, dtype):
    shape = (size * 3, 5)
    terms = [numbers(rank, *shape, dtype=dtype) for rank in range(size)]
    total = terms[0].float() if dtype == torch.bfloat16 else terms[0].clone()
    for term in terms[1:]:
        total += term
    answers = run_workers(call, size, "reduce_scatter", shape, dtype, {})
    for rank, (value, sent) in enumerate(answers):
        assert torch.equal(value, total[3 * rank : 3 * rank + 3].to(dtype))
        assert sent == Fraction(size * 3 * 5 * terms[0].element_size() * (size - 1), size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("size", SIZES)
def test_all_gather(size, dtype):
    shape = (2, 3, 2)
    whole = torch.cat([numbers(rank, *shape, dtype=dtype) for rank in range(size)])
    for value, sent in run_workers(call, size, "all_gather", shape, dtype, {}):
        assert torch.equal(value, whole)
        assert sent == (size - 1) * 12 * whole.element_size()


@pytest.mark.parametrize("op", ["sum", "max", "min"])
@pytest.mark.parametrize("size", SIZES)
def test_all_reduce(size, op):
    terms = torch.stack([numbers(rank, 24, 5) for rank in range(size)])
    expected = terms.sum(0) if op == "sum" else getattr(terms, f"a{op}")(0)
    answers = run_workers(call, size, "all_reduce_", (24, 5), torch.float64, {"op": op})
    for value, sent in answers:
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)
        assert torch.equal(value, answers[0][0])
        assert sent == Fraction(2 * 24 * 5 * 8 * (size - 1), size)


@pytest.mark.parametrize("size", SIZES)
def test_broadcast(size):
    answers = run_workers(call, size, "broadcast_", (7,), torch.float32, {})
    assert all(torch.equal(value, numbers(0, 7, dtype=torch.float32)) for value, _ in answers)
    assert sum(sent for _, sent in answers) == (size - 1) * 28


def rows_to_send(size):
    """Return how many rows each worker sends to each: all kinds, and none of worker 1."""
    return [[0 if rank == 1 else (3 * rank + to) % 4 for to in range(size)] for rank in range(size)]


def give_rows(workers, dtype, wire):
    send = rows_to_send(workers.size)
    own = send[workers.rank]
    x = numbers(workers.rank, sum(own), 3, dtype=dtype)
    receive = [row[workers.rank] for row in send]
    value = workers.all_to_all(x, own, receive, purpose="ids", wire=wire)
    return value, workers.traffic.take()["ids"]


@pytest.mark.parametrize(
    ("dtype", "wire", "element_bytes"),
    [(torch.int64, None, 8), (torch.float32, None, 4), (torch.float32, torch.bfloat16, 2)],
)
@pytest.mark.parametrize("size", SIZES)
def test_all_to_all(size, dtype, wire, element_bytes):
    send = rows_to_send(size)
    given = [
        numbers(rank, sum(send[rank]), 3, dtype=dtype).split(send[rank]) for rank in range(size)
    ]
    for rank, (value, sent) in enumerate(run_workers(give_rows, size, dtype, wire)):
        expected = torch.cat([parts[rank] for parts in given])
        assert torch.equal(value, expected.to(wire or dtype).to(dtype))
        assert sent == 3 * element_bytes * sum(n for to, n in enumerate(send[rank]) if to != rank)


def empty_ones(workers):
    shapes = []
    for x in (torch.zeros(0, 3), torch.zeros(2 * workers.size, 0)):
        none = [0] * workers.size
        shapes.append(workers.reduce_scatter(x, purpose="forward").shape)
        shapes.append(workers.all_gather(x, purpose="forward").shape)
        shapes.append(workers.all_reduce_(x, purpose="forward").shape)
        shapes.append(workers.all_to_all(x[:0], none, none, purpose="forward").shape)
    return [tuple(shape) for shape in shapes], workers.traffic.total


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_can_be_sent(size):
    shapes = [(0, 3), (0, 3), (0, 3), (0, 3), (2, 0), (2 * size * size, 0), (2 * size, 0), (0, 0)]
    assert run_workers(empty_ones, size) == [(shapes, 0)] * size


def worked_example(workers):
    x = torch.ones(1024, 9)
    own = workers.reduce_scatter(x, purpose="forward")
    workers.all_gather(own, purpose="backward")
    workers.all_reduce_(x, purpose="dense")
    return workers.traffic.take()


def test_bytes_of_the_worked_example():
    expected = {"ids": 0, "forward": 27_648, "backward": 27_648, "dense": 55_296, "other": 0}
    assert run_workers(worked_example, 4) == [expected] * 4


def short_sums(workers):
    # Above 256 a bfloat16 holds even numbers only: sums made in it would stay at 256.
    x = torch.full((workers.size, 2), 256.0 if workers.rank == 0 else 1.0)
    total = workers.reduce_scatter(x, purpose="forward", wire=torch.bfloat16)
    third = torch.full((2,), 1 / 3)
    gathered = workers.all_gather(third, purpose="backward", wire=torch.bfloat16)
    return total, gathered, workers.traffic.take()


def test_numbers_are_short_on_the_wire_and_sums_are_not():
    for total, gathered, sent in run_workers(short_sums, 4):
        assert total.tolist() == [[259.0, 259.0]]
        assert gathered.tolist() == [0.333984375] * 8
        assert (sent["forward"], sent["backward"]) == (3 * 2 * 2, 3 * 2 * 2)


def tell(workers, values):
    gathered = workers.gather_objects(values[workers.rank])
    return gathered, workers.traffic.take()["other"]


@pytest.mark.parametrize("size", SIZES)
def test_objects(size):
    values = [
        {"auc": 1 / 3, "name": "n" * 100 * rank, "rows": [rank, None]} for rank in range(size)
    ]
    longest = len(json.dumps(values[-1]))
    assert run_workers(tell, size, values) == [(values, (size - 1) * (8 + longest))] * size


def meet(workers, seconds):
    time.sleep(seconds if workers.rank == 0 else 0)
    arrived = time.monotonic()
    workers.barrier()
    return arrived, time.monotonic()


def test_a_barrier_waits_for_the_last():
    answers = run_workers(meet, 3, 0.2)
    assert min(left for _, left in answers) >= max(arrived for arrived, _ in answers)


def two_at_once(workers, num_calls):
    """Exchange ids on a thread while this one sums: each checks its own values."""
    found = []

    def exchange_ids():
        for call in range(num_calls):
            ids = torch.arange(workers.size) + 10 * call + 100 * workers.rank
            ones = [1] * workers.size
            got = workers.all_to_all(ids, ones, ones, purpose="ids")
            expected = 100 * torch.arange(workers.size) + 10 * call + workers.rank
            found.append(torch.equal(got, expected))

    thread = threading.Thread(target=exchange_ids)
    thread.start()
    for call in range(num_calls):
        total = workers.all_reduce_(torch.tensor([call]), purpose="dense")
        rows = workers.reduce_scatter(torch.full((workers.size,), call), purpose="forward")
        found += [total.item() == rows.item() == workers.size * call]
    thread.join()
    return found


def test_threads_may_use_different_groups():
    assert run_workers(two_at_once, 3, 50) == [[True] * 100] * 3


def wait_for_a_late_one(workers, seconds):
    if workers.rank == 0:
        time.sleep(seconds)
        return None
    start = time.monotonic()
    with pytest.raises(RunError) as caught:
        workers.reduce_scatter(torch.ones(workers.size, 2), purpose="forward")
    return str(caught.value), time.monotonic() - start


def test_a_late_worker_is_an_error_within_the_timeout():
    answers = run_workers(wait_for_a_late_one, 3, 2.2, timeout_seconds=1.5)
    for rank in (1, 2):
        text, waited = answers[rank]
        # The one whose time is over first leaves the other.
        assert re.match(
            rf"reduce_scatter \(forward\) needs all 3 workers; worker {rank} "
            r"(waited in vain|lost another one) after \d\.\d s of at most 1\.5 s \([A-Z]",
            text,
        )
        assert text.count("\n") == 0
        assert 1.4 < waited < 4
    assert any("waited in vain" in answers[rank][0] for rank in (1, 2))


def go_early(workers):
    if workers.rank == 1:
        workers.close()
        return ""
    with pytest.raises(RunError) as caught:
        workers.all_reduce_(torch.ones(workers.size), purpose="dense")
    return str(caught.value)


def test_a_worker_that_ended_is_an_error_at_once():
    start = time.monotonic()
    answers = run_workers(go_early, 2)
    assert time.monotonic() - start < 5  # the timeout is 60 s
    assert answers[0].startswith(
        "all_reduce (dense) needs all 2 workers; worker 0 lost another one"
    )


def start_alone(workers, path):
    Workers.join(dist.FileStore(path, 2), 0, 2, timeout_seconds=0.3)


def test_workers_that_do_not_come_are_an_error(tmp_path):
    start = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"RunError: .* 2 .* within 0.3 s; worker 0 met no others"
    ):
        run_workers(start_alone, 1, str(tmp_path / "store"))
    assert time.monotonic() - start < 5


def start_as_torchrun_does(workers, port):
    rank, size = workers.rank, workers.size
    workers.close()
    values = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank}
    values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        with Workers.start(timeout_seconds=20, device="cpu") as started:
            gathered = started.gather_objects(started.rank)
            return started.rank, started.size, str(started.device), gathered
    finally:
        for name in values:
            del os.environ[name]


def test_the_environment_of_torchrun():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert run_workers(start_as_torchrun_does, 2, port) == [
        (0, 2, "cpu", [0, 1]),
        (1, 2, "cpu", [0, 1]),
    ]


SCRIPT = """
import sys
from pathlib import Path
from ensue.distributed.workers import Workers
with Workers.start(60, "cpu") as workers:
    said = workers.gather_objects(10 * workers.rank)
    Path(sys.argv[1], str(workers.rank)).write_text(f"{workers.size} {said}")
"""


@pytest.mark.slow  # four imports of torch
def test_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node=2", str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    for rank in "01":
        assert (tmp_path / rank).read_text() == "2 [0, 10]"


@pytest.mark.parametrize("size", ["", "1"])
def test_alone_nothing_is_sent(monkeypatch, size):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size:
        for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
    with Workers.start(device="cpu") as workers:
        x = numbers(0, 3, 2)
        assert workers.all_to_all(x, [3], [3], purpose="ids") is x
        assert workers.reduce_scatter(x, purpose="forward", wire=torch.bfloat16) is x
        assert workers.all_gather(x, purpose="forward") is x
        assert workers.all_reduce_(x, purpose="dense") is x
        assert workers.broadcast_(x) is x
        assert torch.equal(x, numbers(0, 3, 2))
        assert workers.gather_objects({"a": 1}) == [{"a": 1}]
        workers.barrier()
        assert not dist.is_initialized()
        assert workers.traffic.take() == dict.fromkeys(PURPOSES, 0)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "RANK='2'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK=''"),
        ({"WORLD_SIZE": "many", "RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE='many'"),
    ],
)
def test_an_environment_that_torchrun_does_not_make(monkeypatch, values, found):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{found}.*start with torchrun"):
        Workers.start()


def test_devices_that_are_not_there(monkeypatch):
    with pytest.raises(ConfigError, match=r"must be 'auto', 'cpu' or 'cuda'; got 'tpu'"):
        Workers.alone("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"got local rank 0 and 0 GPUs"):
        Workers.alone("cuda")
    assert Workers.alone("auto").device == CPU


def test_shapes_that_do_not_fit():
    workers = Workers(0, 3, CPU)  # each check comes before anything is sent
    with pytest.raises(ValueError, match=r"x \[N \* b, ...\] for N=3 workers; got \(4, 2\)"):
        workers.reduce_scatter(torch.zeros(4, 2), purpose="forward")
    with pytest.raises(ValueError, match=r"needs x \[b, ...\]; got a tensor without dimensions"):
        workers.all_gather(torch.tensor(1.0), purpose="forward")
    for send, receive in (([1, 2, 2], [1, 1, 1]), ([2, 2], [1, 1, 1]), ([1, 2, 1], [1])):
        with pytest.raises(ValueError, match=r"counts for 3 workers; got \(4, 2\), send \["):
            workers.all_to_all(torch.zeros(4, 2), send, receive, purpose="ids")
    for name in ("all_reduce_", "broadcast_"):
        with pytest.raises(ValueError, match=rf"{name} needs a contiguous tensor; got \(2, 4\)"):
            getattr(workers, name)(torch.zeros(4, 2).T, purpose="dense")
    with pytest.raises(ValueError, match=r"floating-point numbers; got torch.int64 as torch.bf"):
        workers.all_gather(torch.zeros(3).long(), purpose="ids", wire=torch.bfloat16)
