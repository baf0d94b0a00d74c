"""What a server holds at a moment: memory, descriptors, threads, and bytes on the disk."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import psutil

from tuner_server.storage import Database
from tuner_server.storage.compaction import size


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One look at a server, all its processes together."""

    seconds: float
    """Since the beginning."""
    memory_mb: float
    """The proportional set size: a page that processes share counts once in all."""
    descriptors: int
    threads: int
    database_mb: float
    """The files of a SQLite database, its log included; the tables of another one, with their indexes."""
    log_mb: float


def observed(pid: int, seconds: float, database: Database, log: Path) -> Sample:
    """Looks at the process `pid` and all that it started.

    Args:
        pid: of the server.
        seconds: since the beginning.
        database: that of the server.
        log: the server's log.
    """
    root = psutil.Process(pid)
    memory = descriptors = threads = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory += process.memory_full_info().pss
            descriptors += process.num_fds()
            threads += process.num_threads()
    return Sample(seconds, memory / 1e6, descriptors, threads, size(database) / 1e6, log.stat().st_size / 1e6)
