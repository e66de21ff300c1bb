from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.blocks import read_blocks
from ensue.data.delimited import open_delimited
from ensue.data.row_store import RowStore


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.binary(max_size=9).filter(lambda b: b"\0" not in b), max_size=20),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
def test_blocks_are_whole_lines_and_add_up_to_the_file(
    tmp_path_factory, lines, block_bytes, compress, quoted
):
    data = b"".join(line.replace(b"\n", b"") + b"\n" for line in lines)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b") or data[:3] == b"\xef\xbb\xbf":
        return
    path = tmp_path_factory.mktemp("blocks") / "file"
    path.write_bytes(gzip.compress(data) if compress else data)
    line, found = 1, b""
    for block in read_blocks(path, block_bytes, quoted=quoted):
        assert block.first_line == line
        assert block.data.endswith(b"\n")
        line += block.data.count(b"\n")
        found += block.data
    assert found == data


@pytest.mark.parametrize("num_rows", [1, 200])
def test_quoted_line_ends_stay_in_their_rows(tmp_path: Path, num_rows: int):
    rows = [(f"user\n{n}", f'it"em, {n}', "1\n\n2") for n in range(500)]
    quoted = ['"' + '","'.join(value.replace('"', '""') for value in row) + '"' for row in rows]
    (tmp_path / "log.csv").write_text("user,item,note\n" + "\n".join(quoted))
    table = open_delimited(tmp_path / "log.csv")
    chunks = list(table.read(["user", "item", "note"], num_rows))
    assert [row for chunk in chunks for row in chunk.rows.rows()] == rows
    places = [chunk.row_number(index) for chunk in chunks for index in range(len(chunk.rows))]
    assert places == [2 + 4 * n for n in range(500)]  # a row is four lines


def test_a_stray_quote_does_not_hold_the_file_in_memory(tmp_path: Path):
    text = 'user,item\n1,a"b\n' + "2,c\n" * 20_000
    (tmp_path / "log.csv").write_text(text)
    chunks = list(open_delimited(tmp_path / "log.csv").read(["user", "item"], 1))
    assert sum(len(chunk.rows) for chunk in chunks) == 20_001
    assert max(len(chunk.rows) for chunk in chunks) < 10_000


def test_row_store_is_the_same_on_disk(tmp_path: Path):
    import numpy as np

    dtypes = {"a/b": np.dtype(np.int32), "c": np.dtype(np.float64)}
    store = RowStore(dtypes, tmp_path / "rows", memory_bytes=50)
    for start in range(0, 30, 3):
        values = np.arange(start, start + 3)
        store.append({"a/b": values, "c": values / 2})
    assert store.column("a/b").tolist() == list(range(30))
    assert [len(c["c"]) for c in store.chunks(num_rows=7)][:3] == [7, 7, 7]
    assert np.concatenate([c["c"] for c in store.chunks(["c"], num_rows=7)]).tolist() == [
        n / 2 for n in range(30)
    ]
    store.clear()
    assert list(tmp_path.iterdir()) == []
    assert store.num_rows == 0
