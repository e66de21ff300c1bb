from __future__ import annotations

import sys

import pytest

from ensue.errors import ExtraError, UsageError
from ensue.serving.stores.base import shown_address, without_password
from ensue.serving.stores.open import open_store


def test_a_path_is_relative_with_three_slashes_and_absolute_with_four(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///folder/a b?#%20.db").close()
    open_store(f"sqlite:///{tmp_path}/absolute.db").close()
    assert (tmp_path / "folder" / "a b?#%20.db").is_file()
    assert (tmp_path / "absolute.db").is_file()


def test_memory_is_of_one_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite://", "sqlite:///"):
        open_store(url).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["", "histories.db", "mysql://u:secret@host/db", "sqlite://a.db"])
def test_other_urls_are_refused_without_their_passwords(url):
    with pytest.raises(UsageError, match=r"a store must be sqlite:///.* got '.*'\.$") as refused:
        open_store(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h"),
        ("redis://:secret@h:1/2", "redis://h:1/2"),
        ("redis://u:sec/@?ret@h:1", "redis://"),
        ("redis://u:sec/@ret@h:1", "redis://h:1"),
        ("postgresql://u:secret@a:1,b:2/db?sslmode=require", "postgresql://a:1,b:2/db"),
        ("postgresql://h/db?password=secret", "postgresql://h/db"),
        ("postgresql://h/db?password=sec@ret", "postgresql://"),
        ("u:secret@h", "h"),
    ],
)
def test_what_is_shown_of_a_url_holds_no_password(url, shown):
    assert shown_address(url) == shown


def test_what_a_client_says_is_shown_without_the_password():
    said = 'no "a b"\nnor a%20b at h'
    assert without_password(said, "redis://:a%20b@h") == 'no "***" nor *** at h'
    assert without_password("secret at h", "postgresql://h/db?password=secret") == "*** at h"
    assert without_password("at h", "redis://u:@h") == "at h"


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("redis://h", "redis", "redis"), ("postgresql://h", "psycopg", "postgres")],
)
def test_a_missing_client_names_its_extra(monkeypatch, url, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError, match=rf"a history store in .*{package}.*ensue\[{extra}\]"):
        open_store(url)
