"""A process that has imported all that a server needs, and forks one at a word.

The usual start of a server spends more than a second of a processor on imports: too much where servers are started by
the dozen, or killed by the hundred. What runs is the command line, as its users run it.

Run as a module, with a socket as its standard input, it obeys orders, each a message of JSON and the answer another:
{"run": [argument, ...], "environment": {...}} with three file descriptors for the standard streams: the process id;
{"poll": id}: the exit code, or null; {"kill": id}: 0 when the process is gone. All that it started ends when its input
does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from tuner_server.base.closing import Closing

LARGEST_MESSAGE = 2**17
POLL_S = 0.01
STREAMS = 3


class ForkedProcess:
    """A process that a fork server forked, with the part of `subprocess.Popen`'s interface that tests use."""

    def __init__(self, server: ForkServer, process_id: int, stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self.pid = process_id
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.poll(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit code. Raises: TimeoutExpired."""
        end = time.monotonic() + (timeout or threading.TIMEOUT_MAX)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Closes its input, and waits for its end: output and errors. Raises: TimeoutExpired."""
        self.stdin.close()
        with ThreadPoolExecutor(2) as pool, self.stdout, self.stderr:
            texts = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # so that the streams end
                raise
            return texts[0].result(), texts[1].result()


class ForkServer(Closing):
    """Runs `lrpilot`, again and again. Thread-safe."""

    def __init__(self) -> None:
        """Starts the process, which imports."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.servers.fork_server"],
                stdin=theirs.fileno(),
                env=_settingless() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._socket = ours
        self._lock = threading.Lock()

    def run(self, *arguments: str, **variables: str) -> ForkedProcess:
        """Runs `lrpilot` with these arguments, and no settings in its environment but these."""
        pipes = [os.pipe() for _ in range(STREAMS)]
        (stdin, our_stdin), (our_stdout, stdout), (our_stderr, stderr) = pipes
        process_id = self._run(arguments, variables, stdin, stdout, stderr)
        return ForkedProcess(self, process_id, open(our_stdin, "w"), open(our_stdout), open(our_stderr))

    def start(self, log: Path, *arguments: str) -> int:
        """Runs `lrpilot` with these arguments, its output appended to `log`. Its process id."""
        stdin = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return self._run(arguments, {}, stdin, output, output)

    def poll(self, process_id: int) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        code: int | None = self._order({"poll": process_id})
        return code

    def kill(self, process_id: int) -> None:
        """SIGKILL; it is gone when this returns."""
        self._order({"kill": process_id})

    def close(self) -> None:
        """Kills all that still runs."""
        self._socket.close()
        self._process.wait()

    def _run(self, arguments: tuple[str, ...], variables: Mapping[str, str], *streams: int) -> int:
        """Hands the streams over; they are closed here."""
        order = {"run": arguments, "environment": _settingless() | dict(variables)}
        process_id: int = self._order(order, streams)
        for stream in set(streams):
            os.close(stream)
        return process_id

    def _order(self, order: Mapping[str, Any], streams: tuple[int, ...] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(order).encode()], streams)
            answer = self._socket.recv(LARGEST_MESSAGE)
        if not answer:
            raise RuntimeError("the fork server died")
        return json.loads(answer)


@functools.cache
def shared() -> ForkServer:
    """One for all tests of this process; it ends with it."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def _settingless() -> dict[str, str]:
    """This process's environment without settings of LRPilot."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LRPILOT_")}
    return kept | {"OMP_NUM_THREADS": "1"}


class _Children:
    """What was forked, and what became of it."""

    def __init__(self) -> None:
        self._codes: dict[int, int | None] = {}

    def fork(self, arguments: list[str], environment: dict[str, str], streams: list[int], orders: socket.socket) -> int:
        """Runs the command line in a new process."""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                orders.close()
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                os.closerange(STREAMS, max(streams) + 1)
                os.environ.clear()
                os.environ.update(environment)
                _run(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        for stream in streams:
            os.close(stream)
        self._codes[child] = None
        return child

    def poll(self, child: int, flags: int = os.WNOHANG) -> int | None:
        if self._codes[child] is None:
            ended, status = os.waitpid(child, flags)
            if ended:
                self._codes[child] = os.waitstatus_to_exitcode(status)
        return self._codes[child]

    def kill(self, child: int) -> int:
        if self.poll(child) is None:
            os.kill(child, signal.SIGKILL)
            self.poll(child, 0)
        return 0

    def kill_all(self) -> None:
        for child in self._codes:
            self.kill(child)


def _run(arguments: list[str]) -> None:
    """Becomes `lrpilot`."""
    sys.argv = ["lrpilot", *arguments]
    sys.modules["__main__"].__package__ = None  # the command's name is that of its file, not of a module that was run
    from tuner_server.cli import main

    main()


def _obey() -> None:
    # All that `serve` would import, with or without a dashboard.
    import tuner_server.cli
    import tuner_server.process.serve
    import tuner_server.storage.schema
    import tuner_server.web.server.port  # noqa: F401  # as those above: to have it

    importlib.import_module("tests.support.frozen_imports")

    assert threading.active_count() == 1, "a fork has one thread, whatever the others were doing"
    children = _Children()
    with contextlib.closing(socket.socket(fileno=os.dup(0))) as orders:
        while True:
            message, streams, _, _ = socket.recv_fds(orders, LARGEST_MESSAGE, STREAMS)
            if not message:
                break
            order = json.loads(message)
            if "run" in order:
                answer: int | None = children.fork(order["run"], order["environment"], streams, orders)
            elif "poll" in order:
                answer = children.poll(order["poll"])
            else:
                answer = children.kill(order["kill"])
            orders.send(json.dumps(answer).encode())
    children.kill_all()
    os._exit(0)  # what was imported has nothing to clean up, and takes a second for it


if __name__ == "__main__":
    _obey()
