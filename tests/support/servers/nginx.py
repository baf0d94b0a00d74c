"""Debian's nginx with the file that `deploy/nginx` has, as a process of our own user."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

CONFIG = Path(__file__).parents[3] / "deploy" / "nginx" / "lrpilot.conf"
PATIENCE_S = 20.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_AROUND = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/lrpilot.conf;
}}
"""
"""What Debian's own file has around ours, for a user who is not root."""


@contextlib.contextmanager
def nginx(directory: Path, port: int, changes: Mapping[str, str]) -> Iterator[None]:
    """An nginx that listens on a port of loopback until the block ends.

    Args:
        directory: where it may write.
        port: the port, in place of 443.
        changes: what else is written otherwise than in our file: addresses, and paths of certificates.
    """
    text = CONFIG.read_text()
    for former, own in {"listen 443": f"listen 127.0.0.1:{port}", **changes}.items():
        assert former in text
        text = text.replace(former, own)
    (directory / "lrpilot.conf").write_text(text)
    (directory / "nginx.conf").write_text(_AROUND.format(directory=directory))
    program = shutil.which("nginx", path=_PATH)
    assert program is not None, "nginx is missing: make services"
    command = [program, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]
    process = subprocess.Popen(command)
    try:
        _wait_for(port, process, directory / "error.log")
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
