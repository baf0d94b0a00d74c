"""Files that users name to have something written into them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STDOUT, STDERR = 1, 2


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """What is written in the block becomes the file of that path, in one go: a reader sees the old one or the new one.

    A link stays, and leads to the new file. What is there and is no regular file, such as a device or a pipe, is
    written to as it is, and so is what a standard stream of this process goes to.

    Raises:
        OSError: it can't be written; its `filename` is the path, where it has one.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = None
    if found is not None and (stream := _stream_to(found)) is not None:
        with os.fdopen(os.dup(stream), "wb") as file:
            yield file
    elif found is not None and not stat.S_ISREG(found.st_mode):
        # Without O_CREAT: no file takes the place of a device that is gone meanwhile.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_NOCTTY), "wb") as file:
            yield file
    else:
        with _replacing(path, None if found is None else stat.S_IMODE(found.st_mode)) as file:
            yield file


@contextlib.contextmanager
def _replacing(path: Path, mode: int | None) -> Iterator[BinaryIO]:
    """A new file that takes the path's place after the block, with the former one's mode."""
    target = Path(os.path.realpath(path))
    # Beside the file, because a rename is atomic only within a file system.
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        if error.filename is not None:
            error.filename = os.fspath(path)  # which the user knows, as not the draft
        raise
    finally:
        draft.unlink(missing_ok=True)


def _stream_to(found: os.stat_result) -> int | None:
    """The standard stream that goes to a file; None: neither does."""
    for stream in (STDOUT, STDERR):
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(found, os.fstat(stream)):
                return stream
    return None
