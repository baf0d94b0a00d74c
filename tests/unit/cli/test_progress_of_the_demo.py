"""The lines that the demo writes where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tuner_server.demo import progress as module
from tuner_server.demo.messages import Progress
from tuner_server.demo.progress import Lines


def test_the_time_that_is_left_is_told_once_the_pace_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    lines = Lines(Console(file=file, width=200), n_steps=1000, n_runs=1)
    monkeypatch.setattr(module, "LINE_S", 0.0)
    for left in (1000, 999, 500):
        lines.update(
            Progress(
                contestant="budget", seed=0, stage=0, phase="probe", steps_left=left, lr=0.1, loss=2.0, tuning_loss=None
            )
        )
    first, second, third = file.getvalue().splitlines()
    for early in (first, second):
        assert early.endswith("the time that is left shows later")
    assert third.endswith(" s left in all")
