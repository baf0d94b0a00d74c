"""Servers on one database that are killed, and come back."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.support.servers.fork_server import ForkServer
from tests.support.servers.ports import HOST, free_port
from tests.support.waiting import wait_until
from tuner_server.base.closing import Closing

START_TIMEOUT_S = 60.0


class ServerFleet(Closing):
    """So many servers, each a process with a port of its own, which stays the same."""

    def __init__(self, fork_server: ForkServer, db: str, size: int, directory: Path, *options: str) -> None:
        """Starts them with further `options`, and a log each in `directory`. They may not answer yet."""
        self.size = size
        """How many there are to be killed."""
        self._fork_server = fork_server
        self._arguments = ("--db", db, *options)
        self.targets = [f"{HOST}:{free_port()}" for _ in range(size)]
        """HOST:PORT of each."""
        self._logs = [directory / f"server-{i}.log" for i in range(size)]
        self.process_ids = [self._start(i) for i in range(size)]
        """Of each at present."""

    def kill(self, i: int) -> None:
        """SIGKILL to server `i`, at whatever it is; then it starts again."""
        self._fork_server.kill(self.process_ids[i])
        self.process_ids[i] = self._start(i)

    def log(self) -> str:
        """What all of them wrote."""
        return "".join(log.read_text() for log in self._logs if log.exists())

    def close(self) -> None:
        """Kills them for good."""
        for process_id in self.process_ids:
            self._fork_server.kill(process_id)

    def _start(self, i: int) -> int:
        return self._fork_server.start(self._logs[i], "serve", "--listen", self.targets[i], *self._arguments)


class WorkerFleet(ServerFleet):
    """One server with so many workers behind one port. What is killed is a worker, and its supervisor replaces it."""

    def __init__(self, fork_server: ForkServer, db: str, size: int, directory: Path) -> None:
        """Starts it; all workers answer when it returns."""
        super().__init__(fork_server, db, 1, directory, "--workers", str(size))
        self.size = size
        wait_until(lambda: "listening on" in self.log())

    def kill(self, i: int) -> None:
        """SIGKILL to one of the workers that are there: the `i`-th, or one of the others if they are fewer."""
        wait_until(lambda: bool(self._workers()))
        workers = self._workers()
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[i % len(workers)], signal.SIGKILL)

    def _workers(self) -> list[int]:
        """Their process ids: the supervisor has them forked by a child of its own."""
        return sorted(worker for child in _children(self.process_ids[0]) for worker in _children(child))


def _children(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
