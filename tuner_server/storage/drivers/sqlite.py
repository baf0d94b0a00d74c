"""Connections to a SQLite file, whose owner alone can read it, and the lock that tells who has it open.

Beside `jobs.db` lies `jobs.db-lock`. Whoever opens the database holds a shared lock on it for as long as connections
are open; whoever replaces or rewrites the file needs the lock alone. SQLite's own locks can't do this: they belong to a
file, and a restore puts another one in its place. The lock's file stays, since whoever removed it would open a second.

It also holds the mark of the database (`MARK`) to which the write-ahead log beside it belongs. SQLite replays whatever
log lies there: a backup, or a copy of a stopped server's file, that was put over a database whose server had died would
get the dead one's last changes. Whoever is the first to open a database gives it another mark, which no copy has.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import sqlite3
import stat
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import tenacity

from tuner_server.core.errors import CorruptionError, StorageError
from tuner_server.storage.drivers.embedded_file import EmbeddedFile
from tuner_server.storage.drivers.file_kind import require_database
from tuner_server.storage.drivers.foreign_log import is_foreign

BUSY_TIMEOUT_S = 2.0
"""How long a writer waits for its turn in this process, and then again for other processes."""
UPGRADE_TIMEOUT_S = 60.0
"""How long one that would change the schema waits: others that start at the same time do it in turn."""
LOCK_TIMEOUT_S = 5.0
"""How long one that opens a database waits for one that is about to put another in its place, or looks at it."""
RETRY_S = 0.01
"""Seconds between two tries, to switch a fresh file to its write-ahead log or to get the lock."""
WAL_BYTES = 16 * 2**20
"""What a write-ahead log is cut to when it begins anew."""
CHECKED_BYTES = 64 * 2**20
"""A file up to this size is looked through when it is opened: 0.03 s where it is in memory."""
MARK = "application_id"
"""The number in a file's header that tells copies from what they were made of: each backup gets one of its own."""
LOG_SUFFIXES = ("-wal", "-shm", "-journal")
"""The endings of files that SQLite keeps beside a database."""
_BESIDE = "; whoever uses a database, if only to read, writes beside it: be its owner, or be given its directory"
"""What is said to those who may not."""
_OWNER = stat.S_IRUSR | stat.S_IWUSR
_EVERYBODY = stat.S_IRWXO


class DatabaseFile:
    """A SQLite file, and this process's part of the lock on it. Thread-safe."""

    def __init__(self, file: str) -> None:
        """Raises: StorageError: the file's directory does not exist."""
        # As SQLite does: what lies beside a file lies beside the one that a link leads to.
        self.path = Path(os.path.realpath(file))
        if not self.path.parent.is_dir():
            raise StorageError(f"{file}: the directory {self.path.parent} does not exist")
        self.in_place = EmbeddedFile(file)
        """Whether what is open is still what is there."""
        self._lock_path = self.beside("-lock")
        self._lock: int | None = None
        self._entering = threading.Lock()

    def beside(self, suffix: str) -> Path:
        """The file of that ending beside the database."""
        return self.path.with_name(self.path.name + suffix)

    def enter(self) -> None:
        """Takes part in the lock, if need be, and makes the file if there is none.

        Raises:
            StorageError: it is being replaced or rewritten; the log beside it is another database's; or what is there
                is no database.
        """
        with self._entering:
            if self._lock is None:
                self._lock = self._entered()

    def leave(self) -> None:
        """Gives the lock back; a connection that is opened later takes it again."""
        with self._entering:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps everybody else out. Connections of this process must be closed.

        Raises:
            StorageError: others have the database open; or what is there is no database.
        """
        self.leave()
        with self._entering:
            lock = self._opened()
            try:
                if not _locked(lock, fcntl.LOCK_EX):
                    raise StorageError(f"{self.path}: a server or a command has it open; stop it first")
                yield
            finally:
                os.close(lock)

    def has_foreign_log(self) -> bool:
        """Whether the log beside it was written for another database. Raises: OSError: that can't be read."""
        try:
            noted = self._lock_path.read_text(errors="replace").split()
            return self._is_foreign(self.beside("-wal"), self._mark(), noted)
        except sqlite3.Error:
            return False  # the file is no database: nobody replays anything into it

    def renew_mark(self) -> None:
        """Gives the database another mark than the copies of its file have, unless others have it open.

        Raises:
            StorageError: it is being replaced or rewritten meanwhile.
        """
        with self._entering:
            if self._lock is None:
                return
            if _locked(self._lock, fcntl.LOCK_EX):
                with contextlib.suppress(sqlite3.Error, OSError):  # the former one stays, which is noted too
                    self._set_mark(self._lock)
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _locked(self._lock, fcntl.LOCK_SH):  # one that could not be changed was lost
                self._wait_for_others(deadline)

    def look_through(self) -> None:
        """Looks through a file that is not too large for it. Raises: CorruptionError; StorageError."""
        self.enter()
        if self.path.stat().st_size > CHECKED_BYTES:
            return
        try:
            with contextlib.closing(self.connected()) as connection:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            if not is_corrupt(error):
                return  # whoever opens it meets the same, and says so
            found = str(error)
        if found != "ok":
            raise CorruptionError(
                f"{self.path} is corrupt ({_line(found)}); `lrpilot db restore` puts a backup in place"
            )

    def connected(self) -> sqlite3.Connection:
        """A connection as SQLite gives it, to a file that exists."""
        return sqlite3.connect(self.uri("rw"), uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)

    def uri(self, mode: str) -> str:
        """The file as SQLite takes it, in a mode in which it never makes one."""
        return f"file:{urllib.parse.quote(str(self.path))}?mode={mode}"

    def _entered(self) -> int:
        """The lock, shared with others that have the database open. Raises: as `enter`."""
        lock = self._opened()
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        try:
            while True:
                if _locked(lock, fcntl.LOCK_EX):
                    self._prepare(lock)
                # Not at once where it was held alone: another may have come in between, and done what `alone` is for.
                if _locked(lock, fcntl.LOCK_SH):
                    return lock
                self._wait_for_others(deadline)
        except BaseException:
            os.close(lock)
            raise

    def _wait_for_others(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise StorageError(f"{self.path} is being restored or rewritten by another process; try again")
        time.sleep(RETRY_S)

    def _opened(self) -> int:
        require_database(self.path, self._lock_path)
        try:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _OWNER)
            give_to_owner(self._lock_path, self.path)
            with contextlib.suppress(FileNotFoundError, PermissionError):  # a group that shares the database shares it
                os.fchmod(lock, _OWNER | self.path.stat().st_mode & (stat.S_IRGRP | stat.S_IWGRP))
        except OSError as error:
            remedy = _BESIDE if isinstance(error, PermissionError) or error.errno == errno.EROFS else ""
            raise StorageError(f"{self._lock_path}: {error.strerror}{remedy}", "its lock can't be used") from error
        return lock

    def _prepare(self, lock: int) -> None:
        """What the first one does that opens a database."""
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER))
                give_to_owner(self.path, self.path.parent)
            self._close_to_others()
            if self.path.stat().st_size == 0:
                self._initialise()
            self._check_log(lock)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}") from error
        except sqlite3.Error:
            return  # whoever opens it meets the same, and says so

    def _close_to_others(self) -> None:
        """Takes a file from everybody. One that only a group can read was given to it, and stays so."""
        for path in (self.path, *(self.beside(suffix) for suffix in LOG_SUFFIXES)):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if path.stat().st_mode & _EVERYBODY:
                    path.chmod(_OWNER)

    def _initialise(self) -> None:
        """Gives a fresh file what it can only be given while it is empty."""
        with contextlib.closing(self.connected()) as connection:
            # What is deleted can be given back in small steps, while servers work.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            use_wal(connection)

    def _check_log(self, lock: int) -> None:
        """Notes which database a log will belong to. Raises: StorageError: the one that is there is another's."""
        mark, noted, log = self._mark(), self._noted(lock), self.beside("-wal")
        if self._is_foreign(log, mark, noted):
            raise StorageError(
                f"{log.name} beside {self.path} holds changes of another database, as when a backup is copied over one "
                f"whose server was killed: put the backup in place with `lrpilot db restore`; nothing was changed"
            )
        if mark not in noted:
            self._note(lock, mark)

    def _is_foreign(self, log: Path, mark: str, noted: Sequence[str]) -> bool:
        there_is_one = log.exists() and log.stat().st_size > 0
        return there_is_one and ((bool(noted) and mark not in noted) or is_foreign(log, self.path))

    def _set_mark(self, lock: int) -> None:
        new = str(new_mark())
        self._note(lock, self._mark(), new)  # until the log has been taken in, the file may have either
        with contextlib.closing(self.connected()) as connection:
            connection.execute(f"PRAGMA {MARK} = {new}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self._mark() == new:
            self._note(lock, new)

    def _mark(self) -> str:
        """The file's own: what its log has is left out. Raises: sqlite3.Error."""
        with contextlib.closing(sqlite3.connect(self.uri("ro") + "&immutable=1", uri=True)) as connection:
            return str(connection.execute(f"PRAGMA {MARK}").fetchone()[0])

    def _noted(self, lock: int) -> list[str]:
        return os.pread(lock, 64, 0).decode(errors="replace").split()

    def _note(self, lock: int, *marks: str) -> None:
        text = f"{' '.join(marks)}\n".encode()
        os.pwrite(lock, text, 0)  # in place of what is there: what can't be written leaves it
        os.ftruncate(lock, len(text))
        os.fsync(lock)


def new_mark() -> int:
    """A mark that no other database has."""
    return secrets.randbelow(2**31 - 1) + 1


def give_to_owner(path: Path, owned: Path) -> None:
    """Gives a file that root made to whom another belongs, for a server that is not root."""
    if os.geteuid() == 0:
        with contextlib.suppress(FileNotFoundError):
            owner = owned.stat()
            if (path.stat().st_uid, path.stat().st_gid) != (owner.st_uid, owner.st_gid):
                os.chown(path, owner.st_uid, owner.st_gid)


def _locked(lock: int, kind: int) -> bool:
    """Whether a lock could be had at once."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _line(text: str) -> str:
    """A finding of SQLite's in one line."""
    return " ".join(text.split())


def is_corrupt(error: BaseException | None) -> bool:
    """Whether SQLite has met pages that can't be right."""
    return _has_code(error, sqlite3.SQLITE_CORRUPT)


def is_read_only(error: BaseException | None) -> bool:
    """Whether a connection takes no writes.

    SQLite opens files to read alone when they can't be opened to write, whyever that is: a single error of the disk, or
    a moment without a descriptor, makes a connection one that never writes.
    """
    return _has_code(error, sqlite3.SQLITE_READONLY)


def _is_busy(error: BaseException) -> bool:
    return _has_code(error, sqlite3.SQLITE_BUSY)


def _has_code(error: BaseException | None, code: int) -> bool:
    """Whether an error is one of SQLite's, of that kind."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == code


@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_busy),
    wait=tenacity.wait_fixed(RETRY_S),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_S),
    reraise=True,
)
def use_wal(connection: sqlite3.Connection) -> None:
    """Switches a file to its write-ahead log, which lasts.

    The switch needs the file for itself, and SQLite's own waiting doesn't cover it: of servers that start together on a
    fresh file, all but the first would fail.
    """
    connection.execute("PRAGMA journal_mode = WAL")


def sqlite_engine(file: DatabaseFile, pool_size: int, pool_timeout_s: float) -> sa.Engine:
    """An engine whose commits are on the disk."""
    engine = sa.create_engine(
        sa.URL.create("sqlite+pysqlite", database=str(file.path)),
        # No isolation level: Python's driver would open transactions by itself, and never an immediate one.
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S, "uri": True},
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout_s,
    )

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], _parameters: object) -> None:
        file.enter()
        arguments[0] = file.uri("rw")

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # FULL: every commit reaches the disk before it returns, and only then is a report acknowledged. With NORMAL the
        # write-ahead log is synced at checkpoints only: a power cut would undo the last commits, already answered.
        use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        file.in_place.connected(connection)

    @sa.event.listens_for(engine, "close")
    def close(connection: sqlite3.Connection, _record: object) -> None:
        file.in_place.closed(connection)

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
