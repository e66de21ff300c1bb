"""How well and how fast the indexes of a run answer, over a sweep of the setting of a search.

Shapes: B queries, D width, k answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.errors import UsageError
from ensue.files import atomic_file, write_json
from ensue.indexes.base import Index
from ensue.indexes.store import read_stored
from ensue.indexes.table import KINDS, get_kind
from ensue.indexes.vectors import by_product, model_queries
from ensue.progress import track
from ensue.runs.page import Mean, build_page, header, notes, plots, section, table
from ensue.runs.plots import Line, draw_lines, require_plots
from ensue.runs.run import Run, load

BATCHES = (1, 256)  # queries searched at a time
ENCODED = 256  # histories at a time
MIN_SEARCHES, MAX_SEARCHES = 5, 200  # timed, of each size of batch
SECONDS = 2.0  # after which no further search is timed


@dataclass(frozen=True)
class Row:
    """An index at one value of the setting of a search.

    setting: its name and value; None for a kind without one.
    recall: share of the k best items that are found, the mean over queries.
    ms: of one query, the median and the 95th percentile over searches, by queries at a time.
    """

    kind: str
    setting: tuple[str, int] | None
    recall: float
    ms: dict[str, dict[str, float]]

    @property
    def label(self) -> str:
        """The kind and its setting as text."""
        return self.kind if self.setting is None else "{}, {}={}".format(self.kind, *self.setting)


@dataclass(frozen=True)
class IndexBenchmark:
    """What was measured.

    build: for each kind, seconds of building and bytes of its files.
    """

    num_items: int
    num_queries: int
    k: int
    build: dict[str, dict[str, float]]
    rows: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """Return the table, ready for JSON."""
        return asdict(self)


def benchmark_indexes(
    run: Run | str | Path,
    kinds: Sequence[str] | None = None,
    *,
    num_queries: int = 1000,
    k: int = 100,
    out: str | Path | None = None,
    progress: bool = False,
) -> IndexBenchmark:
    """Measure indexes of a run against the exact answers, which are measured too.

    Queries are those of stored histories; making them is no part of the times, and no item is left
    out of the answers.

    Args:
        kinds: those to measure; one that the run has not is built and stored. None is all that it
            has.
        num_queries: at most, of as many users.
        k: items to find; of a smaller catalogue, all.
        out: a folder for index_benchmark.json and a page, index_benchmark.html; None writes
            nothing.

    Raises:
        UsageError: k or num_queries is below 1, there is no such kind, or the model does not score
            by a product.
    """
    opened = run if isinstance(run, Run) else load(run)
    if k < 1 or num_queries < 1:
        raise UsageError(f"a benchmark needs k and queries >= 1; got {k} and {num_queries}.")
    by_product(opened.model)
    if out is not None:
        require_plots()
    folder = opened.path / "indexes"
    if kinds is None:
        kinds = [name for name in KINDS if (folder / name / "index.json").is_file()]
    for kind in kinds:
        get_kind(kind)
    for kind in {"exact", *kinds}:
        if not (folder / kind / "index.json").is_file():
            opened.build_index(kind)
    kinds = [name for name in KINDS if name in {"exact", *kinds}]
    k = min(k, opened.model.num_items)
    queries = sample_queries(opened, num_queries)
    exact, _ = opened.index("exact").search(queries, k)
    rows: list[Row] = []
    build: dict[str, dict[str, float]] = {}
    total = sum(len(list(_settings(kind))) for kind in kinds)
    with track("benchmark", total, unit="settings", enabled=progress) as advance:
        for kind in kinds:
            index, stored = opened.index(kind), read_stored(folder / kind)
            build[kind] = {"seconds": stored.seconds, "bytes": stored.num_bytes}
            for setting in _settings(kind):
                if setting is not None:
                    setattr(index, *setting)
                ids, _ = index.search(queries, k)
                rows.append(
                    Row(kind, setting, recall(ids, exact), time_searches(index, queries, k))
                )
                advance(1, index=rows[-1].label)
    found = IndexBenchmark(opened.model.num_items, len(queries), k, build, rows)
    if out is not None:
        _write(Path(out), found)
    return found


def _settings(kind: str) -> Iterator[tuple[str, int] | None]:
    """Yield the settings of the sweep of a kind; None for a kind without one."""
    sweep = KINDS[kind].sweep
    if not sweep:
        yield None
    for name, values in sweep.items():
        for value in values:
            yield name, value


def sample_queries(run: Run, num_queries: int) -> NDArray[np.float32]:
    """Return queries [B, D] of stored histories, the same for the same run.

    Raises:
        UsageError: no history is a query.
    """
    histories, model = run.recommender.histories, run.model
    known = np.flatnonzero(histories.lengths > 0)
    users = np.random.default_rng(0).permutation(known)[:num_queries]
    batches = (users[first : first + ENCODED] for first in range(0, len(users), ENCODED))
    parts = [model_queries(model, histories.batch(part, model.max_len)) for part in batches]
    kept = [part[part.any(axis=1)] for part in parts]
    if not any(map(len, kept)):
        raise UsageError(f"a benchmark needs stored histories; {run.path} has none.")
    return np.concatenate(kept)


def recall(ids: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Return the share of exact [B, k] that is in the same row of ids [B, k], k <= I.

    >>> recall(np.array([[3, 1], [2, 0]]), np.array([[1, 2], [2, 5]]))
    0.5
    """
    rows = np.arange(len(ids))[:, None] * (max(ids.max(), exact.max()) + 1)
    return float(np.isin(exact + rows, ids + rows).mean())


def time_searches(
    index: Index, queries: NDArray[np.float32], k: int
) -> dict[str, dict[str, float]]:
    """Return milliseconds of a query, median and 95th percentile, by queries searched at a time."""
    times = {}
    for size in BATCHES:
        batch = np.resize(np.arange(len(queries)), max(size, len(queries)))
        starts = np.arange(MAX_SEARCHES + 1) * size % max(1, len(batch) - size + 1)
        taken: list[float] = []
        begun = time.perf_counter()
        for number, start in enumerate(starts):
            part = queries[batch[start : start + size]]
            started = time.perf_counter()
            index.search(part, k)
            ended = time.perf_counter()
            if number > 0:  # the first one compiles and reads
                taken.append(1e3 * (ended - started) / size)
            if number >= MIN_SEARCHES and ended - begun > SECONDS:
                break
        median, high = np.percentile(taken, [50, 95])
        times[str(size)] = {"median": float(median), "p95": float(high)}
    return times


def _write(out: Path, found: IndexBenchmark) -> None:
    """Write the table and a page about it."""
    with atomic_file(out / "index_benchmark.html") as temporary:
        temporary.write_text(_page(found), encoding="utf-8")
    write_json(out / "index_benchmark.json", found.to_dict())


def _page(found: IndexBenchmark) -> str:
    """Return the page."""
    heads = ["index", f"recall@{found.k}"]
    heads += [f"ms, {size} at a time{part}" for size in BATCHES for part in ("", ", p95")]
    cells = [
        [
            row.label,
            Mean(row.recall),
            *(f"{ms:.3f}" for size in BATCHES for ms in row.ms[str(size)].values()),
        ]
        for row in found.rows
    ]
    built = [
        [kind, f"{costs['seconds']:.2f}", f"{costs['bytes'] / 1e6:.1f}"]
        for kind, costs in found.build.items()
    ]
    explanation = notes(
        [
            f"Recall is the share of the {found.k} best items that is found, the mean over "
            "queries; exact search finds all.",
            "Times are of one query: medians and 95th percentiles over searches of 1 and of 256 "
            "queries at a time. Making a query out of a history is not among them.",
        ]
    )
    facts = [f"{found.num_items:,} items", f"{found.num_queries:,} queries"]
    drawings = [_curves(found, size) for size in BATCHES]
    return build_page(
        "Indexes: what is found, and how fast",
        [
            header("Indexes: what is found, and how fast", facts, []),
            section("Searches", plots(drawings) + table(heads, cells) + explanation),
            section("Building", table(["kind", "seconds", "MB stored"], built)),
        ],
    )


def _curves(found: IndexBenchmark, size: int) -> str:
    """Return recall against time, a curve for each kind, as SVG."""
    colors = iter([0, 1, None])
    lines = []
    for kind in found.build:
        own = [row for row in found.rows if row.kind == kind]
        is_curve = len(own) > 1
        lines.append(
            Line(
                kind,
                [row.ms[str(size)]["median"] for row in own],
                [row.recall for row in own],
                series=next(colors, None) if is_curve else None,
                style="o-" if is_curve else "o",
            )
        )
    title = f"recall@{found.k} against the time of a query, {size} at a time"
    return draw_lines(title, lines, x_label="ms for one query", log="x")
