"""What `ensue serve` takes, on cores that it shares with who asks.

    python -m benchmarks.serve ml-1m [--model caser] [--runs FOLDER] [--rounds 5]
    python -m benchmarks.serve million [--index ivf] [--runs FOLDER]
    python -m benchmarks.serve ml-1m --minutes 10      memory while requests and events come in

ml-1m: a run on ML-1M, requests for its users. Bars: at 300 requests a second half of them are
answered within 4 ms and 99 of 100 within 15 ms, without an error; 1,200 requests a second at
saturation. million: a Caser of random vectors, a million items, histories of 30, asked through an
index. Bar: 99 of 100 within 30 ms at 100 requests a second. `--runs` is where runs are kept, and
taken from where they are. "at random" are moments that know nothing of each other; "events" is one
event to nine requests; "nothing" asks for /healthz, which shows what HTTP and the machine take of
the time. "server us" is processor time of the service for each request. Figures are medians of the
rounds, with the least and the largest p99 behind them.
Data: ../shared/data/ml-1m (see its README); it is not part of the project.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import ensue
from benchmarks._load import (
    Server,
    even_moments,
    get,
    has_wrk,
    offer,
    post,
    random_moments,
    saturate,
    serving,
)
from benchmarks._report import to_table, write_report
from benchmarks.caser import SHARED, prepare
from benchmarks.indexes import make_vectors
from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.runs.run import Run, save_run
from tests.helpers import make_dataset

MILLION = 1_000_000
USERS, HISTORY, DIM = 20_000, 30, 32  # of the run with a million items
RATES = {"ml-1m": 300, "million": 100}
BARS = {"ml-1m": "p50 <= 4, p99 <= 15 ms", "million": "p99 <= 30 ms"}
CONNECTIONS = (1, 16, 32, 64)
MANY = 20_000  # different requests
WARM_UP_S = 3
EVENTS = 0.1  # of what is sent, where events are
MEMORY_EVERY_S = 10


def main() -> int:
    """Run the chosen benchmark, print a table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=list(RATES))
    parser.add_argument("--model", default="caser", choices=("caser", "sasrec"))
    parser.add_argument("--runs", type=Path, help="folder of runs; a new one by default")
    parser.add_argument("--index", default="ivf", choices=("ivf", "hnsw"))
    parser.add_argument("--seconds", type=int, default=15, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="measure memory for so long, in their place")
    options = parser.parse_args()
    if options.what == "ml-1m" and not (SHARED / "ml-1m").is_dir() and options.runs is None:
        print(f"skipped: {SHARED / 'ml-1m'} does not exist", file=sys.stderr)
        return 0
    with TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        arguments: tuple[str, ...] = ()
        if options.what == "million":
            run, arguments = million_run(folder, options.index), ("--index", options.index)
        else:
            run = ml_1m_run(folder, options.model)
        requests = Requests(run)
        with serving(run.path, *arguments) as server:
            offer(server.port, requests.take(WARM_UP_S * 100), even_moments(100, WARM_UP_S))
            if options.minutes is None:
                rounds = [measure(server, requests, options) for _ in range(options.rounds)]
                rows = [middle(same) for same in zip(*rounds, strict=True)]
                config: dict[str, Any] = {"seconds": options.seconds, "rounds": options.rounds}
            else:
                rows = memory(server, requests, RATES[options.what], options.minutes)
                config = {"MB a minute, second half": slope(rows)}
    kind = "serve" if options.minutes is None else "serve_memory"
    case = "million" if options.what == "million" else f"ml-1m_{options.model}"
    config = {"arguments": " ".join(arguments), "load average": os.getloadavg()[0], **config}
    print(to_table(rows), config)
    print(write_report(f"{kind}_{case}", config, rows))
    return 0


class Requests:
    """Requests for the users of a run, in an order that is the same every time."""

    def __init__(self, run: Run) -> None:
        rng = np.random.default_rng(0)
        known = run.recommender.user_ids.raw
        self._users = known.gather(rng.integers(0, len(known), MANY)).to_list()
        items = run.recommender.item_ids.raw
        self._items = items.gather(rng.integers(0, len(items), MANY)).to_list()
        self._draws = rng.random(MANY)
        self._num_taken = 0

    @property
    def bodies(self) -> list[str]:
        """What the requests without events ask."""
        return [f'{{"user":"{user}","k":10}}' for user in self._users]

    def take(self, count: int, *, events: float = 0.0) -> list[bytes]:
        """Return the next requests, that share of them an event."""
        first = self._num_taken
        self._num_taken += count
        return [self._request(n % MANY, events) for n in range(first, first + count)]

    def _request(self, n: int, events: float) -> bytes:
        if self._draws[n] < events:
            event = f'{{"user":"{self._users[n]}","item":"{self._items[n]}"}}'
            return post("/v1/events", f'{{"events":[{event}]}}')
        return post("/v1/recommend", f'{{"user":"{self._users[n]}","k":10}}')


def measure(
    server: Server, requests: Requests, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each kind of load."""
    rate, seconds = RATES[options.what], options.seconds
    bar = BARS[options.what]
    rows = []

    def add(load: str, run: Callable[[], dict[str, Any]], bar: str) -> None:
        before = server.cpu_s
        started = time.perf_counter()
        figures = run()
        asked = figures["requests/s"] * (time.perf_counter() - started)
        cpu = 1e6 * (server.cpu_s - before) / asked
        rows.append({"load": load, **figures, "server us": cpu, "bar": bar})
        print(to_table(rows[-1:]).splitlines()[-1], flush=True)

    due = even_moments(rate, seconds)
    nothing = [get("/healthz")] * len(due)
    add(f"nothing, {rate}/s, evenly", lambda: offer(server.port, nothing, due).to_row(), "")
    ways: Sequence[tuple[str, Callable[[float, float], NDArray[np.float64]], float, str]] = (
        (f"{rate}/s, evenly", even_moments, 0.0, bar),
        (f"{rate}/s, at random", random_moments, 0.0, ""),
        (f"{rate}/s, at random, events", random_moments, EVENTS, ""),
    )
    for name, moments, events, its_bar in ways:
        due = moments(rate, seconds)
        sent = requests.take(len(due), events=events)
        add(name, lambda sent=sent, due=due: offer(server.port, sent, due).to_row(), its_bar)  # type: ignore[misc]
    if not has_wrk():
        print("skipped: saturation needs wrk, which is not installed", file=sys.stderr)
        return rows
    for count in CONNECTIONS:
        its_bar = ">= 1,200 requests/s" if options.what == "ml-1m" and count == 32 else ""
        add(
            f"all that {count} wait for",
            lambda count=count: saturate(  # type: ignore[misc]
                server.port, requests.bodies, connections=count, seconds=seconds
            ),
            its_bar,
        )
    return rows


def middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the same load's figures."""
    first, p99 = rounds[0], [row["p99 ms"] for row in rounds]
    row = {
        name: value if isinstance(value, str) else float(np.median([r[name] for r in rounds]))
        for name, value in first.items()
    }
    row["errors"] = sum(r["errors"] for r in rounds)
    return {**row, "p99 of the rounds": f"{min(p99):.1f} to {max(p99):.1f}"}


def memory(server: Server, requests: Requests, rate: int, minutes: float) -> list[dict[str, Any]]:
    """Return what memory the service holds, every few seconds under requests and events."""
    rows = []
    for number in range(1, round(60 * minutes / MEMORY_EVERY_S) + 1):
        due = random_moments(rate, MEMORY_EVERY_S)
        figures = offer(server.port, requests.take(len(due), events=EVENTS), due).to_row()
        row = {"minutes": number * MEMORY_EVERY_S / 60, "MB": server.memory_mb, **figures}
        rows.append(row)
        print(to_table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def slope(rows: Sequence[dict[str, Any]]) -> float:
    """Return how memory grows in the second half, in MB a minute (least squares)."""
    half = rows[len(rows) // 2 :]
    if len(half) < 2:
        return float("nan")
    minutes, held = [row["minutes"] for row in half], [row["MB"] for row in half]
    return float(np.polyfit(minutes, held, 1)[0])


def ml_1m_run(folder: Path, model: str) -> Run:
    """Return the run of a model that is in the folder, or train it there."""
    if not (folder / model / "run.json").is_file():
        data = folder / "ml-1m"
        dataset = data if (data / "dataset.json").is_file() else prepare("ml-1m", data)
        ensue.train(model, dataset, out=folder / model, epochs=2)
    return ensue.load(folder / model)


def million_run(folder: Path, index: str) -> Run:
    """Return the run of a million items that is in the folder, or make it there, with its index."""
    path = folder / "million"
    run = Run(path) if (path / "run.json").is_file() else _make_million(folder, path)
    if not (path / "indexes" / index).is_dir():
        run.build_index(index)
    return run


def _make_million(folder: Path, path: Path) -> Run:
    """Return a run of Caser whose vectors of items and users lie around the same centers."""
    rng = np.random.default_rng(0)
    histories = rng.integers(1, MILLION + 1, (USERS, HISTORY)).tolist()
    dataset = make_dataset(folder / "million-data", histories, num_items=MILLION)
    config = CaserConfig(dim=DIM)
    model = Caser(config, num_users=USERS, num_items=MILLION)
    items, users = make_vectors(MILLION, 2 * DIM, USERS)
    with torch.no_grad():
        model.output_embedding.copy_(torch.from_numpy(items))
        model.user_embedding.copy_(torch.from_numpy(users[:, DIM:]))
    info = {
        "model": "caser",
        "fit": "train",
        "config": config.model_dump(mode="json"),
        "training": None,
        "preset": None,
        "dataset": {"path": str(dataset.path), **dataset.info.model_dump(include=DESCRIBED)},
        "seed": 0,
        "metrics": {},
    }
    path.mkdir(parents=True)
    return save_run(path, model, dataset, info)


DESCRIBED = {"name", "hash", "counts", "split", "notes"}

if __name__ == "__main__":
    sys.exit(main())
