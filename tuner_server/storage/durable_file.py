"""Files that appear under their names when they are complete and on the disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def unfinished_beside(target: Path) -> Iterator[Path]:
    """A new file in the target's directory that its owner alone can read; it is gone after the block unless renamed.

    Raises:
        OSError: there can be no such file.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(name + suffix).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(unfinished: Path, target: Path) -> None:
    """Gives a complete file its name, at once and for good, whatever had it before. Raises: OSError."""
    sync(unfinished)
    unfinished.rename(target)
    sync(target.absolute().parent)
