"""Backups that are put back: on every kind of database, after every kind of end, and killed on the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.repository import old_databases
from tests.support.servers.postgresql import PostgreSQL
from tuner_server.core.errors import CorruptionError, InvalidInputError, SchemaVersionError, StorageError
from tuner_server.storage import Database, open_storage
from tuner_server.storage.backups import pg_programs
from tuner_server.storage.backups.backup import backup
from tuner_server.storage.backups.restore import restore
from tuner_server.storage.schema import head_version
from tuner_server.storage.tables import VERSION_TABLE

KILLED_AT_EACH_STEP = """
import os, shutil, sys
from pathlib import Path
from tuner_server.storage import Database, open_storage
from tuner_server.storage.backups.restore import restore

kept, work, backup = map(Path, sys.argv[1:])
STEPS = {"os.rename", "os.link", "os.remove", "os.chmod", "os.chown", "open", "sqlite3.connect"}
last, n = None, 0


def count(event, arguments):
    global n
    if last is not None and event in STEPS and str(work) in str(arguments[0]):
        n += 1
        if n == last:
            os._exit(9)


sys.addaudithook(count)
for last_of_child in range(1, 1000):
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(kept, work)
    child = os.fork()
    if child == 0:
        last = last_of_child
        with Database(f"sqlite:///{work}/jobs.db") as database:
            restore(database, backup)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    files = sorted(file.name for file in work.iterdir() if file.name.startswith("jobs.db"))
    with open_storage(f"sqlite:///{work}/jobs.db"), Database(f"sqlite:///{work}/jobs.db") as database:
        with database.reading() as connection:
            query = "SELECT name FROM projects WHERE name <> 'default' ORDER BY name"
            names = [name for (name,) in connection.exec_driver_sql(query)]
            (sound,) = connection.exec_driver_sql("PRAGMA integrity_check").one()
    print(last_of_child, ended, sound, *names)
    with Database(f"sqlite:///{work}/jobs.db") as database:
        restore(database, backup)
    if ended == 0:
        break
"""
"""Restores again and again from the same state, ended before the first, the second, ... thing that it does to files."""


@pytest.fixture
def _pg_programs(request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's programs on the path, where they are needed."""
    if not database_url.startswith("sqlite"):
        server: PostgreSQL = request.getfixturevalue("postgresql_server")
        monkeypatch.setenv("PATH", str(server.binaries), prepend=os.pathsep)


def add(url: str, *names: str) -> None:
    """Adds projects."""
    with Database(url) as database, database.writing() as connection:
        for name in names:
            connection.execute(
                sa.text("INSERT INTO projects (name, create_time) VALUES (:name, '2026-01-01 00:00:00+00:00')"),
                {"name": name},
            )


def names(url: str) -> list[str]:
    """The projects that were added."""
    with open_storage(url, upgrade=True), Database(url) as database, database.reading() as connection:
        query = "SELECT name FROM projects WHERE name <> 'default' ORDER BY name"
        return [name for (name,) in connection.exec_driver_sql(query)]


def restored(url: str, file: Path) -> Path | None:
    with Database(url) as database:
        return restore(database, file)


def backed_up(url: str, file: Path) -> Path:
    with Database(url) as database:
        backup(database, file)
    return file


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, Path]:
    """The directory of a database with `old` in it, and `late` in its log alone, whose server was killed; a backup of
    another with `new`."""
    other = f"sqlite:///{tmp_path}/other.db"
    open_storage(other).close()
    add(other, "new")
    file = backed_up(other, tmp_path / "backup.db")
    live, dead = tmp_path / "live", tmp_path / "dead"
    live.mkdir()
    url = f"sqlite:///{live}/jobs.db"
    open_storage(url).close()
    add(url, "old")
    with Database(url) as database:
        with database.writing() as connection:
            connection.exec_driver_sql("INSERT INTO projects (name, create_time) VALUES ('late', '2026-01-01')")
        shutil.copytree(live, dead)
    assert (dead / "jobs.db-wal").stat().st_size > 0
    return dead, file


@pytest.mark.usefixtures("_pg_programs")
def test_what_was_deleted_or_made_since_is_as_it_was(database_url: str, tmp_path: Path) -> None:
    open_storage(database_url, upgrade=True).close()
    add(database_url, "kept", "deleted")
    file = backed_up(database_url, tmp_path / "copy")
    with Database(database_url) as database, database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM projects WHERE name = 'deleted'")
    add(database_url, "late")
    restored(database_url, file)
    assert names(database_url) == ["deleted", "kept"]
    add(database_url, "later")
    assert names(database_url) == ["deleted", "kept", "later"]


def test_killed_at_any_moment_it_left_the_old_or_the_new(tmp_path: Path, killed: tuple[Path, Path]) -> None:
    dead, file = killed
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, dead, tmp_path / "work", file],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.split() for line in done.stdout.splitlines()]
    assert [int(ended) for _, ended, *_ in found] == [9] * (len(found) - 1) + [0]
    assert {sound for _, _, sound, *_ in found} == {"ok"}
    states = [tuple(state) for _, _, _, *state in found]
    n_old = states.count(("late", "old"))
    assert n_old > 5
    assert states == [("late", "old")] * n_old + [("new",)] * (len(states) - n_old)
    assert len(states) > n_old


def test_the_former_file_is_kept_whole(killed: tuple[Path, Path]) -> None:
    dead, file = killed
    former = restored(f"sqlite:///{dead}/jobs.db", file)
    assert former is not None
    assert former.name.startswith("jobs.db.before-restore-")
    assert names(f"sqlite:///{dead}/jobs.db") == ["new"]
    assert names(f"sqlite:///{former}") == ["late", "old"]
    assert {path.name: path.stat().st_mode & 0o777 for path in dead.iterdir()} == dict.fromkeys(
        ("jobs.db", "jobs.db-lock", former.name, f"{former.name}-lock"), 0o600
    )


def test_a_log_of_another_database_is_kept_apart_from_the_former_file(killed: tuple[Path, Path]) -> None:
    """Somebody has copied the backup over the file of a server that was killed, which is refused until a restore."""
    dead, file = killed
    shutil.copy(file, dead / "jobs.db")
    log = (dead / "jobs.db-wal").read_bytes()
    with pytest.raises(StorageError, match="holds changes of another database"):
        open_storage(f"sqlite:///{dead}/jobs.db")
    former = restored(f"sqlite:///{dead}/jobs.db", file)
    assert former is not None
    assert names(f"sqlite:///{dead}/jobs.db") == names(f"sqlite:///{former}") == ["new"]
    assert former.with_name(f"{former.name}-log-of-another").read_bytes() == log
    assert not (dead / "jobs.db-wal").exists()


def test_a_former_file_that_can_not_be_opened_is_kept_too(killed: tuple[Path, Path]) -> None:
    dead, file = killed
    (dead / "jobs.db").write_bytes(b"nothing of a database" * 1000)
    former = restored(f"sqlite:///{dead}/jobs.db", file)
    assert former is not None
    assert former.read_bytes().startswith(b"nothing")
    assert names(f"sqlite:///{dead}/jobs.db") == ["new"]


def test_a_file_that_never_was_a_database_is_not_replaced(tmp_path: Path, killed: tuple[Path, Path]) -> None:
    thesis = tmp_path / "thesis" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    thesis.chmod(0o644)
    with pytest.raises(StorageError, match="file is not a database; nothing was changed"):
        restored(f"sqlite:///{thesis}", killed[1])
    assert list(thesis.parent.iterdir()) == [thesis]
    assert thesis.read_text() == "years of work"
    assert thesis.stat().st_mode & 0o777 == 0o644


def test_a_log_without_its_file_is_not_replayed(killed: tuple[Path, Path]) -> None:
    dead, file = killed
    (dead / "jobs.db").unlink()
    assert restored(f"sqlite:///{dead}/jobs.db", file) is None
    assert names(f"sqlite:///{dead}/jobs.db") == ["new"]


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path, killed: tuple[Path, Path]) -> None:
    dead, file = killed
    link = tmp_path / "link.db"
    link.symlink_to(dead / "jobs.db")
    restored(f"sqlite:///{link}", file)
    assert link.is_symlink()
    assert names(f"sqlite:///{dead}/jobs.db") == ["new"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_restores_for_the_servers_user(killed: tuple[Path, Path]) -> None:
    dead, file = killed
    os.chown(dead / "jobs.db", 12345, 12346)
    former = restored(f"sqlite:///{dead}/jobs.db", file)
    assert former is not None
    for path in (dead / "jobs.db", dead / "jobs.db-lock", former):
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (12345, 12346, 0o600)


def test_where_no_hard_links_can_be_made_the_former_file_is_copied(
    killed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_source: object, _target: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    dead, file = killed
    former = restored(f"sqlite:///{dead}/jobs.db", file)
    assert names(f"sqlite:///{former}") == ["late", "old"]
    assert names(f"sqlite:///{dead}/jobs.db") == ["new"]


def test_a_backup_that_was_copied_over_a_killed_database_is_found_out(killed: tuple[Path, Path]) -> None:
    dead, file = killed
    shutil.copy(file, dead / "jobs.db")
    before = {path.name: path.read_bytes() for path in dead.iterdir()}
    with pytest.raises(StorageError, match=r"jobs.db-wal beside .* of another database.*`lrpilot db restore`"):
        open_storage(f"sqlite:///{dead}/jobs.db")
    assert {path.name: path.read_bytes() for path in dead.iterdir()} == before
    restored(f"sqlite:///{dead}/jobs.db", file)
    assert names(f"sqlite:///{dead}/jobs.db") == ["new"]


@pytest.mark.parametrize("how", ["stopped server's file", "backup of SQLite's", "vacuum", "file before a checkpoint"])
def test_a_raw_copy_over_a_killed_database_is_found_out(how: str, tmp_path: Path) -> None:
    """SQLite would replay the log into each: what was put back would be undone, or the file corrupt."""
    live, dead, copy = tmp_path / "live", tmp_path / "dead", tmp_path / "copy.db"
    live.mkdir()
    file, url = live / "jobs.db", f"sqlite:///{live}/jobs.db"
    open_storage(url).close()
    if how == "stopped server's file":
        shutil.copy(file, copy)
    with open_storage(url), Database(url) as database:
        with database.writing() as connection:
            connection.exec_driver_sql("PRAGMA user_version = 1")
        with contextlib.closing(sqlite3.connect(file)) as other, contextlib.closing(sqlite3.connect(copy)) as target:
            if how == "backup of SQLite's":
                other.backup(target)
            elif how == "vacuum":
                other.execute("VACUUM INTO ?", (str(copy),))
            elif how == "file before a checkpoint":
                shutil.copy(file, copy)
                other.execute("PRAGMA user_version = 3")
                other.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        with database.writing() as connection:
            connection.exec_driver_sql("INSERT INTO projects (name, create_time) VALUES ('late', '2026-01-01')")
            connection.exec_driver_sql("PRAGMA user_version = 2")
        shutil.copytree(live, dead)
    shutil.copy(copy, dead / "jobs.db")
    with pytest.raises(StorageError, match=r"jobs.db-wal beside .* of another database"):
        open_storage(f"sqlite:///{dead}/jobs.db")


def test_a_killed_database_itself_is_opened_with_its_log(killed: tuple[Path, Path]) -> None:
    dead, _ = killed
    assert names(f"sqlite:///{dead}/jobs.db") == ["late", "old"]


def test_nothing_is_restored_while_somebody_has_the_database_open(killed: tuple[Path, Path]) -> None:
    dead, file = killed
    url = f"sqlite:///{dead}/jobs.db"
    with open_storage(url), pytest.raises(StorageError, match="a server or a command has it open; stop it first"):
        restored(url, file)
    with contextlib.closing(sqlite3.connect(dead / "jobs.db")) as shell:
        shell.execute("SELECT count(*) FROM jobs").fetchall()
        with pytest.raises(StorageError, match="another program has it open; end it first"):
            restored(url, file)
    assert names(url) == ["late", "old"]
    assert [path for path in dead.iterdir() if "before" in path.name] == []


@pytest.mark.parametrize("kind", ["text", "other", "corrupt", "newer", "missing", "itself"])
def test_what_is_no_sound_backup_changes_nothing(kind: str, tmp_path: Path, killed: tuple[Path, Path]) -> None:
    dead, file = killed
    expected: type[Exception] = CorruptionError
    if kind == "text":
        file.write_text("no database" * 1000)
    elif kind == "other":
        file.unlink()
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE t (x)")
        expected = StorageError
    elif kind == "corrupt":
        data = bytearray(file.read_bytes())
        data[8192:12288] = b"\xff" * 4096
        file.write_bytes(data)
    elif kind == "newer":
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as newer:
            newer.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        expected = SchemaVersionError
    else:
        file = tmp_path / "none.db" if kind == "missing" else dead / "jobs.db"
        expected = InvalidInputError
    before = {path.name: path.read_bytes() for path in dead.iterdir()}
    with pytest.raises(expected) as caught:
        restored(f"sqlite:///{dead}/jobs.db", file)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in dead.iterdir()} == before


def test_a_backup_of_an_older_version_is_upgraded_by_the_next_server(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    restored(url, old_databases.FILES["0001"])
    with open_storage(url) as storage:
        assert storage.page("default", 10).jobs


def test_no_archive_replaces_tables_that_servers_use(
    postgresql_url: str, postgresql_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(postgresql_server.binaries), prepend=os.pathsep)
    monkeypatch.setattr("tuner_server.storage.backups.restore.LET_GO_S", 0.2)
    open_storage(postgresql_url, upgrade=True).close()
    file = backed_up(postgresql_url, tmp_path / "copy")
    with open_storage(postgresql_url) as server:
        server.ping()
        with pytest.raises(StorageError, match=r"servers or commands have 1 connections"):
            restored(postgresql_url, file)


def test_a_session_that_is_just_ending_is_waited_for(
    postgresql_url: str, postgresql_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(postgresql_server.binaries), prepend=os.pathsep)
    open_storage(postgresql_url, upgrade=True).close()
    file = backed_up(postgresql_url, tmp_path / "copy")
    add(postgresql_url, "late")
    sleep, pauses = time.sleep, []
    with open_storage(postgresql_url) as server:
        server.ping()

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            server.close()  # no sooner than it was seen
            sleep(seconds)

        monkeypatch.setattr(time, "sleep", pause)
        restored(postgresql_url, file)
    assert pauses
    assert names(postgresql_url) == []


def test_an_archive_that_is_cut_or_of_a_newer_version_changes_nothing(
    postgresql_url: str, postgresql_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(postgresql_server.binaries), prepend=os.pathsep)
    open_storage(postgresql_url, upgrade=True).close()
    file = backed_up(postgresql_url, tmp_path / "copy")
    add(postgresql_url, "late")
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CorruptionError, match="cut is no archive that pg_restore can read"):
        restored(postgresql_url, cut)
    with Database(postgresql_url) as database, database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    newer = backed_up(postgresql_url, tmp_path / "newer")
    with Database(postgresql_url) as database, database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '{head_version()}'")
    with pytest.raises(SchemaVersionError, match="newer has schema version 9999"):
        restored(postgresql_url, newer)
    assert names(postgresql_url) == ["late"]


def test_an_archive_of_other_tables_is_none_of_ours(
    postgresql_url: str, postgresql_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(postgresql_server.binaries), prepend=os.pathsep)
    with Database(postgresql_url) as database:
        with database.writing() as connection:
            connection.exec_driver_sql("CREATE TABLE customers (x INTEGER)")
        pg_programs.run("pg_dump", "--format=custom", f"--file={tmp_path}/copy", "-tcustomers", database=database)
    with pytest.raises(StorageError, match="is no archive of LRPilot's alone: it has customers"):
        restored(postgresql_url, tmp_path / "copy")
