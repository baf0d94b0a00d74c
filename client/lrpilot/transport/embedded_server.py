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
DB_VARIABLE = "LRPILOT_DB"
"""The one setting of this process that is meant for its server, too."""

log = logging.getLogger("lrpilot")


class EmbeddedServer:
    """A server process on a free port of the loopback interface.

    It stops when its standard input closes, so it can't outlive this process, however that ends. It is in a session of
    its own: what a terminal or a notebook interrupts is the training, and goes on with the same server. A process that
    is forked from this one leaves it alone.
    """

    def __init__(self, db: str | None = None) -> None:
        """Starts the server on database `db` (None: the user's own) and waits until it answers.

        Raises:
            UnavailableError: it does not start; the message says what to set.
        """
        self._db = db
        command = [sys.executable, "-m", "tuner_server", "serve", "--listen", "127.0.0.1:0", "--exit-with-stdin"]
        # Its own database is the only setting of this process that is meant for it too: addresses, tokens and
        # certificates are those of other servers.
        environment = {
            key: value for key, value in os.environ.items() if key == DB_VARIABLE or not key.startswith("LRPILOT_")
        }
        try:
            self._process = subprocess.Popen(
                command if db is None else [*command, "--db", db],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise self._failure(str(error)) from error
        self._finalizer = weakref.finalize(self, _stop, self._process, os.getpid())
        _servers.add(self)
        self.target = self._wait_for_address()
        log.info("lrpilot: embedded server at %s", self.target)

    def _wait_for_address(self) -> str:
        """The address from the server's first line. Raises: UnavailableError."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        timer = threading.Timer(START_TIMEOUT_S, self._process.kill)
        timer.daemon = True  # an interrupt in its start must not keep this process from ending
        try:
            timer.start()
            line = self._process.stdout.readline().decode(errors="replace").strip()
        except BaseException:
            # An interrupt. Nothing is lost with a server that has not begun, and it would only look up after seconds.
            self._process.kill()
            raise
        finally:
            timer.cancel()
        if not line.startswith("listening on "):
            self._process.kill()
            errors = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise self._failure(errors[-1].removeprefix("lrpilot: ") if errors else "it says nothing")
        # Nobody reads its log: a full pipe would block it.
        threading.Thread(target=_drain, args=(self._process,), daemon=True).start()
        return line.removeprefix("listening on ")

    def _failure(self, why: str) -> UnavailableError:
        """Says what to do about it."""
        if DB_VARIABLE in why:
            remedy = ""  # it says so itself
        elif self._db is not None:
            remedy = "name another database, "
        elif os.environ.get(DB_VARIABLE):
            remedy = f"set {DB_VARIABLE}, which names its database, to one that can be written (sqlite:///FILE), "
        else:
            remedy = (
                f"set {DB_VARIABLE}=sqlite:///FILE to where a file can be written, or HOME to a directory that can, "
            )
        return UnavailableError(
            f"server: the embedded one did not start: {why}; {remedy}or name another server by server= or "
            "LRPILOT_SERVER",
            "UNAVAILABLE",
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """Stops the server. May be called again."""
        self._finalizer()


def _drain(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    with contextlib.suppress(ValueError, OSError):  # closed meanwhile
        for line in process.stderr:
            log.debug("embedded server: %s", line.decode(errors="replace").rstrip())


def check_installed() -> None:
    """Raises: ConfigError: the server's part of LRPilot is not installed."""
    if importlib.util.find_spec("tuner_server") is None or importlib.util.find_spec("sqlalchemy") is None:
        raise ConfigError("server: none is named, and to start one: pip install 'lrpilot[server]'")


def _leave_to_the_parent() -> None:
    """Lets go, in a process that was forked, of inputs that would keep servers alive that are not its own."""
    for server in tuple(_servers):
        assert server._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            server._process.stdin.close()
    _servers.clear()


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    """Ends the process by closing its input; by force if it does not listen. Only its owner does."""
    if os.getpid() != owner:
        return  # Its pipes may be locked by a thread that this process does not have.
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


_servers: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
