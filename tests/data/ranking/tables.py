"""Small random tables of rows, and what a plain reading of them gives."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = ("user", "item", "time", "click", "watch", "w", "color", "tags", "age", "seen", "v")


def random_rows(num_rows: int, seed: int, *, is_sorted: bool = False) -> list[Row]:
    """Return rows with every kind of column; None is missing."""
    draw = random.Random(seed)

    def maybe(value: Any, share: float = 0.2) -> Any:
        return None if draw.random() < share else value

    rows = []
    for number in range(num_rows):
        tags = draw.sample(["a", "b", "c", "d"], draw.randrange(4))
        seen = [f"i{draw.randrange(6)}" for _ in range(draw.randrange(5))]
        rows.append(
            {
                "user": f"u{draw.randrange(4)}",
                "item": f"i{draw.randrange(6)}",
                "time": number // 3 if is_sorted else draw.randrange(num_rows // 2 + 1),
                "click": maybe(draw.randrange(2)),
                "watch": maybe(round(draw.expovariate(0.1), 3)),
                "w": draw.randrange(5) / 2,
                "color": maybe(draw.choice(["red", "green", "blue"])),
                "tags": tags + tags[:1],
                "age": maybe(draw.randrange(18, 80)),
                "seen": seen,
                "v": maybe([round(draw.gauss(0, 1), 3) for _ in range(3)]),
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> Path:
    """Write rows as CSV: lists with "|", the history "seen" with ">"."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([to_text(name, row[name]) for name in columns])
    return path


def to_text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return (">" if name == "seen" else "|").join(map(str, value))
    return str(value)


def in_time_order(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["time"])


def past_items(rows: Sequence[Row], row: Row, most: int) -> list[str]:
    """Return the items of the row's user at strictly earlier times, oldest first."""
    events = [one for one in rows if one["user"] == row["user"] and one["time"] < row["time"]]
    return [one["item"] for one in sorted(events, key=lambda one: one["time"])][-most:]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


FEATURES: Mapping[str, str] = {
    "tags": "multi:|",
    "seen": "history:item:>",
    "v": "vector:|",
    "age": "numeric:plain",
}
