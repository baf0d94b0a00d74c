from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from lrpilot.transport import embedded_server, embedded_transport
from lrpilot.transport.embedded_transport import EmbeddedTransport
from lrpilot.v1 import tuner_pb2 as pb


class Dead:
    """A server that has died at once."""

    target = "127.0.0.1:1"
    alive = False
    started = 0

    def __init__(self, _db: str | None) -> None:
        type(self).started += 1

    def close(self) -> None:
        """There is nothing to stop."""


def test_no_server_is_started_to_be_told_that_a_job_goes_on_or_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_transport, "EmbeddedServer", Dead)
    transport = EmbeddedTransport()
    transport.beat(pb.BeatRequest(job_id="job"))
    assert transport.leave_job(pb.LeaveJobRequest(job_id="job"), 1.0) == pb.LeaveJobResponse()
    assert Dead.started == 1
    transport.close()


def test_an_interrupt_while_a_server_starts_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def deaf(*_: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return made[-1]

    class Interrupted(threading.Timer):
        def start(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", deaf)
    monkeypatch.setattr(threading, "Timer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded_server.EmbeddedServer(None)
    assert made[0].wait(30) == -signal.SIGKILL
