"""The part of a report on item vectors: whether clusters of them are genres or categories."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ensue.errors import DataError
from ensue.indexes.vectors import ProductModel
from ensue.runs.cluster import cluster
from ensue.runs.cluster_data import ClusterData, make_data, plain_item_vectors
from ensue.runs.cluster_page import score_tables
from ensue.runs.page import section
from ensue.runs.run import Run

COLUMNS = ("genres", "genre", "categories", "category")  # that say what an item is; the first found
MOST_CLASSES = 1000
LEAST_ROWS = 2  # items a class, on average


def measure_item_clusters(run: Run) -> dict[str, Any]:
    """Return cluster.json of the items of a run, as many clusters as it has genres or categories.

    Vectors are of length 1, so that popularity, which is often their length, counts for nothing.
    Empty for items without such a column, and for a model whose scores are no products.
    """
    names = {name.lower(): name for name in reversed(run.item_table.columns)}
    column = next((names[name] for name in COLUMNS if name in names), None)
    if column is None or not isinstance(run.model, ProductModel):
        return {}
    data = _labeled(run, column)
    if data is None:
        return {}
    return {**cluster(data, spherical=True).info, "column": column}


def item_clusters_section(found: Mapping[str, Any]) -> str:
    """Return the section on what `measure_item_clusters` found; nothing for {}."""
    if not found:
        return ""
    explanation = (
        f"<p>k-means of the {found['rows']['train']:,} item vectors, at length 1, into as many "
        f"clusters as there are values of {escape(found['column'])}: {len(found['classes']):,}. "
        "Of an item with several values, the first counts. The model was not told them for this: "
        "figures above those by chance say that what users do tells these items apart.</p>"
    )
    return section("Item vectors", explanation + score_tables(found["table"][0]))


def _labeled(run: Run, column: str) -> ClusterData | None:
    """Return vectors and classes; None where these are too many, or hardly any."""
    try:
        labels = {"train": run.item_table[column]}
        data = make_data({"train": plain_item_vectors(run)}, labels, source=str(run.path))
    except DataError:  # a column of this name that holds something else
        return None
    too_many = min(MOST_CLASSES, data.num_rows // LEAST_ROWS)
    return data if len(data.classes) <= too_many else None
