"""What policy budget does after committed steps that were no good, and when a client comes back that was away."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lrpilot.wire.profile import Profile

from tests.support.jobs.budget_jobs import (
    BOUNDS,
    PLAIN,
    bowl,
    committed,
    committing,
    config,
    falling_on,
    probed,
    profile_of,
    report_on,
    search,
    short_on,
)
from tuner_server.core.config import LrBounds
from tuner_server.core.evidence import reached
from tuner_server.core.evidence.promise import FIRST_LOSSES, LAST_LOOK, LAST_TRAINING_LOOK, STAIRS
from tuner_server.core.evidence.restart import RETREAT, TRUSTED_RESTARTS
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Status, Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Replacement, Report, Setback, Validation
from tuner_server.core.policies.budget import FEWEST_STEPS, BudgetState
from tuner_server.core.policies.budget_options import BudgetOptions
from tuner_server.core.stages.final_decay import PROMISES
from tuner_server.service.family import optimum_of

# --- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [BOUNDS, (0.02, 0.03)])
def test_when_every_probe_diverges_the_search_goes_down_only_and_an_lr_below_all_is_committed(
    bounds: tuple[float, float],
) -> None:
    run = search(config(20_000, bounds=bounds, **PLAIN), bowl(0.01, edge_lr=0.0))
    lrs = probed(run)
    assert lrs == sorted(lrs, reverse=True)
    assert min(lrs) == pytest.approx(bounds[0] / BudgetOptions().widening)
    assert committed(run) == pytest.approx(min(lrs) / RETREAT)
    decision = run.exchanges[-1].decision
    assert decision is not None
    assert "every probe diverged" in decision.reason
    assert all(c.diverged for c in decision.candidates)
    assert len(decision.candidates) == len(lrs)


def test_a_divergence_in_committed_steps_goes_back_and_on_at_a_lower_lr_within_the_budget() -> None:
    transition = committing(config(4000, **PLAIN))
    searched = transition.state.search_steps
    lr = profile_of(transition.directive).start_lr
    for count in (1, 2):
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0, steps=100))
        directive = transition.directive
        assert (directive.phase, directive.restore) == (Phase.TRAIN, True)
        assert profile_of(directive).start_lr == pytest.approx(lr / RETREAT**count)
        assert profile_of(directive).end_lr == 0
        assert transition.state.search_steps == searched + 100 * count
        assert directive.n_steps == 4000 - searched - 100 * count
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert transition.state.status is Status.FINISHED


def test_a_divergence_after_a_part_was_reported_gives_all_committed_steps_back() -> None:
    transition = committing(config(4000, **PLAIN))
    searched, part = transition.state.search_steps, transition.directive.report_every
    report = Report(directive_number=transition.directive.number, outcome=Outcome.PARTIAL, losses=(1.0,) * part)
    transition = machine.advance(transition.state, report)
    assert transition.state.committed_steps == part
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0, steps=10))
    assert transition.state.committed_steps == 0
    assert transition.state.search_steps == searched + part + 10
    assert profile_of(transition.directive).offset == 0


def test_a_short_run_that_diverges_retreats_too() -> None:
    transition = machine.create(config(50))
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0, steps=3))
    assert profile_of(transition.directive).start_lr == pytest.approx(0.1 / RETREAT)
    assert transition.directive.n_steps == 47


def test_a_loss_as_high_as_where_training_began_is_no_divergence() -> None:
    """Probes that learn within their first steps keep to losses far below."""
    transition = machine.create(config(4000, divergence_factor=4, **PLAIN))
    losses = (50.0,) * 4 + (1.0,) * (transition.directive.n_steps - 4)
    report = falling_on(transition.directive, 50.0, 1.0).model_copy(update={"losses": losses})
    directive = machine.advance(transition.state, report).directive
    start = (4 * 50 + 6 * 1) / FIRST_LOSSES
    assert directive.give_up_above == pytest.approx(start + 4 * (start - 1))


def test_probes_and_decay_give_up_so_many_times_as_far_above_the_start_as_the_best_probe_came_below_it() -> None:
    transition = machine.create(config(divergence_factor=4, **PLAIN))
    levels = [transition.directive.give_up_above]
    while transition.directive.phase is not Phase.TRAIN:
        transition = machine.advance(transition.state, falling_on(transition.directive, 2.0, 1.5))
        levels.append(transition.directive.give_up_above)
    assert levels[0] is None
    assert set(levels[1:]) == {2.0 + 4 * 0.5}


# --- probes that gain nothing -----------------------------------------------------------------------------------------


def test_where_every_probe_ends_above_the_start_the_lr_that_was_set_is_committed() -> None:
    """The lowest LR of all does least harm in a few steps, and would never train."""
    transition = committing(config(4000, has_validation=True, **PLAIN), 1.0, 1.1)
    assert profile_of(transition.directive).start_lr == pytest.approx(0.1)
    decision = transition.decision
    assert decision is not None
    assert decision.reason.startswith("every probe ended above the loss that training began with")
    assert decision.candidates
    assert not transition.directive.promise


@pytest.mark.parametrize(("low", "high", "expected"), [(1e-4, 1e-2, 1e-2), (1.0, 10.0, 1.0), (1e-2, 1.0, 0.1)])
def test_it_does_not_leave_the_bounds_that_were_given(low: float, high: float, expected: float) -> None:
    """An optimizer's default may lie far outside."""
    bounded = {"lr_bounds": LrBounds(min=low, max=high)}
    transition = committing(config(4000, has_validation=True, **PLAIN).model_copy(update=bounded), 1.0, 1.1)
    decision = transition.decision
    assert decision is not None
    assert decision.reason.startswith("every probe ended above the loss that training began with")
    assert decision.lr == pytest.approx(expected)
    assert (decision.lowered_by is not None) == (expected < 0.1)


def test_it_is_lowered_below_all_lrs_that_diverged() -> None:
    transition = machine.create(config(4000, has_validation=True, **PLAIN))
    while transition.directive.phase is not Phase.TRAIN:
        high = profile_of(transition.directive).start_lr > 0.02
        report = report_on(transition.directive, 2.0, steps=3) if high else falling_on(transition.directive, 1.0, 1.1)
        transition = machine.advance(transition.state, report)
    decision = transition.decision
    assert decision is not None
    lowest = min(candidate.lr for candidate in decision.candidates if candidate.diverged)
    assert decision.lr == pytest.approx(lowest / RETREAT)
    assert decision.lowered_by == pytest.approx(0.1 / decision.lr)
    assert "since probes diverged" in decision.reason


# --- a broken promise -------------------------------------------------------------------------------------------------

BEGIN, END = 3.0, 2.0
"""Where the losses of every probe begin, and where those of the best one end: it gains 1, without noise."""
OWN = 0.5
"""What committed steps come to themselves."""


def promising(**fields: Any) -> Transition:
    """A job whose committed steps are promised."""
    return committing(config(4000, **PLAIN | fields), BEGIN, END)


def sound(transition: Transition, steps: int, loss: float = END) -> Transition:
    """After so many committed steps, as good as the best probe if nothing else is said."""
    report = Report(directive_number=transition.directive.number, outcome=Outcome.PARTIAL, losses=(loss,) * steps)
    return machine.advance(transition.state, report)


def reaching(transition: Transition) -> Transition:
    """After one more report of committed steps, far below what the best probe came to."""
    return sound(transition, transition.directive.report_every, OWN)


def short(transition: Transition, steps: int = 200, loss: float = BEGIN) -> Transition:
    """After so many committed steps that fell short."""
    return machine.advance(transition.state, short_on(transition.directive, loss, steps))


@pytest.mark.parametrize("has_validation", [True, False])
def test_committed_steps_are_promised_a_part_of_what_the_best_probe_gained(has_validation: bool) -> None:
    directive = promising(has_validation=has_validation).directive
    n_steps = directive.n_steps
    assert [bar.from_step for bar in directive.promise] == [
        math.ceil(share * n_steps) for share in (*(share for share, _ in STAIRS), LAST_TRAINING_LOOK, LAST_LOOK)
    ]
    levels = [BEGIN - part * (BEGIN - END) for _, part in STAIRS]
    assert [bar.loss for bar in directive.promise] == pytest.approx([*levels, math.inf, math.inf])


def test_probes_are_promised_nothing() -> None:
    run = search(config(**PLAIN), bowl(0.012))
    assert all(not exchange.directive.promise for exchange in run.of(Phase.PROBE))


def test_steps_that_fall_short_are_given_back_and_the_lr_is_lowered() -> None:
    transition = promising()
    before, part = transition.state, transition.directive.report_every
    lr = profile_of(transition.directive).start_lr
    transition = short(sound(transition, part), part)
    state, directive = transition.state, transition.directive
    assert (directive.phase, directive.restore, directive.snapshot) == (Phase.TRAIN, True, False)
    assert (state.committed_steps, state.last_loss, state.peak_lr) == (0, None, None)
    assert state.given_back_steps == 2 * part
    assert state.search_steps == before.search_steps + 2 * part
    assert state.probe_steps == before.search_steps
    assert directive.n_steps == 4000 - before.search_steps - 2 * part
    profile = profile_of(directive)
    assert profile.start_lr == pytest.approx(lr / RETREAT)
    assert (profile.end_lr, profile.offset) == (0.0, 0)
    assert profile.length == directive.n_steps


@pytest.mark.parametrize("stair", range(len(STAIRS)))
def test_the_decision_after_a_broken_promise_has_the_evidence(stair: int) -> None:
    transition = promising()
    lr, promise = profile_of(transition.directive).start_lr, transition.directive.promise
    # Just below the bar, so that what the run has reached itself asks for less than the probe's promise.
    transition = sound(transition, promise[stair].from_step, promise[stair].loss - 0.01)
    decision = short(transition, loss=2.75).decision
    assert decision is not None
    assert decision.lr == pytest.approx(lr / RETREAT)
    bar = promise[stair].loss
    assert decision.setback == Setback(lr=lr, loss=2.75, bar=bar, start_loss=BEGIN, gain=BEGIN - END)
    assert decision.reason.startswith(f"fell short of its own probe at {lr:.3g}")


def test_a_run_is_held_to_what_it_has_reached_itself_while_its_lr_is_near_the_peak() -> None:
    transition = reaching(promising())
    n_steps = transition.state.lease.n_steps
    own = OWN + reached.SHARE * (BEGIN - OWN)
    held = [bar for bar in transition.state.lease.promise if bar.reached is not None]
    assert [bar.loss for bar in held] == pytest.approx([own] * 2)
    assert [bar.reached for bar in held] == [OWN] * 2
    assert all(bar.from_step < reached.LAST_LOOK * n_steps for bar in held)
    assert [bar.loss for bar in transition.directive.promise[:2]] == pytest.approx([own] * 2)
    assert profile_of(transition.state.lease) == profile_of(promising().directive)


def test_what_is_reached_long_after_the_peak_changes_no_bars() -> None:
    transition = reaching(promising())
    n_steps = transition.state.lease.n_steps
    transition = sound(transition, math.ceil(reached.LAST_LOOK * n_steps), OWN)
    later = sound(transition, 1000, OWN - 0.5)
    assert later.state.lease.promise == transition.state.lease.promise
    assert later.state.policy_state == transition.state.policy_state


def test_a_run_that_loses_what_it_had_reached_is_rolled_back_with_the_evidence() -> None:
    transition = reaching(promising())
    lr = profile_of(transition.directive).start_lr
    own = OWN + reached.SHARE * (BEGIN - OWN)
    transition = short(transition, loss=1.4)
    assert transition.state.committed_steps == 0
    decision = transition.decision
    assert decision is not None
    assert decision.lr == pytest.approx(lr / RETREAT)
    evidence = decision.setback
    assert evidence is not None
    assert evidence.bar == pytest.approx(own)
    assert evidence == Setback(lr=lr, loss=1.4, bar=evidence.bar, start_loss=BEGIN, gain=BEGIN - OWN, reached=OWN)
    assert decision.reason.startswith(f"rose from 0.5 to 1.4 at {lr:.3g}")


def test_a_rise_that_a_lower_lr_has_as_well_leads_back_to_the_lr_before_it() -> None:
    transition = promising()
    lr = profile_of(transition.directive).start_lr
    transition = short(reaching(transition), loss=1.4)
    transition = short(reaching(transition), loss=1.3)
    assert profile_of(transition.directive).start_lr == pytest.approx(lr)
    assert not transition.directive.promise
    decision = transition.decision
    assert decision is not None
    assert decision.reason.startswith(f"rose as far at {lr / RETREAT:.3g} as at {lr:.3g}, so the LR is not the cause")
    assert decision.lowered_by is None
    assert BudgetState.model_validate(transition.state.policy_state).ceiling is None


def test_a_rise_that_is_smaller_at_a_lower_lr_leads_to_one_that_is_lower_still() -> None:
    transition = promising()
    lr = profile_of(transition.directive).start_lr
    transition = short(reaching(short(reaching(transition), loss=2.5)), loss=1.0)
    assert profile_of(transition.directive).start_lr == pytest.approx(lr / RETREAT**2)


def test_what_the_attempt_before_had_reached_counts_for_nothing() -> None:
    transition = short(reaching(promising()), loss=1.4)
    assert all(bar.reached is None for bar in transition.directive.promise)


def test_after_two_setbacks_a_run_is_not_held_to_itself_either() -> None:
    transition = promising()
    for _ in range(PROMISES):
        transition = short(reaching(transition), loss=1.4)
    assert not reaching(transition).directive.promise


def test_a_run_that_loses_what_it_had_gained_falls_short_by_its_validations() -> None:
    transition = promising(has_validation=True)
    lr, promise = profile_of(transition.directive).start_lr, transition.directive.promise
    transition = sound(transition, promise[1].from_step)
    validated = transition.directive.validate_at[0]
    report = short_on(transition.directive, END, validated + 10)
    report = report.model_copy(update={"validations": (Validation(step=validated, loss=2.9),)})
    decision = machine.advance(transition.state, report).decision
    assert decision is not None
    bar = promise[1].validation
    assert decision.setback == Setback(lr=lr, loss=2.9, bar=bar, start_loss=BEGIN, gain=BEGIN - END, validated=True)


def test_the_decision_after_a_divergence_names_the_lr_and_no_bar() -> None:
    transition = promising()
    lr = profile_of(transition.directive).start_lr
    decision = machine.advance(transition.state, report_on(transition.directive, 2.0, steps=9)).decision
    assert decision is not None
    assert decision.setback == Setback(lr=lr)
    assert decision.reason.startswith(f"diverged at {lr:.3g}")


@pytest.mark.parametrize("setbacks", [["short", "short"], ["diverged", "short"], ["diverged", "diverged"]])
def test_what_comes_after_two_setbacks_is_promised_nothing(setbacks: list[str]) -> None:
    transition = promising()
    for setback in setbacks:
        assert transition.directive.promise
        if setback == "short":
            transition = short(transition)
        else:
            transition = machine.advance(transition.state, report_on(transition.directive, 2.0, steps=9))
    assert len(setbacks) == PROMISES
    assert transition.directive.promise == ()
    finished = machine.advance(transition.state, report_on(transition.directive, 2.9))
    assert (finished.state.status, finished.state.message) == (Status.FINISHED, "")
    assert finished.state.run_steps == 4000


def test_the_second_promise_is_as_the_first_over_what_is_left() -> None:
    """An LR that is lower by a factor of three gains as much by then: it is the later bars that ask for the most."""
    transition = promising()
    first = transition.directive
    second = short(transition).directive
    assert [bar.loss for bar in second.promise] == [bar.loss for bar in first.promise]
    assert second.promise[1].from_step == math.ceil(STAIRS[1][0] * second.n_steps) < first.promise[1].from_step


def test_a_divergence_after_a_broken_promise_still_counts() -> None:
    transition = short(promising())
    limit, lr = transition.directive.give_up_above, profile_of(transition.directive).start_lr
    assert limit is not None
    transition = machine.advance(transition.state, report_on(transition.directive, 2.0, steps=30))
    assert (transition.directive.phase, transition.directive.restore) == (Phase.TRAIN, True)
    assert profile_of(transition.directive).start_lr == pytest.approx(lr / RETREAT)
    assert transition.directive.give_up_above == limit
    transition = machine.advance(transition.state, report_on(transition.directive, 2.0, steps=30))
    assert TRUSTED_RESTARTS == 3
    assert transition.directive.give_up_above is None
    assert transition.state.given_back_steps == 200 + 30 + 30


def test_an_optimum_that_fell_short_came_to_a_bad_end() -> None:
    transition = promising()
    before = optimum_of(transition.state)
    assert before is not None
    assert before.good_end
    after = optimum_of(short(transition).state)
    assert after == before.model_copy(update={"good_end": False})


def test_a_replay_of_a_run_with_setbacks_gives_the_same_bits() -> None:
    asked = config(4000, seed=7, **PLAIN)
    transition, reports = machine.create(asked), []
    seen = [transition.directive]
    while transition.directive.phase is not Phase.STOP:
        directive = transition.directive
        if directive.promise and directive.profile is not None and directive.profile.offset == 0:
            report = Report(directive_number=directive.number, outcome=Outcome.PARTIAL, losses=(BEGIN,) * 100)
        else:
            report = short_on(directive, 2.9, 77) if directive.promise else falling_on(directive, BEGIN, END)
        reports.append(report)
        transition = machine.advance(transition.state, report)
        seen.append(transition.directive)
    assert [directive.restore for directive in seen].count(True) == 6 + 2
    again = machine.replay(asked, reports)
    assert again.state.model_dump_json() == transition.state.model_dump_json()
    assert transition.state.run_steps == 4000
    assert transition.state.given_back_steps == 2 * 177


def test_a_run_is_stopped_at_the_snapshot_if_its_last_steps_fall_short() -> None:
    """There is nothing left to begin anew with."""
    transition = promising()
    stopped = short(transition, transition.directive.n_steps)
    assert (stopped.directive.phase, stopped.directive.restore) == (Phase.STOP, True)
    assert (stopped.state.status, stopped.state.committed_steps) == (Status.FINISHED, 0)


# --- a client that comes back -----------------------------------------------------------------------------------------


def alone(transition: Transition, done: int, wasted: int = 0) -> Transition:
    """After `done` steps on the client's own, and some more that it took back."""
    own = Replacement(profile=Profile.constant(0.1, done), wasted_steps=wasted)
    report = Report(
        directive_number=transition.directive.number, outcome=Outcome.REPLACED, losses=(1.0,) * done, replacement=own
    )
    return machine.advance(transition.state, report)


def rejoined(total: int, done: int, *, probes: int = 0, wasted: int = 0, **options: Any) -> Directive:
    """What a client is given that trained `done` steps on its own, and lost some more, after so many probes."""
    transition = machine.create(config(total, **options))
    for i in range(probes):
        transition = machine.advance(transition.state, report_on(transition.directive, 2.0 + i))
    return alone(transition, done, wasted).directive


def test_a_client_that_comes_back_is_given_the_best_so_far_a_search_or_a_plain_decay() -> None:
    best = rejoined(2000, 700, probes=2)
    assert (best.phase, best.n_steps) == (Phase.TRAIN, 2000 - 700 - 2 * rejoined(2000, 1).n_steps)
    assert rejoined(2000, 400).phase is Phase.PROBE
    late = rejoined(2000, 1800)
    assert (late.phase, late.n_steps) == (Phase.TRAIN, 200)
    assert profile_of(late).start_lr == config(2000).base_lr


@pytest.mark.parametrize(
    ("total", "done", "phase"),
    [
        (FEWEST_STEPS - 1, 1, Phase.TRAIN),
        (2000, 2000 - FEWEST_STEPS, Phase.PROBE),
        (2000, 2001 - FEWEST_STEPS, Phase.TRAIN),
    ],
)
def test_what_is_too_few_steps_for_a_search_is_so_for_a_client_that_comes_back(
    total: int, done: int, phase: Phase
) -> None:
    assert rejoined(total, done, probe_steps=4).phase is phase


def test_a_client_that_comes_back_with_the_search_s_share_spent_is_given_a_plain_decay() -> None:
    """Enough steps are left for a search, but those that were lost count as one already."""
    spent = rejoined(4000, 100, wasted=800)
    assert (spent.phase, spent.n_steps) == (Phase.TRAIN, 3100)
    assert profile_of(spent).start_lr == config(4000).base_lr


@pytest.mark.parametrize("n_setbacks", [0, 1, 2])
def test_a_client_that_comes_back_after_setbacks_is_not_led_back_to_the_lr_that_failed(n_setbacks: int) -> None:
    transition = promising(length_exponent=0)
    lr = profile_of(transition.directive).start_lr
    for _ in range(n_setbacks):
        transition = short(transition)
    joined = alone(transition, 100)
    assert profile_of(joined.directive).start_lr == pytest.approx(lr / RETREAT**n_setbacks)
    assert bool(joined.directive.promise) is (n_setbacks < PROMISES)
    assert joined.decision is not None
    assert ("rolled back" in joined.decision.reason) is (n_setbacks > 0)
