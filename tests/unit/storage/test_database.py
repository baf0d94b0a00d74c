from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tuner_server.core.errors import ConflictError, InvalidInputError, StorageError
from tuner_server.storage import Database, database, open_storage
from tuner_server.storage.drivers import sqlite
from tuner_server.storage.drivers.sqlite import use_wal


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lrpilot.db"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("lrpilot.db", "not a database URL; give sqlite:///"),
        ("", "not a database URL"),
        ("mysql://host/name", "mysql databases can't be used; give sqlite:///"),
        ("sqlite://", "SQLite takes a file"),
        ("sqlite:///:memory:", "SQLite takes a file"),
        ("sqlite:///a.db?mode=ro", "with no options"),
    ],
)
def test_a_url_of_another_kind_is_refused(url: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Database(url)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"the directory {tmp_path}/missing does not exist"):
        open_storage(f"sqlite:///{tmp_path}/missing/lrpilot.db")


def _state(path: Path) -> tuple[int, int, list[str]]:
    """All that opening a path might change of it, and what lies beside it."""
    found = path.lstat()
    return found.st_mode, found.st_size, sorted(beside.name for beside in path.parent.iterdir())


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device"])
def test_what_is_no_regular_file_is_refused_and_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
        if kind == "directory":
            path.mkdir(0o755)
        elif kind == "fifo":
            os.mkfifo(path, 0o666)
        elif kind == "socket":
            bound.bind(str(path))
        else:
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("only root makes devices")
        before = _state(path)
        with pytest.raises(StorageError, match=r"^/.*jobs\.db: it is no regular file, as a database is$"):
            open_storage(f"sqlite:///{path}")
        assert _state(path) == before


@pytest.mark.parametrize("through", ["itself", "link"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(through: str, tmp_path: Path) -> None:
    file, link = tmp_path / "notes.db", tmp_path / "link"
    file.write_text("notes\n" * 1000)
    file.chmod(0o644)
    link.symlink_to(file)
    before = _state(file)
    with pytest.raises(StorageError, match=r"^/.*notes\.db: file is not a database; nothing was changed$"):
        open_storage(f"sqlite:///{file if through == 'itself' else link}")
    assert file.read_text() == "notes\n" * 1000
    assert _state(file) == before


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    file.touch()
    with open_storage(f"sqlite:///{file}") as storage:
        storage.ping()
    assert file.stat().st_size > 0


def test_a_server_that_is_away_is_told_in_one_line_without_the_password() -> None:
    with pytest.raises(StorageError, match=r"^postgresql://user:\*\*\*@.*refused") as caught:
        open_storage("postgresql://user:secret@127.0.0.1:1/name")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    said = "the database can't be used: it can't be reached; the server's log has the reason"
    assert caught.value.told == said  # callers learn no address


def test_no_option_of_a_url_is_told() -> None:
    with Database("postgresql://user:secret@db/name?sslpassword=hidden&password=hidden") as opened:
        assert opened.label == "postgresql://user:***@db/name"


def test_a_file_that_stays_locked_is_given_up(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    open_storage(url).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "lrpilot.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            Database(url) as opened,
            pytest.raises(StorageError, match=r"^sqlite:///.*: database is locked$"),
            opened.writing(),
        ):
            pass


def test_a_writer_whose_turn_does_not_come_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    with Database(url) as opened:
        begun, ending = threading.Event(), threading.Event()

        def write() -> None:
            with opened.writing():
                begun.set()
                ending.wait(30)

        thread = threading.Thread(target=write)
        thread.start()
        begun.wait(30)
        try:
            with pytest.raises(StorageError, match="others of this process were writing"), opened.writing():
                pass
        finally:
            ending.set()
            thread.join()


def test_who_gets_no_connection_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "POOL_TIMEOUT_S", 0.05)
    with (
        Database(url, pool_size=1) as opened,
        opened.reading(),
        pytest.raises(StorageError, match=r": all 1 connections were in use for 0.05 s$"),
        opened.reading(),
    ):
        pass


def test_who_comes_after_one_that_waited_in_vain_is_told_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LONG_WAIT_S", 0.0)
    monkeypatch.setattr(database, "FAILURE_SHARED_S", 0.2)
    with Database(url) as opened:
        with pytest.raises(StorageError, match="no such table: t"), opened.reading() as connection:
            connection.execute(sa.text("SELECT * FROM t"))
        with pytest.raises(StorageError, match="no such table: t"), opened.reading():
            pytest.fail("the database was asked")
        time.sleep(0.2)
        with opened.reading() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_a_commit_to_sqlite_is_on_the_disk(url: str) -> None:
    full = 2
    with Database(url) as database, database.reading() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", full, 1]


def test_a_reader_sees_one_state_while_another_writes(url: str) -> None:
    count = sa.text("SELECT count(*) FROM t")
    with Database(url) as database:
        with database.writing() as connection:
            connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
        with database.reading() as reader:
            before = reader.execute(count).scalar_one()
            with database.writing() as writer:
                writer.execute(sa.text("INSERT INTO t VALUES (1)"))
            assert (before, reader.execute(count).scalar_one()) == (0, 0)
        with database.reading() as reader:
            assert reader.execute(count).scalar_one() == 1


def test_what_is_raised_in_a_transaction_rolls_it_back(url: str) -> None:
    with Database(url) as database:
        with contextlib.suppress(KeyError), database.writing() as connection:
            connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
            raise KeyError
        with database.reading() as connection:
            assert sa.inspect(connection).get_table_names() == []


def test_errors_of_the_database_are_ours(url: str) -> None:
    with Database(url) as database:
        with database.writing() as connection:
            connection.execute(sa.text("CREATE TABLE t (x INTEGER UNIQUE)"))
            connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        with pytest.raises(ConflictError), database.writing() as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        with pytest.raises(StorageError, match="no such table: u"), database.reading() as connection:
            connection.execute(sa.text("SELECT * FROM u"))


class Contended(sqlite3.Connection):
    """A connection whose switch to the write-ahead log fails at first, at once, as SQLite's does in a race."""

    failures = 2

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        if "journal_mode" in sql and self.failures:
            self.failures -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(sql)


def test_a_fresh_file_that_another_is_switching_is_waited_for(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "fresh.db", factory=Contended)) as connection:
        use_wal(connection)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_second_look_leaves_the_locks_of_this_process_alone(tmp_path: Path) -> None:
    """Closing any descriptor of a file would give up SQLite's locks, and another process remove the log in use."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_storage(url) as first:
        first.ping()
        with open_storage(url) as second:
            second.ping()
        other = "import sys; from tuner_server.storage import open_storage; open_storage(sys.argv[1]).close()"
        subprocess.run([sys.executable, "-c", other, url], check=True, timeout=60)
        assert (tmp_path / "jobs.db-wal").exists()
        first.ping()
