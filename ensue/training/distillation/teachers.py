"""What a teacher answers to every training query, computed once and kept on disk.

```
CACHE/KEY/cache.json       what it is of: teacher, dataset, part, K, rule; written last
CACHE/KEY/items.npy        [R, K] int32, the teacher's ranking, best first; 0 where it has no more
CACHE/KEY/logits.npy       [R, K] float32, its scores of them
CACHE/KEY/normalizers.npy  [R] float32, log sum exp of all its scores / temperature
CACHE/KEY/targets.npy      [R] float32, its score of the observed item
CACHE/KEY/queries.npy      [R, D] float32, the vectors that it matched with the items; 0 for none
```

The last three are there where a method asks for them. R counts the interactions of the dataset;
row r answers the query before interaction r, and rows of another part than the training one are
zero. KEY is a hash of all that the content depends on, so another teacher, split, K or rule never
meets a file that is not its own.
Shapes: R interactions, K kept items, Q queries, D width of a query, I items.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories
from ensue.errors import RunError, UsageError
from ensue.files import atomic_directory, write_json
from ensue.models.base import Model
from ensue.progress import track
from ensue.training.distillation.prefixes import Answers, answer_all

FORMAT = 1
Exclude = Literal["nothing", "target", "seen_before", "all_train"]


@dataclass(frozen=True)
class Teacher:
    """A trained model, and the hash of what it is.

    identity: of its weights and settings: two teachers with the same one answer alike.
    """

    model: Model
    identity: str


@dataclass(frozen=True)
class TeacherCache:
    """A cache, opened: memory-mapped arrays of `teachers`."""

    items: NDArray[np.int32]
    logits: NDArray[np.float32]
    normalizers: NDArray[np.float32] | None
    targets: NDArray[np.float32] | None
    queries: NDArray[np.float32] | None
    is_new: bool


def teacher_cache(
    folder: Path,
    teacher: Teacher,
    histories: Histories,
    *,
    queries: str,
    num_items: int,
    exclude: Exclude,
    num_targets: int = 1,
    temperature: float | None = None,
    with_queries: bool = False,
) -> TeacherCache:
    """Return the cache in `folder`, made there where it is missing.

    Args:
        queries: what the histories are: dataset hash and part.
        num_items: K.
        exclude: items that are left out of a ranking: none, the target, also what the user had
            before, or all that the user has in training.
        num_targets: how many events from the row on count as its targets.
        temperature: of the normalizers; None keeps neither them nor the targets' scores.
        with_queries: whether to keep the queries.

    Raises:
        UsageError: the teacher has no queries.
        RunError: its scores are not finite.
    """
    content = {
        "format": FORMAT,
        "teacher": teacher.identity,
        "queries": queries,
        "num_items": num_items,
        "exclude": exclude,
        "num_targets": num_targets,
        "temperature": temperature,
        "with_queries": with_queries,
    }
    if with_queries and not hasattr(teacher.model, "output_embedding"):
        raise UsageError(
            "a teacher whose queries are kept must have some (caser, sasrec, gru4rec, m3); "
            f"{type(teacher.model).__name__} has none."
        )
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
    place = folder / key
    is_new = not (place / "cache.json").is_file()
    if is_new:
        with atomic_directory(place, marker="cache.json") as temporary:
            rule = _Rule(histories, exclude, num_targets)
            writer = _Writer(
                temporary,
                num_rows=len(histories.items),
                num_items=min(num_items, teacher.model.num_items),
                temperature=temperature,
                with_queries=with_queries,
            )
            _build(writer, teacher.model, histories, rule)
            write_json(temporary / "cache.json", content)
    return _open(place, temperature is not None, with_queries, is_new=is_new)


def _open(place: Path, with_targets: bool, with_queries: bool, *, is_new: bool) -> TeacherCache:
    """Return the cache at `place`."""

    def read(name: str) -> Any:
        return np.load(place / f"{name}.npy", mmap_mode="r")

    try:
        return TeacherCache(
            read("items"),
            read("logits"),
            read("normalizers") if with_targets else None,
            read("targets") if with_targets else None,
            read("queries") if with_queries else None,
            is_new=is_new,
        )
    except (OSError, EOFError, ValueError) as error:
        raise RunError(
            f"{place} must hold the answers of a teacher; reading them failed with {error}. "
            "Remove the folder: it is made again."
        ) from None


class _Rule:
    """Which items a teacher's ranking leaves out."""

    def __init__(self, histories: Histories, exclude: Exclude, num_targets: int) -> None:
        self._histories, self._exclude, self._num_targets = histories, exclude, num_targets

    def hide_(self, answers: Answers) -> None:
        """Set the scores of items that are left out, and of padding, to -inf."""
        answers.scores[:, 0] = -torch.inf
        if self._exclude == "nothing":
            return
        first, ends = self._histories.starts[answers.users], self._histories.ends[answers.users]
        last = np.minimum(answers.rows + self._num_targets, ends)
        if self._exclude == "target":
            first = answers.rows
        elif self._exclude == "all_train":
            last = ends
        lengths = last - first
        offsets = np.cumsum(lengths) - lengths
        events = np.arange(lengths.sum()) + np.repeat(first - offsets, lengths)
        owners = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        items = torch.from_numpy(self._histories.items[events].astype(np.int64))
        device = answers.scores.device
        answers.scores[owners.to(device), items.to(device)] = -torch.inf


class _Writer:
    """The arrays of a cache, memory-mapped, as they are filled."""

    def __init__(
        self,
        folder: Path,
        *,
        num_rows: int,
        num_items: int,
        temperature: float | None,
        with_queries: bool,
    ) -> None:
        self._folder, self._num_rows, self._num_items = folder, num_rows, num_items
        self._temperature, self._with_queries = temperature, with_queries
        self._arrays: dict[str, np.memmap[Any, Any]] = {}

    def write_scores(self, answers: Answers, targets: Tensor) -> None:
        """Keep what needs all scores [Q, I + 1], before any is hidden; targets [Q] are items."""
        rows, scores = answers.rows, answers.scores
        if self._temperature is not None:
            own = scores.gather(1, targets[:, None]).squeeze(1)
            self._put("targets", rows, own)
            scaled = scores[:, 1:] if self._temperature == 1 else scores[:, 1:] / self._temperature
            self._put("normalizers", rows, scaled.logsumexp(dim=1))
        if self._with_queries and answers.queries is not None:
            self._put("queries", rows, answers.queries.float())

    def write_ranking(self, answers: Answers) -> None:
        """Keep the first K items."""
        best = answers.scores.topk(self._num_items, dim=1)
        is_real = best.values > -torch.inf
        self._put("items", answers.rows, (best.indices * is_real).int())
        self._put("logits", answers.rows, best.values.where(is_real, 0))

    def close(self) -> None:
        """Write what is left."""
        for array in self._arrays.values():
            array.flush()

    def _put(self, name: str, rows: NDArray[np.int64], values: Tensor) -> None:
        array = values.cpu().numpy()
        if name not in self._arrays:
            self._arrays[name] = np.lib.format.open_memmap(
                self._folder / f"{name}.npy",
                mode="w+",
                dtype=array.dtype,
                shape=(self._num_rows, *array.shape[1:]),
            )
        self._arrays[name][rows] = array


def _is_finite(scores: Tensor) -> bool:
    """Return whether no score is NaN or infinite; their sum tells it in one pass, nearly always."""
    return bool(scores.sum().isfinite()) or bool(scores.isfinite().all())


def _build(writer: _Writer, model: Model, histories: Histories, rule: _Rule) -> None:
    """Write the answers to all queries."""
    model.eval()
    total = int(histories.lengths.sum())
    with torch.inference_mode(), track("teacher", total, unit="queries") as advance:
        for answers in answer_all(model, histories):
            if not _is_finite(answers.scores[:, 1:]):
                raise RunError(
                    f"a teacher's scores must be finite; {type(model).__name__} gave NaN or "
                    "infinity. Train it again, with a lower learning rate if its loss grew."
                )
            targets = torch.from_numpy(histories.items[answers.rows].astype(np.int64))
            writer.write_scores(answers, targets.to(answers.scores.device))
            rule.hide_(answers)
            writer.write_ranking(answers)
            advance(len(answers.rows))
    writer.close()
