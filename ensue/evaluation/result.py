"""What an evaluation found, in memory and on disk.

```
FOLDER/NAME.json          metrics, intervals, protocol, slices, user slices, coverage
FOLDER/NAME_users.arrow   user (dense id), num_targets, and each metric of each user
```
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ensue.errors import RunError
from ensue.files import atomic_file, write_json


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one dataset, and how they were measured.

    metrics: name ("map", "ndcg@10", ...) -> mean over users.
    intervals: name -> [low, high]; empty where no resamples were asked for.
    slices: "head", "torso", "tail", "new", then "top_tenth" and "rest" -> items, users, targets,
        metrics, intervals.
    coverage: "coverage@10" -> share of the catalogue that is in the top 10 of any user.
    protocol: all that a reader needs to compare the numbers with others.
    users: one row for each user: user (dense id), num_targets, and every metric.
    user_slices: "targets<=10", "targets>10" -> k, users, targets, metrics, intervals; of the
        cut-offs that divide the users.
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    slices: dict[str, dict[str, Any]]
    coverage: dict[str, float]
    protocol: dict[str, Any]
    users: pl.DataFrame
    user_slices: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the users, ready for JSON."""
        return {
            "metrics": self.metrics,
            "intervals": self.intervals,
            "protocol": self.protocol,
            "slices": self.slices,
            "user_slices": self.user_slices,
            "coverage": self.coverage,
        }

    def save(self, folder: str | Path, name: str) -> None:
        """Write the two files; the JSON last, so that where it is, all is."""
        folder = Path(folder)
        with atomic_file(folder / f"{name}_users.arrow") as temporary:
            self.users.write_ipc(temporary)
        write_json(folder / f"{name}.json", self.to_dict())

    @classmethod
    def load(cls, folder: str | Path, name: str) -> Evaluation:
        """Return the evaluation stored by `save`.

        Raises:
            RunError: a file is missing or is not what `save` wrote.
        """
        file, table = Path(folder) / f"{name}.json", Path(folder) / f"{name}_users.arrow"
        for path in (file, table):
            if not path.is_file():
                raise RunError(
                    f"an evaluation is two files, {name}.json and {name}_users.arrow; "
                    f"{path} does not exist. Run ensue evaluate first."
                )
        try:
            parts = json.loads(file.read_text(encoding="utf-8"))
            users = pl.read_ipc(table)
            evaluation = cls(users=users, **parts)
            is_whole = len(users) == evaluation.protocol["num_users"]
        except (ValueError, TypeError, KeyError, pl.exceptions.PolarsError) as error:
            raise RunError(
                f"{file} and {table.name} must be what ensue evaluate wrote; they are not: {error}"
            ) from None
        if not is_whole:
            raise RunError(
                f"{file} and {table.name} must come from one evaluation; the one tells of "
                f"{evaluation.protocol['num_users']} users, the other holds {len(users)}. "
                "Run ensue evaluate again."
            )
        return evaluation
