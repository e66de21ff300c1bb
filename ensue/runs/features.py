"""Items and users by what is known of them: new items in a run, and items like another.

`RUN/item_features.json` and `RUN/user_features.json` say how the values in a table of them become
what a model reads (`FeatureEncoder.save`).
Shapes: I items, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import torch
from torch import Tensor

from ensue.data.columns import recognize
from ensue.data.dataset import Dataset
from ensue.data.feature_encoder import FeatureEncoder
from ensue.data.feature_schema import FeatureSchema, select_columns
from ensue.data.features import FeatureTable
from ensue.data.readers import open_tables
from ensue.errors import UsageError
from ensue.files import atomic_directory, write_json
from ensue.indexes.vectors import is_product
from ensue.models.graph.medres import Medres
from ensue.models.retrieval.two_tower import TwoTower
from ensue.runs.requests import Recommendation
from ensue.runs.top_items import top_items
from ensue.training.checkpoints import save_tensors

if TYPE_CHECKING:
    from ensue.runs.run import Run

Side = Literal["items", "users"]
FILES: dict[Side, str] = {"items": "item_features.json", "users": "user_features.json"}
CHUNK_ROWS = 1 << 16
LEAST_LENGTH = 1e-12  # of a vector of zeros, so that cosines with it are 0
# What a run has of its training, what was measured on the smaller catalogue, indexes and exports.
NOT_COPIED = (
    "checkpoints",
    "evaluation",
    "indexes",
    "exports",
    "report.html",
    "model.safetensors",
    "run.json",
)


def save_encoders(path: Path, schema: FeatureSchema, dataset: Dataset) -> None:
    """Write how the features that a model reads are made, beside the model."""
    sides: dict[Side, Any] = {"items": schema.items, "users": schema.users}
    for side, columns in sides.items():
        if columns:
            FeatureEncoder.from_dataset(dataset, side).save(path / FILES[side])


def load_encoders(run: Run) -> dict[Side, FeatureEncoder]:
    """Return how the features are made that the model of a run reads, for each side that has some.

    Raises:
        RunError: the run's own file is damaged.
    """
    schema = run.model.features
    return {
        side: FeatureEncoder.load(run.path / name)
        for side, name in FILES.items()
        if getattr(schema, side)
    }


def encode_features(
    run: Run, side: Side, rows: Sequence[Mapping[str, Any]]
) -> tuple[FeatureTable, list[str]]:
    """Return the features of new items or users that the model reads, and their unknown values.

    Raises:
        UsageError: the model reads none, or a name or a value does not fit.
        RunError: the run's own file is damaged.
    """
    columns = getattr(run.model.features, side)
    if not columns:
        raise UsageError(
            f"features of {side} are for a model that reads some; {run.info['model']} of "
            f"{run.path} reads none. Train two_tower or medres on a dataset prepared with --{side}."
        )
    table, unknown = run.feature_encoders[side].encode(rows)
    names = [column.name for column in columns]
    return select_columns(table, names, setting=f"{side} of {run.path / FILES[side]}"), unknown


def feature_names(run: Run, side: Side) -> frozenset[str]:
    """Return the names that `encode_features` takes; none where the model reads no features."""
    encoder = run.feature_encoders.get(side)
    return frozenset() if encoder is None else encoder.names


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of new items, as `add_items` takes them.

    Raises:
        DataError: the file cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for table in open_tables([path]):
        for chunk in table.read(table.columns, CHUNK_ROWS):
            rows += chunk.rows.to_dicts()
    return rows


def similar_items(run: Run, item: str | int, *, k: int = 10) -> Recommendation:
    """Return the k items whose vectors have the largest cosine with that of an item.

    Raises:
        UsageError: the item is not in the catalogue, k < 1, or the model has no vectors of items.
    """
    if k < 1:
        raise UsageError(f"similar needs k >= 1; got {k}.")
    table, lengths = _item_vectors(run), run.item_lengths
    dense = int(run.recommender.item_ids.to_dense([item])[0])
    if dense == 0:
        raise UsageError(f"similar needs an item of the catalogue; {str(item)!r} is not in it.")
    cosines = (table @ table[dense]) / (lengths * lengths[dense])
    cosines[[0, dense]] = -torch.inf
    (items,), (scores,) = top_items(cosines[None], k)
    is_item = items > 0
    names = run.recommender.item_ids.to_raw(items[is_item].numpy())
    return Recommendation(names, scores[is_item].tolist())


def item_lengths(run: Run) -> Tensor:
    """Return the lengths of the item vectors [I + 1], all above 0."""
    return _item_vectors(run).norm(dim=1).clamp(min=LEAST_LENGTH)


def _item_vectors(run: Run) -> Tensor:
    model = run.model
    if not is_product(model):
        raise UsageError(
            f"similar items are found by the vectors of items; {run.info['model']} has none."
        )
    return model.item_table()[0].detach().float()


def add_items(
    run: Run,
    rows: Sequence[Mapping[str, Any]],
    *,
    out: str | Path,
    id_column: str | None = None,
    overwrite: bool = False,
) -> Run:
    """Return a run at `out` whose catalogue has further items, described by their features.

    Nothing is trained: an item is what its features say, beside the vector that stands for an
    unknown id. Answers can name the new items, and histories can hold them. run.json lists under
    "added_items" how many items each step added, and which values of theirs are unknown.

    Args:
        rows: for each item its raw id, values of features by name, and a title if the run has
            titles; what is left out is missing.
        id_column: of the raw ids; None is the one with a usual name, such as "item" or "movieId".
        overwrite: replace a run that is at `out`.

    Raises:
        UsageError: there is no row, an id is missing, given twice, or in the catalogue, the model
            is none that reads features of items, or a value does not fit.
    """
    from ensue.runs.run import Run as OpenedRun

    longer = extend(run, rows, id_column)
    with atomic_directory(out, marker="run.json", overwrite=overwrite) as folder:
        shutil.copytree(
            run.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*NOT_COPIED)
        )
        longer.item_table.write_ipc(folder / "items.arrow")
        save_tensors(folder / "model.safetensors", longer.model.state_dict(), {})
        write_json(folder / "run.json", longer.info)
    return OpenedRun(out)


def extend(run: Run, rows: Sequence[Mapping[str, Any]], id_column: str | None = None) -> Run:
    """Return the run with further items, in memory alone; arguments and errors as `add_items`."""
    from ensue.runs.run import Run as OpenedRun

    if not isinstance(run.model, (TwoTower, Medres)):
        raise UsageError(
            f"items are added to a model that reads their features; {run.path} holds "
            f"{run.info['model']}. Train two_tower or medres."
        )
    if not rows:
        raise UsageError("add_items needs a row for each new item; there is none.")
    id_column = id_column or _find_id_column(rows)
    ids = _new_ids(run, rows, id_column)
    others = [{n: v for n, v in row.items() if n not in (id_column, "title")} for row in rows]
    added, unknown = encode_features(run, "items", others)
    longer = OpenedRun(run.path)
    longer.model = run.model.with_items(added)
    longer.item_table = _extend_items(run.item_table, ids, [row.get("title") for row in rows])
    counts = {**run.info["dataset"]["counts"], "items": longer.model.num_items}
    longer.info = {
        **run.info,
        "dataset": {**run.info["dataset"], "counts": counts},
        "added_items": [
            *run.info.get("added_items", []),
            {"items": len(ids), "unknown_values": unknown},
        ],
    }
    if longer.model.graphs:  # their sides have more items
        longer.info["graphs"] = [schema.to_dict() for schema in longer.model.graphs]
    return longer


def _find_id_column(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return recognize(
        columns, "item", "the rows of new items", remedy="Name it with --id (id_column=...)."
    )


def _new_ids(run: Run, rows: Sequence[Mapping[str, Any]], id_column: str) -> list[str]:
    """Return the raw ids of new items after checking them."""
    ids = []
    for number, row in enumerate(rows, 1):
        raw = row.get(id_column)
        if raw is None or str(raw).strip() == "":
            raise UsageError(
                f"each new item needs an id in {id_column!r}; row {number} has {sorted(row)}."
            )
        ids.append(str(raw).strip())
    known = run.recommender.item_ids.to_dense(ids)
    for place, raw in enumerate(ids):
        if known[place] > 0:
            raise UsageError(f"new items need new ids; {raw!r} is in the catalogue.")
    if len(set(ids)) < len(ids):
        twice = next(raw for raw in ids if ids.count(raw) > 1)
        raise UsageError(f"each new item needs one row; {twice!r} has several.")
    return ids


def _extend_items(table: pl.DataFrame, ids: list[str], titles: list[Any]) -> pl.DataFrame:
    """Return the table of items with further rows; columns but the id and a title are null."""
    added = pl.DataFrame({"raw_id": pl.Series(ids, dtype=table.schema["raw_id"])})
    if "title" in table.columns:
        texts = [None if title is None else str(title) for title in titles]
        added = added.with_columns(pl.Series("title", texts, dtype=pl.String))
    return pl.concat([table, added], how="diagonal_relaxed")
