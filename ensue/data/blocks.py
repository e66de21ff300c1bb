"""Text files in blocks of whole lines, gzip or not, so that a file of any size passes through a
bounded amount of memory and every line keeps its number.
"""

from __future__ import annotations

import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ensue.errors import DataError

SAMPLE_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Block:
    """Whole lines of a file.

    data: the bytes; the last line of the file may lack its end.
    first_line: 1-based number of the first line in the file.
    """

    path: Path
    data: bytes
    first_line: int

    def text(self) -> str:
        """Return the decoded lines.

        Raises:
            DataError: a line is not UTF-8.
        """
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = self.first_line + self.data.count(b"\n", 0, error.start)
            raise DataError(
                f"text must be UTF-8; row {line} of {self.path} has the byte "
                f"0x{self.data[error.start]:02x}. {_convert(self.path, 'latin1')}"
            ) from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number in the file, text with its end) of each line."""
        text = io.StringIO(self.text(), newline="")  # str.splitlines knows more ends than files
        return enumerate(text, start=self.first_line)


def read_blocks(path: Path, block_bytes: int, *, quoted: bool = False) -> Iterator[Block]:
    """Yield the file in blocks of about `block_bytes`; nothing for an empty file.

    Args:
        quoted: line ends between double quotes do not end a row, so no block ends there.

    Raises:
        DataError: the file is missing, is not UTF-8 text, or is a broken gzip file.
    """
    with open_bytes(path) as file:
        line = 1
        rest = b""
        while piece := _read(file, block_bytes, path, line, rest):
            if line == 1 and not rest:
                _check_text(path, piece)
                piece = piece.removeprefix(_UTF8_MARK)
            data = rest + piece
            end = _last_row_end(data, quoted, limit=4 * block_bytes)
            block, rest = data[:end], data[end:]
            if block:
                yield Block(path, block, line)
                line += block.count(b"\n")
        if rest:
            yield Block(path, rest, line)


def read_sample(path: Path) -> Block:
    """Return the whole lines at the beginning of the file (all of a short file).

    Raises:
        DataError: as `read_blocks`, and when the file has no line at all.
    """
    for block in read_blocks(path, SAMPLE_BYTES):
        if block.data and not block.data.isspace():
            return block
    raise DataError(f"an input needs rows; {path} is empty.")


def read_first_lines(path: Path) -> list[str]:
    """Return the first lines that are not blank, up to 1000, without their ends.

    Raises:
        DataError: as `read_sample`.
    """
    lines = (line.rstrip("\r\n") for _, line in read_sample(path).lines())
    return list(itertools.islice((line for line in lines if line.strip()), 1000))


def open_bytes(path: Path) -> BinaryIO:
    """Return the file opened for reading, decompressed if its content is gzip.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        file = path.open("rb")
        if file.read(2) != _GZIP_MAGIC:
            file.seek(0)
            return file
        file.close()
        return cast(BinaryIO, gzip.open(path, "rb"))
    except FileNotFoundError:
        raise DataError(f"an input must exist; there is no file {path}.") from None
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"an input must be a readable file; {path}: {error.strerror}.") from None


def _read(file: BinaryIO, size: int, path: Path, line: int, rest: bytes) -> bytes:
    """Return up to `size` bytes; `line` and `rest` say how far reading got, for the message."""
    try:
        return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        row = line + rest.count(b"\n")
        raise DataError(
            f"a gzip file must be complete; {path} is cut off or damaged after row {row}. "
            "Download or copy it again."
        ) from None


def _check_text(path: Path, head: bytes) -> None:
    if head.startswith(_UTF16_MARKS) or b"\0" in head[:SAMPLE_BYTES]:
        raise DataError(
            f"text must be UTF-8; row 1 of {path} looks like UTF-16 or binary data. "
            + _convert(path, "utf-16")
        )


def _convert(path: Path, encoding: str) -> str:
    return f"Convert it, for example: iconv -f {encoding} -t utf-8 {path.name} > utf8_{path.name}"


def _last_row_end(data: bytes, quoted: bool, limit: int) -> int:
    """Return how many bytes of `data` are whole rows.

    Quotes are counted: an odd number before a line end means that it lies inside a value. Data
    with a stray quote would never come out even, so beyond `limit` any line end will do.
    """
    end = data.rfind(b"\n") + 1
    if not quoted:
        return end
    last_even = end
    while last_even and data.count(b'"', 0, last_even) % 2:
        last_even = data.rfind(b"\n", 0, data.rfind(b'"', 0, last_even)) + 1
    return end if last_even == 0 and len(data) > limit else last_even
