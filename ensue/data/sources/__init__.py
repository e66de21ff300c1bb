"""Public data sets: where they come from, their terms, how they are fetched and checked."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ensue.data.sources.archive import check_gzip, digest, extract_zip
from ensue.data.sources.http import Retries, discard, download, download_text
from ensue.data.sources.registry import SOURCES, Source, find_source
from ensue.errors import DataError, UsageError
from ensue.files import atomic_directory, write_json
from ensue.progress import note

__all__ = ["SOURCES", "Checksum", "Fetched", "Retries", "Source", "fetch", "find_source"]

MARKER = "source.json"  # in the folder of a fetched data set: where it came from


@dataclass(frozen=True)
class Checksum:
    """The sum of the downloaded file, and where the expected one was published (None: nowhere)."""

    algorithm: str
    value: str
    published_at: str | None


@dataclass(frozen=True)
class Fetched:
    """A data set on disk.

    path: the folder with its files; prepare: the command that makes a dataset of them.
    is_new: False where it was there already and nothing was downloaded.
    """

    name: str
    path: Path
    files: list[str]
    url: str
    bytes: int
    checksum: Checksum
    terms: str
    citation: str
    homepage: str
    prepare: str
    is_new: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def fetch(
    name: str,
    out: str | Path = "data",
    *,
    base_url: str | None = None,
    retries: Retries | None = None,
    quiet: bool = False,
) -> Fetched:
    """Return the data set `name`, downloaded into the folder `out`/`name` unless it is there.

    The terms are shown before the download starts. The folder appears only once the file has the
    published checksum and is unpacked; a download that was cut continues where it ended.

    Args:
        base_url: a mirror to take the file and its checksum from, in place of the official host.
        quiet: show neither terms nor progress (both go to standard error).

    Raises:
        UsageError: no such data set, or `out`/`name` holds something else.
        DataError: the download failed, or is not what the host published.
    """
    source = find_source(name)
    folder = Path(out) / name
    if (folder / MARKER).is_file():
        return replace(_read(source, folder), is_new=False)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} must be free to receive the data set; it exists and holds no {MARKER}. "
            "Choose another folder with -o."
        )
    if not quiet:
        note(describe_terms(source))
    retries = retries or Retries()
    url = _address(source, base_url)
    published = _published_sum(source, url, retries, quiet)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{source.file}.part"
    download(url, part, retries=retries, quiet=quiet)
    checksum = _check(source, part, url, published)
    fetched = Fetched(
        name=name,
        path=folder,
        files=[],
        url=url,
        bytes=part.stat().st_size,
        checksum=checksum,
        terms=source.terms,
        citation=source.citation,
        homepage=source.homepage,
        prepare=source.prepare_command(folder),
    )
    return _unpack(source, part, fetched, quiet)


def describe_terms(source: Source) -> str:
    """Return what a person should read before downloading."""
    return (
        f"{source.title} (about {source.megabytes} MB)\n"
        f"Terms: {source.terms} Full text: {source.homepage}\n"
        f"Please cite: {source.citation}"
    )


def _address(source: Source, base_url: str | None) -> str:
    base_url = base_url or source.base_url
    if urlsplit(base_url).scheme not in ("http", "https"):
        raise UsageError(f"base_url must start with http:// or https://; got {base_url!r}.")
    return f"{base_url.rstrip('/')}/{source.file}"


def _published_sum(source: Source, url: str, retries: Retries, quiet: bool) -> str | None:
    """Return the checksum that the host publishes beside the file.

    Both usual forms are read: "MD5 (ml-1m.zip) = c4d9..." and "d472...  ml-32m.zip".
    """
    if source.checksum is None:
        return None
    sum_url = f"{url}.{source.checksum}"
    text = download_text(sum_url, retries=retries, quiet=quiet)
    digits = {"md5": 32, "sha256": 64}[source.checksum]
    sums = re.findall(rf"(?<![0-9a-fA-F])[0-9a-fA-F]{{{digits}}}(?![0-9a-fA-F])", text)
    if len(sums) != 1:
        raise DataError(
            f"{sum_url} must hold one {source.checksum} sum; it holds {len(sums)}. "
            "A proxy or a login page may be answering in place of the host."
        )
    return sums[0].lower()


def _check(source: Source, part: Path, url: str, published: str | None) -> Checksum:
    """Return the file's checksum; a file that is not the published one is removed."""
    algorithm = source.checksum or "sha256"
    actual = digest(part, algorithm)
    if published is None:
        return Checksum(algorithm, actual, None)
    sum_url = f"{url}.{algorithm}"
    if actual != published:
        discard(part)
        raise DataError(
            f"the {algorithm} sum of {source.file} must be {published}, as published at {sum_url}; "
            f"the download has {actual}. It was removed: run the command again."
        )
    return Checksum(algorithm, actual, sum_url)


def _unpack(source: Source, part: Path, fetched: Fetched, quiet: bool) -> Fetched:
    """Return the data set, whose folder appears whole; the download is used up."""
    with atomic_directory(fetched.path, marker=MARKER) as temporary:
        try:
            if source.file.endswith(".zip"):
                extract_zip(part, temporary, name=source.file, quiet=quiet)
            else:
                check_gzip(part, source.file)
        except DataError:
            discard(part)  # unpacking the same bytes again would fail again
            raise
        if not source.file.endswith(".zip"):
            os.replace(part, temporary / source.file)
        if not (temporary / source.log).is_file():
            discard(part)
            raise DataError(f"{source.file} must hold {source.log}; it does not.")
        files = sorted(
            path.relative_to(temporary).as_posix()
            for path in temporary.rglob("*")
            if path.is_file()
        )
        fetched = replace(fetched, files=files)
        write_json(temporary / MARKER, fetched.to_dict())
    discard(part)
    return fetched


def _read(source: Source, folder: Path) -> Fetched:
    """Return what `fetch` wrote about a folder that is there already."""
    file = folder / MARKER
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        fetched = Fetched(**{**raw, "path": folder, "checksum": Checksum(**raw["checksum"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{file} must be what ensue fetch wrote; it is not ({error!r}). "
            f"Remove {folder} and fetch again."
        ) from None
    # The folder may have been moved since.
    return replace(fetched, prepare=source.prepare_command(folder))
