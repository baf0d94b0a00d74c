"""An engine on which SQLite and PostgreSQL keep the same promises, and the one place that knows their errors."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import exc

from tuner_server.base.closing import Closing
from tuner_server.base.database_url import DatabaseUrl
from tuner_server.core.errors import ConflictError, CorruptionError, SchemaVersionError, StorageError
from tuner_server.storage.drivers import postgresql, sqlite
from tuner_server.storage.tables import VERSION_TABLE

# A client takes a connection for dead when no answer comes within 5 s (`lrpilot.transport.grpc_transport.ATTEMPT_S`). A
# database that can't be used is told sooner than that: what one call waits for, added up, stays below. Transactions
# themselves take milliseconds.

POOL_SIZE = 16
"""Connections of a process, more than it has threads that use one; six servers stay below PostgreSQL's usual 100."""
POOL_TIMEOUT_S = 2.0
"""How long a thread waits for one of them."""
LONG_WAIT_S = 1.0
"""A transaction that fails after so long has waited for something."""
FAILURE_SHARED_S = 0.5
"""How long after such a failure others fail at once: each would wait in turn, and those behind them in vain."""
_CORRUPT = "it is corrupt"


class DriverConnection(Protocol):
    """What the connections of both drivers have."""

    def execute(self, query: str, /) -> Any:
        """Runs a statement; what it gives has `fetchall`."""


class Database(Closing):
    """A database and its pool of connections, which belong to the process that made them."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        """Reads the URL; connects only when used.

        Args:
            url: `sqlite:///FILE` (embedded: one machine), or `postgresql://...` (shared).
            pool_size: how many connections there are at most.

        Raises:
            InvalidInputError: not such a URL.
            StorageError: the file's directory does not exist.
        """
        self.url = DatabaseUrl.parse(url)
        """The URL that was read."""
        self.label = self.url.label
        """The URL for messages: without its password and its options, which may hold another."""
        self.file = None if self.url.file is None else sqlite.DatabaseFile(self.url.file)
        """The file of an embedded database."""
        self.embedded = self.file is not None
        """Whether it is a SQLite file, and not a PostgreSQL."""
        self._pool_size = pool_size
        if self.file is not None:
            self._engine = sqlite.sqlite_engine(self.file, pool_size, POOL_TIMEOUT_S)
        else:
            self._engine = postgresql.postgresql_engine(self.url, pool_size, POOL_TIMEOUT_S)
        self._writer = self._engine.execution_options(writes=True)
        # SQLite has one writer at a time, and one that waits sleeps and looks again, up to 100 ms. Threads of a process
        # queue here instead, and wake at once; only processes wait in SQLite.
        self._turn = threading.Lock() if self.embedded else None
        self._failure = _Failure(-math.inf, "", "")
        self._corruption = ""
        self.schema = ""
        """The schema version that is written for; empty: whatever there is."""

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises: StorageError."""
        with self._translated(), self._in_place(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end, or rolled back by whatever is raised in it.

        Raises:
            ConflictError: a row with such a key exists.
            SchemaVersionError: the schema is not the one that is written for: somebody has upgraded it meanwhile.
            StorageError: anything else that the database refuses.
        """
        with (
            self._translated(),
            self._in_turn(sqlite.BUSY_TIMEOUT_S),
            self._in_place(),
            self._writer.begin() as connection,
        ):
            if self.schema:
                self._check_schema(connection)
            yield connection

    def _check_schema(self, connection: sa.Connection) -> None:
        """A server of a former version must not write rows that the present one would misread."""
        found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one_or_none()
        if found != self.schema:
            raise SchemaVersionError(
                f"{self.label} has schema version {found} by now, and this server writes {self.schema}: "
                "start it anew, in the version of LRPilot that upgraded the database",
                "its schema was upgraded, and this server was not",
            )

    @contextlib.contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """A transaction as `writing` gives it, for changes of the schema: it takes as long as it takes.

        SQLite copies a table to change it, and would take the dropped original for lost rows that others refer to:
        there foreign keys are checked at the end, and not on the way.

        Raises:
            StorageError: the database refuses, or rows refer to what is not there.
        """
        migrator = self._engine.execution_options(migrates=True)
        try:
            with self._translated(), self._in_turn(sqlite.UPGRADE_TIMEOUT_S), migrator.begin() as connection:
                yield connection
                if self.embedded and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                    raise StorageError(f"{self.label}: rows refer to rows that are missing")
        finally:
            # Its connection has a migration's settings, and all others know the old schema.
            self._engine.dispose()

    @contextlib.contextmanager
    def maintaining(self) -> Iterator[DriverConnection]:
        """A connection for statements that can't be in a transaction, and take as long as they take.

        Raises:
            StorageError: the database refuses.
        """
        with self._translated(), self._engine.connect() as pooled:
            connection: Any = pooled.connection.driver_connection
            try:
                if isinstance(connection, postgresql.Session):
                    connection.maintain()
                yield connection
            except self._engine.dialect.loaded_dbapi.Error as error:
                raise exc.DBAPIError(None, None, error) from error
            finally:
                pooled.invalidate()

    def check(self) -> None:
        """Looks through a file that is not too large for it, before it is used.

        Raises:
            CorruptionError: it is corrupt.
            StorageError: it can't be opened.
        """
        if self.file is not None:
            self.file.look_through()

    def raise_if_corrupt(self) -> None:
        """Raises: CorruptionError: pages that can't be right were met since it was opened."""
        if self._corruption:
            raise CorruptionError(self._corruption, _CORRUPT)

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()
        if self.file is not None:
            self.file.leave()

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """A transaction on the file that is at its path, before and after. Raises: StorageError: it is another one."""
        if self.file is None:
            yield
            return
        self.file.in_place.check()
        yield
        self.file.in_place.check()  # nothing is acknowledged that went to a file which nobody finds again

    @contextlib.contextmanager
    def _in_turn(self, timeout_s: float) -> Iterator[None]:
        """Lets one writer of this process in at a time, where needed. Raises: StorageError: not within `timeout_s`."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=timeout_s):
            raise StorageError(f"{self.label}: others of this process were writing for {timeout_s:g} s", "it is busy")
        try:
            self._raise_recent_failure()
            yield
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns SQLAlchemy's errors into ours: in one line, without the statement and its values."""
        self._raise_recent_failure()
        began = time.monotonic()
        try:
            yield
        except exc.SQLAlchemyError as error:
            ours = self._ours(error)
            if isinstance(error, exc.StatementError) and sqlite.is_read_only(error.orig):
                # Of all connections of this process, since they share what they have open. The next ones open it anew.
                self._engine.dispose()
            ended = time.monotonic()
            # A conflict is the caller's own, however long it took.
            if isinstance(ours, StorageError) and ended - began > LONG_WAIT_S:
                self._failure = _Failure(ended, str(ours), ours.what)
            raise ours from error

    def _ours(self, error: exc.SQLAlchemyError) -> ConflictError | StorageError:
        """Our error for one of SQLAlchemy's."""
        if isinstance(error, exc.TimeoutError):
            said = f"all {self._pool_size} connections were in use for {POOL_TIMEOUT_S:g} s"
            return StorageError(f"{self.label}: {said}", "it is busy")
        cause = error.orig if isinstance(error, exc.StatementError) else error
        said = next(iter(str(cause).splitlines()), type(cause).__name__)
        message = f"{self.label}: {said}"
        if isinstance(error, exc.IntegrityError):
            return ConflictError("a row with such a key exists, or one that it refers to is missing")
        if sqlite.is_corrupt(cause) or postgresql.is_corrupt(cause):
            self._corruption = message
            return CorruptionError(message, _CORRUPT)
        # SQLite's own words never name anything; of PostgreSQL's we tell the kind alone.
        return StorageError(message, said if self.embedded else postgresql.what_is_wrong(cause))

    def _raise_recent_failure(self) -> None:
        """Raises: StorageError: another has just waited for the database in vain."""
        failure = self._failure
        if time.monotonic() < failure.time + FAILURE_SHARED_S:
            raise StorageError(failure.message, failure.what)


@dataclasses.dataclass(frozen=True, slots=True)
class _Failure:
    """What ended a transaction after a long wait, and when."""

    time: float
    message: str
    what: str
