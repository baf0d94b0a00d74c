"""Puts a backup in the place of a database: all of it or nothing, whenever the process or the machine ends.

What must never be is a mix. SQLite replays the log that lies beside a file, whichever file it was written for; so the
former database takes its log in, and the log is gone, before another file gets its name. That name is never free
either: a server that found no file would begin an empty one. On PostgreSQL all of it is one transaction.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import sqlite3
import time
import urllib.parse
from pathlib import Path

from tuner_server.base.clock import utc_now
from tuner_server.core.errors import InvalidInputError, StorageError
from tuner_server.storage.backups import pg_programs
from tuner_server.storage.backups.durable_file import put_in_place, sync, unfinished_beside
from tuner_server.storage.backups.sqlite_copy import copy_database
from tuner_server.storage.database import Database
from tuner_server.storage.drivers.postgresql import APPLICATION
from tuner_server.storage.drivers.sqlite import LOG_SUFFIXES, DatabaseFile, give_to_owner
from tuner_server.storage.schema import require_known

FOREIGN_LOG = "-log-of-another"
"""How the name of a log ends that lay beside a file which it was not written for."""
_UNUSABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_CONNECTED = """
    SELECT count(*) FROM pg_catalog.pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name IN ('{}', {})
"""

LET_GO_S = 2.0
"""PostgreSQL shows a session for a moment after its client has closed it: only one that lasts longer counts."""


def restore(database: Database, backup: Path) -> Path | None:
    """Puts a backup in place of a database that no server has open.

    Args:
        database: where to; a SQLite file need not exist.
        backup: what `backup` made.

    Returns:
        Where the former SQLite file is kept; None: there was none, or it is a PostgreSQL.

    Raises:
        InvalidInputError: there is no such backup, or it is the database itself; the directory can't be written.
        CorruptionError: the backup is corrupt.
        SchemaVersionError: the backup is of a newer version of LRPilot.
        StorageError: the backup is no database of LRPilot's; servers have the database open; or it refuses.
    """
    if not backup.is_file():
        raise InvalidInputError.of("file", f"{backup}: there is no such file")
    if database.file is None:
        _restore_postgresql(database, backup)
        return None
    if backup.resolve() == database.file.path:
        raise InvalidInputError.of("file", f"{backup} is the database itself; give its backup")
    try:
        return _restore_sqlite(database.file, backup)
    except OSError as error:
        raise InvalidInputError.of("db", f"{database.label}: {error.strerror}") from error


def _restore_sqlite(file: DatabaseFile, backup: Path) -> Path | None:
    with unfinished_beside(file.path) as unfinished:
        # It is copied and looked through first: whatever is wrong with it, nothing has changed yet.
        _copy(backup, unfinished)
        with file.alone():
            give_to_owner(unfinished, file.path if file.path.exists() else file.path.parent)
            aside = _set_aside(file) if file.path.exists() else None
            if aside is None:
                _move_logs(file, _aside(file))  # of a file that is gone
            put_in_place(unfinished, file.path)
    return aside


def _copy(backup: Path, unfinished: Path) -> None:
    uri = f"file:{urllib.parse.quote(str(backup.absolute()))}?mode=ro"
    try:
        source = sqlite3.connect(uri, uri=True)
    except sqlite3.Error as error:
        raise StorageError(f"{backup} can't be read: {error}") from error
    with contextlib.closing(source):
        copy_database(source, unfinished, str(backup))


def _set_aside(file: DatabaseFile) -> Path:
    """Keeps the former file, whole, under a second name. It has its old one until another takes that."""
    aside = _aside(file)
    if file.has_foreign_log():
        # Nor may SQLite find it beside the file that is kept.
        file.beside("-wal").rename(aside.with_name(aside.name + FOREIGN_LOG))
    else:
        _end_log(file)
    try:
        os.link(file.path, aside)
    except OSError:  # a file system without hard links
        with unfinished_beside(aside) as copy:
            shutil.copyfile(file.path, copy)
            give_to_owner(copy, file.path)
            put_in_place(copy, aside)
    aside.chmod(0o600)
    # There are logs only beside a file that SQLite can't open, and no server could either: the order loses nothing.
    _move_logs(file, aside)
    sync(aside.parent)
    return aside


def _end_log(file: DatabaseFile) -> None:
    """Takes what the log has into the file, which needs nobody else to have it open. Then there is no log.

    Raises:
        StorageError: others have it open, such as a server of a former version or SQLite's shell; or the disk is full.
    """
    try:
        with contextlib.closing(file.connected()) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            raise StorageError(f"{file.path}: another program has it open; end it first") from error
        if code not in _UNUSABLE:
            raise StorageError(f"{file.path}: {error}") from error


def _move_logs(file: DatabaseFile, aside: Path) -> None:
    file.beside("-shm").unlink(missing_ok=True)  # an index of the log, which whoever opens that makes anew
    for suffix in LOG_SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            file.beside(suffix).rename(aside.with_name(aside.name + suffix))


def _aside(file: DatabaseFile) -> Path:
    """A name that nothing has."""
    now = utc_now()
    while True:
        aside = file.beside(f".before-restore-{now:%Y%m%dT%H%M%S}Z")
        if not any(os.path.lexists(f"{aside}{suffix}") for suffix in ("", *LOG_SUFFIXES)):
            return aside
        now += datetime.timedelta(seconds=1)


def _restore_postgresql(database: Database, archive: Path) -> None:
    schema = pg_programs.schema_of_archive(archive)
    require_known(pg_programs.version_in_archive(archive), str(archive))
    pg_programs.require_direct(database)
    with database.reading() as connection:
        current = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    if current != schema:
        raise StorageError(f"{archive} is of the schema {schema}, {database.label} has {current}: see search_path")
    if n_connected := _n_connected(database):
        raise StorageError(
            f"{database.label}: servers or commands have {n_connected} connections to it (see pg_stat_activity); "
            "stop them first, and let a pooler drop those that it keeps (RECONNECT)"
        )
    # What the archive doesn't have has to go too: tables that a later version added.
    drops = [f'DROP TABLE IF EXISTS "{schema}"."{name}" CASCADE;' for name in pg_programs.OUR_TABLES]
    pg_programs.load_archive(archive, database, ["SET LOCAL lock_timeout = '10s';", *drops])


def _n_connected(database: Database) -> int:
    """The sessions of LRPilot's beside this one that don't end within `LET_GO_S`."""
    query = _CONNECTED.format(APPLICATION, "current_setting('application_name')")
    deadline = time.monotonic() + LET_GO_S
    while True:
        with database.reading() as connection:  # a transaction each, for within one the answer stays what it was
            n_connected: int = connection.exec_driver_sql(query).scalar_one()
        if not n_connected or time.monotonic() > deadline:
            return n_connected
        time.sleep(0.1)
