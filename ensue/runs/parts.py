"""An output made part by part: interrupted, it goes on behind the last part that was finished.

```
OUT.parts/job.json          what the output depends on: other parts are never taken for these
OUT.parts/000000.arrow      and so on, each written whole
OUT                         all parts, one row group each; the folder is then gone
```
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ensue.errors import UsageError
from ensue.files import atomic_file, write_json

_JOB = "job.json"


class Parts:
    """The parts of a Parquet file that is being made; see `open_parts`."""

    def __init__(self, folder: Path, out: Path, schema: pa.Schema) -> None:
        self.folder, self.out, self.schema = folder, out, schema

    def has(self, number: int) -> bool:
        """Return whether a part is finished."""
        return self._path(number).is_file()

    def write(self, number: int, table: pa.Table) -> None:
        """Write a part, whole."""
        with (
            atomic_file(self._path(number)) as temporary,
            pa.ipc.new_file(str(temporary), self.schema) as writer,
        ):
            writer.write_table(table)

    def join(self, count: int) -> None:
        """Make the output of the first `count` parts, and remove them."""
        whole = self.folder / "whole.parquet"  # a kill leaves nothing beside the output
        with (
            atomic_file(whole) as temporary,
            pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer,
        ):
            for number in range(count):
                with pa.memory_map(str(self._path(number))) as part:
                    writer.write_table(pa.ipc.open_file(part).read_all())
        os.replace(whole, self.out)
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"


@contextmanager
def open_parts(out: Path, job: Mapping[str, Any], schema: pa.Schema) -> Iterator[Parts]:
    """Yield the parts of `out`, those that an interrupted job has finished among them.

    Args:
        job: what the output depends on, ready for JSON.

    Raises:
        UsageError: the parts that are there are of another job, the folder is of something else, or
            another process makes this output now.
    """
    folder = out.with_name(f"{out.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if visible and _JOB not in visible:
        raise UsageError(
            f"{folder} must be free for the parts of the output; it holds something else. "
            "Choose another output."
        )
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system ends it with the process
        except BlockingIOError:
            raise UsageError(f"one process makes an output; another makes {out} now.") from None
        _check_job(folder, job)
        yield Parts(folder, out, schema)


def _check_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Write down the job, or check that it is the one that was interrupted."""
    file = folder / _JOB
    if not file.is_file():
        write_json(file, job)
        return
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        differing = [name for name in job if stored.get(name) != job[name]]
    except (json.JSONDecodeError, AttributeError):
        differing = [_JOB]
    if differing:
        raise UsageError(
            f"an interrupted job goes on as it began; that of {folder} differs in "
            f"{', '.join(differing)}. Give the command again as it was, choose another output, or "
            "remove the folder to begin anew."
        )
