"""Real logs with graphs between their entities, prepared for the benchmark of MEDRES.

    dataset = load("cora", folder)

cora, citeseer, flickr: who is linked with whom, both ways. A link is in one part with both of its
directions: 80 % of the links train, 10 % validate, 10 % are for the test. Words of papers, and
attributes of members, are features of users and items and graphs of a common type of entities.
dblp: authors of 5 papers and more, and their papers; terms and conferences of papers.
citeulike-a: readers and articles; tags (of 5 articles and more) and citations of articles.
ml-1m: films in the order in which they were seen; demographics, genres and years.
Of these three each user's rows are cut 80/10/10: at random for dblp and citeulike-a, which have no
times, and by time for ml-1m.
Data: ../shared/data (see its README files); it is not part of the project.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import ensue
from benchmarks._mat_file import read_sparse
from benchmarks._retrieval_data import SHARED, citeulike_tables, ml_1m_tables
from ensue.data.dataset import Dataset

SPLIT = "ratio:0.8,0.1,0.1"
FEWEST_PAPERS = 5  # of an author of dblp


def load(name: str, folder: Path) -> Dataset:
    """Return a data set, prepared in `folder` if it is not there."""
    out = folder / "data" / name
    if (out / "dataset.json").is_file():
        return Dataset(out)
    sources = folder / "sources" / name
    sources.mkdir(parents=True, exist_ok=True)
    return DATA[name](sources, out)


def _planetoid(name: str) -> Callable[[Path, Path], Dataset]:
    def make(sources: Path, out: Path) -> Dataset:
        arrays = np.load(SHARED / "planetoid" / f"{name}.npz")
        owners = np.repeat(np.arange(arrays["x_shape"][0]), np.diff(arrays["x_indptr"]))
        return _links(sources, out, arrays["edges"], np.stack([owners, arrays["x_indices"]], 1))

    return make


def _flickr(sources: Path, out: Path) -> Dataset:
    found = read_sparse(SHARED / "aane" / "Flickr.mat")
    network, attributes = found["Network"], found["Attributes"]
    is_first = network.rows < network.columns
    links = np.stack([network.rows[is_first], network.columns[is_first]], axis=1)
    return _links(sources, out, links, np.stack([attributes.rows, attributes.columns], axis=1))


def _links(sources: Path, out: Path, links: NDArray[Any], words: NDArray[Any]) -> Dataset:
    """Return a data set of links [E, 2] between nodes, and pairs of nodes and words."""
    rng = np.random.default_rng(0)
    links = rng.permutation(links)
    bounds = [0, int(0.8 * len(links)), int(0.9 * len(links)), len(links)]
    files = {}
    for number, part in enumerate(("train", "validation", "test")):
        own = links[bounds[number] : bounds[number + 1]]
        files[part] = sources / f"{part}.csv"
        _write(files[part], rng.permutation(np.concatenate([own, own[:, ::-1]])), "user", "item")
    for side in ("user", "item"):
        _write(sources / f"{side}_words.csv", words, side, "word")
        _write_bags(sources / f"{side}s.csv", words, side, "words")
    return ensue.prepare(
        files,
        out,
        items=sources / "items.csv",
        users=sources / "users.csv",
        features={"words": "multi:|"},
        graphs={f"{side}_words": sources / f"{side}_words.csv" for side in ("user", "item")},
    )


def _dblp(sources: Path, out: Path) -> Dataset:
    root = SHARED / "dblp-magnn"
    pairs = _read_pairs(root / "paper_author.txt.gz")[:, ::-1]
    authors, counts = np.unique(pairs[:, 0], return_counts=True)
    pairs = pairs[np.isin(pairs[:, 0], authors[counts >= FEWEST_PAPERS])]
    _write_shuffled(sources / "log.csv", pairs)
    graphs = {}
    for kind in ("term", "conf"):
        edges = _read_pairs(root / f"paper_{kind}.txt.gz")
        graphs[f"{kind}s"] = sources / f"{kind}s.csv"
        _write(graphs[f"{kind}s"], edges, "item", kind)
    terms = _read_pairs(root / "paper_term.txt.gz")
    _write_bags(sources / "items.csv", terms, "item", "words")
    return ensue.prepare(
        sources / "log.csv",
        out,
        split=SPLIT,
        items=sources / "items.csv",
        features={"words": "multi:|"},
        graphs=graphs,
    )


def _citeulike(sources: Path, out: Path) -> Dataset:
    tables = citeulike_tables(sources)
    _write_shuffled(sources / "log.csv", pl.read_csv(tables.interactions).to_numpy())
    items = pl.read_ndjson(tables.items)
    graphs = {}
    for name, column, kind in (("tags", "tags", "tag"), ("cites", "cites", "cited")):
        edges = items.select("item", pl.col(column).alias(kind)).explode(kind).drop_nulls()
        graphs[name] = sources / f"{name}.csv"
        edges.write_csv(graphs[name])
    return ensue.prepare(
        sources / "log.csv",
        out,
        split=SPLIT,
        items=tables.items,
        features={"tags": "multi", "cites": "ignore"},
        graphs=graphs,
        graph_columns={"cites": "item,cited:item"},
    )


def _ml_1m(sources: Path, out: Path) -> Dataset:
    tables = ml_1m_tables(sources)
    roles = {"gender": "categorical", "age": "categorical", "occupation": "categorical"}
    return ensue.prepare(
        tables.interactions,
        out,
        split=SPLIT,
        items=tables.items,
        users=tables.users,
        features={**roles, "zip": "ignore", "genres": "multi:|", "year": "categorical"},
    )


DATA: dict[str, Callable[[Path, Path], Dataset]] = {
    "cora": _planetoid("cora"),
    "citeseer": _planetoid("citeseer"),
    "dblp": _dblp,
    "citeulike-a": _citeulike,
    "flickr": _flickr,
    "ml-1m": _ml_1m,
}


def _read_pairs(path: Path) -> NDArray[np.int64]:
    with gzip.open(path, "rt", encoding="latin-1") as file:
        return np.array([line.split() for line in file], dtype=np.int64)


def _write_shuffled(path: Path, pairs: NDArray[Any]) -> None:
    """Write pairs of users and items in random order."""
    _write(path, np.random.default_rng(0).permutation(pairs), "user", "item")


def _write(path: Path, pairs: NDArray[Any], *names: str) -> None:
    pl.DataFrame({name: pairs[:, n] for n, name in enumerate(names)}).write_csv(path)


def _write_bags(path: Path, pairs: NDArray[Any], key: str, name: str) -> None:
    """Write a row for each first value of the pairs, with all of its second ones."""
    frame = pl.DataFrame({key: pairs[:, 0], name: pairs[:, 1]})
    words = (pl.lit("w") + pl.col(name).cast(pl.String)).str.join("|").alias(name)
    frame.group_by(key, maintain_order=True).agg(words).write_csv(path)
