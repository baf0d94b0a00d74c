"""SQLite on a file, through the storage's own code, with faults at transactions that were drawn by lot."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import exc

from tests.simulation.world import Killed, World
from tuner_server.storage import Database, open_storage
from tuner_server.storage.schema import head_version

IO_ERROR, FULL = "disk I/O error", "database or disk is full"
SLOW_S = 1.5
"""A transaction that fails after so long makes others fail at once (`storage.database.FAILURE_SHARED_S`)."""

_COMPILED: dict[Any, Any] = {}
"""Statements as they are sent, for all databases: servers start by the thousand, and each would compile its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class DiskFaults:
    """How likely each fault is, at a transaction."""

    read_error: float = 0.0
    error_before_commit: float = 0.0
    """Rolled back, and told as an error."""
    error_after_commit: float = 0.0
    """On the disk, and told as an error: what a failed sync is like."""
    slow_error: float = 0.0
    kill_before_commit: float = 0.0
    kill_after_commit: float = 0.0
    """On the disk, and nobody is told."""


class Process(Protocol):
    """The server process that a database object belongs to."""

    name: str

    def die(self) -> None:
        """Is gone from here on."""


class SimulatedDatabase(Database):
    """A database as one server process has it."""

    def __init__(self, url: str, world: World, faults: DiskFaults, process: Process) -> None:
        super().__init__(url)
        for engine in (self._engine, self._writer):
            engine.update_execution_options(compiled_cache=_COMPILED)
        self.schema = _head_version()
        self._world, self._faults, self._process = world, faults, process

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        self._world.pause()
        with self._translated():
            self._perhaps(self._faults.read_error, "read error", IO_ERROR)
        with super().reading() as connection:
            yield connection
        self._world.pause()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        self._world.pause()
        if self._drawn(self._faults.slow_error):
            with self._translated():
                self._world.sleep(SLOW_S)
                self._fail("slow write", FULL)
        with super().writing() as connection:
            yield connection
            self._perhaps(self._faults.error_before_commit, "error before a commit", FULL)
            if self._drawn(self._faults.kill_before_commit):
                self._kill("kill before a commit")
        if self._drawn(self._faults.kill_after_commit):
            self._kill("kill after a commit")
        with self._translated():
            self._perhaps(self._faults.error_after_commit, "error after a commit", IO_ERROR)
        self._world.pause()

    def _drawn(self, likelihood: float) -> bool:
        return likelihood > 0 and self._world.chance.random() < likelihood

    def _perhaps(self, likelihood: float, kind: str, message: str) -> None:
        if self._drawn(likelihood):
            self._fail(kind, message)

    def _fail(self, kind: str, message: str) -> None:
        self._world.fault(kind, self._process.name)
        raise exc.OperationalError("a statement", None, sqlite3.OperationalError(message))

    def _kill(self, kind: str) -> None:
        self._world.fault(kind, self._process.name)
        self._process.die()
        raise Killed


_head_version = functools.cache(head_version)


@functools.cache
def empty_database() -> bytes:
    """The file of a database without jobs: made once, as its migrations take longer than a history."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "empty.db"
        open_storage(f"sqlite:///{file}").close()
        return file.read_bytes()


@contextlib.contextmanager
def disk() -> Iterator[Path]:
    """A fresh database file, in memory where the system has such a folder."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="lrpilot-", dir=memory if memory.is_dir() else None))
    try:
        file = directory / "jobs.db"
        file.write_bytes(empty_database())
        yield file
    finally:
        shutil.rmtree(directory)
