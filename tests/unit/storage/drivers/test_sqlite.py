"""SQLite files: who can read them, who has them open, and whether they are sound."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_storage import create
from tuner_server.core.errors import CorruptionError, StorageError
from tuner_server.storage import Database, open_storage
from tuner_server.storage.backups.backup import backup
from tuner_server.storage.drivers import sqlite
from tuner_server.storage.drivers.sqlite import DatabaseFile


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    former = os.umask(request.param)
    yield
    os.umask(former)


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


def corrupt(file: Path, first_page: int = 3) -> None:
    """Overwrites every page from one on."""
    with file.open("r+b") as opened:
        size = opened.seek(0, os.SEEK_END)
        for offset in range(first_page * 4096, size, 4096):
            opened.seek(offset)
            opened.write(b"\xff" * 4096)


@pytest.mark.usefixtures("_umask")
def test_its_owner_alone_can_read_a_database_and_all_beside_it(tmp_path: Path) -> None:
    with open_storage(f"sqlite:///{tmp_path}/jobs.db") as storage, Database(f"sqlite:///{tmp_path}/jobs.db") as other:
        storage.ping()
        backup(other, tmp_path / "copy.db")
        names = ("jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db-lock", "copy.db")
        assert modes(tmp_path) == dict.fromkeys(names, 0o600)


@pytest.mark.parametrize(("given", "kept"), [(0o644, 0o600), (0o664, 0o600), (0o640, 0o640), (0o600, 0o600)])
def test_a_file_that_everybody_can_read_is_taken_from_them(given: int, kept: int, tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/jobs.db").close()
    (tmp_path / "jobs.db").chmod(given)
    with open_storage(f"sqlite:///{tmp_path}/jobs.db") as storage:
        storage.ping()
        assert modes(tmp_path)["jobs.db"] == kept
        assert modes(tmp_path)["jobs.db-wal"] == kept
        storage.close()
    with open_storage(f"sqlite:///{tmp_path}/jobs.db"):
        assert modes(tmp_path)["jobs.db-lock"] == kept


def test_a_file_that_was_taken_away_is_not_begun_anew(tmp_path: Path) -> None:
    with open_storage(f"sqlite:///{tmp_path}/jobs.db"), Database(f"sqlite:///{tmp_path}/jobs.db") as database:
        with database.reading():
            for path in tmp_path.glob("jobs.db*"):
                path.unlink()
            with pytest.raises(StorageError, match="unable to open"), database.reading():
                pass
        assert not (tmp_path / "jobs.db").exists()


def test_who_comes_while_a_file_is_replaced_waits(tmp_path: Path) -> None:
    file = DatabaseFile(str(tmp_path / "jobs.db"))
    opened = threading.Event()

    def come() -> None:
        open_storage(f"sqlite:///{file.path}").close()
        opened.set()

    with file.alone():
        thread = threading.Thread(target=come)
        thread.start()
        assert not opened.wait(0.1)
    thread.join()
    assert opened.is_set()


def test_who_waits_in_vain_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.05)
    file = DatabaseFile(str(tmp_path / "jobs.db"))
    with file.alone(), pytest.raises(StorageError, match=r"jobs.db is being restored or rewritten by another process"):
        open_storage(f"sqlite:///{file.path}")


def test_a_corrupt_file_is_refused_at_the_start_in_one_line(tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/jobs.db").close()
    corrupt(tmp_path / "jobs.db")
    with pytest.raises(CorruptionError, match=r"jobs.db is corrupt \(.*\); `lrpilot db restore`") as caught:
        open_storage(f"sqlite:///{tmp_path}/jobs.db")
    assert "\n" not in str(caught.value)


def test_corruption_that_is_met_is_told_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CHECKED_BYTES", 0)
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_storage(url) as storage:
        job = create(storage)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'entries'"
        (page,) = connection.execute(query).fetchone()
    with (tmp_path / "jobs.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with open_storage(url) as storage:
        storage.ping()
        with pytest.raises(CorruptionError) as caught:
            storage.answer(job.id, 1)
        assert caught.value.told == "the database can't be used: it is corrupt; the server's log has the reason"
        with pytest.raises(CorruptionError):
            storage.ping()


def test_a_backup_of_a_corrupt_database_is_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    open_storage(url).close()
    corrupt(tmp_path / "jobs.db", first_page=6)
    before = set(modes(tmp_path))
    with Database(url) as database, pytest.raises(CorruptionError, match="is corrupt") as caught:
        backup(database, tmp_path / "copy.db")
    assert "\n" not in str(caught.value)
    assert set(modes(tmp_path)) == before


def test_a_backup_of_another_programs_database_is_none(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (x)")
    with (
        Database(f"sqlite:///{tmp_path}/other.db") as database,
        pytest.raises(StorageError, match="no database of LRPilot's"),
    ):
        backup(database, tmp_path / "copy.db")


def test_the_log_does_not_stay_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WAL_BYTES", 100_000)
    with Database(f"sqlite:///{tmp_path}/jobs.db") as database:
        with database.writing() as connection:
            connection.exec_driver_sql("CREATE TABLE t (x)")
            connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(8000000))")
        assert (tmp_path / "jobs.db-wal").stat().st_size > 8_000_000
        for _ in range(2):
            with database.writing() as connection:
                connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            time.sleep(0)
        assert (tmp_path / "jobs.db-wal").stat().st_size <= 100_000
