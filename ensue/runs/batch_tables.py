"""Recommendations for millions of requests, Parquet to Parquet: in bounded memory, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ensue.errors import UsageError
from ensue.indexes.store import MARKER, hash_file
from ensue.progress import note, track
from ensue.runs.many import ManyRecommender
from ensue.runs.parts import open_parts
from ensue.runs.request_tables import RequestReader, RequestTable, all_users, open_requests
from ensue.runs.run import Run

PART = 1 << 14  # requests in memory, and in a row group of the output
PART_ITEMS = 1 << 22  # of their answers, where k is large
SUFFIXES = (".parquet", ".pq")


def recommend_table(
    run: Run,
    requests: str | Path | None,
    out: str | Path,
    *,
    context: Mapping[str, Any] | None = None,
    k: int = 10,
    exclude_seen: bool = True,
    allow: Sequence[str | int] | None = None,
    deny: Sequence[str | int] | None = None,
    index: str | Path | None = None,
    search: Mapping[str, Any] | None = None,
) -> int:
    """Write a row of `out` for each row of `requests`, in order; return how many.

    The answers are those of `Run.recommend`. Requests have a column `user`, or a column `history`
    of lists of item ids, and columns of context that the model reads of requests. `out` has
    `user`, as it is given; `items` and `scores`, best first; `known`, whether the user is in the
    log; `unknown_items`; and `unknown_context` where the model reads any. It appears whole, at the
    end. Until then its parts are in OUT.parts, from which the same call goes on after an
    interruption.

    Args:
        requests: a Parquet file, or a folder of them; None is a request for each known user, in
            the order of the run's users.arrow.
        context: of the requests; a column goes before it.
        index: kind or folder of an index of the run, to ask in place of scoring all items.
        search: settings of searches with it.

    Raises:
        DataError: the requests cannot be read, or are none.
        UsageError: the options have no meaning, or the parts that are there are of other answers.
        RunError: there is no such index.
    """
    out, recommender, context = Path(out), run.recommender, context or {}
    if search and index is None:
        raise UsageError("settings of searches (search=...) go with index=....")
    opened = None if index is None else run.index(index, **(search or {}))
    many = ManyRecommender(
        recommender, k=k, exclude_seen=exclude_seen, allow=allow, deny=deny, index=opened
    )
    if requests is None:
        table = all_users(recommender, run.path)
    else:
        table = open_requests(Path(requests), recommender)
    reader = RequestReader(recommender, table, context)
    size = max(1, min(PART, PART_ITEMS // many.k))
    job = {
        **_describe(run, table),
        "context": {name: str(value) for name, value in sorted(context.items())},
        "k": k,
        "exclude_seen": exclude_seen,
        "allow": None if allow is None else _hash_ids(allow),
        "deny": None if deny is None else _hash_ids(deny),
        "index": None if index is None else hash_file(run.index_path(index) / MARKER),
        "search": json.loads(json.dumps(search or {})),
        "requests in a part": size,
    }
    with open_parts(out, job, reader.schema) as parts:
        sizes = table.chunk_sizes(size)
        num_done = sum(rows for number, rows in enumerate(sizes) if parts.has(number))
        if num_done:
            note(f"{num_done:,} of {sum(sizes):,} requests are answered already; going on.")
        with track("recommend", sum(sizes) - num_done, unit="requests") as advance:
            count = 0
            for number, chunk in enumerate(table.chunks(size)):
                count += 1
                if not parts.has(number):
                    asked, told = reader.read(chunk)
                    parts.write(number, reader.write(asked, told, many.answer(asked)))
                    advance(len(asked))
        parts.join(count)
    return sum(sizes)


def _describe(run: Run, table: RequestTable) -> dict[str, Any]:
    """Return which run answers which requests, by which programs."""
    return {
        "format": 1,
        "run": hash_file(run.path / "run.json"),
        "weights": run.weights_hash,
        "requests": table.digest,
        "versions": [version("ensue"), torch.__version__, pa.__version__],
    }


def _hash_ids(ids: Sequence[str | int]) -> str:
    """Return what tells a set of ids from any other."""
    return hashlib.sha256("\n".join(sorted({str(raw) for raw in ids})).encode()).hexdigest()
