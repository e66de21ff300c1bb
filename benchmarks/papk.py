"""pAp@k and pAUC@k beside RecTools: equal values, and users a second.

    python -m benchmarks.papk --reference PYTHON [--users 10000] [--items 10000]

PYTHON is that of an environment with RecTools (`pip install rectools`); without it the figures of
Ensue stand alone. Lists hold the first 2k items of random scores, in which a user's positives are
somewhat higher, and of a popularity ranking of MovieLens-100K (../shared/data/ml-100k). "from
scores" is Ensue from the scores of all items, for which RecTools has no counterpart.
Bars: equal to 1e-9, 20 times the users a second. One thread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks._report import to_table, write_report
from ensue.evaluation.papk import PartialAUC, pap_at_k, pap_of_lists

SHARED = Path(__file__).resolve().parents[2] / "shared/data/ml-100k/ml-100k.inter.gz"
KS = (1, 5, 10, 20)
ROUNDS = 5
MOST_POSITIVES = 200
FROM_SCORES = "users/s, from scores"


class Lists(NamedTuple):
    """Recommended items [U, 2k], best first, and pairs of users and positives [P, 2]."""

    items: NDArray[np.int64]
    positives: NDArray[np.int64]


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, help="Python of an environment with RecTools")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=10_000)
    options = parser.parse_args()
    rows = []
    scores, positives = random_scores(options.users, options.items)
    for k in KS:
        speed = from_scores(scores, positives, k)
        best = np.argpartition(-scores, 2 * k, axis=1)[:, : 2 * k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        lists = Lists(np.take_along_axis(best, order, axis=1), positives)
        rows.append(compare("random", lists, k, options.reference) | {FROM_SCORES: speed})
    if SHARED.is_file():
        for k in KS:
            row = compare("ml-100k", popular_lists(2 * k), k, options.reference)
            rows.append(row | {FROM_SCORES: ""})
    else:
        print(f"skipped: {SHARED} does not exist", file=sys.stderr)
    print(to_table(rows))
    config = {"users": options.users, "items": options.items, "rounds": ROUNDS}
    print(write_report("papk", config, rows))
    return 0


def random_scores(users: int, items: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scores [U, I] and pairs of users and positives [P, 2]."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((users, items), dtype=np.float32)
    lengths = np.minimum(rng.geometric(0.05, users), MOST_POSITIVES)
    owners = np.repeat(np.arange(users), lengths)
    pairs = np.unique(np.stack([owners, rng.integers(0, items, len(owners))], axis=1), axis=0)
    scores[pairs[:, 0], pairs[:, 1]] += 2.5
    return scores, pairs


def popular_lists(length: int) -> Lists:
    """Return for every user of MovieLens-100K the most popular items that are not among the first
    half of the user's own, and the other half as positives.
    """
    log = pl.read_csv(SHARED.read_bytes(), separator="\t").sort("timestamp:float")
    log = log.select(user="user_id:token", item="item_id:token")
    place = pl.int_range(pl.len()).over("user")
    first = log.filter(place < pl.len().over("user") // 2)
    second = log.filter(place >= pl.len().over("user") // 2)
    popular = first["item"].value_counts().sort(["count", "item"], descending=[True, False])
    ranking = popular["item"].to_numpy()
    users = np.unique(second["user"].to_numpy())
    owned = {user: set(own) for user, own in first.group_by("user").agg("item").iter_rows()}
    items = [[i for i in ranking if i not in owned.get(u, ())][:length] for u in users]
    rows = np.searchsorted(users, second["user"].to_numpy())
    return Lists(np.array(items), np.stack([rows, second["item"].to_numpy()], axis=1))


def compare(data: str, lists: Lists, k: int, reference: Path | None) -> dict[str, Any]:
    """Return how fast both are, and the largest difference of a user's value."""
    num_users, length = lists.items.shape
    keys = np.unique(lists.positives[:, 0] << 32 | lists.positives[:, 1])
    offsets = np.arange(num_users + 1) * length

    def count(*, all_positives: bool = False) -> PartialAUC:
        own = np.repeat(np.arange(num_users), length) << 32 | lists.items.ravel()
        places = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
        num_positives = np.bincount(keys >> 32, minlength=num_users)
        hits = keys[places] == own
        return pap_of_lists(hits, offsets, num_positives, k, all_positives=all_positives)

    seconds, found = timed(count)
    row: dict[str, Any] = {"data": data, "k": k, "users": num_users, "pAp@k": found.macro}
    row["users/s"] = num_users / seconds
    if reference is None:
        return row
    theirs = by_rectools(lists, k, reference)
    pauc = count(all_positives=True)
    row["RecTools"] = num_users / float(theirs["pap_seconds"])
    row["times as fast"] = row["users/s"] / row["RecTools"]
    for name, own in (("pap", found), ("pauc", pauc)):
        row[f"largest difference, {name}"] = float(np.abs(theirs[name] - own.values).max())
    return row


def by_rectools(lists: Lists, k: int, reference: Path) -> Any:
    """Return what RecTools makes of the lists."""
    num_users, length = lists.items.shape
    with TemporaryDirectory() as folder:
        given, answers = Path(folder) / "lists.npz", Path(folder) / "answers.npz"
        np.savez(
            given,
            user_id=np.repeat(np.arange(num_users), length),
            item_id=lists.items.ravel(),
            rank=np.tile(np.arange(1, length + 1), num_users),
            positives=lists.positives,
            k=k,
        )
        program = Path(__file__).with_name("_papk_rectools.py")
        subprocess.run([reference, program, given, answers], check=True, cwd=folder)
        with np.load(answers) as stored:
            return dict(stored)


def from_scores(scores: NDArray[np.float32], positives: NDArray[np.int64], k: int) -> float:
    """Return the users a second that are counted from the scores of all items."""
    labels = np.zeros(scores.shape, dtype=np.bool_)
    labels[positives[:, 0], positives[:, 1]] = True
    offsets = np.arange(len(scores) + 1) * scores.shape[1]
    seconds, _ = timed(lambda: pap_at_k(scores.ravel(), labels.ravel(), offsets, k), rounds=1)
    return len(scores) / seconds


def timed(count: Callable[[], PartialAUC], *, rounds: int = ROUNDS) -> tuple[float, PartialAUC]:
    """Return the median seconds of a call, after one that compiles, and what it gives."""
    found, taken = count(), []
    for _ in range(rounds):
        started = time.perf_counter()
        count()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)), found


if __name__ == "__main__":
    sys.exit(main())
