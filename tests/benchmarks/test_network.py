from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from benchmarks.network.cluster import ClusterError, cluster, why_not
from benchmarks.network.formulas import sent_bytes
from benchmarks.network.head import Head
from benchmarks.network.meter import Exchange
from benchmarks.network.workloads import WORKLOADS, Workload, make_batch, start_rows
from benchmarks.parameter_server import EPS, RATE, Worker
from benchmarks.staleness import asynchronous, make_stream

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

SMALL = Workload("deepfm", (7, 5, 11), 1.0, 2, 3, 4, (6,), 8)
STEPS = 4


class InThreads(Exchange):
    """The exchange of workers that are threads of one process."""

    def __init__(self, rank: int, size: int, shared: list[object], barrier: Barrier) -> None:
        super().__init__(rank, size)
        self._shared, self._barrier = shared, barrier

    def _all(self, mine: object) -> list:
        self._shared[self.rank] = mine
        self._barrier.wait(timeout=20)
        found = list(self._shared)
        self._barrier.wait(timeout=20)
        return found

    def _swap_(self, out, values, receive, send):
        parts = [part[self.rank] for part in self._all(values.split(send))]
        assert [len(part) for part in parts] == receive
        out.copy_(torch.cat(parts))

    def _sum_(self, values):
        values.copy_(sum(self._all(values.clone())))


def train(workload: Workload, size: int, *, remember: bool = False) -> list[Worker]:
    shared, barrier = [None] * size, Barrier(size)

    exchanges = [InThreads(rank, size, shared, barrier) for rank in range(size)]
    workers = [Worker(workload, e, remember=remember, dtype=torch.float64) for e in exchanges]

    def run(rank: int) -> None:
        for step in range(STEPS):
            workers[rank].step(make_batch(workload, rank, step))

    with ThreadPoolExecutor(size) as pool:
        list(pool.map(run, range(size)))
    return workers


def train_alone(workload: Workload, size: int) -> tuple[Tensor, Head]:
    """Train a dense table with PyTorch's Adagrad and the logits of the definition, row by row."""
    table = start_rows(workload, torch.arange(workload.num_rows), torch.float64).requires_grad_()
    head = Head(workload).double()
    optimizer = torch.optim.Adagrad([table, *head.parameters()], lr=RATE, eps=EPS)
    first = 0 if workload.model == "dnn" else 1
    for step in range(STEPS):
        losses = []
        for rank in range(size):
            batch = make_batch(workload, rank, step)
            bags = batch.ids.split(batch.lengths.flatten().tolist())
            columns = len(workload.sizes)
            for row in range(workload.batch):
                own = bags[row * columns : (row + 1) * columns]
                vectors = table[torch.cat(own)][:, first:]
                logit = head.bias
                if workload.model != "dnn":
                    logit = logit + table[torch.cat(own)][:, 0].sum()
                if head.has_pairs:
                    products = vectors @ vectors.T
                    logit = logit + products.triu(diagonal=1).sum()
                if workload.hidden:
                    pooled = [table[bag][:, first:].sum(dim=0) for bag in own]
                    hidden = torch.cat([*pooled, batch.numbers[row].double()])
                    hidden = head.layers[0](hidden).relu()
                    logit = logit + head.layers[1](hidden)[0]
                sign = 1 - 2 * batch.labels[row].double()
                losses.append(torch.nn.functional.softplus(sign * logit))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    return table.detach(), head


@pytest.mark.parametrize("model", ["lr", "fm", "deepfm", "dnn"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_parameter_server_trains_as_one_process_does(model, size):
    hidden = SMALL.hidden if model in ("deepfm", "dnn") else ()
    workload = SMALL._replace(model=model, hidden=hidden, dim=0 if model == "lr" else 4)
    workers = train(workload, size, remember=size == 1)
    table, head = train_alone(workload, size)
    for rank, worker in enumerate(workers):
        torch.testing.assert_close(worker.server.rows, table[rank::size], rtol=0, atol=1e-12)
        for own, whole in zip(worker.head.parameters(), head.parameters(), strict=True):
            torch.testing.assert_close(own, whole, rtol=0, atol=1e-12)
    assert not torch.equal(table, start_rows(workload, torch.arange(23), torch.float64))


def test_a_worker_counts_the_bytes_that_leave_it():
    size = 2
    batches = [[make_batch(SMALL, rank, step).ids for rank in range(size)] for step in range(STEPS)]
    for rank, worker in enumerate(train(SMALL, size)):
        distinct = [[ids.unique() for ids in step] for step in batches]
        asked = sum(int((step[rank] % size != rank).sum()) for step in distinct)
        served = sum(int((step[1 - rank] % size == rank).sum()) for step in distinct)
        row = 8 * SMALL.width
        sent = worker.exchange.sent
        assert sent["pull ids"] == sent["push ids"] == 8 * asked
        assert sent["push gradients"] == row * asked
        assert sent["pull rows"] == row * served
        numbers = sum(p.numel() for p in worker.head.parameters())
        assert sent["dense"] == STEPS * 8 * numbers


def test_formulas_give_the_table_of_the_method():
    """b = 512, N = 4, F = 200, n = 1000, k = 8, U = 150,000, h = 256, in MB."""
    fm, deepfm = WORKLOADS["fm-many"], WORKLOADS["deepfm-many"]
    tower = WORKLOADS["dnn-many"]

    def mega(scheme, workload, part):
        found = sent_bytes(scheme, workload, 4, entries=512_000, distinct=150_000)
        return found[part] / 1e6

    assert mega("des_scatter", fm, "sparse") == pytest.approx(0.11, abs=0.005)
    assert mega("des_scatter", tower, "sparse") == pytest.approx(3.15, abs=0.005)
    assert mega("des_scatter", deepfm, "sparse") == pytest.approx(0.11 + 3.15, abs=0.01)
    assert mega("row_wise", fm, "sparse") == pytest.approx(19.7, abs=0.05)
    assert mega("table_wise", fm, "sparse") == pytest.approx(4.92, abs=0.005)
    server = mega("parameter_server", fm, "sparse") + mega("parameter_server", fm, "ids")
    assert server / 0.75 == pytest.approx(13.2, abs=0.05)  # the table leaves the own share in
    assert mega("des_scatter", fm, "ids") == pytest.approx(3.07 + 0.31, abs=0.005)


def test_batches_depend_on_seed_rank_and_step_alone_and_have_the_distinct_values_they_should():
    many = WORKLOADS["fm-many"]
    batch = make_batch(many, 1, 2)
    again = make_batch(many, 1, 2)
    assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))
    assert not torch.equal(batch.labels, make_batch(many, 2, 2).labels)
    assert len(batch.ids) == batch.lengths.sum() == pytest.approx(512_000, rel=0.01)
    assert len(batch.ids.unique()) == pytest.approx(150_000, rel=0.03)
    column = torch.arange(200).repeat(512).repeat_interleave(batch.lengths.flatten())
    assert torch.equal(batch.ids // 20_000, column)
    assert 0.1 < batch.labels.mean() < 0.9


def test_an_asynchronous_run_measures_its_staleness():
    stream = make_stream(4, 1, 0)
    alone = asynchronous(stream, 0.05, workers=1, spread=0.0, seed=0)
    assert set(alone.staleness) == {0}
    even = asynchronous(stream, 0.05, workers=4, spread=0.0, seed=0)
    assert even.staleness[4:] == [3] * (len(even.staleness) - 4)
    uneven = asynchronous(stream, 0.05, workers=4, spread=0.5, seed=0)
    assert max(uneven.staleness) > 3
    assert alone.auc > 0.5


needs_namespaces = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))


@needs_namespaces
def test_nodes_know_their_ranks_reach_each_other_and_are_removed():
    script = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])"
    with cluster(2, 100) as network:
        outputs = network.run([[sys.executable, "-c", script]] * 2, timeout=30)
        assert [output.stdout.split() for output in outputs] == [["0", "2"], ["1", "2"]]
        before = network.sent_bytes()
        command = [sys.executable, "-m", "benchmarks.network.transfer", "--send", "100000"]
        network.run([command] * 2, timeout=30)
        sent = [now - then for now, then in zip(network.sent_bytes(), before, strict=True)]
        assert all(100_000 < size < 120_000 for size in sent)
        name = network.name
    assert name not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


@needs_namespaces
def test_a_failing_or_hanging_node_is_an_error_and_nothing_is_left_running():
    with cluster(1, None) as network:
        with pytest.raises(ClusterError, match="node 0 ended with exit code 3"):
            network.run([["sh", "-c", "exit 3"]], timeout=30)
        with pytest.raises(ClusterError, match=r"within 0\.2 s; 1 of 1 did not"):
            network.run([["sleep", "60"]], timeout=0.2)
