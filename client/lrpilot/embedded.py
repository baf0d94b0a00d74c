"""A server of one's own: started for a run that names none, and gone with it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import weakref

from lrpilot.errors import ConfigError, UnavailableError

START_TIMEOUT_S = 60.0
"""A cold start reads the server's libraries from a slow disk."""
STOP_TIMEOUT_S = 10.0

log = logging.getLogger("lrpilot")


class EmbeddedServer:
    """A server process on a free port of the loopback interface.

    It stops when its standard input closes, so it can't outlive this process, however that ends.
    """

    def __init__(self, db: str | None = None) -> None:
        """Starts the server on database `db` (None: the user's own) and waits until it answers.

        Raises:
            ConfigError: the server's part of LRPilot is not installed.
            UnavailableError: it does not start.
        """
        if importlib.util.find_spec("tuner_server") is None or importlib.util.find_spec("sqlalchemy") is None:
            raise ConfigError("server: none is named, and to start one: pip install 'lrpilot[server]'")
        command = [sys.executable, "-m", "tuner_server", "serve", "--listen", "127.0.0.1:0", "--exit-with-stdin"]
        # Its own database is the only setting of this process that is meant for it too: addresses, tokens and
        # certificates are those of other servers.
        environment = {
            key: value for key, value in os.environ.items() if key == "LRPILOT_DB" or not key.startswith("LRPILOT_")
        }
        self._process = subprocess.Popen(
            command if db is None else [*command, "--db", db],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self._finalizer = weakref.finalize(self, _stop, self._process)
        self.target = self._wait_for_address()
        log.info("lrpilot: embedded server at %s", self.target)

    def _wait_for_address(self) -> str:
        """The address from the server's first line. Raises: UnavailableError."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        timer = threading.Timer(START_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline().decode().strip()
        finally:
            timer.cancel()
        if not line.startswith("listening on "):
            self._process.kill()
            errors = self._process.stderr.read().decode().strip().splitlines()
            self.close()
            why = errors[-1].removeprefix("lrpilot: ") if errors else "it says nothing"
            raise UnavailableError(f"server: the embedded one did not start: {why}", "UNAVAILABLE")
        # Nobody reads its log: a full pipe would block it.
        threading.Thread(target=_drain, args=(self._process,), daemon=True).start()
        return line.removeprefix("listening on ")

    def close(self) -> None:
        """Stops the server. May be called again."""
        self._finalizer()


def _drain(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    with contextlib.suppress(ValueError, OSError):  # closed meanwhile
        for line in process.stderr:
            log.debug("embedded server: %s", line.decode(errors="replace").rstrip())


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process by closing its input; by force if it does not listen."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        with contextlib.suppress(OSError, ValueError):
            pipe.close()
