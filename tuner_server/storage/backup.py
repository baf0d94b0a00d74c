"""Makes a consistent copy of a database while servers go on.

A SQLite database becomes a database file, which can be put in the place of the original. A PostgreSQL database becomes
an archive for `pg_restore`, made by `pg_dump`, with LRPilot's tables alone: the database may hold others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tuner_server.core.errors import InvalidInputError, StorageError
from tuner_server.storage.database import Database
from tuner_server.storage.tables import VERSION_TABLE, Base

_SERVICE = "lrpilot"


def backup(database: Database, target: Path) -> None:
    """Copies a database to a new file, which appears when it is complete and on the disk.

    Args:
        database: any that servers may be using.
        target: where to; must not exist.

    Raises:
        InvalidInputError: the target exists, or can't be written; there is no such SQLite file.
        StorageError: the database can't be read; or PostgreSQL's `pg_dump` is missing.
    """
    if target.exists():
        raise InvalidInputError.of("output", f"{target} exists; a backup never replaces a file")
    with _complete(target) as unfinished:
        if database.embedded:
            _copy_sqlite(database, unfinished)
        else:
            _dump_postgresql(database, unfinished)


@contextlib.contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """A file beside the target, which takes its name when the block has written it. Raises: InvalidInputError."""
    try:
        # Only its owner can read it, as it should be: it holds what the database does.
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
        os.close(handle)
        unfinished = Path(name)
        try:
            yield unfinished
            _sync(unfinished)
            unfinished.rename(target)
            _sync(target.absolute().parent)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInputError.of("output", f"{target}: {error.strerror}") from error


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy_sqlite(database: Database, target: Path) -> None:
    """Copies by SQLite's online backup, in one step: it reads one state, and in WAL mode a reader holds nobody up."""
    if not Path(database.url.database or "").is_file():
        raise InvalidInputError.of("db", f"{database.label}: there is no such file")
    with database.reading() as connection, contextlib.closing(sqlite3.connect(target)) as copy:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        try:
            source.backup(copy)
            # One file, with no log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise StorageError(f"{database.label}: can't be copied to {target.parent}: {error}") from error


def _dump_postgresql(database: Database, target: Path) -> None:
    """Copies by pg_dump, which reads one state too."""
    program = shutil.which("pg_dump")
    if program is None:
        raise StorageError("pg_dump was not found: install PostgreSQL's client programs, of its version or a newer one")
    tables = [f'--table="{name}"' for name in (*Base.metadata.tables, VERSION_TABLE)]
    with _service_file(database.url) as service:
        done = subprocess.run(
            [program, "--format=custom", f"--file={target}", "--no-password", *tables, f"--dbname=service={_SERVICE}"],
            env=os.environ | {"PGSERVICEFILE": str(service)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        first, *_ = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        raise StorageError(f"{database.label}: {first}")


@contextlib.contextmanager
def _service_file(url: sa.URL) -> Iterator[Path]:
    """The parameters of a connection where only we can read them: a command line shows its passwords to everybody."""
    _, parameters = PGDialect_psycopg().create_connect_args(url)  # type: ignore[no-untyped-call]  # SQLAlchemy has none
    lines = [f"[{_SERVICE}]", *(f"{name}={value}" for name, value in parameters.items())]
    with tempfile.NamedTemporaryFile("w", prefix="lrpilot-", suffix=".conf") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        yield Path(file.name)
