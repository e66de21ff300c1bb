"""Visits with an image or a volume each, beside a table: files named in a column, or one array.

Files are .npy and .npz (one array each), and NIfTI (.nii, .nii.gz) through nibabel, the extra
"images". One array with a row for each row of the table is .npy or .npz too.
Shapes: N visits, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.longitudinal.measurements import Numbers, check_numbers
from ensue.data.longitudinal.tables import check_columns, read_frame, times_of
from ensue.data.longitudinal.visits import Visits, sort_visits
from ensue.errors import DataError, ExtraError, UsageError

NUMPY = (".npy", ".npz")
NIFTI = (".nii", ".nii.gz")


def read_images(
    table: str | Path | pl.DataFrame,
    images: str | Path,
    *,
    entity: str,
    time: str,
    others: Sequence[str] = (),
) -> Visits:
    """Return visits whose measurements are images [N, C, H, W] or volumes [N, C, D, H, W].

    An image of two axes has one channel. One of three is a volume of one channel, and one of four
    has its channels first.

    Args:
        table: as in `read_visits`.
        images: a column that names a file for each visit, relative to the table; or a file with an
            array whose first axis is that of the rows of the table.
        others: columns that must be there.

    Raises:
        DataError: a column or a file is missing, or images differ in shape.
        ExtraError: NIfTI is read and nibabel is not installed.
    """
    frame, source = read_frame(table)
    check_columns(frame, [entity, time, *others], source)
    dropped = [entity, time]
    if str(images) in frame.columns:
        folder = Path() if isinstance(table, pl.DataFrame) else Path(table).parent
        values = _read_files(frame[str(images)], folder, source)
        dropped.append(str(images))
    elif str(images).endswith(NUMPY):
        values = _read_numpy(Path(images))
        if len(values) != len(frame) or values.ndim < 3:
            raise DataError(
                f"an array of images needs one of two axes or more for each of the {len(frame):,} "
                f"rows of {source}; {images} is {list(values.shape)}."
            )
    else:
        raise UsageError(
            f"images are a column of {source} or a file {' or '.join(NUMPY)}; got {str(images)!r}."
        )
    if values.ndim in (3, 4):
        values = values[:, None]
    elif values.ndim != 5:
        raise DataError(f"an image has two to four axes; those of {images} have {values.ndim - 1}.")
    check_numbers(values, source)
    times = times_of(frame[time], source)
    order, entities, names = sort_visits(frame[entity], times, source)
    return Visits(entities, names, times[order], Numbers(values[order]), frame.drop(dropped)[order])


def _read_files(names: pl.Series, folder: Path, source: str) -> NDArray[np.float32]:
    """Return the images of files [N, ...], in one array of the size of all of them."""
    if names.dtype != pl.String or names.null_count():
        raise DataError(f"column {names.name!r} of {source} must name a file in every row.")
    values: NDArray[np.float32] | None = None
    for row, name in enumerate(names):
        image = _read_file(folder / name)
        if values is None:
            values = np.empty((len(names), *image.shape), np.float32)
        if image.shape != values.shape[1:]:
            raise DataError(
                f"images must be of one shape; {name} is {list(image.shape)} and {names[0]} is "
                f"{list(values.shape[1:])}. Resample them."
            )
        values[row] = image
    assert values is not None
    return values


def _read_file(path: Path) -> NDArray[np.float32]:
    if path.name.endswith(NUMPY):
        return _read_numpy(path)
    if not path.name.endswith(NIFTI):
        raise DataError(f"an image is a file {', '.join((*NUMPY, *NIFTI))}; got {path}.")
    try:
        import nibabel
    except ImportError:
        raise ExtraError("nibabel", "images", "reading NIfTI") from None
    try:
        image: Any = nibabel.load(path)
        found: NDArray[np.float32] = image.get_fdata(dtype=np.float32)
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path} must be a NIfTI file; reading it failed with {error}.") from None
    return np.moveaxis(found, 3, 0) if found.ndim == 4 else found  # channels come last there


def _read_numpy(path: Path) -> NDArray[np.float32]:
    """Return the array of a file."""
    try:
        found: Any = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found:
                if len(found.files) != 1:
                    raise DataError(
                        f"{path} must hold one array; it holds {', '.join(found.files) or 'none'}."
                    )
                found = found[found.files[0]]
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} must be an array of numpy; reading it failed: {error}.") from None
    if not np.issubdtype(found.dtype, np.number) or math.prod(found.shape) == 0:
        raise DataError(f"{path} must hold numbers; it is {found.dtype} {list(found.shape)}.")
    return found.astype(np.float32)
