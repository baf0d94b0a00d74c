"""Whether a database takes writes, told by the one that a server makes for it."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.servers.postgresql import PostgreSQL
from tuner_server.base.clock import utc_now
from tuner_server.core.errors import StorageError
from tuner_server.storage import Storage, database, open_storage
from tuner_server.storage.drivers import embedded_file, sqlite
from tuner_server.storage.sql import SqlStorage


@pytest.fixture
def storage(database_url: str) -> Iterator[Storage]:
    with open_storage(database_url, upgrade=True) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def embedded(path: Path) -> Iterator[Storage]:
    with open_storage(f"sqlite:///{path}") as opened:
        yield opened


def test_a_write_changes_nothing_of_what_is_kept(storage: Storage) -> None:
    for _ in range(3):
        storage.touch()
    assert storage.page("default", 1).jobs == ()


def test_a_write_reaches_the_file(embedded: Storage, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        before = other.execute("PRAGMA data_version").fetchone()
        embedded.touch()
        assert other.execute("PRAGMA data_version").fetchone() != before


def test_a_connection_that_could_be_opened_to_read_alone_is_opened_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opens a file to read alone, as SQLite does when it can't be opened to write for a moment."""
    url = f"sqlite:///{path}"
    open_storage(url).close()
    with SqlStorage(database.Database(url)) as storage:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite.DatabaseFile, "uri", lambda file, _mode: f"file:{file.path}?mode=ro")
            storage.ping()
        with pytest.raises(StorageError, match="attempt to write a readonly database"):
            storage.touch()
        storage.touch()


def test_a_disk_that_takes_no_more(embedded: Storage) -> None:
    embedded.touch()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        embedded.ping()
        with pytest.raises(StorageError):
            embedded.touch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    embedded.touch()


def test_a_disk_with_next_to_no_room(embedded: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_file, "MIN_FREE", 2**70)
    with pytest.raises(StorageError, match="the disk is full"):
        embedded.touch()


def test_a_file_that_others_lock(embedded: Storage, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LONG_WAIT_S", 60.0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        embedded.ping()
        with pytest.raises(StorageError, match="locked"):
            embedded.touch()
    embedded.touch()


@pytest.mark.parametrize("part", ["", "-wal", "-shm"])
def test_a_file_that_was_moved_and_comes_back(embedded: Storage, path: Path, part: str) -> None:
    """Meanwhile nothing is answered: it would go to a file that nobody finds again."""
    embedded.touch()
    moved, away = path.with_name(path.name + part), path.with_name("away")
    moved.rename(away)
    for use in (embedded.ping, embedded.touch, lambda: embedded.live_jobs(utc_now())):
        with pytest.raises(StorageError, match="deleted or moved"):
            use()
    away.rename(moved)
    embedded.touch()


def test_a_file_that_was_replaced(embedded: Storage, path: Path) -> None:
    embedded.touch()
    other = path.with_name("other.db")
    open_storage(f"sqlite:///{other}").close()
    other.replace(path)
    for use in (embedded.ping, embedded.touch):
        with pytest.raises(StorageError, match=r"another file was put in its place.*start the server anew"):
            use()


def test_a_directory_that_became_a_file(embedded: Storage, path: Path, tmp_path: Path) -> None:
    embedded.touch()
    away = tmp_path.with_name(tmp_path.name + "-away")
    tmp_path.rename(away)
    tmp_path.touch()
    with pytest.raises(StorageError, match="Not a directory"):
        embedded.ping()
    tmp_path.unlink()
    away.rename(tmp_path)
    embedded.touch()


def test_a_primary_that_takes_no_writes(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    open_storage(postgresql_url, upgrade=True).close()
    with open_storage(f"{postgresql_url}%20-cdefault_transaction_read_only%3Don") as opened:
        opened.ping()
        with pytest.raises(StorageError, match="read-only"):
            opened.touch()


def test_a_write_waits_for_no_other_server(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    with open_storage(postgresql_url, upgrade=True) as opened, psycopg.connect(postgresql_server.url) as other:
        schema = postgresql_url.rpartition("%3D")[2]
        other.execute(f"SELECT * FROM {schema}.lrpilot_schema_version FOR UPDATE".encode())
        opened.touch()
