"""Numbers at the limits of what they can be: a job is opened, or its config is refused by its fields."""

from __future__ import annotations

import math

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.profile import Profile

from tuner_server.core import policies
from tuner_server.core.config import MAX_FIRST_UPDATES
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.job.loss_course import MOST_AHEAD, LossCourse, Way
from tuner_server.core.messages import MAX_STEPS
from tuner_server.rpc import convert
from tuner_server.rpc.admission import admitted

EXTREME = (0.0, 5e-324, 1e-310, 1e-30, 1e-29, 1e-24, 1e-3, 1.0, 1e24, 1e29, 1e30, 1e38, 1.79e308)
reals = st.sampled_from((*EXTREME, -1.0, float("nan"), float("inf"))) | st.floats()
usable_lrs = st.sampled_from((1e-24, 1e-3, 1.0, 1e24))


@st.composite
def configs(draw: st.DrawFn) -> pb.JobConfig:
    config = pb.JobConfig(
        policy=draw(st.sampled_from(("", *policies.POLICIES))),
        base_lr=draw(usable_lrs | reals),
        seed=draw(st.sampled_from((0, 2**63 - 1, -1, -(2**63)))),
        members=draw(st.sampled_from((0, 1, 2, 1024, 1025, -1, 2**31 - 1))),
        has_validation=draw(st.booleans()),
        has_average=draw(st.booleans()),
        first_updates=draw(st.just([]) | st.lists(st.sampled_from((1e-30, 1.0, 1e30)) | reals, max_size=33)),
    )
    if draw(st.booleans()):
        config.lr_bounds.min, config.lr_bounds.max = draw(reals), draw(reals)
    match draw(st.sampled_from(("steps", "time", "none", "both"))):
        case "steps":
            config.total_steps = draw(st.sampled_from((-1, 0, 1, 2, 3, 10, 10**6, MAX_STEPS, MAX_STEPS + 1, 2**63 - 1)))
        case "time":
            config.total_time_s = draw(reals)
        case "both":
            config.total_steps, config.total_time_s = 100, draw(reals)
    if draw(st.booleans()):
        setattr(config.stop_when, draw(st.sampled_from(("gain", "share"))), draw(reals))
    return config


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(configs())
def test_a_config_opens_a_job_or_is_refused_by_its_fields(message: pb.JobConfig) -> None:
    _assert_opened_or_refused(message)


@pytest.mark.slow
@hypothesis.settings(max_examples=1000, deadline=None)
@hypothesis.given(configs())
def test_any_of_many_configs_opens_a_job_or_is_refused_by_its_fields(message: pb.JobConfig) -> None:
    _assert_opened_or_refused(message)


def _assert_opened_or_refused(message: pb.JobConfig) -> None:
    refused, created = "", None
    try:
        created = machine.create(admitted(message))
    except InvalidInputError as error:
        refused = str(error)
    if created is None:
        assert refused
        assert "can't tune this job" not in refused, "a policy raised"
        return
    answer = convert.directive_to_pb(created.state.directive)
    assert convert.directive_from_pb(answer) == created.state.directive


@pytest.mark.parametrize("lr", [1e-29, 1e29, 1e38])
def test_an_lr_from_which_nothing_could_be_searched_is_refused(lr: float) -> None:
    with pytest.raises(InvalidInputError) as caught:
        admitted(pb.JobConfig(base_lr=lr, total_steps=100))
    assert [violation.field for violation in caught.value.violations] == ["base_lr"]


@pytest.mark.parametrize(
    "sizes", [[math.nan], [math.inf], [0.0], [-1.0], [5e-324], [1e31], [1.0] * (MAX_FIRST_UPDATES + 1), [1.0] * 10_000]
)
def test_sizes_of_first_updates_that_say_nothing_are_refused(sizes: list[float]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        admitted(pb.JobConfig(base_lr=0.1, total_steps=100, first_updates=sizes))
    assert {violation.field.partition("[")[0].partition(".")[0] for violation in caught.value.violations} == {
        "first_updates"
    }


def test_a_plan_of_any_length_is_looked_ahead_at_in_bounded_work() -> None:
    """Every job of the process would wait for it."""
    course = LossCourse(n_steps=8, lrs=(0.1,) * 8)
    path = course.path([Way(Profile.constant(0.1, MAX_STEPS), MAX_STEPS)])
    assert path.lrs.size <= MOST_AHEAD + 8
    assert path.end + path.stride >= MAX_STEPS
    assert path.area()[-1] == pytest.approx(0.1 * MAX_STEPS, rel=1e-3)
