"""Whether a write-ahead log was written for the database file that it lies beside. SQLite replays it without asking.

A log holds whole pages. Each copy of the first page in it carries the header of the database as it was then, with two
numbers that only grow: one of changes, by at most one from copy to copy, and one of the schema. So the file that a log
belongs to stands where the log begins, or, if a checkpoint was on its way, further on in it. A file that was put there
stands elsewhere: before, as an old copy does, or beyond, as what SQLite's own backup makes, which counts the schema on.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_MAGIC = (0x377F0682, 0x377F0683)
_LOG_HEAD = struct.Struct(">IIIIII")
"""Magic number, version, page size, number of the checkpoint, and two salts, which the log's frames repeat."""
_LOG_HEAD_SIZE = 32
_FRAME_HEAD = struct.Struct(">IIII")
"""The page's number, the size of the database after a commit, and the salts."""
_FRAME_HEAD_SIZE = 24
_PAGE_HEAD_SIZE = 100


@dataclasses.dataclass(frozen=True, slots=True)
class _Standing:
    """Where a database stands, as its header says."""

    change: int
    schema: int

    @classmethod
    def read(cls, page: bytes) -> Self:
        """Reads it off the beginning of a first page. Raises: struct.error: it is shorter than that."""
        (change,), (schema,) = struct.unpack_from(">I", page, 24), struct.unpack_from(">I", page, 40)
        return cls(change, schema)


def is_foreign(log: Path, file: Path) -> bool:
    """Whether a log can't be a file's. One that holds no first page says nothing of it.

    Raises:
        OSError: one of them can't be read.
    """
    in_log = list(_standings(log))
    with file.open("rb") as opened:
        page = opened.read(_PAGE_HEAD_SIZE)
    if not in_log or len(page) < _PAGE_HEAD_SIZE:
        return False
    stands = _Standing.read(page)
    changes = [standing.change for standing in in_log]
    return not changes[0] - 1 <= stands.change <= max(changes) or stands.schema > max(s.schema for s in in_log)


def _standings(log: Path) -> Iterator[_Standing]:
    """What the copies of the first page say, in their order, up to the first frame of a former use of the log."""
    with log.open("rb") as opened:
        head = opened.read(_LOG_HEAD_SIZE)
        if len(head) < _LOG_HEAD_SIZE:
            return
        magic, _, page_size, _, *salts = _LOG_HEAD.unpack_from(head)
        if magic not in _MAGIC:
            return
        size = os.fstat(opened.fileno()).st_size
        for place in range(_LOG_HEAD_SIZE, size, _FRAME_HEAD_SIZE + page_size):
            opened.seek(place)
            frame = opened.read(_FRAME_HEAD_SIZE + _PAGE_HEAD_SIZE)
            if len(frame) < _FRAME_HEAD_SIZE + _PAGE_HEAD_SIZE:
                return
            number, _, *found = _FRAME_HEAD.unpack_from(frame)
            if found != salts:
                return
            if number == 1:
                yield _Standing.read(frame[_FRAME_HEAD_SIZE:])
