"""An engine on which SQLite and PostgreSQL keep the same promises, and the one place that knows their errors."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy as sa
import tenacity
from psycopg.abc import RV, PQGen
from sqlalchemy import exc

from tuner_server.base.closing import Closing
from tuner_server.core.errors import ConflictError, InvalidInputError, StorageError
from tuner_server.storage.embedded_file import EmbeddedFile

# A client takes a connection for dead when no answer comes within 5 s (`lrpilot.transport.grpc_transport.ATTEMPT_S`). A
# database that can't be used is told sooner than that: what one call waits for, added up, stays below. Transactions
# themselves take milliseconds.

BUSY_TIMEOUT_S = 2.0
"""How long a writer on SQLite waits for its turn in this process, and then again for other processes."""
UPGRADE_TIMEOUT_S = 60.0
"""How long one that would change the schema waits: others that start at the same time do it in turn."""
WAL_RETRY_S = 0.01
"""Seconds between two tries to switch a fresh file to its write-ahead log."""
POOL_SIZE = 16
"""Connections of a process, more than it has threads that use one; six servers stay below PostgreSQL's usual 100."""
POOL_TIMEOUT_S = 2.0
"""How long a thread waits for one of them."""
TRANSACTION_TIMEOUT_S = 3.0
"""The longest that a transaction on PostgreSQL takes, its answers included."""
PING_TIMEOUT_S = 1.0
"""How long a connection that lay idle has to show that it works."""
LONG_WAIT_S = 1.0
"""A transaction that fails after so long has waited for something."""
FAILURE_SHARED_S = 0.5
"""How long after such a failure others fail at once: each would wait in turn, and those behind them in vain."""

LIBPQ_DEFAULTS = {
    "connect_timeout": "2",
    # An idle connection to a machine that is gone is found out before somebody needs it.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
}
"""Parameters of a connection to PostgreSQL that the URL doesn't give."""
SESSION_DEFAULTS = {
    "lock_timeout": "2s",
    # Nobody waits for the result of a statement that takes longer.
    "statement_timeout": f"{TRANSACTION_TIMEOUT_S:g}s",
    # A server that freezes or vanishes within a transaction would hold its locks for two hours.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "2",
}
"""PostgreSQL's settings of a session; those in the `options` of the URL come later and win."""

_EXAMPLES = "give sqlite:///path/to/file.db or postgresql://user@host/name"


class Database(Closing):
    """A database and its pool of connections, which belong to the process that made them."""

    def __init__(self, url: str) -> None:
        """Reads the URL; connects only when used.

        Args:
            url: `sqlite:///FILE` (embedded: one machine), or `postgresql://...` (shared).

        Raises:
            InvalidInputError: not such a URL.
            StorageError: the file's directory does not exist.
        """
        parsed = _parse(url)
        self.url = parsed
        """The URL, with its password."""
        self.label = parsed.set(query={}).render_as_string(hide_password=True)
        """The URL for messages: without its password and its options, which may hold another."""
        self.embedded = parsed.get_backend_name() == "sqlite"
        self.file = EmbeddedFile(str(parsed.database)) if self.embedded else None
        """The file of an embedded database."""
        self._engine = _postgresql_engine(parsed) if self.file is None else _sqlite_engine(parsed, self.file)
        self._writer = self._engine.execution_options(writes=True)
        # SQLite has one writer at a time, and one that waits sleeps and looks again, up to 100 ms. Threads of a process
        # queue here instead, and wake at once; only processes wait in SQLite.
        self._turn = threading.Lock() if self.embedded else None
        self._failure = _Failure(-math.inf, "")

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
            StorageError: anything else that the database refuses.
        """
        with (
            self._translated(),
            self._in_turn(BUSY_TIMEOUT_S),
            self._in_place(),
            self._writer.begin() as connection,
        ):
            yield connection

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
            with self._translated(), self._in_turn(UPGRADE_TIMEOUT_S), migrator.begin() as connection:
                yield connection
                if self.embedded and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                    raise StorageError(f"{self.label}: rows refer to rows that are missing")
        finally:
            # Its connection has a migration's settings, and all others know the old schema.
            self._engine.dispose()

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """A transaction on the file that is at its path, before and after. Raises: StorageError: it is another one."""
        if self.file is None:
            yield
            return
        self.file.check()
        yield
        self.file.check()  # nothing is acknowledged that went to a file which nobody finds again

    @contextlib.contextmanager
    def _in_turn(self, timeout_s: float) -> Iterator[None]:
        """Lets one writer of this process in at a time, where needed. Raises: StorageError: not within `timeout_s`."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=timeout_s):
            raise StorageError(f"{self.label}: others of this process were writing for {timeout_s:g} s")
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
            message = f"{self.label}: {_in_one_line(error)}"
            ended = time.monotonic()
            ours = ConflictError if isinstance(error, exc.IntegrityError) else StorageError
            if (
                ours is StorageError and ended - began > LONG_WAIT_S
            ):  # a conflict is the caller's own, however long it took
                self._failure = _Failure(ended, message)
            raise ours(message) from error

    def _raise_recent_failure(self) -> None:
        """Raises: StorageError: another has just waited for the database in vain."""
        failure = self._failure
        if time.monotonic() < failure.time + FAILURE_SHARED_S:
            raise StorageError(failure.message)


@dataclasses.dataclass(frozen=True, slots=True)
class _Failure:
    """What ended a transaction after a long wait, and when."""

    time: float
    message: str


def _in_one_line(error: exc.SQLAlchemyError) -> str:
    if isinstance(error, exc.TimeoutError):
        return f"all {POOL_SIZE} connections were in use for {POOL_TIMEOUT_S:g} s"
    cause = error.orig if isinstance(error, exc.StatementError) else error
    return next(iter(str(cause).splitlines()), type(cause).__name__)


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


class _Session(psycopg.Connection[Any]):
    """A connection to PostgreSQL that waits no longer than its transaction may take.

    PostgreSQL's own time limits end with the network, or when its machine stands still; TCP's end where a pooler or a
    proxy in between goes on answering.
    """

    deadline: float | None = None
    """The end of the transaction on the monotonic clock; None: there is no transaction."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """See `psycopg.Connection`. Raises: psycopg.OperationalError: no answer in time; the connection is closed."""
        now = time.monotonic()
        deadline = now + PING_TIMEOUT_S if self.deadline is None else self.deadline
        if timeout is None and deadline < math.inf:
            timeout = max(deadline - now, 0.0)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if time.monotonic() < deadline:
                raise
            self.close()  # what it would still answer is for a question that nobody asks any more
            raise psycopg.OperationalError("no answer in time") from error


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    given = url.query.get("options", ())
    options = [f"-c {name}={value}" for name, value in SESSION_DEFAULTS.items()]
    options += [given] if isinstance(given, str) else given
    engine = sa.create_engine(
        url.set(
            drivername="postgresql+psycopg",
            query={**LIBPQ_DEFAULTS, **url.query, "options": " ".join(options)},
        ),
        # A connection that died in the pool (a restart, a firewall) is replaced and not handed to a request.
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
    )

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], parameters: dict[str, Any]) -> _Session:
        return _Session.connect(*arguments, **parameters)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        session = connection.connection.driver_connection
        assert isinstance(session, _Session)
        migrates = connection.get_execution_options().get("migrates", False)
        session.deadline = math.inf if migrates else time.monotonic() + TRANSACTION_TIMEOUT_S
        if migrates:
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
                connection.exec_driver_sql(f"SET LOCAL {name} = 0")

    @sa.event.listens_for(engine, "checkin")
    def checkin(session: _Session | None, _record: object) -> None:
        if session is not None:  # None: it is closed
            session.deadline = None

    return engine


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_busy),
    wait=tenacity.wait_fixed(WAL_RETRY_S),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_S),
    reraise=True,
)
def use_wal(connection: sqlite3.Connection) -> None:
    """Switches a file to its write-ahead log, which lasts.

    The switch needs the file for itself, and SQLite's own waiting doesn't cover it: of servers that start together on a
    fresh file, all but the first would fail.
    """
    connection.execute("PRAGMA journal_mode = WAL")


def _sqlite_engine(url: sa.URL, file: EmbeddedFile) -> sa.Engine:
    if not file.path.parent.is_dir():
        raise StorageError(f"{url.database}: the directory {file.path.parent} does not exist")
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        # No isolation level: Python's driver would open transactions by itself, and never an immediate one.
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S},
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # FULL: every commit reaches the disk before it returns, and only then is a report acknowledged. With NORMAL the
        # write-ahead log is synced at checkpoints only: a power cut would undo the last commits, already answered.
        use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        file.connected(connection)

    @sa.event.listens_for(engine, "close")
    def close(connection: sqlite3.Connection, _record: object) -> None:
        file.closed(connection)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once. A deferred one that reads first fails, without waiting, when another has
        # written meanwhile.
        options = connection.get_execution_options()
        migrates = options.get("migrates", False)
        if migrates:
            # Before the transaction: within one it has no effect.
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {UPGRADE_TIMEOUT_S * 1000:.0f}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if migrates or options.get("writes", False) else "BEGIN")

    return engine
