"""A schedule at another length."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.errors import ScheduleError
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire.phase import Phase
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Segment, Validation
from typer.testing import CliRunner

from tests.support.shapes import SHAPES
from tuner_server.cli.app import app

WAY = Profile(Shape("one_minus_sqrt"), 0.4, 0.02, 400, warmup=40)
SCHEDULE = Schedule(
    job_id="a" * 32,
    name="short",
    policy="budget",
    base_lrs=(0.1, 0.01),
    total_steps=540,
    segments=(
        Segment(0, 100, Profile.constant(0.1, 100), Phase.TRAIN, 0),
        Segment(100, 150, WAY, Phase.TRAIN, 1),
        Segment(250, 250, WAY.after(150), Phase.TRAIN, 1),
    ),
    losses=(1.0, 0.5),
    validations=(Validation(2, 0.5),),
)


@pytest.mark.parametrize("factor", [2, 3, 10])
def test_every_lr_keeps_its_place(factor: int) -> None:
    longer = SCHEDULE.stretched(500 * factor)
    assert (longer.n_steps, longer.total_steps) == (500 * factor, 500 * factor)
    assert [longer.lr(step * factor) for step in range(140, 500)] == pytest.approx(
        [SCHEDULE.lr(step) for step in range(140, 500)], rel=1e-9
    )
    assert max(longer.lrs()) == 0.4
    assert (longer.losses, longer.validations, longer.base_lrs) == ((), (), (0.1, 0.01))


def test_lrs_may_follow_the_length() -> None:
    longer = SCHEDULE.stretched(16_000, length_exponent=0.2)
    assert max(longer.lrs()) == pytest.approx(0.4 * (500 / 16_000) ** 0.2)
    assert SCHEDULE.stretched(500) == SCHEDULE.stretched(1000).stretched(500)
    assert SCHEDULE.stretched(500).lrs() == SCHEDULE.lrs()


@hypothesis.given(steps=st.integers(1, 3000), shape=st.sampled_from(SHAPES), cut=st.integers(1, 299))
def test_any_schedule_has_as_many_steps_as_it_is_given(steps: int, shape: Shape, cut: int) -> None:
    way = Profile(shape, 0.3, 0.1, 300, warmup=20)
    segments = (Segment(0, cut, way, Phase.TRAIN, 0), Segment(cut, 300 - cut, way.after(cut), Phase.TRAIN, 0))
    other = Schedule("b" * 32, "", "budget", (0.3,), 300, segments).stretched(steps)
    assert len(other.lrs()) == steps
    assert max(other.lrs()) <= 0.3 * (1 + 1e-12)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_what_is_no_length_is_refused(steps: int) -> None:
    with pytest.raises(ScheduleError, match="whole number"):
        SCHEDULE.stretched(steps)


def test_a_schedule_without_steps_and_a_wrong_exponent_are_refused() -> None:
    with pytest.raises(ScheduleError, match="no steps"):
        Schedule("c" * 32, "", "budget", (0.1,), None, ()).stretched(10)
    with pytest.raises(ScheduleError, match="length_exponent"):
        SCHEDULE.stretched(10, length_exponent=2)


def test_the_command_writes_another_file(tmp_path: Path) -> None:
    source, target = tmp_path / "schedule.json", tmp_path / "longer.json"
    SCHEDULE.save(source)
    done = CliRunner().invoke(app, ["stretch", str(source), "--steps", "2000", "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert Schedule.load(target) == SCHEDULE.stretched(2000)
