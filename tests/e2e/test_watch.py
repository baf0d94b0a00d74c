"""`lrpilot watch` beside a job that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tests.support.servers import fork_server, wire_client
from tests.support.servers.fork_server import ForkedProcess
from tests.support.servers.server_process import ServerProcess, running
from tuner_server.core.messages import Directive, Phase

OUTPUT_TIMEOUT_S = 60
ON_A_TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "80"}


def read_until(watch: ForkedProcess, words: str) -> str:
    """What is shown up to a line with the words. A watch that ends without them fails the test."""
    shown = []
    for line in watch.stdout:
        shown.append(line)
        if words in line:
            return "".join(shown)
    pytest.fail(f"{words!r} was never shown: {''.join(shown)}{watch.stderr.read()}")


class Training:
    """A job that goes on when it is told to."""

    def __init__(self, server: ServerProcess) -> None:
        self._server, self._training = server, SimulatedTraining()
        created = wire_client.create(server.stub, config(400, **QUICK))
        self.job_id = created.job.id
        self.directive: Directive = wire_client.directive_from_pb(created.directive)

    def run_until(self, *phases: Phase) -> None:
        while self.directive.phase not in phases:
            self.report()

    def report(self) -> None:
        report = self._training.run(self.directive)
        self.directive = wire_client.advance(self._server.stub, self.job_id, report)


def test_watch_follows_a_job_from_its_first_search_to_its_end(tmp_path: Path) -> None:
    with running(f"sqlite:///{tmp_path}/jobs.db") as server:
        training = Training(server)
        training.run_until(Phase.PROBE)
        watch = fork_server.shared().run("watch", training.job_id, "--server", server.target, **ON_A_TERMINAL)
        read_until(watch, "Searching: trying LR")
        training.report()
        read_until(watch, "LR tried")
        training.run_until(Phase.TRAIN)
        read_until(watch, "Training at LR")
        training.run_until(Phase.STOP)
        rest, errors = watch.communicate(OUTPUT_TIMEOUT_S)
        assert (watch.returncode, errors) == (0, "")
        assert "Finished after" in rest
        assert "search (rolled back)" in rest


def test_watch_waits_for_a_server_that_restarts(tmp_path: Path) -> None:
    with running(f"sqlite:///{tmp_path}/jobs.db") as server:
        training = Training(server)
        watch = fork_server.shared().run("watch", training.job_id, "--server", server.target, **ON_A_TERMINAL)
        read_until(watch, training.job_id)
        server.kill()
        server.restart()
        training.run_until(Phase.STOP)
        rest, errors = watch.communicate(OUTPUT_TIMEOUT_S)
        assert (watch.returncode, errors) == (0, "")
        assert "Finished after" in rest


def test_watch_gives_a_server_up_that_does_not_come_back(tmp_path: Path) -> None:
    with running(f"sqlite:///{tmp_path}/jobs.db") as server:
        training = Training(server)
        arguments = ("watch", training.job_id, "--server", server.target, "--wait", "0.5")
        watch = fork_server.shared().run(*arguments, **ON_A_TERMINAL)
        read_until(watch, training.job_id)
        server.kill()
        rest, errors = watch.communicate(OUTPUT_TIMEOUT_S)
        assert watch.returncode == 1
        assert "trying again for 0.5 s" in rest + errors
        assert "can't be used" in errors
