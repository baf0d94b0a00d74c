"""What a database takes on the disk, and how the space of what was deleted is given back."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import time
from collections.abc import Iterable

from tuner_server.core.errors import StorageError
from tuner_server.storage.database import Database, DriverConnection
from tuner_server.storage.drivers.sqlite import LOG_SUFFIXES, DatabaseFile
from tuner_server.storage.tables import Base

PAGES_AT_ONCE = 500
"""Pages that SQLite moves in one transaction: 2 MB, some milliseconds in which servers wait."""
LOG_TRIES = 50
LOG_WAIT_S = 0.02
"""How long one try to empty the log waits for who still reads from it, while all who write wait; and how long they may
go on until the next one."""
ONCE = "`lrpilot db compact`, once and without servers, makes the file smaller"
"""What is said of a file that a former version made."""
_INCREMENTAL = 2
"""SQLite's number for files that can give back pages step by step."""


@dataclasses.dataclass(frozen=True, slots=True)
class Compaction:
    """What a database took on the disk before and after, in bytes."""

    before: int
    after: int
    remark: str = ""
    """What else can be done; empty: nothing."""

    def __str__(self) -> str:
        said = f"{self.before} bytes before, {self.after} now: {max(self.before - self.after, 0)} given back"
        return f"{said}; {self.remark}" if self.remark else said


def compact(database: Database, *, rewrite: bool = True) -> Compaction:
    """Gives back the space of what was deleted.

    A SQLite file gives it back in small steps, while servers work. One that a version before this made has to be
    rewritten once, which needs as much space again, and no server that has it open. PostgreSQL cleans its tables for
    what will be written next, and gives back what is free at their ends.

    Args:
        database: any that servers may be using.
        rewrite: whether a SQLite file that can't do it in steps is rewritten; otherwise the remark says that it should.

    Raises:
        StorageError: the database can't be used; or it has to be rewritten, and others have it open.
    """
    if database.file is None:
        return _vacuum_tables(database)
    before = _size(database.file)
    with database.maintaining() as connection:
        (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
        if mode == _INCREMENTAL:
            _give_back(connection)
            _empty_log(connection)
    if mode == _INCREMENTAL:
        return Compaction(before, _size(database.file))
    if not rewrite:
        return Compaction(before, before, ONCE)
    database.close()
    with database.file.alone():
        _rewrite(database.file)
    return Compaction(before, _size(database.file))


def size(database: Database) -> int:
    """The bytes that a database takes on the disk: a SQLite file with its log, or LRPilot's tables with their indexes.

    Raises:
        StorageError: the database can't be used.
    """
    if database.file is not None:
        return _size(database.file)
    with database.reading() as connection:
        return int(connection.exec_driver_sql(_size_of(Base.metadata.tables)).scalar_one())


def _size_of(tables: Iterable[str]) -> str:
    """A query for the bytes of tables of PostgreSQL, by names as SQL has them."""
    return "SELECT " + " + ".join(f"pg_catalog.pg_total_relation_size('{table}')" for table in tables)


def _size(file: DatabaseFile) -> int:
    paths = [file.path, *(file.beside(suffix) for suffix in LOG_SUFFIXES if suffix != "-shm")]
    return sum(path.stat().st_size for path in paths if path.exists())


def _give_back(connection: DriverConnection) -> None:
    """Moves pages from the end of the file into what is free, step by step."""
    while True:
        began = time.monotonic()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if not free:
            return
        connection.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()
        (left,) = connection.execute("PRAGMA freelist_count").fetchone()
        if left >= free:  # servers delete as fast
            return
        time.sleep(time.monotonic() - began)  # half of the time is theirs


def _empty_log(connection: DriverConnection) -> None:
    """Empties the write-ahead log, unless there are readers of an old state all the time.

    SQLite waits for them with its writers' lock in its hands, and as long as for any lock: writers would give up.
    """
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # most of it, while others write
    connection.execute(f"PRAGMA busy_timeout = {LOG_WAIT_S * 1000:.0f}")
    for _ in range(LOG_TRIES):
        ((in_use, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if not in_use:
            return
        time.sleep(LOG_WAIT_S)


def _rewrite(file: DatabaseFile) -> None:
    try:
        with contextlib.closing(file.connected()) as connection:
            connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise StorageError(f"{file.path} can't be rewritten: {error}") from error


def _vacuum_tables(database: Database) -> Compaction:
    # The search path holds in a transaction; VACUUM can't be in one.
    with database.reading() as connection:
        schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    tables = [f'{schema}."{name}"' for name in Base.metadata.tables]
    query = _size_of(tables)
    with database.maintaining() as connection:
        (before,) = connection.execute(query).fetchone()
        for table in tables:
            connection.execute(f"VACUUM (ANALYZE) {table}")
        (after,) = connection.execute(query).fetchone()
    return Compaction(before, after)
