"""`fetch` against a server on this machine: whole, resumed, refused, damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensue.data.sources import SOURCES, Fetched, Retries, fetch
from ensue.data.sources.registry import find_source
from ensue.errors import DataError, UsageError
from tests.data.sources.server import FileServer

ZIP = "/ml-100k.zip"
RATINGS = b"".join(b"%d\t%d\t3\t%d\n" % (row % 943, row % 1682, row) for row in range(30_000))
QUICK = Retries(attempts=3, first_wait_s=0.0, timeout_s=5.0)


def make_zip(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def bsd_sum(content: bytes) -> bytes:
    return f"MD5 (ml-100k.zip) = {hashlib.md5(content).hexdigest()}\n".encode()


ARCHIVE = make_zip({"ml-100k/u.data": RATINGS, "ml-100k/README": b"read me"})


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({ZIP: ARCHIVE, f"{ZIP}.md5": bsd_sum(ARCHIVE)}).running() as server:
        yield server


def fetch_from(server: FileServer, out: Path, name: str = "ml-100k") -> Fetched:
    return fetch(name, out, base_url=server.url, retries=QUICK, quiet=True)


def serve(server: FileServer, content: bytes) -> None:
    server.files = {ZIP: content, f"{ZIP}.md5": bsd_sum(content)}


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_download_is_checked_unpacked_and_described(server: FileServer, tmp_path: Path) -> None:
    fetched = fetch_from(server, tmp_path)
    assert names_in(tmp_path) == [
        "ml-100k", "ml-100k/README", "ml-100k/source.json", "ml-100k/u.data",
    ]  # fmt: skip
    assert (tmp_path / "ml-100k/u.data").read_bytes() == RATINGS
    assert fetched.files == ["README", "u.data"]
    assert fetched.bytes == len(ARCHIVE)
    assert fetched.checksum.value == hashlib.md5(ARCHIVE).hexdigest()
    assert fetched.checksum.published_at == f"{server.url}{ZIP}.md5"
    assert fetched.prepare == (
        f"ensue prepare {tmp_path}/ml-100k/u.data -o {tmp_path}/ml-100k-dataset"
    )
    written = json.loads((tmp_path / "ml-100k/source.json").read_text())
    assert written == fetched.to_dict()


def test_what_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    first = fetch_from(server, tmp_path)
    server.requests.clear()
    again = fetch_from(server, tmp_path)
    assert server.requests == []
    assert not again.is_new
    assert (again.checksum, again.files) == (first.checksum, first.files)


def test_a_folder_with_other_files_is_left_alone(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"ml-100k must be free .* holds no source\.json"):
        fetch_from(server, tmp_path)
    assert server.requests == []
    assert names_in(tmp_path) == ["ml-100k", "ml-100k/notes.txt"]


def test_terms_and_citation_are_shown_first(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("ml-100k", tmp_path, base_url=server.url, retries=QUICK)
    output = capsys.readouterr()
    assert output.out == ""
    assert "Terms: Research use." in output.err
    assert "Harper and Joseph A. Konstan" in output.err


def test_a_cut_download_goes_on_where_it_ended(server: FileServer, tmp_path: Path) -> None:
    server.cuts[ZIP] = [1000, 5000]
    fetch_from(server, tmp_path)
    assert server.ranges_of(ZIP) == [None, "bytes=1000-", "bytes=6000-"]
    assert (tmp_path / "ml-100k/u.data").read_bytes() == RATINGS


def test_a_later_call_goes_on_where_the_earlier_one_gave_up(
    server: FileServer, tmp_path: Path
) -> None:
    server.cuts[ZIP] = [1000, 0, 0, 0]
    with pytest.raises(DataError, match=f"ended after 1000 of {len(ARCHIVE)} bytes.*to continue"):
        fetch_from(server, tmp_path)
    assert names_in(tmp_path) == [".ml-100k.zip.part", ".ml-100k.zip.part.json"]
    server.cuts.clear()
    server.requests.clear()
    fetch_from(server, tmp_path)
    assert server.ranges_of(ZIP) == ["bytes=1000-"]
    assert names_in(tmp_path)[0] == "ml-100k"


def test_attempts_that_bring_something_new_do_not_count(server: FileServer, tmp_path: Path) -> None:
    server.cuts[ZIP] = [500] * 10
    fetch_from(server, tmp_path)
    assert len(server.ranges_of(ZIP)) == 11


def test_without_ranges_the_download_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.has_ranges = False
    server.cuts[ZIP] = [1000]
    fetch_from(server, tmp_path)
    assert [code for path, _, code in server.requests if path == ZIP] == [200, 200]
    assert (tmp_path / "ml-100k/u.data").read_bytes() == RATINGS


def test_without_ranges_the_same_cut_again_and_again_is_given_up(
    server: FileServer, tmp_path: Path
) -> None:
    server.has_ranges = False
    server.cuts[ZIP] = [1000] * 100
    with pytest.raises(DataError, match="3 attempts in a row failed"):
        fetch_from(server, tmp_path)
    assert len(server.ranges_of(ZIP)) == 4  # the first brought 1000 bytes; three brought no more


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_continued(
    server: FileServer, tmp_path: Path, etag: str | None
) -> None:
    server.etag = etag
    server.cuts[ZIP] = [1000]
    fetch_from(server, tmp_path)
    assert server.ranges_of(ZIP) == [None, None]


def test_a_file_that_changed_meanwhile_is_fetched_whole(server: FileServer, tmp_path: Path) -> None:
    server.cuts[ZIP] = [1000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch_from(server, tmp_path)
    newer = make_zip({"ml-100k/u.data": RATINGS[::-1]})
    serve(server, newer)
    server.etag = '"v2"'
    server.cuts.clear()
    fetch_from(server, tmp_path)
    assert (tmp_path / "ml-100k/u.data").read_bytes() == RATINGS[::-1]


def test_a_part_from_another_address_is_not_continued(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".ml-100k.zip.part").write_bytes(b"x" * 100)
    state = {"url": "https://elsewhere.example/ml-100k.zip", "validator": '"v1"'}
    (tmp_path / ".ml-100k.zip.part.json").write_text(json.dumps(state))
    fetch_from(server, tmp_path)
    assert server.ranges_of(ZIP) == [None]


@pytest.mark.parametrize("extra", [b"", b"and more"])
def test_a_part_as_long_as_the_file_or_longer(
    server: FileServer, tmp_path: Path, extra: bytes
) -> None:
    (tmp_path / ".ml-100k.zip.part").write_bytes(ARCHIVE + extra)
    state = {"url": f"{server.url}{ZIP}", "validator": '"v1"'}
    (tmp_path / ".ml-100k.zip.part.json").write_text(json.dumps(state))
    fetch_from(server, tmp_path)
    expected = [416] if not extra else [416, 200]
    assert [code for path, _, code in server.requests if path == ZIP] == expected


def test_a_body_without_a_length_is_accepted_and_checked(
    server: FileServer, tmp_path: Path
) -> None:
    server.sends_length = False
    fetch_from(server, tmp_path)
    assert (tmp_path / "ml-100k/u.data").read_bytes() == RATINGS


def test_a_wrong_checksum_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    server.files[f"{ZIP}.md5"] = b"0" * 32 + b"  ml-100k.zip\n"
    actual = hashlib.md5(ARCHIVE).hexdigest()
    with pytest.raises(DataError, match=f"must be {'0' * 32}, as published at .*has {actual}"):
        fetch_from(server, tmp_path)
    assert names_in(tmp_path) == []


def test_a_checksum_that_is_none_stops_before_the_download(
    server: FileServer, tmp_path: Path
) -> None:
    server.files[f"{ZIP}.md5"] = b"<html>please log in</html>"
    with pytest.raises(DataError, match="must hold one md5 sum; it holds 0"):
        fetch_from(server, tmp_path)
    assert server.ranges_of(ZIP) == []


@pytest.mark.parametrize("path", [ZIP, f"{ZIP}.md5"])
def test_a_missing_file_is_named_at_once(server: FileServer, tmp_path: Path, path: str) -> None:
    del server.files[path]
    with pytest.raises(DataError, match=rf"{path} must be there; the host answered 404 Not Found"):
        fetch_from(server, tmp_path)
    assert len(server.ranges_of(path)) == 1
    assert names_in(tmp_path) == []


def test_a_busy_host_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.codes[ZIP] = [503, 429]
    fetch_from(server, tmp_path)
    assert [code for path, _, code in server.requests if path == ZIP] == [503, 429, 200]


def test_a_host_that_stays_busy_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.codes[ZIP] = [503] * 9
    with pytest.raises(DataError, match=r"3 attempts in a row failed.*answered 503"):
        fetch_from(server, tmp_path)


def test_a_refused_connection_names_the_address(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(DataError, match=f"{url}/ml-100k.zip.md5 must be reachable.*refused"):
        fetch("ml-100k", tmp_path, base_url=url, retries=QUICK, quiet=True)
    assert names_in(tmp_path) == []


def test_a_silent_host_times_out(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        retries = Retries(attempts=2, first_wait_s=0.0, timeout_s=0.1)
        with pytest.raises(DataError, match="timed out"):
            fetch("ml-100k", tmp_path, base_url=url, retries=retries, quiet=True)


def test_a_retry_is_reported(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts[ZIP] = [1000]
    fetch("ml-100k", tmp_path, base_url=server.url, retries=QUICK)
    assert "ended after 1000 of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["../evil.txt", "ml-100k/../../evil.txt", "/etc/evil.txt", "C:\\evil.txt", "a\\..\\b"]
)
def test_an_archive_cannot_leave_its_folder(server: FileServer, tmp_path: Path, name: str) -> None:
    serve(server, make_zip({"ml-100k/u.data": RATINGS, name: b"evil"}))
    out = tmp_path / "inner" / "data"
    with pytest.raises(DataError, match=r"must hold relative paths.*Nothing was unpacked"):
        fetch_from(server, out)
    assert names_in(tmp_path) == ["inner", "inner/data"]


def test_an_archive_cannot_hold_links(server: FileServer, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("ml-100k/u.data")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    serve(server, buffer.getvalue())
    with pytest.raises(DataError, match=r"'ml-100k/u\.data' is a link or a device"):
        fetch_from(server, tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("damaged", [b"not a zip", ARCHIVE[:-200]])
def test_a_damaged_archive_is_named(server: FileServer, tmp_path: Path, damaged: bytes) -> None:
    serve(server, damaged)
    with pytest.raises(DataError, match=r"ml-100k\.zip must be a whole zip archive"):
        fetch_from(server, tmp_path)
    assert names_in(tmp_path) == []


def test_an_archive_with_damaged_content_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    damaged = bytearray(ARCHIVE)
    damaged[200:220] = bytes(20)
    serve(server, bytes(damaged))
    with pytest.raises(DataError, match="must be a whole zip archive"):
        fetch_from(server, tmp_path)
    assert names_in(tmp_path) == []


def test_an_archive_without_the_log_is_refused(server: FileServer, tmp_path: Path) -> None:
    serve(server, make_zip({"ml-100k/README": b"moved"}))
    with pytest.raises(DataError, match=r"ml-100k\.zip must hold u\.data"):
        fetch_from(server, tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device /dev/full")
def test_a_full_disk_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".ml-100k.zip.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"\.part must be writable; .*No space left on device"):
        fetch_from(server, tmp_path)
    assert "ml-100k" not in names_in(tmp_path)


def test_a_gzip_log_stays_compressed(tmp_path: Path) -> None:
    content = gzip.compress(b"0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847\n" * 50)
    path = "/loc-gowalla_totalCheckins.txt.gz"
    with FileServer({path: content}).running() as server:
        fetched = fetch_from(server, tmp_path, "gowalla")
    assert fetched.files == ["loc-gowalla_totalCheckins.txt.gz"]
    assert (tmp_path / "gowalla" / fetched.files[0]).read_bytes() == content
    assert fetched.checksum.value == hashlib.sha256(content).hexdigest()
    assert fetched.checksum.published_at is None
    assert fetched.prepare.endswith("gowalla-dataset --user 1 --item 5 --time 2")


def test_a_damaged_gzip_log_is_refused(tmp_path: Path) -> None:
    content = gzip.compress(RATINGS)[:-100]
    with (
        FileServer({"/loc-gowalla_totalCheckins.txt.gz": content}).running() as server,
        pytest.raises(DataError, match="must be a whole gzip file"),
    ):
        fetch_from(server, tmp_path, "gowalla")
    assert names_in(tmp_path) == []


def test_a_marker_that_was_changed_is_named(server: FileServer, tmp_path: Path) -> None:
    fetch_from(server, tmp_path)
    (tmp_path / "ml-100k/source.json").write_text("{}")
    with pytest.raises(DataError, match=r"source\.json must be what ensue fetch wrote"):
        fetch_from(server, tmp_path)


def test_unknown_names_and_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'ml-1000k'.*Did you mean 'ml-100k'"):
        fetch("ml-1000k", tmp_path)
    with pytest.raises(UsageError, match="must start with http:// or https://; got 'file:///etc'"):
        fetch("ml-100k", tmp_path, base_url="file:///etc", quiet=True)


def test_every_source_is_complete() -> None:
    for name, source in SOURCES.items():
        assert find_source(name) is source
        assert source.base_url.startswith("https://")
        assert source.homepage.startswith("https://")
        assert source.base_url.endswith("/")
        assert source.terms
        assert source.citation
