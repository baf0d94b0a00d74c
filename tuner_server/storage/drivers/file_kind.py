"""Whether what lies at a path may be a SQLite database, told before anything of it, or beside it, is touched."""

from __future__ import annotations

import stat
from pathlib import Path

from tuner_server.core.errors import StorageError

HEADER = b"SQLite format 3\0"
"""What every database that is not empty begins with."""


def require_database(path: Path, lock: Path) -> None:
    """Lets a path pass at which there is nothing, an empty file, or a database.

    What has its lock beside it is a database, or was one: what is left of it is to be told by SQLite, or replaced by a
    backup. It is not opened here: this process may have connections to it, and closing any descriptor of a file gives
    up all locks that a process has on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        StorageError: it is anything else, such as a text, a directory or a device; or it can't be looked at.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StorageError(f"{path}: it is no regular file, as a database is", "its file is none")
        if lock.is_file():
            return
        with path.open("rb") as file:
            begin = file.read(len(HEADER))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", "its file can't be read") from error
    if begin not in (b"", HEADER):
        raise StorageError(f"{path}: file is not a database; nothing was changed", "its file is no database")
