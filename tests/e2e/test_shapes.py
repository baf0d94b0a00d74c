"""Committed steps follow any shape, and both sides tell the same LRs of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from lrpilot import schedules
from lrpilot.schedule.schedule import Schedule
from lrpilot.schedules import Shape
from lrpilot.wire.phase import Phase

from tests.support.jobs.budget_jobs import config as job_config
from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.training.planned_run import OPTIONS, PlannedRun
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine


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


@pytest.mark.parametrize("decay", ["infinite", "warmed(0.1, 0)", "points(0, 0, 0.4, 0, 0.5, 1, 1, 0)"])
def test_a_shape_that_begins_at_zero_goes_on_after_every_change_of_the_plan(decay: str) -> None:
    for extends in (True, False):
        run = PlannedRun(KeptJobs(), total_steps=300, policy_options={**OPTIONS, "decay": decay}, strict=True)
        run.train_to_commit()
        if extends:
            run.tuner.extend(100)
        else:
            run.tuner.replan("other data")
        run.train()
        schedule = run.tuner.schedule
        assert len(schedule.replans) == 1
        assert all(segment.stage >= 1 for segment in schedule.segments), "a part of it had no server"
        assert max(run.lrs) > 0
        run.tuner.close()


@pytest.mark.parametrize("decay", ["constant", "one_cycle", "wsd(0.01)", "half_life(1)"])
def test_an_annealing_is_along_a_line_to_zero_whatever_the_decay(decay: str) -> None:
    run = PlannedRun(KeptJobs(), total_steps=300, policy_options={**OPTIONS, "decay": decay}, strict=True)
    run.train_to_commit()
    run.tuner.anneal(40)
    lrs = run.train()
    assert lrs == pytest.approx([lrs[0] * (1 - step / 40) for step in range(40)])
    run.tuner.close()


@pytest.mark.parametrize("decay", ["points(0, 0, 1, 0)", "step(0, 0)", {"name": "linear"}, 5])
def test_what_is_no_decay_is_refused(decay: object) -> None:
    with pytest.raises(InvalidInputError, match=r"policy_options\.decay"):
        machine.create(job_config(4_000).model_copy(update={"policy_options": {"decay": decay}}))
