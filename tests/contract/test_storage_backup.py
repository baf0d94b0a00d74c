"""Backups, of every kind of database, while it is being written to."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sa

from tests.support.repository import old_databases
from tests.support.servers.postgresql import PostgreSQL
from tuner_server.base.clock import utc_now
from tuner_server.cli.administration import db
from tuner_server.core.errors import InvalidInputError, StorageError
from tuner_server.storage import Database, current_version, open_storage
from tuner_server.storage.backups import pg_programs
from tuner_server.storage.backups.backup import backup

Restore = Callable[[Path], str]
"""Makes a database of a backup; its URL."""
PASSWORD = "not-to-be-seen"


@pytest.fixture
def pg_binaries(monkeypatch: pytest.MonkeyPatch, postgresql_server: PostgreSQL) -> Path:
    """PostgreSQL's programs, on the path."""
    monkeypatch.setenv("PATH", str(postgresql_server.binaries), prepend=os.pathsep)
    return postgresql_server.binaries


@pytest.fixture
def restore(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Restore:
    """Restores to a new file, or, having dropped the tables, to the same database."""
    if database_url.startswith("sqlite"):
        return lambda file: f"sqlite:///{file.rename(tmp_path / 'restored.db')}"
    binaries: Path = request.getfixturevalue("pg_binaries")

    def restore(file: Path) -> str:
        subprocess.run(
            [binaries / "pg_restore", "--clean", "--exit-on-error", f"--dbname={database_url}", file],
            check=True,
            capture_output=True,
        )
        return database_url

    return restore


@contextlib.contextmanager
def written_to(url: str) -> Iterator[None]:
    """A database with pairs of rows in two tables, to which a thread adds; some are there when the block begins."""
    going, ending = threading.Event(), threading.Event()

    def write() -> None:
        with Database(url) as database:
            number = 0
            while not ending.is_set():
                number += 1
                values = {"name": f"p{number}", "time": "2026-01-01 00:00:00+00:00", "hash": b""}
                with database.writing() as connection:
                    connection.execute(
                        sa.text("INSERT INTO projects (name, create_time) VALUES (:name, :time)"), values
                    )
                    connection.execute(
                        sa.text(
                            "INSERT INTO tokens (id, project, name, secret_hash, scopes, create_time)"
                            " VALUES (:name, :name, '', :hash, '', :time)"
                        ),
                        values,
                    )
                if number == 20:
                    going.set()

    open_storage(url, upgrade=True).close()
    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert going.wait(30)
        yield
    finally:
        ending.set()
        thread.join()


def pairs(url: str) -> tuple[int, int]:
    """How many rows, and how many of them are in both tables."""
    with open_storage(url), Database(url) as database, database.reading() as connection:
        rows = connection.execute(sa.text("SELECT count(*) FROM projects WHERE name <> 'default'")).scalar_one()
        both = "SELECT count(*) FROM projects JOIN tokens ON tokens.project = projects.name"
        return rows, connection.execute(sa.text(both)).scalar_one()


def test_a_backup_under_load_is_one_state(database_url: str, restore: Restore, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    with written_to(database_url), Database(database_url) as database:
        backup(database, target)
    assert target.stat().st_mode & 0o077 == 0
    n_at_end, _ = pairs(database_url)
    rows, both = pairs(restore(target))
    assert 20 <= rows <= n_at_end
    assert rows == both


def test_a_database_says_when_it_was_backed_up_last(database_url: str, pg_binaries: Path, tmp_path: Path) -> None:
    with open_storage(database_url, upgrade=True) as storage, Database(database_url) as database:
        assert storage.last_backup() is None
        for name in ("first", "second"):
            before = utc_now()
            assert backup(database, tmp_path / name) == ""
            noted = storage.last_backup()
            assert noted is not None
            assert before <= noted.time <= utc_now()
            assert noted.size == (tmp_path / name).stat().st_size


def test_a_backup_of_an_older_version_is_not_noted(tmp_path: Path) -> None:
    shutil.copy(old_databases.FILES["0008"], tmp_path / "old.db")
    with Database(f"sqlite:///{tmp_path}/old.db") as database:
        assert backup(database, tmp_path / "copy") == ""
        assert current_version(database) == "0008"


def test_a_backup_counts_though_the_database_takes_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever makes it may only read, or the disk of the database is full."""
    url, target = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "copy"
    open_storage(url).close()

    def full(_self: Database) -> NoReturn:
        raise StorageError("the disk is full")

    monkeypatch.setattr(Database, "writing", full)
    db.backup(target, url)
    told = capsys.readouterr()
    assert f"copied to {target}" in told.out
    assert "the backup is sound, but the database could not note when it was: the disk is full" in told.err
    monkeypatch.undo()
    with open_storage(f"sqlite:///{target}") as copy:
        assert copy.last_backup() is None


def test_a_file_is_never_replaced(database_url: str, pg_binaries: Path, tmp_path: Path) -> None:
    open_storage(database_url, upgrade=True).close()
    target = tmp_path / "copy"
    target.write_text("precious")
    with Database(database_url) as database, pytest.raises(InvalidInputError, match=r"^output: .*copy exists"):
        backup(database, target)
    assert target.read_text() == "precious"


def test_a_link_is_never_replaced(tmp_path: Path) -> None:
    url, target = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "copy"
    open_storage(url).close()
    target.symlink_to(tmp_path / "elsewhere")
    with Database(url) as database, pytest.raises(InvalidInputError, match=r"^output: .*copy exists"):
        backup(database, target)
    assert target.is_symlink()


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path, postgresql_url: str, pg_binaries: Path) -> None:
    for url in ("sqlite:///" + str(tmp_path / "missing.db"), postgresql_url + "&dbname=missing"):
        with Database(url) as database, pytest.raises((InvalidInputError, StorageError), match=r"no such|not exist"):
            backup(database, tmp_path / "copy")
    with Database(postgresql_url) as database, pytest.raises(InvalidInputError, match=r"No such file or directory$"):
        backup(database, tmp_path / "missing" / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_pg_dump_is_named(tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Database(postgresql_url) as database, pytest.raises(StorageError, match="pg_dump was not found: install"):
        backup(database, tmp_path / "copy")


@pytest.mark.parametrize("password", [PASSWORD, f"{PASSWORD}%20", "made-up-for-an-hour" * 100])
def test_a_password_goes_whole_to_pg_dump_and_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    fake = tmp_path / "bin" / "pg_dump"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n{ echo "$@"; echo "$PGPASSWORD"; cat "$PGSERVICEFILE"; } > seen\n')
    fake.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    url = f"postgresql://user:{password}@db:5433/name?sslmode=require&sslpassword={PASSWORD}"
    with Database(url) as database:
        pg_programs.run("pg_dump", database=database)
    arguments, told, *service = (tmp_path / "seen").read_text().splitlines()
    assert PASSWORD not in arguments
    assert told == password.replace("%20", " ")
    assert {"host=db", "port=5433", "user=user", "dbname=name", "sslmode=require"} <= set(service)
    assert f"sslpassword={PASSWORD}" in service
