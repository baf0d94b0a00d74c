"""Makes a consistent copy of a database while servers go on, and looks whether it can be restored.

A SQLite database becomes a database file. A PostgreSQL database becomes an archive for `pg_restore`, made by `pg_dump`,
with LRPilot's tables alone: the database may hold others. `restore` takes both.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from tuner_server.base.clock import utc_now
from tuner_server.core.errors import InvalidInputError, StorageError
from tuner_server.storage import Backup, last_backup
from tuner_server.storage.backups import pg_programs
from tuner_server.storage.backups.durable_file import put_in_place, unfinished_beside
from tuner_server.storage.backups.sqlite_copy import copy_database
from tuner_server.storage.database import Database
from tuner_server.storage.schema import current_version, head_version


def backup(database: Database, target: Path) -> str:
    """Copies a database to a new file, which appears when it is complete, verified and on the disk.

    The database then says when it was backed up last. Whoever may only read it makes a backup all the same.

    Args:
        database: any that servers may be using.
        target: where to; must not exist.

    Returns:
        Why the database could not take a note of it; empty: it did, or it is of an older version, which has none.

    Raises:
        InvalidInputError: the target exists, or can't be written; there is no such SQLite file.
        CorruptionError: the database is corrupt, and so would the copy be.
        StorageError: the database can't be read, or isn't LRPilot's; or PostgreSQL's `pg_dump` is missing.
    """
    if os.path.lexists(target):
        raise InvalidInputError.of("output", f"{target} exists; a backup never replaces a file")
    try:
        with unfinished_beside(target) as unfinished:
            if database.file is not None:
                _copy_sqlite(database, unfinished)
            else:
                _dump_postgresql(database, unfinished)
            put_in_place(unfinished, target)
    except OSError as error:
        raise InvalidInputError.of("output", f"{target}: {error.strerror}") from error
    try:
        if current_version(database) == head_version():
            last_backup.note(database, Backup(utc_now(), target.stat().st_size))
    except StorageError as error:
        return str(error)
    return ""


def _copy_sqlite(database: Database, target: Path) -> None:
    assert database.file is not None
    if not database.file.path.is_file():
        raise InvalidInputError.of("db", f"{database.label}: there is no such file")
    with database.reading() as connection:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        copy_database(source, target, database.label)


def _dump_postgresql(database: Database, target: Path) -> None:
    """Copies by pg_dump, which reads one state too."""
    pg_programs.require_direct(database)
    tables = [f'--table="{name}"' for name in pg_programs.OUR_TABLES]
    pg_programs.run("pg_dump", "--format=custom", f"--file={target}", *tables, database=database)
    pg_programs.schema_of_archive(target)
