"""How committed steps end: at zero, or at a floor with an average of the weights."""

from __future__ import annotations

from typing import Any

import pytest
from lrpilot.wire.messages.directives import rest_of
from lrpilot.wire.profile import Shape

from tests.support.jobs.budget_jobs import PLAIN, committing, config, profile_of, report_on, short_on
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.messages import ChangeKind, Directive, Ending, Outcome, Phase, PlanChange, Report, Weights
from tuner_server.core.stages.ending import (
    ANNEALING_MEMORY_SHARE,
    EVERY,
    FEWEST_UPDATES,
    FLOOR,
    MEMORY_SHARE,
    SHORTEST_AVERAGED,
    EndingPlan,
)
from tuner_server.rpc.convert import directive_from_pb, directive_to_pb

AVERAGED = {"ending": "averaged", "has_average": True, **PLAIN}


def test_without_an_average_the_lr_falls_to_zero_as_ever() -> None:
    plain = committing(config(**PLAIN)).directive
    able = committing(config(has_average=True, **PLAIN)).directive
    assert plain == able
    assert plain.average is None
    assert profile_of(plain).end_lr == 0.0


def test_with_an_average_the_lr_falls_to_a_floor() -> None:
    zero, averaged = (committing(config(**options)).directive for options in (PLAIN, AVERAGED))
    profile = profile_of(averaged)
    assert profile.end_lr == FLOOR * profile.start_lr
    assert (profile.start_lr, profile.warmup) == (profile_of(zero).start_lr, profile_of(zero).warmup)
    assert averaged.average is not None
    assert averaged.average.memory_steps == pytest.approx(MEMORY_SHARE * averaged.n_steps)
    assert averaged.average.every == EVERY


def test_floor_and_memory_are_options() -> None:
    directive = committing(config(**AVERAGED, floor=0.3, average_memory=0.5)).directive
    assert profile_of(directive).end_lr == 0.3 * profile_of(directive).start_lr
    assert directive.average is not None
    assert directive.average.memory_steps == 0.5 * directive.n_steps


@pytest.mark.parametrize(
    ("ending", "has_validation", "has_average", "averages"),
    [
        ("zero", True, True, False),
        ("averaged", True, True, True),
        ("averaged", False, True, True),
        ("validated", True, True, True),
        ("validated", False, True, False),
        ("validated", True, False, False),
    ],
)
def test_an_ending_is_what_the_job_can_have_of_it(
    ending: str, has_validation: bool, has_average: bool, averages: bool
) -> None:
    asked = config(ending=ending, has_validation=has_validation, has_average=has_average, **PLAIN)
    directive = committing(asked).directive
    assert (directive.average is not None) is averages
    assert (profile_of(directive).end_lr > 0) is averages


def test_a_client_that_can_not_average_is_told_so_at_once() -> None:
    with pytest.raises(InvalidInputError, match="can't average") as caught:
        machine.create(config(ending="averaged"))
    assert caught.value.violations[0].field == "policy_options.ending"


@pytest.mark.parametrize("options", [{"ending": "none"}, {"floor": 1.0}, {"floor": -0.1}, {"average_memory": 0.0}])
def test_an_option_that_fits_no_ending_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        machine.create(config(has_average=True, **options))


@pytest.mark.parametrize("n_steps", [1, 10, 100, 1000, 10**6])
def test_the_average_of_a_short_run_is_brought_up_to_date_often_enough(n_steps: int) -> None:
    average = EndingPlan(FLOOR, MEMORY_SHARE).average(n_steps)
    assert average is not None
    assert average.memory_steps >= 1
    assert average.every == 1 or average.every * FEWEST_UPDATES <= average.memory_steps
    assert average.every <= EVERY


def test_a_shape_that_does_not_move_has_no_floor() -> None:
    profile = EndingPlan(FLOOR, MEMORY_SHARE).profile(Shape.CONSTANT, 0.1, 100, 0)
    assert profile.end_lr == 0.1


def test_a_run_without_a_search_ends_so_too() -> None:
    directive = machine.create(config(100, ending="averaged", has_average=True)).directive
    assert directive.phase is Phase.TRAIN
    assert directive.average is not None


def test_the_rest_of_a_directive_has_its_average() -> None:
    directive = committing(config(**AVERAGED)).directive
    assert directive.after(100).average == directive.average
    assert directive_from_pb(rest_of(directive_to_pb(directive), 100)).average == directive.average


def test_what_follows_on_a_setback_has_an_average_of_its_own() -> None:
    """It starts at the snapshot's weights, and remembers its own share of the steps that are left."""
    transition = committing(config(**AVERAGED), 2.0, 1.0)
    first = transition.directive
    for report in (report_on(first, 1.0, steps=50), short_on(first, 9.0, 50)):
        second = machine.advance(transition.state, report).directive
        assert second.restore
        assert first.average is not None
        assert second.average is not None
        assert second.average.memory_steps == pytest.approx(MEMORY_SHARE * second.n_steps)
        assert second.average.memory_steps < first.average.memory_steps


def changed(change: PlanChange, n_steps: int) -> Directive:
    """What follows on a change after so many committed steps, or after all of them."""
    transition = committing(config(**AVERAGED))
    directive = transition.directive
    if n_steps == directive.n_steps:
        transition = machine.advance(transition.state, report_on(directive, 1.0))
        n_steps = 0
    report = Report(
        directive_number=transition.directive.number,
        outcome=Outcome.REPLANNED,
        losses=(1.0,) * n_steps,
        change=change,
    )
    return machine.advance(transition.state, report).directive


def test_a_run_that_is_extended_falls_to_the_floor_of_its_own_peak_and_averages_anew() -> None:
    first = committing(config(**AVERAGED)).directive
    peak = profile_of(first).start_lr
    for n_steps in (1000, first.n_steps):
        after = changed(PlanChange(kind=ChangeKind.EXTEND, total_steps=6000), n_steps)
        profile = profile_of(after)
        assert profile.end_lr == pytest.approx(FLOOR * peak)
        assert profile.start_lr >= profile.end_lr
        assert after.average is not None
        assert after.average.memory_steps == pytest.approx(MEMORY_SHARE * after.n_steps)


def test_an_annealing_that_is_asked_for_ends_as_the_job_does_with_a_memory_of_its_own() -> None:
    peak = profile_of(committing(config(**AVERAGED)).directive).start_lr
    after = changed(PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=200), 1000)
    assert profile_of(after).end_lr == pytest.approx(FLOOR * peak)
    assert after.average is not None
    assert after.average.memory_steps == pytest.approx(ANNEALING_MEMORY_SHARE * 200)
    assert f"to {FLOOR:.3g} of the peak" in after.reason


def test_a_short_annealing_goes_to_zero() -> None:
    after = changed(PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=SHORTEST_AVERAGED - 1), 1000)
    assert profile_of(after).end_lr == 0.0
    assert after.average is None
    assert "to zero" in after.reason


@pytest.mark.parametrize(
    ("lr", "peak_lr", "averages"),
    [(0.1, 0.1, True), (0.1, None, True), (0.021, 0.1, True), (0.02, 0.1, False), (0.001, 0.1, False)],
)
def test_an_annealing_that_begins_at_the_floor_goes_to_zero(lr: float, peak_lr: float | None, averages: bool) -> None:
    plan = EndingPlan(FLOOR, MEMORY_SHARE).of_annealing(200, lr, peak_lr)
    assert (plan != EndingPlan()) is averages
    assert (plan.average(200) is not None) is averages
    assert EndingPlan().of_annealing(200, lr, peak_lr) == EndingPlan()


def test_a_run_that_goes_on_after_its_end_has_not_ended_with_an_average() -> None:
    transition = committing(config(**AVERAGED))
    directive = transition.directive
    assert directive.average is not None
    ending = Ending(adopted=Weights.AVERAGE, memory_steps=directive.average.memory_steps)
    report = report_on(directive, 1.0).model_copy(update={"ending": ending})
    ended = machine.advance(transition.state, report)
    assert ended.state.ending == ending
    change = PlanChange(kind=ChangeKind.EXTEND, total_steps=6000)
    more = Report(directive_number=ended.directive.number, outcome=Outcome.REPLANNED, losses=(), change=change)
    assert machine.advance(ended.state, more).state.ending is None


@pytest.mark.parametrize(("gain", "adopted"), [(0.1, Weights.AVERAGE), (-0.1, Weights.LAST)])
def test_the_standing_is_that_of_the_weights_that_were_adopted(gain: float, adopted: Weights) -> None:
    asked = config(800, has_validation=True, **AVERAGED)
    state = drive(asked, SimulatedTraining(validates=True, average_gain=gain)).state
    assert state.ending is not None
    assert state.ending.adopted is adopted
    expected = state.ending.average if adopted is Weights.AVERAGE else state.ending.last
    assert state.last_validation == pytest.approx(expected)
