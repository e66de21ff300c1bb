"""Cluster vectors, and say how well the clusters agree with classes that were not told.

```
DIR/cluster.json          settings, the figures of every setting, and the clusters
DIR/assignments.parquet   part, id, cluster and squared distance of each row, and its class
DIR/model.safetensors     mean and basis of the projection, and the centers: to assign new rows
DIR/report.html           a page about them
```
Shapes: n rows, F features, D components, K clusters, L classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field

from ensue.clustering.assign import assign
from ensue.clustering.kmeans import KMeans, KMeansConfig, kmeans
from ensue.clustering.projection import Projection, fit_components, fit_mean
from ensue.config import make_config
from ensue.errors import DataError, RunError, UsageError
from ensue.evaluation.clustering import MAPS, chance_scores, contingency, fit_map, score_parts
from ensue.files import atomic_directory, write_json
from ensue.progress import note, track
from ensue.runs.cluster_data import ClusterData, Side, make_data, open_data
from ensue.runs.cluster_page import build_cluster_page
from ensue.runs.plots import has_plots
from ensue.runs.run import Run
from ensue.training.checkpoints import load_tensors, save_tensors

FORMAT = 1
MARKER = "cluster.json"
Scores = dict[str, dict[str, float]]


class ClusterConfig(KMeansConfig):
    """What is done to vectors, and how their clusters are found.

    dim: principal components that are kept; None keeps all.
    whiten: give each component the same variance.
    """

    dim: int | None = Field(default=None, ge=1)
    whiten: bool = False


@dataclass(frozen=True)
class Clustering:
    """What `cluster` found.

    info: cluster.json: "table" has the figures of each setting, the main one first, and "clusters"
        each cluster of that.
    centers: [K, D]. clusters, distances: of each row, by part; the latter are squared. All three
        are those of the main setting and the first seed.
    """

    info: dict[str, Any]
    projection: Projection
    centers: NDArray[np.float32]
    clusters: dict[str, NDArray[np.int64]]
    distances: dict[str, NDArray[np.float64]]

    @property
    def scores(self) -> Scores:
        """The mean figures over the seeds, by part; none without classes."""
        return self.info["table"][0]["scores"]

    def assign(self, vectors: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the cluster of new vectors [n, F], and their squared distance to its center.

        Raises:
            UsageError: they have another width.
        """
        rows = np.asarray(vectors, dtype=np.float32)
        return assign(self.projection.apply(rows.reshape(len(rows), -1)), self.centers)


def cluster(
    source: Any,
    k: int | None = None,
    *,
    labels: Any = None,
    id_column: str | None = None,
    of: Side = "items",
    test_share: float | None = None,
    over: Sequence[float] = (),
    dims: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    permutations: int = 10,
    out: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Clustering:
    """Return clusters of vectors, and how well they agree with classes.

    The labels are used to score alone. Where a part is held out, the projection, the centers and
    the maps from clusters to classes are those of the other one.

    Args:
        source: vectors [n, ...]; a file or run, see `open_data`; or `make_data`'s, for several
            parts.
        k: clusters; None is the number of classes.
        labels: of each row; for a file or run, see `open_data`.
        of: "items" or "users" of a run.
        test_share: a random share of the rows, drawn with the first seed, is held out.
        over: factors of k that are measured too, such as 1.5 and 2.
        dims: numbers of components that are measured too.
        seeds: of k-means; figures are means over them.
        permutations: of the clusters, for what the figures are by chance; 0 leaves it out.
        out: a new folder.
        settings: fields of `ClusterConfig`.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        DataError: the vectors or labels cannot be used.
    """
    config = make_config(ClusterConfig, settings)
    if not seeds:
        raise UsageError("cluster needs at least one seed; got none.")
    data = _data_of(source, labels, id_column, of)
    if test_share is not None:
        data = data.hold_out(test_share, np.random.default_rng(seeds[0]))
    for part, numbers in (data.labels or {}).items():
        if not (numbers >= 0).any():
            raise DataError(f"each part needs a row with a label; the part {part} has none.")
    if k is None:
        k = len(data.classes)
    if k < 1:
        raise UsageError("the number of clusters must be given where there are no labels; set k.")
    if out is None:
        return _measure(data, k, config, over, dims, seeds, permutations)
    with atomic_directory(out, marker=MARKER, overwrite=overwrite) as folder:
        found = _measure(data, k, config, over, dims, seeds, permutations)
        _write(folder, found, data, title=f"Clusters, {Path(out).name}")
    return found


def load_clustering(path: str | Path) -> Clustering:
    """Return what `cluster` wrote at `path`.

    Raises:
        RunError: it is not there, or damaged.
    """
    path = Path(path)
    if not (path / MARKER).is_file():
        raise RunError(f"a folder made by ensue cluster is needed; {path} holds no {MARKER}.")
    info = json.loads((path / MARKER).read_text(encoding="utf-8"))
    tensors = {name: t.numpy() for name, t in load_tensors(path / "model.safetensors")[0].items()}
    rows = pl.read_parquet(path / "assignments.parquet").partition_by(
        "part", as_dict=True, maintain_order=True
    )
    own = info["table"][0]
    return Clustering(
        info,
        Projection(
            tensors["mean"], tensors.get("basis"), info["config"]["spherical"], own["explained"]
        ),
        tensors["centers"],
        {str(part): frame["cluster"].to_numpy() for (part,), frame in rows.items()},
        {str(part): frame["distance"].to_numpy() for (part,), frame in rows.items()},
    )


def _data_of(source: Any, labels: Any, id_column: str | None, of: Side) -> ClusterData:
    if not isinstance(source, Run | str | Path) and (id_column or of == "users"):
        raise UsageError("id_column is of a table, and of='users' of a run; arrays are given.")
    if isinstance(source, ClusterData):
        if labels is not None:
            raise UsageError("labels of several parts are given to make_data, with the vectors.")
        return source
    if isinstance(source, Run):
        source = source.path
    if isinstance(source, str | Path):
        return open_data(source, labels=labels, id_column=id_column, side=of)
    return make_data({"train": source}, None if labels is None else {"train": labels})


def _settings(
    k: int, dim: int | None, over: Sequence[float], dims: Sequence[int]
) -> Iterator[tuple[int, int | None]]:
    """Yield numbers of clusters and components: the main ones first, none twice."""
    wanted = [(k, dim), *((int(factor * k), dim) for factor in over), *((k, d) for d in dims)]
    yield from dict.fromkeys(wanted)


def _measure(
    data: ClusterData,
    k: int,
    config: ClusterConfig,
    over: Sequence[float],
    dims: Sequence[int],
    seeds: Sequence[int],
    permutations: int,
) -> Clustering:
    wanted = list(_settings(k, config.dim, over, dims))
    project = _projections(data.vectors["train"], config, [dim for _, dim in wanted])
    table: list[dict[str, Any]] = []
    kept: tuple[Projection, KMeans, dict[str, Any]] | None = None
    with track("cluster", len(wanted) * len(seeds), unit="runs") as advance:
        for num_clusters, dim in wanted:
            projection = project(dim)
            projected = {part: projection.apply(rows) for part, rows in data.vectors.items()}
            figures = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                found = kmeans(projected["train"], num_clusters, config, rng=rng)
                parts = _assign_parts(found, projected)
                kept = kept or (projection, found, parts)
                figures.append(_figures(found, parts, projected, data, permutations, rng))
                advance(1)
            row = {"k": num_clusters, "dim": projection.dim, "explained": projection.explained}
            table.append(row | _summary(figures))
    assert kept is not None
    projection, found, parts = kept
    clusters = {part: labels for part, (labels, _) in parts.items()}
    info = {
        "format": FORMAT,
        "source": data.source,
        "config": {**config.model_dump(mode="json"), "k": k, "seeds": list(seeds)},
        "rows": {part: len(rows) for part, rows in data.vectors.items()},
        "features": data.vectors["train"].shape[1],
        "classes": data.classes,
        "permutations": permutations,
        "table": table,
        "clusters": _describe(clusters, data, k),
    }
    distances = {part: own for part, (_, own) in parts.items()}
    return Clustering(info, projection, found.centers, clusters, distances)


def _projections(
    rows: NDArray[np.float32], config: ClusterConfig, dims: Sequence[int | None]
) -> Callable[[int | None], Projection]:
    """Return what makes the projection onto so many components; these are found where needed."""
    if not config.whiten and all(dim is None for dim in dims):
        plain = fit_mean(rows, spherical=config.spherical)
        return lambda _: plain
    components = fit_components(rows)
    return partial(components.projection, whiten=config.whiten, spherical=config.spherical)


def _assign_parts(
    found: KMeans, projected: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    return {
        part: (found.labels, found.distances) if part == "train" else assign(rows, found.centers)
        for part, rows in projected.items()
    }


def _figures(
    found: KMeans,
    parts: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]],
    projected: Mapping[str, NDArray[np.float32]],
    data: ClusterData,
    permutations: int,
    rng: np.random.Generator,
) -> dict[str, Scores]:
    """Return scores, and what they are by chance, by part and name."""
    center = projected["train"].mean(axis=0, dtype=np.float64)
    scores: Scores = {}
    for part, (_, distances) in parts.items():
        spread = float(((projected[part] - center) ** 2).sum())
        share = 1 - float(distances.sum()) / spread if spread > 0 else 1.0
        scores[part] = {"distance": float(distances.mean()), "variance_explained": share}
    if data.labels is None:
        return {"scores": scores}
    clusters = {part: labels for part, (labels, _) in parts.items()}
    sizes: dict[str, Any] = {
        "num_clusters": len(found.centers),
        "num_classes": len(data.classes),
    }
    for part, figures in score_parts(clusters, data.labels, **sizes).items():
        scores[part] |= figures
    if not permutations:
        return {"scores": scores}
    chance = chance_scores(clusters, data.labels, **sizes, num_permutations=permutations, rng=rng)
    return {"scores": scores, "chance": chance}


def _summary(figures: Sequence[dict[str, Scores]]) -> dict[str, Scores]:
    """Return means and population deviations over the seeds."""

    def over_seeds(kind: str, reduce: Any) -> Scores:
        return {
            part: {
                name: float(reduce([one[kind][part][name] for one in figures])) for name in names
            }
            for part, names in figures[0][kind].items()
        }

    summary = {"scores": over_seeds("scores", np.mean), "deviations": over_seeds("scores", np.std)}
    if "chance" in figures[0]:
        summary["chance"] = over_seeds("chance", np.mean)
    return summary


def _describe(
    clusters: Mapping[str, NDArray[np.int64]], data: ClusterData, k: int
) -> list[dict[str, Any]]:
    """Return the size of each cluster, and what the training part says of its classes."""
    sizes = np.bincount(clusters["train"], minlength=k)
    described: list[dict[str, Any]] = [
        {"cluster": number, "rows": int(size)} for number, size in enumerate(sizes)
    ]
    if data.labels is None:
        return described
    is_known = data.labels["train"] >= 0
    counts = contingency(
        clusters["train"][is_known],
        data.labels["train"][is_known],
        num_clusters=k,
        num_classes=len(data.classes),
    )
    maps = {kind: fit_map(counts, kind) for kind in MAPS}
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for number, row in enumerate(described):
        row |= {kind: data.classes[classes[number]] for kind, classes in maps.items()}
        row["share"] = float(shares[number, maps["majority"][number]])
    return described


def _write(folder: Path, found: Clustering, data: ClusterData, *, title: str) -> None:
    write_json(folder / MARKER, found.info)
    tensors = {"mean": found.projection.mean, "centers": found.centers}
    if found.projection.basis is not None:
        tensors["basis"] = found.projection.basis
    save_tensors(
        folder / "model.safetensors",
        {name: torch.from_numpy(values) for name, values in tensors.items()},
        {},
    )
    frames = []
    for part, ids in data.ids.items():
        columns = {
            "part": pl.Series([part] * len(ids)),
            "id": ids,
            "cluster": found.clusters[part],
            "distance": found.distances[part],
        }
        if data.labels is not None:
            names = pl.Series(data.classes)
            at = pl.Series(data.labels[part])
            columns["class"] = names.gather(at.replace(-1, None))
        frames.append(pl.DataFrame(columns))
    pl.concat(frames).write_parquet(folder / "assignments.parquet")
    if has_plots():
        html = build_cluster_page(found.info, title=title)
        (folder / "report.html").write_text(html, encoding="utf-8")
    else:
        note("No report.html: its plots need matplotlib; run pip install 'ensue[report]'.")
