"""Copies SQLite databases page by page, and looks whether a copy is one that a server can start on."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tuner_server.core.errors import CorruptionError, StorageError
from tuner_server.storage.drivers.sqlite import MARK, new_mark
from tuner_server.storage.schema import require_known
from tuner_server.storage.tables import VERSION_TABLE


def copy_database(source: sqlite3.Connection, target: Path, label: str) -> None:
    """Copies by SQLite's online backup, in one step: it reads one state, and in WAL mode a reader holds nobody up.

    The copy is one file, with no log beside it, and has a mark of its own (`storage.drivers.sqlite`). It is looked
    through from end to end.

    Args:
        source: a connection to what is copied.
        target: an empty file.
        label: what the source is called in messages.

    Raises:
        CorruptionError: the source is corrupt.
        SchemaVersionError: a newer version of LRPilot wrote it.
        StorageError: it can't be copied, or is no database of LRPilot's.
    """
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        try:
            source.backup(copy)
            copy.execute(f"PRAGMA {MARK} = {new_mark()}")
            copy.execute("PRAGMA journal_mode = DELETE")
            _verify(copy, label)
        except sqlite3.Error as error:
            raise _told(error, label) from error


def _told(error: sqlite3.Error, label: str) -> StorageError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptionError(f"{label} is corrupt: {error}")
    return StorageError(f"{label} can't be copied: {error}")


def _verify(copy: sqlite3.Connection, label: str) -> None:
    """Raises: CorruptionError; SchemaVersionError; StorageError: as `copy_database`; sqlite3.Error."""
    (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise CorruptionError(f"{label} is corrupt: {' '.join(found.split())}")
    tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    versions = copy.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() if VERSION_TABLE in tables else []
    if len(versions) != 1:
        raise StorageError(f"{label} is no database of LRPilot's: it has no schema version")
    require_known(versions[0][0], label)
    row = copy.execute("PRAGMA foreign_key_check").fetchone()
    if row is not None:
        raise CorruptionError(f"{label} is corrupt: rows of {row[0]} refer to rows of {row[2]} that are missing")
