"""Committed steps follow any shape, and both sides tell the same LRs of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from lrpilot import schedules
from lrpilot.schedule.schedule import Schedule
from lrpilot.schedules import Shape
from lrpilot.wire.phase import Phase

from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.training.planned_run import OPTIONS, PlannedRun


@pytest.mark.parametrize(
    "decay",
    [
        "rex(0.9)",
        schedules.wsd(0.2, "one_minus_sqrt"),
        schedules.one_cycle(),
        schedules.sampled("rex", (0.5, 0.75)),
        "floored/exponential(0.05)",
    ],
    ids=str,
)
def test_the_committed_lrs_are_those_of_the_shape_on_both_sides(decay: Shape | str, tmp_path: Path) -> None:
    jobs = KeptJobs()
    run = PlannedRun(jobs, total_steps=400, policy_options={**OPTIONS, "decay": decay, "warmup": 0.0})
    run.train()
    schedule, committed = run.tuner.schedule, run.lrs[-run.tuner.committed_step :]
    shape = schedules.as_shape(decay)
    assert schedule.lrs() == committed
    assert {segment.profile.shape for segment in schedule.segments} == {shape}
    peak, n_steps = schedule.segments[0].profile.start_lr, len(committed)
    assert committed == pytest.approx([peak * shape.at(step, n_steps) for step in range(n_steps)], rel=1e-12)
    told = [entry.directive.profile for entry in jobs.history if entry.directive.phase is Phase.TRAIN]
    assert {profile.shape for profile in told if profile is not None} == {shape}
    schedule.save(tmp_path / "schedule.json")
    assert Schedule.load(tmp_path / "schedule.json").lrs() == committed
    run.tuner.close()
