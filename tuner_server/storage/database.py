"""An engine on which SQLite and PostgreSQL keep the same promises, and the one place that knows their errors."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy import exc

from tuner_server.core.errors import ConflictError, InvalidInputError, StorageError

BUSY_TIMEOUT_S = 10
"""How long a writer waits for one in another process. Transactions take milliseconds; a client's deadline is longer."""
WAL_RETRY_S = 0.01
"""Between two tries to switch a fresh file to its write-ahead log."""
CONNECT_TIMEOUT_S = 10
"""For PostgreSQL, where the URL doesn't say: without it a host that drops packets holds a request for minutes."""

_EXAMPLES = "give sqlite:///path/to/file.db or postgresql://user@host/name"


class Database:
    """A database and its pool of connections. Of the process that made it."""

    def __init__(self, url: str) -> None:
        """Reads the URL; connects only when used.

        Args:
            url: `sqlite:///FILE` (embedded: one machine), or `postgresql://...` (shared).

        Raises:
            InvalidInputError: not such a URL.
            StorageError: the file's directory does not exist.
        """
        parsed = _parse(url)
        self.label = parsed.render_as_string(hide_password=True)
        """The URL without its password, for messages."""
        self.embedded = parsed.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(parsed) if self.embedded else _postgresql_engine(parsed)
        self._writer = self._engine.execution_options(writes=True)
        # SQLite has one writer at a time, and one that waits sleeps and looks again, up to 100 ms. Threads of a process
        # queue here instead, and wake at once; only processes wait in SQLite.
        self._turn = threading.Lock() if self.embedded else contextlib.nullcontext()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises: StorageError."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end, or rolled back by whatever is raised in it.

        Raises:
            ConflictError: a row with such a key exists.
            StorageError: anything else that the database refuses.
        """
        with self._translated(), self._turn, self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLAlchemy's errors as ours."""
        try:
            yield
        except exc.SQLAlchemyError as error:
            cause = error.orig if isinstance(error, exc.StatementError) else error
            message = f"{self.label}: {str(cause).splitlines()[0]}"
            ours = ConflictError if isinstance(error, exc.IntegrityError) else StorageError
            raise ours(message) from error


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except exc.ArgumentError as error:
        raise InvalidInputError.of("db", f"not a database URL; {_EXAMPLES}") from error
    if backend not in ("sqlite", "postgresql"):
        raise InvalidInputError.of("db", f"{backend} databases can't be used; {_EXAMPLES}")
    # Every connection to SQLite's memory would be a database of its own.
    if backend == "sqlite" and (parsed.database in (None, "", ":memory:") or parsed.query):
        raise InvalidInputError.of("db", f"SQLite takes a file, with no options; {_EXAMPLES}")
    return parsed


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    query = {"connect_timeout": str(CONNECT_TIMEOUT_S), **url.query}
    url = url.set(drivername="postgresql+psycopg", query=query)
    # Pre-ping: a connection that died in the pool (a restart, a firewall) is replaced and not handed to a request.
    return sa.create_engine(url, pool_pre_ping=True)


def use_wal(connection: sqlite3.Connection) -> None:
    """Switches a file to its write-ahead log, which lasts.

    The switch needs the file for itself, and SQLite's own waiting doesn't cover it: of servers that start together on a
    fresh file, all but the first would fail.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    assert url.database is not None
    directory = Path(url.database).absolute().parent
    if not directory.is_dir():
        raise StorageError(f"{url.database}: the directory {directory} does not exist")
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        # No isolation level: Python's driver would open transactions by itself, and never an immediate one.
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # FULL: every commit reaches the disk before it returns, and only then is a report acknowledged. With NORMAL the
        # write-ahead log is synced at checkpoints only: a power cut would undo the last commits, already answered.
        use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once. A deferred one that reads first fails, without waiting, when another has
        # written meanwhile.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
