"""The files that commands write: what `-o` may name beside a file, and what it may not."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers import wire_client
from tests.support.servers.command_line import assert_fails, lrpilot_command, quick_config
from tests.support.servers.server_process import ServerProcess


@pytest.fixture(scope="module")
def job(shared_server: ServerProcess) -> str:
    """A job that ran to its end."""
    return wire_client.drive(shared_server.stub, quick_config("outputs"), SimulatedTraining())[0]


@pytest.mark.parametrize("command", ["export", "report", "plot"])
def test_an_empty_name_is_one_line(shared_server: ServerProcess, job: str, command: str) -> None:
    assert_fails(lrpilot_command(command, job, "-o", "", "--server", shared_server.target), 2)


@pytest.mark.parametrize("command", ["export", "report", "plot"])
def test_a_link_and_a_pipe_stay_what_they_are(
    shared_server: ServerProcess, job: str, command: str, tmp_path: Path
) -> None:
    target, link, pipe = tmp_path / "target.png", tmp_path / "link.png", tmp_path / "pipe.png"
    link.symlink_to(target)
    assert lrpilot_command(command, job, "-o", link, "--server", shared_server.target).returncode == 0
    assert link.is_symlink()
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert lrpilot_command(command, job, "-o", pipe, "--server", shared_server.target).returncode == 0
    reader.join(10)
    assert pipe.is_fifo()
    assert read
    assert len(read[0]) == pytest.approx(target.stat().st_size, rel=0.1)  # a report says how long ago something was


def test_a_schedule_can_be_exported_to_standard_output(shared_server: ServerProcess, job: str) -> None:
    exported = lrpilot_command("export", job, "-o", "/dev/stdout", "--server", shared_server.target)
    assert json.loads(exported.stdout)["job_id"] == job
