"""What a server holds at a moment: memory, descriptors, threads, and bytes on the disk."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import psutil


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
    """The files of a SQLite database, its logs included; 0 for another database."""
    log_mb: float


def observed(pid: int, seconds: float, database: Path | None, log: Path) -> Sample:
    """Looks at the process `pid` and all that it started.

    Args:
        pid: of the server.
        seconds: since the beginning.
        database: the file of a SQLite database; None: it is another one.
        log: the server's log.
    """
    root = psutil.Process(pid)
    memory = descriptors = threads = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory += process.memory_full_info().pss
            descriptors += process.num_fds()
            threads += process.num_threads()
    files = [] if database is None else [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]
    return Sample(seconds, memory / 1e6, descriptors, threads, _megabytes(files), _megabytes([log]))


def _megabytes(files: Sequence[Path]) -> float:
    return sum(file.stat().st_size for file in files if file.exists()) / 1e6
