"""A run directory: all that is needed to recommend, movable to a machine without the dataset.

```
RUN/run.json              model, settings, what its context columns hold, dataset (name, hash,
                          counts), seed, versions, hardware, metrics; written last: a folder without
                          it is an unfinished training
RUN/model.safetensors     everything the model learned
RUN/users.arrow           raw_id and end (row number in histories.arrow) of each user
RUN/items.arrow           raw_id and item columns
RUN/histories.arrow       item: all interactions, by user, oldest first; time (microseconds) where
                          the log has times; and the context columns that the model reads
RUN/context_NAME.arrow    raw_id: the values of a categorical context column, in the order of codes
RUN/item_features.json    how features of items are read, where the model reads any;
                          user_features.json likewise
RUN/log.jsonl             one line an epoch
RUN/checkpoints/          to resume from
RUN/evaluation/           what `ensue evaluate` found
RUN/indexes/KIND/         what `ensue index` built
RUN/exports/FORMAT/       what `ensue export` wrote
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from ensue.config import make_config
from ensue.data.arrow_file import ColumnFile, read_columns
from ensue.data.context import ContextEncoder, ContextSchema
from ensue.data.dataset import Dataset
from ensue.data.feature_encoder import FeatureEncoder
from ensue.data.feature_schema import FeatureSchema
from ensue.data.graphs import GraphSchema
from ensue.data.histories import Histories
from ensue.data.ids import IdMap
from ensue.errors import RunError
from ensue.evaluation.evaluator import evaluate
from ensue.evaluation.result import Evaluation
from ensue.files import atomic_file, write_json
from ensue.indexes.base import Index
from ensue.indexes.store import MARKER, build_index, hash_file, load_index
from ensue.models.base import Model
from ensue.models.table import build_model, get_method
from ensue.runs.export.write import Export, export_run
from ensue.runs.features import (
    Side,
    add_items,
    encode_features,
    extend,
    item_lengths,
    load_encoders,
    save_encoders,
    similar_items,
)
from ensue.runs.follow import Follower
from ensue.runs.recommend import Recommender
from ensue.runs.requests import Recommendation
from ensue.runs.stored import FORMAT, StoredRun
from ensue.training.checkpoints import save_tensors

if TYPE_CHECKING:
    from ensue.runs.audit_result import Audit


class Run(StoredRun):
    """A finished run, opened. The model and the tables are read when they are first needed."""

    kind = "run"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._indexes: dict[str, Index] = {}

    @cached_property
    def model(self) -> Model:
        """The trained model, in evaluation mode."""
        counts, name = self.info["dataset"]["counts"], self.info["model"]
        config = make_config(get_method(name).model.Config, self.info["config"])
        model = build_model(
            name,
            config,
            num_users=counts["users"],
            num_items=counts["items"],
            context=ContextSchema.from_dict(self.info.get("context", {})),
            features=FeatureSchema.from_dict(self.info.get("features", {})),
            graphs=[GraphSchema.from_dict(graph) for graph in self.info.get("graphs", [])],
        )
        return self.fill_(model)

    @cached_property
    def item_table(self) -> pl.DataFrame:
        """raw_id and item columns in dense-id order."""
        return pl.read_ipc(self.path / "items.arrow")

    @cached_property
    def feature_encoders(self) -> dict[Side, FeatureEncoder]:
        """How the features of new items and users are made, for each side that the model reads."""
        return load_encoders(self)

    @cached_property
    def item_lengths(self) -> Tensor:
        """Lengths of the item vectors [I + 1], for a model that has some."""
        return item_lengths(self)

    def item_names(self) -> dict[str, str]:
        """Return raw id -> title; empty where the dataset has no titles."""
        if "title" not in self.item_table.columns:
            return {}
        return dict(self.item_table.select("raw_id", "title").iter_rows())

    @cached_property
    def recommender(self) -> Recommender:
        """The model with the id maps and the stored histories."""
        ends = pl.read_ipc(self.path / "users.arrow", columns=["end"])["end"].to_numpy()
        ends = np.concatenate([[0], ends]).astype(np.int64)  # user 0 has no history
        columns, context = read_columns(self.path / "histories.arrow"), self.model.context
        histories = Histories(
            columns["item"],
            np.concatenate([[0], ends[:-1]]),
            ends,
            tuple(columns[column.name] for column in context.event),
            tuple(columns[column.name] for column in context.request),
        )
        return Recommender(
            self.model,
            IdMap.read(self.path / "users.arrow"),
            IdMap(self.item_table["raw_id"]),
            histories,
            ContextEncoder(context, self.context_values),
            partial(encode_features, self, "users"),
        )

    @cached_property
    def times(self) -> NDArray[np.int64] | None:
        """When each event of the stored histories was, in microseconds since 1970 (UTC).

        None where the log has no times.
        """
        return read_columns(self.path / "histories.arrow").get("time")

    @cached_property
    def context_values(self) -> dict[str, IdMap]:
        """The values behind the codes of each categorical context column that the model reads."""
        return {
            column.name: IdMap.read(self.path / f"context_{column.name}.arrow")
            for column in self.model.context.columns
            if column.num_values is not None
        }

    def recommend(
        self,
        *,
        users: Sequence[str | int] | None = None,
        histories: Sequence[Sequence[str | int]] | None = None,
        context: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        features: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] | None = None,
        index: str | Path | Index | None = None,
    ) -> list[Recommendation]:
        """Return the first k items for users and for histories; see `Recommender.recommend`.

        Args:
            index: one of `index`, or what it is called there.
        """
        if isinstance(index, (str, Path)):
            index = self._opened(str(index))
        return self.recommender.recommend(
            users=users,
            histories=histories,
            context=context,
            features=features,
            k=k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            index=index,
        )

    def build_index(
        self, kind: str, *, out: str | Path | None = None, overwrite: bool = False, **settings: Any
    ) -> Index:
        """Build an index of the items, store it, and return it.

        Args:
            kind: a name of `ensue.indexes.table.KINDS`.
            out: a new folder; None is RUN/indexes/KIND.
            overwrite: replace the index that is there.
            settings: of the kind, by field name.

        Raises:
            UsageError: there is no such kind, the model does not score by a product, or the
                folder may not be written.
            ConfigError: a setting does not exist or does not fit.
            ExtraError: the kind needs a package that is not installed.
        """
        path = self.path / "indexes" / kind if out is None else Path(out)
        self._indexes.pop(str(path), None)
        weights = self.weights_hash
        _, built = build_index(path, kind, self.model, weights, settings, overwrite=overwrite)
        return built

    def index(self, name: str | Path, **settings: Any) -> Index:
        """Return a stored index of the items.

        Args:
            name: its kind, or its folder where it is not in RUN/indexes.
            settings: of searches with it, in place of those it was built with.

        Raises:
            RunError: there is none, it is of other weights, or it is damaged.
            UsageError: a setting is none of a search.
        """
        return load_index(self.index_path(name), self.model, self.weights_hash, settings)

    def index_path(self, name: str | Path) -> Path:
        """Return the folder of an index, given by its kind or its folder.

        Raises:
            RunError: there is no index.
        """
        own = self.path / "indexes" / name
        if (own / MARKER).is_file():
            return own
        if (Path(name) / MARKER).is_file():
            return Path(name)
        raise RunError(
            f"an index is built before it is used; {self.path} has no index {str(name)!r}. "
            f"Build one with ensue index {self.path} --kind KIND."
        )

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the file of weights, by which an index knows its model."""
        return hash_file(self.path / "model.safetensors")

    def _opened(self, name: str) -> Index:
        """Return a stored index, read when it is first asked for."""
        path = str(self.index_path(name))
        if path not in self._indexes:
            self._indexes[path] = self.index(name)
        return self._indexes[path]

    def export(
        self,
        form: str,
        *,
        out: str | Path | None = None,
        k: int | None = None,
        overwrite: bool = False,
    ) -> Export:
        """Write the run in another format: "onnx", "torch-export" or "npz"; see `export_run`."""
        return export_run(self, form, out=out, k=k, overwrite=overwrite)

    def similar(self, item: str | int, *, k: int = 10) -> Recommendation:
        """Return the k items most like an item; see `ensue.runs.features.similar_items`."""
        return similar_items(self, item, k=k)

    def add_items(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        out: str | Path,
        id_column: str | None = None,
        overwrite: bool = False,
    ) -> Run:
        """Return a run with further items, at `out`; see `ensue.runs.features.add_items`."""
        return add_items(self, rows, out=out, id_column=id_column, overwrite=overwrite)

    def extended(self, rows: Sequence[Mapping[str, Any]], *, id_column: str | None = None) -> Run:
        """Return this run with further items, in memory alone; else as `add_items`."""
        return extend(self, rows, id_column)

    def follow(self, user: str | int | None = None) -> Follower:
        """Return a follower of one history: events are added as they happen, answers at any time.

        Args:
            user: begins with what the run stores of this user; None begins without events.
        """
        return Follower(self.recommender, user)

    def evaluate(
        self,
        data: Dataset | str | Path | None = None,
        *,
        split: Literal["validation", "test"] = "test",
        **options: Any,
    ) -> Evaluation:
        """Evaluate the run, store the result in RUN/evaluation, and return it.

        Args:
            data: the dataset; None is where it was at training time.
            options: of `ensue.evaluation.evaluator.evaluate` (ks, exclude_seen, num_resamples...).

        Raises:
            UsageError: the dataset is another one, or the run was trained on the split.
        """
        dataset = self.open_dataset(data)
        self.check_split(split)
        evaluation = evaluate(self.model, dataset, split=split, **options)
        evaluation.save(self.path / "evaluation", split)
        return evaluation

    def audit(
        self, data: Dataset | str | Path | None = None, *, out: str | Path, **options: Any
    ) -> Audit:
        """Measure how far fake users push items in this model; see `ensue.runs.audit.audit`.

        Args:
            options: targets, budgets, attacks, defences, seeds, ...
        """
        from ensue.runs.audit import audit  # it trains runs, and so stands on this file

        return audit([self], data, out=out, **options)

    def evaluations(self) -> dict[str, Evaluation]:
        """Return the stored evaluations by split."""
        files = sorted((self.path / "evaluation").glob("*.json"))
        return {f.stem: Evaluation.load(self.path / "evaluation", f.stem) for f in files}

    def open_dataset(self, data: Dataset | str | Path | None) -> Dataset:
        """Return the dataset that the run was trained on; None is where it was at training time.

        Raises:
            UsageError: it is not there, or is another one.
        """
        if not isinstance(data, Dataset):
            data = Dataset(self.find_dataset(data))
        self.check_dataset(data.path, data.info.hash)
        return data


def load(path: str | Path) -> Run:
    """Return the run at `path`; it works without the dataset, on any machine."""
    return Run(path)


def save_run(path: Path, model: Model, dataset: Dataset, info: dict[str, Any]) -> Run:
    """Write all files of a finished run, run.json last, and return it."""
    save_tensors(path / "model.safetensors", model.state_dict(), {})
    with atomic_file(path / "users.arrow") as temporary:
        users = pl.read_ipc(dataset.path / "users.arrow", columns=["raw_id", "end"])
        users.write_ipc(temporary)
    with atomic_file(path / "items.arrow") as temporary:
        dataset.items_table.write_ipc(temporary)
    columns = {"item": dataset.column("item")}
    if dataset.info.time == "column":
        columns["time"] = dataset.column("time")
    for column in model.context.columns:
        columns[column.name] = dataset.column(column.name)
        if column.num_values is not None:
            with atomic_file(path / f"context_{column.name}.arrow") as temporary:
                dataset.vocabulary(column.name).raw.to_frame().write_ipc(temporary)
    with atomic_file(path / "histories.arrow") as temporary:
        dtypes = {name: values.dtype for name, values in columns.items()}
        with ColumnFile(temporary, dtypes, num_rows=dataset.num_interactions) as file:
            file.write(columns, first_row=0)
    columns_read: dict[str, Any] = {}
    if not model.context.is_empty:
        columns_read["context"] = model.context.to_dict()
    if not model.features.is_empty:
        columns_read["features"] = model.features.to_dict()
        save_encoders(path, model.features, dataset)
    if model.graphs:
        columns_read["graphs"] = [schema.to_dict() for schema in model.graphs]
    write_json(path / "run.json", {"format": FORMAT, **info, **columns_read})
    return Run(path)
