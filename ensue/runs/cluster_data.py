"""Vectors to be clustered and the classes they are scored by: out of arrays, files and runs.

Shapes: n rows of a part, F features, L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.feature_inference import infer
from ensue.data.feature_values import BadValueError, to_bags, to_texts, to_vectors, vector_size
from ensue.errors import DataError, UsageError, did_you_mean
from ensue.indexes.vectors import ProductModel, item_vectors, model_queries
from ensue.runs.run import Run

Side = Literal["items", "users"]
ARRAYS = ("x", "y", "x_test", "y_test")
USER_BLOCK = 1024  # users whose queries are made at a time


@dataclass(frozen=True)
class ClusterData:
    """Vectors to be clustered, by part: "train", and "test" where some are held out.

    vectors: [n, F] float32. ids: raw id, or row number from 0.
    labels: [n], the number of the class, -1 where there is none; None without classes.
    classes: the names of the L classes. source: where the vectors come from.
    """

    vectors: dict[str, NDArray[np.float32]]
    ids: dict[str, pl.Series]
    labels: dict[str, NDArray[np.int64]] | None
    classes: list[str]
    source: str

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return sum(map(len, self.vectors.values()))

    def hold_out(self, share: float, rng: np.random.Generator) -> ClusterData:
        """Return the same rows with a random share of those of "train" as "test".

        Raises:
            UsageError: there is a test part already, or a part would be empty.
        """
        rows = self.vectors["train"]
        num_test = round(share * len(rows))
        if "test" in self.vectors:
            raise UsageError(f"{self.source} has a test part of its own; leave test_share out.")
        if not 0 < num_test < len(rows):
            raise UsageError(
                f"test_share must leave both parts a row; {share} of {len(rows)} leaves "
                f"{len(rows) - num_test} and {num_test}."
            )
        order = rng.permutation(len(rows))
        parts = {"train": np.sort(order[num_test:]), "test": np.sort(order[:num_test])}
        labels = self.labels and {part: self.labels["train"][at] for part, at in parts.items()}
        return ClusterData(
            {part: rows[at] for part, at in parts.items()},
            {part: self.ids["train"][at] for part, at in parts.items()},
            labels,
            self.classes,
            self.source,
        )


def make_data(
    vectors: Mapping[str, Any],
    labels: Mapping[str, Any] | None,
    *,
    ids: pl.Series | None = None,
    source: str = "arrays",
) -> ClusterData:
    """Return checked vectors and labels by part; vectors [n, ...] are flattened.

    Args:
        labels: one value of each row, of any kind: text, numbers, lists. Of several values in one
            ("Drama|Comedy"), the first is the class.
        ids: of the training part.

    Raises:
        DataError: they do not belong together, or a value cannot be used.
    """
    checked = {part: _checked(part, values) for part, values in vectors.items()}
    widths = {rows.shape[1] for rows in checked.values()}
    if len(widths) > 1:
        raise DataError(f"vectors of all parts must be of one width; got {sorted(widths)}.")
    names = {part: pl.int_range(len(rows), eager=True) for part, rows in checked.items()}
    if ids is not None:
        names["train"] = ids
    if labels is None:
        return ClusterData(checked, names, None, [], source)
    columns = {part: _to_series(values) for part, values in labels.items()}
    for part, rows in checked.items():
        if part not in columns or len(columns[part]) != len(rows):
            found = len(columns[part]) if part in columns else "none"
            raise DataError(
                f"labels of the part {part} must be as many as its vectors, {len(rows)}; "
                f"got {found}."
            )
    texts = pl.concat([first_values(columns[part]) for part in checked])
    order = sorted(texts.drop_nulls().unique().to_list(), key=_numbers_first)
    if len(order) < 2:
        raise DataError(f"labels must name two classes or more; got {order or 'none'}.")
    places = {name: place for place, name in enumerate(order)}
    numbers = texts.replace_strict(places, default=-1, return_dtype=pl.Int64).to_numpy()
    ends = np.cumsum([len(rows) for rows in checked.values()])[:-1]
    parts = dict(zip(checked, np.split(numbers, ends), strict=True))
    return ClusterData(checked, names, parts, order, source)


def first_values(values: pl.Series) -> pl.Series:
    """Return the first of the values of each row as text [n], null where there is none.

    >>> first_values(pl.Series(["a|b", None, "b", "c|a"])).to_list()
    ['a', None, 'b', 'c']

    Raises:
        DataError: they are no text, whole numbers or lists of these.
    """
    kind, separator, _ = infer(values, values, name=values.name, distinct_share=1.0)
    try:
        if kind != "multi" or not (separator or values.dtype.is_nested()):
            return to_texts(values)
        rows, texts = to_bags(values, separator)
    except BadValueError as error:
        raise DataError(f"a label must be {error}; row {error.index} is not.") from None
    found = pl.Series([None] * len(values), dtype=pl.String)
    present, first = np.unique(rows, return_index=True)
    return found.scatter(present, texts.gather(first))


def open_data(
    source: str | Path, *, labels: str | Path | None, id_column: str | None, side: Side
) -> ClusterData:
    """Return the vectors of a file or a run.

    A .npy file holds vectors [n, ...]; a .npz file x, and perhaps y, x_test and y_test; in a table
    (Parquet), the vectors are its column of lists, or else all its columns of numbers. Of a run,
    they are those of its items, or the queries of its users' histories.

    Args:
        labels: a column of the table, or of the items; or a .npy file with a value for each row.
        id_column: of a table.

    Raises:
        DataError: a file is not of this kind.
        UsageError: an option has no meaning for it.
    """
    path = Path(source)
    of_file = labels if labels is not None and str(labels).endswith(".npy") else None
    is_run, is_table = path.is_dir(), path.suffix in (".parquet", ".pq")
    if side == "users" and not is_run:
        raise UsageError(f"users are those of a run; {path} is none.")
    if id_column and not is_table:
        raise UsageError(f"an id column is one of a Parquet table; {path} is none.")
    if labels and not of_file and not (is_table or (is_run and side == "items")):
        raise UsageError(
            f"labels of {path} must be a .npy file with a value for each row; got {labels}."
        )
    column = None if of_file or labels is None else str(labels)
    ids: pl.Series | None = None
    if is_run:
        vectors, found, ids = _of_run(Run(path), column, side)
    elif is_table:
        vectors, found, ids = _of_table(path, column, id_column)
    else:
        vectors, found = load_parts(path)
    if of_file:
        found = {"train": _load(Path(of_file))}
    return make_data(vectors, found, ids=ids, source=str(path))


def load_parts(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return vectors or images by part, and labels where there are any, of a .npy or .npz file.

    Raises:
        DataError: it is none, or a .npz without x, or with more than x, y, x_test and y_test.
    """
    found = _load(path)
    if isinstance(found, np.ndarray):
        return {"train": found}, None
    if "x" not in found or set(found) - set(ARRAYS) or ("y_test" in found and "y" not in found):
        raise DataError(
            f"{path} must hold x, and may hold y, x_test and y_test; it holds "
            f"{', '.join(sorted(found)) or 'nothing'}."
        )
    parts = {"train": "", "test": "_test"}
    vectors = {part: found[f"x{end}"] for part, end in parts.items() if f"x{end}" in found}
    labels = {part: found[f"y{end}"] for part, end in parts.items() if f"y{end}" in found}
    return vectors, labels or None


def plain_item_vectors(run: Run) -> NDArray[np.float32]:
    """Return the vectors of the items of a run [I, F], without biases.

    Raises:
        UsageError: its model does not score by a product.
    """
    if not isinstance(run.model, ProductModel):
        raise UsageError(
            "vectors of a run are those of a model that scores by a product (caser, sasrec, bpr, "
            f"two_tower, ...); {run.info['model']} has none."
        )
    found = item_vectors(run.model)
    return found.rows[:, :-1] if found.has_bias else found.rows


def _of_run(run: Run, column: str | None, side: Side) -> tuple[dict[str, Any], Any, pl.Series]:
    rows = plain_item_vectors(run)
    if side == "items":
        where = f"the items of {run.path}"
        labels = None if column is None else {"train": _column(run.item_table, column, where)}
        return {"train": rows}, labels, run.item_table["raw_id"]
    recommender = run.recommender
    users = np.arange(1, len(recommender.user_ids) + 1)
    queries = [
        model_queries(run.model, recommender.histories.batch(part, run.model.max_len))
        for part in np.split(users, range(USER_BLOCK, len(users), USER_BLOCK))
    ]
    return {"train": np.concatenate(queries)}, None, pl.Series(recommender.user_ids.to_raw(users))


def _of_table(
    path: Path, column: str | None, id_column: str | None
) -> tuple[dict[str, Any], Any, pl.Series | None]:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} must be a Parquet file: {str(error).splitlines()[0]}.") from None
    labels = None if column is None else {"train": _column(frame, column, str(path))}
    ids = None if id_column is None else _column(frame, id_column, str(path))
    features = frame.drop([name for name in (column, id_column) if name])
    lists = [s for s in features.get_columns() if isinstance(s.dtype, pl.List | pl.Array)]
    if len(lists) > 1:
        names = ", ".join(s.name for s in lists)
        raise DataError(f"a table of vectors must have one column of lists; {path} has {names}.")
    if lists:
        try:
            vectors = to_vectors(lists[0], None, vector_size(lists[0], None))
        except BadValueError as error:
            raise DataError(
                f"column {lists[0].name!r} of {path} must hold {error}; row {error.index} does not."
            ) from None
    else:
        numbers = features.select(pl.selectors.numeric())
        if not numbers.width:
            raise DataError(f"a table of vectors must have columns of numbers; {path} has none.")
        vectors = numbers.cast(pl.Float32).fill_null(float("nan")).to_numpy()
    return {"train": vectors}, labels, ids


def _load(path: Path) -> Any:
    """Return the array of a .npy file, or those of a .npz file by name."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError) as error:
        raise DataError(
            f"vectors must be a run, or a .npy, .npz or .parquet file; {path}: {error}."
        ) from None


def _checked(part: str, values: Any) -> NDArray[np.float32]:
    rows = np.asarray(values)
    if rows.dtype.kind not in "fiub" or rows.ndim < 2 or rows.size == 0:
        raise DataError(
            f"vectors of the part {part} must be numbers [n, F] with n and F above 0; got "
            f"{rows.dtype} {list(rows.shape)}."
        )
    rows = np.ascontiguousarray(rows.reshape(len(rows), -1), dtype=np.float32)
    if not (is_finite := np.isfinite(rows).all(axis=1)).all():
        raise DataError(
            f"vectors must be finite; row {int(np.argmin(is_finite))} of the part {part} holds "
            "NaN or infinity."
        )
    return rows


def _to_series(values: Any) -> pl.Series:
    return values if isinstance(values, pl.Series) else pl.Series("label", values)


def _column(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    if name not in frame.columns:
        raise UsageError(f"{where} have no column {name!r}.{did_you_mean(name, frame.columns)}")
    return frame[name]


def _numbers_first(name: str) -> tuple[bool, int, str]:
    is_number = name.isdecimal()
    return not is_number, int(name) if is_number else 0, name
