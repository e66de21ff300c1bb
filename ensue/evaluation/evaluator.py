"""Evaluate a model on the held-out items of every user, ranked among the whole catalogue.

A model that reads the context of requests is told that of each user's first held-out event, in the
columns that it reads of requests alone.

The model scores blocks of users whose size depends on the catalogue alone: 64 MiB of scores, and
not less than 16 or more than 256 users; never [users, items]. The last block is filled up by
repeating its users. So there is no batch size to set that a result could depend on. Of several
processes each takes some of the blocks, and all get the same integers: ranks, and counts.

Shapes: U evaluated users, B users of a block, I items, S targets of all users.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ensue.data.context import ContextSchema
from ensue.data.dataset import Dataset, Part
from ensue.data.histories import Histories
from ensue.distributed.workers import Workers
from ensue.errors import DataError, RunError, UsageError
from ensue.evaluation.intervals import Bootstrap
from ensue.evaluation.metrics import FORMULAS, TargetRanks, all_metrics
from ensue.evaluation.ranks import BlockRanks, Jagged, rank_block
from ensue.evaluation.result import Evaluation
from ensue.evaluation.slices import evaluate_slices, slice_users
from ensue.progress import track
from ensue.protocols import Scorer

Split = Literal["validation", "test"]

BLOCK_BYTES = 64 << 20


def evaluate(
    model: Scorer,
    dataset: Dataset,
    *,
    split: Split = "test",
    ks: Sequence[int] = (1, 5, 10, 20),
    exclude_seen: bool = True,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    max_users: int | None = None,
    progress: bool = False,
    workers: Workers | None = None,
) -> Evaluation:
    """Return the metrics of `model` on every user who has held-out items.

    Args:
        split: the held-out part; the model is given everything before it.
        ks: cut-offs of the metrics.
        exclude_seen: rank only items that are not in the user's history.
        num_resamples: bootstrap resamples for the intervals; 0 leaves them out.
        seed: of the resamples, and of the choice of users.
        max_users: evaluate a random sample of this many users.
        workers: who share the users, all with the same model; None is this process alone.

    Raises:
        UsageError: an argument has no meaning, or the model is of another catalogue.
        DataError: the split is empty.
        RunError: a score is NaN.
    """
    rng = np.random.default_rng(seed)
    bootstrap = Bootstrap(num_resamples, confidence, rng)
    context = getattr(model, "context", ContextSchema())  # a scorer of one's own may have none
    task = _make_task(dataset, context, split, ks, exclude_seen, max_users, rng)
    if model.num_items != dataset.num_items:
        raise UsageError(
            f"a model is evaluated on the catalogue it was made for; it has {model.num_items} "
            f"items, {dataset.path} has {dataset.num_items}."
        )
    targets, coverage = _rank_all(model, task, progress, workers or Workers.alone())
    metrics = all_metrics(targets, task.ks)
    counts = task.history.item_counts(dataset.num_items)
    return Evaluation(
        metrics={name: float(values.mean()) for name, values in metrics.items()},
        intervals=bootstrap.intervals(metrics),
        slices=evaluate_slices(targets, counts, ks=task.ks, bootstrap=bootstrap),
        coverage=coverage,
        protocol=_describe(task, targets) | {"interval": bootstrap.describe(), "seed": seed},
        users=pl.DataFrame(
            {"user": task.users.astype(np.int32), "num_targets": targets.num_targets} | metrics
        ),
        user_slices=slice_users(metrics, targets.num_targets, ks=task.ks, bootstrap=bootstrap),
    )


def rank_targets(
    model: Scorer, dataset: Dataset, *, split: Split = "test", exclude_seen: bool = True
) -> tuple[NDArray[np.int64], TargetRanks]:
    """Return the evaluated users [U] and the ranks of all of their targets, as `evaluate` does."""
    context = getattr(model, "context", ContextSchema())
    rng = np.random.default_rng(0)
    task = _make_task(dataset, context, split, (1,), exclude_seen, None, rng)
    return task.users, _rank_all(model, task, False, Workers.alone())[0]


@dataclass(frozen=True)
class _Task:
    """What is to be ranked, for whom.

    users: [U] dense ids, ascending; targets: their distinct held-out items.
    answers: [U], the row of the first held-out event of each user.
    """

    dataset: Dataset
    split: Split
    part: Part
    history: Histories
    users: NDArray[np.int64]
    answers: NDArray[np.int64]
    targets: Jagged
    ks: tuple[int, ...]
    exclude_seen: bool
    is_sample: bool


def _make_task(
    dataset: Dataset,
    context: ContextSchema,
    split: Split,
    ks: Sequence[int],
    exclude_seen: bool,
    max_users: int | None,
    rng: np.random.Generator,
) -> _Task:
    """Return the task after checking the arguments that shape it."""
    if split not in ("validation", "test"):
        raise UsageError(f"split must be 'validation' or 'test'; got {split!r}.")
    if not ks or min(ks) < 1:
        raise UsageError(f"ks must be cut-offs of 1 or more; got {list(ks)}.")
    if max_users is not None and max_users < 1:
        raise UsageError(f"max_users must be 1 or more; got {max_users}.")
    held_out = dataset.targets(split)
    users = np.flatnonzero(held_out.lengths > 0)
    if len(users) == 0:
        raise DataError(
            f"evaluation needs held-out interactions; {dataset.path} has none in its {split} part. "
            "Prepare the dataset with a split that has one."
        )
    is_sample = max_users is not None and max_users < len(users)
    if is_sample:
        users = np.sort(rng.choice(users, max_users, replace=False))
    part: Part = "train" if split == "validation" else "train+validation"
    return _Task(
        dataset=dataset,
        split=split,
        part=part,
        history=dataset.histories(part, context),
        users=users,
        answers=held_out.starts[users],
        targets=_distinct_items(held_out, users),
        ks=tuple(sorted(set(ks))),
        exclude_seen=exclude_seen,
        is_sample=is_sample,
    )


def _distinct_items(held_out: Histories, users: NDArray[np.int64]) -> Jagged:
    """Return the set of held-out items of each user."""
    rows, offsets = held_out.rows(users)
    positions = np.repeat(np.arange(len(users)), np.diff(offsets))
    pairs = np.sort(positions << 32 | held_out.items[rows])
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    counts = np.bincount(pairs >> 32, minlength=len(users))
    return Jagged((pairs & 0xFFFFFFFF).astype(np.int32), np.concatenate([[0], np.cumsum(counts)]))


def _rank_all(
    model: Scorer, task: _Task, progress: bool, workers: Workers
) -> tuple[TargetRanks, dict[str, float]]:
    """Return the ranks of all targets, and the share of the catalogue in the top k of any user."""
    num_users, offsets = len(task.users), task.targets.offsets
    ranks = np.zeros(len(task.targets.items), dtype=np.int64)
    lengths = np.zeros(num_users, dtype=np.int64)
    is_covered = np.zeros((len(task.ks), task.dataset.num_items + 1), dtype=np.uint8)
    block_size = users_of_a_block(task.dataset.num_items)
    with (
        inference(model) as device,
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        track("evaluate", num_users, unit="users", enabled=progress) as advance,
    ):
        for first in range(workers.rank * block_size, num_users, workers.size * block_size):
            users = slice(first, min(first + block_size, num_users))
            block = _rank_block(model, task, users, block_size, device, pool)
            ranks[offsets[users.start] : offsets[users.stop]] = block.ranks
            lengths[users] = block.num_candidates
            for n, k in enumerate(task.ks):
                is_covered[n, block.top[:, :k]] = 1
            advance(users.stop - users.start)
    for own in (ranks, lengths):  # zero where others have ranked
        workers.all_reduce_(torch.from_numpy(own), purpose="other")
    workers.all_reduce_(torch.from_numpy(is_covered), purpose="other", op="max")
    positions = np.repeat(np.arange(num_users), np.diff(offsets))
    targets = TargetRanks.sort(positions, task.targets.items, ranks, lengths)
    shares = is_covered[:, 1:].mean(axis=1)
    return targets, {f"coverage@{k}": float(shares[n]) for n, k in enumerate(task.ks)}


def users_of_a_block(num_items: int) -> int:
    """Return the number of users whose scores are made at once."""
    return int(np.clip(BLOCK_BYTES // (4 * (num_items + 1)), 16, 256))


def _rank_block(
    model: Scorer,
    task: _Task,
    users: slice,
    block_size: int,
    device: torch.device,
    pool: ThreadPoolExecutor,
) -> BlockRanks:
    """Score and rank users[first:last], at most `block_size` of them."""
    chosen = task.users[users]
    places = np.resize(np.arange(users.start, users.stop), block_size)  # repeats users
    batch = task.history.batch(task.users[places], model.max_len, answers=task.answers[places])
    scores = model.score(batch.to(device))
    shape = (block_size, task.dataset.num_items + 1)
    if scores.shape != shape:
        raise UsageError(
            f"score must return one row for each user and one column for each item and padding, "
            f"{shape}; {type(model).__name__} gave {tuple(scores.shape)}."
        )
    bounds = task.targets.offsets[users.start : users.stop + 1]
    block = rank_block(
        scores[: len(chosen)].float().cpu().contiguous().numpy(),
        Jagged(task.targets.items[bounds[0] : bounds[-1]], bounds - bounds[0]),
        _seen_items(task, chosen),
        k=min(task.ks[-1], task.dataset.num_items),
        pool=pool,
    )
    if block.num_candidates.min() < 0:
        user = task.dataset.user_ids.to_raw([chosen[np.argmin(block.num_candidates)]])[0]
        raise RunError(
            f"scores must be numbers; {type(model).__name__} gave NaN for user {user!r}. "
            "Train it again, with a lower learning rate if its loss grew."
        )
    return block


def _seen_items(task: _Task, users: NDArray[np.int64]) -> Jagged:
    """Return the items that are no candidates for each of `users`."""
    if not task.exclude_seen:
        return Jagged(np.zeros(0, dtype=np.int32), np.zeros(len(users) + 1, dtype=np.int64))
    rows, offsets = task.history.rows(users)
    return Jagged(task.history.items[rows], offsets)


@contextmanager
def inference(model: object) -> Iterator[torch.device]:
    """Yield the model's device, with the model in evaluation mode and without gradients."""
    with torch.inference_mode():
        if not isinstance(model, torch.nn.Module):
            yield torch.device("cpu")
            return
        was_training = model.training
        model.eval()
        try:
            tensors = itertools.chain(model.parameters(), model.buffers())
            yield next((tensor.device for tensor in tensors), torch.device("cpu"))
        finally:
            model.train(was_training)


def _describe(task: _Task, targets: TargetRanks) -> dict[str, Any]:
    """Return what a reader needs to compare the numbers with others."""
    info = task.dataset.info
    seen_rule = (
        "items of the user's history are removed from the ranking; a target among them stays a "
        "target and is never hit"
        if task.exclude_seen
        else "items of the user's history stay in the ranking"
    )
    columns = task.history.request_context
    context = {"request_context": "of the first held-out event of the user"} if columns else {}
    return {
        "dataset": {"name": info.name, "hash": info.hash},
        "split": task.split,
        "history": task.part,
        "candidates": "full catalogue",
        "num_candidates": task.dataset.num_items,
        "exclude_seen": task.exclude_seen,
        "seen_items": seen_rule,
        "ties": "equal scores are ordered by ascending dense item id",
        "targets": "the distinct held-out items of each user",
        "ks": list(task.ks),
        "metrics": FORMULAS,
        "mean": "each user counts once",
        "users": "a random sample of those with held-out items"
        if task.is_sample
        else "all with held-out items",
        "num_users": len(task.users),
        "num_targets": len(targets.ranks),
        "num_seen_targets": int(np.isinf(targets.ranks).sum()),
        "slices": "head, torso, tail: items by interactions in the history part, cut where they "
        "hold 1/3 and 2/3 of all; new: items with none there; top_tenth: the tenth of the items "
        "there with the most interactions; rest: all others; only targets in the slice count",
        "user_slices": "targets<=k and targets>k: users by their number of targets; all of their "
        "targets count",
        "notes": list(info.notes),
        **context,
    }
