"""The file of an embedded database, and whether it is still the one at its path.

A server goes on with the file that it opened, whatever is done to its name: it would acknowledge reports that nobody
finds again. SQLite itself does not notice.
"""

from __future__ import annotations

import os
from pathlib import Path

from tuner_server.core.errors import StorageError

MIN_FREE = 64 * 2**10
"""Bytes on the file's disk below which it counts as full: a small write may find room in SQLite's log for a while."""
_Identity = tuple[int, int]
"""A file's device and number, whatever its name."""


class EmbeddedFile:
    """The file that a pool of connections has open, with its write-ahead log and that log's index."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        self._parts = tuple(f"{self.path}{ending}" for ending in ("", "-wal", "-shm"))
        self._connections: set[int] = set()
        self._opened: dict[str, _Identity] = {}

    def connected(self, connection: object) -> None:
        """A connection was opened."""
        if not self._connections:
            self._opened.clear()  # whatever was open before, this is another opening
        self._connections.add(id(connection))

    def closed(self, connection: object) -> None:
        """A connection was closed; with the last one SQLite removes the log."""
        self._connections.discard(id(connection))

    def check(self) -> None:
        """Raises: StorageError: what is open is no longer what is at its path."""
        if not self._connections:
            return
        for path in self._parts:
            found = _identity(path)
            if found is not None and path not in self._opened:
                self._opened[path] = found  # the log is made by the first transaction
            opened = self._opened.get(path)
            if found == opened:
                continue
            if found is not None:
                raise StorageError(
                    f"{path}: another file was put in its place while this server had it open; start the server anew",
                    "another file was put in its place; start the server anew",
                )
            raise StorageError(
                f"{path}: it was deleted or moved while this server had it open; "
                "put the same file back, or start the server anew",
                "its file was deleted or moved; put the same file back, or start the server anew",
            )

    def check_room(self) -> None:
        """Raises: StorageError: the disk is full, or the file may not be written any more."""
        if not os.access(self.path, os.W_OK):
            said = f"{self.path}: this process may not write it any more; give it the right to"
            raise StorageError(said, "it is read-only")
        try:
            disk = os.statvfs(self.path)
        except OSError:
            return  # `check` has the words for it
        blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
        if disk.f_blocks and blocks * disk.f_frsize < MIN_FREE:
            said = f"{self.path}: the disk is full, {blocks * disk.f_frsize} bytes are left; free space"
            raise StorageError(said, "its disk is full")


def _identity(path: str) -> _Identity | None:
    """What is at a path now; None: nothing. Raises: StorageError: it can't be looked at."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        said = f"{path}: {error.strerror}; its directory has to let this process in"
        raise StorageError(said, "its file can't be reached") from error
    return found.st_dev, found.st_ino
