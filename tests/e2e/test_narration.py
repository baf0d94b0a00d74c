"""A run tells its beginning, its decisions and its end, in a line each, on a terminal and nowhere else."""

from __future__ import annotations

import copy
import io
import logging
import re
import sys

import lrpilot
import pytest
from lrpilot.transport.scripted import ScriptedTransport
from torch import nn

from tests.support.servers.server_process import ServerProcess
from tests.support.training.quick_run import SCRIPT, TOTAL, Run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; from within a test, as pytest sets its own before each."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_run_is_told_from_its_beginning_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    run = Run()
    tuner = run.tuner(ScriptedTransport(SCRIPT), name="mine")
    for _ in tuner.batches([0] * 10):
        run.step(tuner)
    tuner.close()
    tuner.close()

    lines = re.sub(r"[^\n]*\r", "", terminal.getvalue()).splitlines()
    assert re.match(rf"lrpilot: job \S+ 'mine', on a transport of its own: policy \S*, {TOTAL} steps", lines[0])
    assert any(line.startswith("lrpilot: step 0: ") for line in lines[1:-1])
    assert re.match(
        r"lrpilot: done after 0:0\d: 104 steps are in the model, 16 \(13.3%\) went into the search", lines[-1]
    )
    assert sum("lrpilot: done" in line for line in lines) == 1
    assert f"/{TOTAL}  probe at LR 0.1" in terminal.getvalue()


def test_a_run_that_is_closed_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    run = Run()
    tuner = run.tuner(ScriptedTransport(SCRIPT))
    run.step(tuner)
    tuner.close()
    assert "lrpilot: closed after 0:00: 0 steps are in the model" in terminal.getvalue()


def test_a_resumed_run_names_the_job_that_it_goes_on_as(
    monkeypatch: pytest.MonkeyPatch, shared_server: ServerProcess
) -> None:
    first, second = Run(), Run()
    tuner = lrpilot.Tuner(nn.ParameterList([first.parameter]), first.optimizer, server=shared_server.target)
    for _ in range(5):
        first.step(tuner)
    state = copy.deepcopy(tuner.state_dict())
    tuner.close()
    terminal = watched(monkeypatch)
    resumed = lrpilot.Tuner(nn.ParameterList([second.parameter]), second.optimizer, server=shared_server.target)
    resumed.load_state_dict(state)
    resumed.close()
    opened, went_on = terminal.getvalue().splitlines()[:2]
    assert tuner.job_id[:8] not in opened
    assert went_on.startswith(f"lrpilot: goes on from its checkpoint as job {tuner.job_id[:8]} ")


def test_a_log_that_shows_decisions_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = watched(monkeypatch)
    run = Run()
    with caplog.at_level(logging.INFO, "lrpilot"):
        tuner = run.tuner(ScriptedTransport(SCRIPT))
        run.train(tuner)
    assert "lrpilot: step 0: " not in terminal.getvalue()


@pytest.mark.parametrize("progress", [None, False])
def test_nobody_else_is_told(progress: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO() if progress is None else Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    run = Run()
    run.train(run.tuner(ScriptedTransport(SCRIPT), progress=progress))
    assert stream.getvalue() == ""
