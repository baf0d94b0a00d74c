"""Where a run ends, as the client knows it."""

from __future__ import annotations

import pytest
from lrpilot.run.run_plan import RunPlan
from lrpilot.v1 import tuner_pb2 as pb


def test_a_time_is_turned_into_steps_at_the_pace_so_far() -> None:
    plan = RunPlan(None, 10.0)
    assert plan.steps_in_time(0.0, 0) is None, "no step has been made"
    assert plan.steps_in_time(2.0, 100) == 400
    assert plan.steps_in_time(11.0, 100) == 0
    assert RunPlan(None).steps_in_time(2.0, 100) is None
    assert RunPlan(100).steps_in_time(2.0, 50) is None


def test_an_end_in_steps_takes_the_place_of_the_time() -> None:
    plan = RunPlan(None, 10.0)
    plan.follow(pb.Directive(change=pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_ANNEAL, anneal_steps=10, total_steps=60)))
    assert plan.total_steps == 60
    assert plan.steps_in_time(2.0, 50) is None


@pytest.mark.parametrize("total_time_s", [None, 10.0])
def test_a_checkpoint_has_the_time(total_time_s: float | None) -> None:
    plan = RunPlan.from_state_dict(RunPlan(None, total_time_s).state_dict())
    assert plan.steps_in_time(1.0, 1) == RunPlan(None, total_time_s).steps_in_time(1.0, 1)
