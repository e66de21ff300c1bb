"""Checks and unpacks what was downloaded; nothing is written outside the given folder."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ensue.errors import DataError
from ensue.progress import track

CHUNK_BYTES = 1 << 20


def digest(path: Path, algorithm: str) -> str:
    """Return the file's checksum in lower-case hexadecimal digits."""
    running = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            running.update(chunk)
    return running.hexdigest()


def check_gzip(path: Path, name: str) -> None:
    """Read a gzip file to its end, which holds a checksum of its own.

    Raises:
        DataError: it is truncated, damaged or no gzip file.
    """
    try:
        with gzip.open(path, "rb") as file:
            while file.read(CHUNK_BYTES):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{name} must be a whole gzip file; reading it says: {error}.") from None


def extract_zip(archive: Path, folder: Path, *, name: str, quiet: bool = False) -> None:
    """Write the archive's files into `folder`, without the top folder that all of them share.

    Args:
        name: what to call the archive in messages.

    Raises:
        DataError: it is damaged, or an entry is no plain file inside the folder.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [(_safe_path(info, name), info) for info in opened.infolist()]
            files = [(path, info) for path, info in entries if not info.is_dir()]
            prefix = _common_top({path for path, _ in files})
            size = sum(info.file_size for _, info in files) / 1e6
            with track(f"unpacking {name}", size, unit="MB", enabled=not quiet) as advance:
                for path, info in files:
                    target = folder / path.relative_to(prefix)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(info) as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file, CHUNK_BYTES)
                    advance(info.file_size / 1e6)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name} must be a whole zip archive; reading it says: {error}.") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{name} must hold each file once; {error.filename} is twice.") from None


def _safe_path(info: zipfile.ZipInfo, name: str) -> PurePosixPath:
    """Return the entry's relative path, if it is a plain file or folder that stays inside."""
    path = PurePosixPath(info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    leaves = path.is_absolute() or ".." in path.parts or not path.parts
    if leaves or any(sign in info.filename for sign in "\\:\0"):
        raise DataError(
            f"{name} must hold relative paths; it has an entry {info.filename!r}. "
            "Nothing was unpacked."
        )
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(
            f"{name} must hold plain files; its entry {info.filename!r} is a link or a device. "
            "Nothing was unpacked."
        )
    return path


def _common_top(paths: set[PurePosixPath]) -> PurePosixPath:
    """Return the one folder that holds all paths, or the empty path."""
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    in_folder = all(len(path.parts) > 1 for path in paths)
    return PurePosixPath(tops.pop()) if in_folder and len(tops) == 1 else PurePosixPath()
