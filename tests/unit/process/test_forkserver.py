"""The process that workers are forked off, with a worker that does as it is told."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from multiprocessing import Pipe

import pytest

from tests.support.servers.operated_server import PATIENCE_S
from tuner_server.process.forkserver import ForkServer, exit_code


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """One fork server for all tests: its start imports all that workers need."""
    with contextlib.closing(ForkServer()) as opened:
        yield opened


class Forked:
    """A worker whose supervisor says nothing, for which it waits."""

    def __init__(self, server: ForkServer) -> None:
        self.connection, theirs = Pipe()
        self.status, their_status = os.pipe()
        with theirs:
            self.process_id = server.fork([theirs.fileno(), their_status])
        os.close(their_status)

    def end(self) -> int | None:
        """Waits for the end: the exit code."""
        assert select.select([self.status], [], [], PATIENCE_S)[0]
        code = exit_code(self.status)
        self.connection.close()
        os.close(self.status)
        return code


def test_the_end_of_a_worker_is_told_with_its_code(server: ForkServer) -> None:
    first, second = Forked(server), Forked(server)
    os.kill(first.process_id, signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    assert not select.select([second.status], [], [], 0)[0]
    second.connection.close()  # its supervisor is gone
    assert second.end() == 0


def test_signals_for_all_processes_end_workers_alone(server: ForkServer) -> None:
    worker = Forked(server)
    assert server._process is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        server._process.send_signal(number)
    os.kill(worker.process_id, signal.SIGTERM)
    assert worker.end() == -signal.SIGTERM
    after = Forked(server)
    after.connection.close()
    assert after.end() == 0


@pytest.mark.slow
def test_a_fork_server_that_died_is_started_again_and_its_workers_are_given_up(server: ForkServer) -> None:
    orphan = Forked(server)
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    assert orphan.end() is None
    after = Forked(server)
    after.connection.close()
    assert after.end() == 0


@pytest.mark.slow
def test_one_that_hangs_is_given_up(server: ForkServer) -> None:
    assert server._process is not None
    assert server._socket is not None
    server._socket.settimeout(0.1)
    server._process.send_signal(signal.SIGSTOP)
    with pytest.raises(OSError, match="timed out"):
        Forked(server)
    after = Forked(server)
    after.connection.close()
    assert after.end() == 0


def test_a_server_that_ends_starts_no_other_process() -> None:
    """A fork that had waited for the first one would import all that a worker needs before the server could end."""
    with contextlib.closing(ForkServer()) as server:
        server.give_up()
        with pytest.raises(OSError, match="any more"):
            Forked(server)
        assert server._process is None
