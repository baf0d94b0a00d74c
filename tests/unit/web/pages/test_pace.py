from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs.sample_jobs import job_config
from tuner_server.core.job import machine
from tuner_server.core.job.state import JobState, Status
from tuner_server.web.pages.pace import Pace


def _state(**changes: Any) -> JobState:
    return machine.create(job_config("job", total_steps=4000)).state.model_copy(update=changes)


def test_what_is_left_follows_from_the_mean_pace_of_all_steps() -> None:
    pace = Pace.of(_state(committed_steps=800, search_steps=200, wall_time_s=100.0))
    assert (pace.words, pace.short) == ("10 steps/s", "10/s")
    assert pace.left_s == 300.0
    assert pace.left == "5 min"


def test_slow_steps_are_told_by_what_one_takes() -> None:
    pace = Pace.of(_state(committed_steps=10, wall_time_s=32.0))
    assert (pace.words, pace.short, pace.left) == ("3.2 s a step", "3.2 s each", "3 h 32 min")


@pytest.mark.parametrize("changes", [{}, {"committed_steps": 10}, {"wall_time_s": 3.0}])
def test_before_a_report_with_its_time_nothing_is_told(changes: dict[str, Any]) -> None:
    pace = Pace.of(_state(**changes))
    assert pace == Pace(None, None)
    assert pace.left == pace.words == pace.short == ""


def test_a_job_that_has_ended_or_has_no_end_has_nothing_left() -> None:
    done = Pace.of(_state(committed_steps=10, wall_time_s=1.0, status=Status.CANCELLED))
    assert (done.left, done.words) == ("", "10 steps/s")
    endless = machine.create(job_config("job", "open_ended", total_steps=None)).state
    assert Pace.of(endless.model_copy(update={"committed_steps": 10, "wall_time_s": 1.0})).left == ""


def test_a_run_that_ends_by_time_has_what_is_left_of_that() -> None:
    config = job_config("job", "open_ended", total_steps=None).model_copy(update={"total_time_s": 7200.0})
    state = machine.create(config).state.model_copy(update={"committed_steps": 10, "wall_time_s": 1800.0})
    assert Pace.of(state).left == "1 h 30 min"
