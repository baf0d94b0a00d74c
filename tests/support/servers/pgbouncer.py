"""Debian's PgBouncer in front of a PostgreSQL of the tests', as docs/operations.md says that it is set up."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.support.servers.ports import HOST, free_port
from tests.support.servers.postgresql import UNPRIVILEGED, PostgreSQL

TIMEOUT_S = 30.0
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


@contextlib.contextmanager
def running(server: PostgreSQL, database: str, pool_mode: str, **settings: object) -> Iterator[str]:
    """A pooler that ends with the block. The URL of the database through it."""
    assert PROGRAM is not None, "install pgbouncer: make services"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="lrpilot-") as directory:
        file = Path(directory, "pgbouncer.ini")
        lines = {
            "listen_addr": HOST,
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": pool_mode,
            **settings,
        }
        target = f"host={HOST} port={server.port} dbname={database} user=postgres"
        text = [f"[databases]\n{database} = {target}\n[pgbouncer]", *(f"{name} = {lines[name]}" for name in lines)]
        file.write_text("\n".join(text) + "\n")
        command = [PROGRAM, "-q"]
        if os.geteuid() == 0:  # which it refuses
            os.chown(directory, pwd.getpwnam(UNPRIVILEGED).pw_uid, -1)
            command += ["-u", UNPRIVILEGED]
        process = subprocess.Popen([*command, file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            url = f"postgresql://postgres@{HOST}:{port}/{database}"
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
