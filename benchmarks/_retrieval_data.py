"""Real logs with features of items, as plain tables for ensue.prepare.

    tables = ml_1m_tables(folder)
    ensue.prepare(tables.interactions, out, items=tables.items, users=tables.users)

Each function reads a data set in ../shared/data as it is published and writes into `folder`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FEWEST_ITEMS_OF_TAG = 5  # of citeulike-a: as Wang et al. (IJCAI 2013) keep the tags


@dataclass(frozen=True)
class Tables:
    """The files of one data set; interactions in the order of time, where it is known."""

    interactions: Path
    items: Path
    users: Path | None = None


def ml_1m_tables(folder: Path, source: Path = SHARED / "ml-1m") -> Tables:
    """Write MovieLens-1M: title, year and genres of films; gender, age, occupation, zip of users.

    The 598 ratings of the 290 films with fewer than 5 ratings are left out: their place is unknown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    movies = _split_lines(source / "movies.dat.gz", ["item", "title", "genres"])
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").alias("year")
    movies.with_columns(year).write_csv(folder / "items.csv")
    users = _split_lines(source / "users.dat.gz", ["user", "gender", "age", "occupation", "zip"])
    users.write_csv(folder / "users.csv")
    lines = (line.split() for line in _lines(source / "sequences.txt.gz"))
    _write_pairs(folder / "interactions.csv", ((words[0], words[1:]) for words in lines))
    return Tables(folder / "interactions.csv", folder / "items.csv", folder / "users.csv")


def beauty_tables(folder: Path, source: Path = SHARED / "s3rec-beauty") -> Tables:
    """Write Amazon Beauty as S3-Rec has it: attributes (categories and brands) of items."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(source / "Beauty_item2attributes.json.gz", "rt", encoding="utf-8") as file:
        attributes: dict[str, list[int]] = json.load(file)
    rows = ({"item": item, "attributes": codes} for item, codes in attributes.items())
    _write_json_lines(folder / "items.jsonl", rows)
    lines = (line.split() for line in _lines(source / "Beauty.txt.gz"))
    _write_pairs(folder / "interactions.csv", ((words[0], words[1:]) for words in lines))
    return Tables(folder / "interactions.csv", folder / "items.jsonl")


def citeulike_tables(folder: Path, source: Path = SHARED / "citeulike-a") -> Tables:
    """Write citeulike-a: tags of articles, those of at least 5 of them, and what they cite.

    The log has no times: the articles of a user are in the order of their ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = list(_lines(source / "tags.dat.gz"))
    tags_of = [[int(word) for word in line] for line in _counted_lines(source / "item-tag.dat.gz")]
    num_items = [0] * len(names)
    for tags in tags_of:
        for tag in tags:
            num_items[tag] += 1
    cited = list(_counted_lines(source / "citations.dat.gz"))
    rows = (
        {
            "item": str(item),
            "tags": [names[tag] for tag in tags if num_items[tag] >= FEWEST_ITEMS_OF_TAG],
            "cites": others,
        }
        for item, (tags, others) in enumerate(zip(tags_of, cited, strict=True))
    )
    _write_json_lines(folder / "items.jsonl", rows)
    libraries = enumerate(_counted_lines(source / "users.dat.gz"))
    pairs = ((str(user), items) for user, items in libraries)
    _write_pairs(folder / "interactions.csv", pairs)
    return Tables(folder / "interactions.csv", folder / "items.jsonl")


def _lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    with gzip.open(path, "rt", encoding=encoding) as file:
        for line in file:
            yield line.rstrip("\n")


def _counted_lines(path: Path) -> Iterator[list[str]]:
    """Yield the words of each line but the first, which is their number."""
    for line in _lines(path):
        number, *words = line.split()
        if len(words) != int(number):
            raise ValueError(f"a line of {path} says {number} and has {len(words)} words")
        yield words


def _split_lines(path: Path, names: Sequence[str]) -> pl.DataFrame:
    rows = [line.split("::") for line in _lines(path, "latin-1")]
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _write_pairs(path: Path, histories: Iterable[tuple[str, Sequence[str]]]) -> None:
    rows = [(user, item) for user, items in histories for item in items]
    pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String}, orient="row").write_csv(path)


def _write_json_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
