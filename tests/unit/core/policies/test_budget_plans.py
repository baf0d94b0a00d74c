"""Policy budget in a plan that changes: where the LR goes, what is tried, and what is seen without being told."""

from __future__ import annotations

import math

import pytest
from lrpilot.wire.rewarming import peak_of_rest

from tests.support.jobs.budget_jobs import committing, config, falling_on, profile_of, report_on
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.messages import (
    BatchScaling,
    ChangeKind,
    ChangeOrigin,
    Directive,
    Outcome,
    Phase,
    PlanChange,
    Report,
)
from tuner_server.core.search.veto import SPACING

TOTAL = 2000
REPLAN = PlanChange(kind=ChangeKind.REPLAN, reason="other images")


def part(directive: Directive, losses: list[float], change: PlanChange | None = None) -> Report:
    """So many steps of a directive, which then ends, since the plan changes, or goes on."""
    outcome = Outcome.PARTIAL if change is None else Outcome.REPLANNED
    return Report(directive_number=directive.number, outcome=outcome, losses=tuple(losses), change=change)


def trained(n_parts: int, total_steps: int = TOTAL, loss: float = 0.5) -> Transition:
    """A job so many reports into its committed steps, whose loss fell from 3 to 1 in probes."""
    now = committing(config(total_steps), 3.0, 1.0)
    for _ in range(n_parts):
        n_steps = now.directive.report_every
        now = machine.advance(now.state, part(now.directive, [loss + 0.01 * (i % 5) for i in range(n_steps)]))
    return now


def told(now: Transition, change: PlanChange) -> Transition:
    """The job once its client has told a change."""
    return machine.advance(now.state, part(now.directive, [], change))


def finished(total_steps: int = TOTAL) -> JobState:
    now = committing(config(total_steps), 3.0, 1.0)
    return machine.advance(now.state, falling_on(now.directive, 1.0, 0.2)).state


def lrs(directive: Directive) -> tuple[float, float, float]:
    """The first LR of a directive, the highest, and that after the last."""
    profile = profile_of(directive)
    highest = profile.highest_lr(directive.n_steps)
    assert highest is not None
    return profile.lr(0), highest, profile.lr(directive.n_steps)


def test_a_run_that_is_over_rises_to_the_line_to_its_new_end_and_falls_to_zero() -> None:
    state = finished()
    assert state.status is Status.FINISHED
    change = PlanChange(kind=ChangeKind.EXTEND, total_steps=2 * TOTAL)
    now = machine.advance(
        state,
        Report(directive_number=state.directive.number, outcome=Outcome.REPLANNED, losses=(), change=change),
    )
    assert (now.state.status, now.directive.phase, now.directive.n_steps) == (Status.TRAINING, Phase.TRAIN, TOTAL)
    first, highest, last = lrs(now.directive)
    assert state.peak_lr is not None
    assert first < 0.05 * state.peak_lr
    assert highest == pytest.approx(state.peak_lr * TOTAL / (state.committed_steps + TOTAL))
    assert last == 0.0
    assert now.directive.snapshot
    assert now.directive.change == change
    assert now.state.total_steps == 2 * TOTAL


def test_a_hot_run_that_is_extended_starts_where_it_is() -> None:
    now = trained(10)
    state = now.state
    assert state.present_lr is not None
    assert state.peak_lr is not None
    extended = told(now, PlanChange(kind=ChangeKind.EXTEND, total_steps=2 * TOTAL))
    remaining = 2 * TOTAL - state.run_steps
    assert extended.directive.n_steps == remaining
    first, highest, last = lrs(extended.directive)
    assert first == pytest.approx(state.present_lr, rel=0.05)
    wanted = peak_of_rest(state.peak_lr, state.present_lr, state.committed_steps, remaining)
    assert highest == pytest.approx(wanted)
    assert last == 0.0


def test_a_run_that_is_made_shorter_falls_to_zero_sooner() -> None:
    now = trained(5)
    end = now.state.run_steps + 100
    shorter = told(now, PlanChange(kind=ChangeKind.EXTEND, total_steps=end))
    assert shorter.directive.n_steps == 100
    assert lrs(shorter.directive)[1] == pytest.approx(now.state.present_lr)
    assert told(now, PlanChange(kind=ChangeKind.EXTEND, total_steps=now.state.run_steps)).directive.phase is Phase.STOP


@pytest.mark.parametrize(
    ("factor", "scaling", "expected"),
    [
        (4.0, BatchScaling.SQRT, 2.0),
        (4.0, BatchScaling.LINEAR, 4.0),
        (100.0, BatchScaling.SQRT, 4.0),
        (1 / 4, BatchScaling.SQRT, 0.5),
        (8.0, BatchScaling.NONE, 1.0),
    ],
)
def test_the_lr_follows_the_batch_size_within_bounds(factor: float, scaling: BatchScaling, expected: float) -> None:
    now = trained(10)
    change = PlanChange(kind=ChangeKind.REPLAN, batch_factor=factor, batch_scaling=scaling)
    after = told(now, change)
    assert after.directive.phase is Phase.TRAIN
    assert now.state.peak_lr is not None
    assert lrs(after.directive)[1] == pytest.approx(expected * now.state.peak_lr)


def looked_down(now: Transition, ends: list[float]) -> tuple[list[float], Transition]:
    """The peaks of the probes that end at such losses, from 8, and the job after them."""
    tried = []
    while now.directive.phase is Phase.PROBE:
        tried.append(profile_of(now.directive).peak)
        now = machine.advance(now.state, falling_on(now.directive, 8.0, ends[len(tried) - 1]))
    return tried, now


def test_other_data_are_met_at_the_runs_own_peak_unless_it_is_refused() -> None:
    peak = trained(10).state.peak_lr
    assert peak is not None
    tried, kept = looked_down(told(trained(10), REPLAN), [2.0, 1.9])
    assert tried == pytest.approx([peak, peak / SPACING])
    assert lrs(kept.directive)[1] == pytest.approx(peak)
    tried, lowered = looked_down(told(trained(10), REPLAN), [7.5, 2.0, 2.0])
    assert len(tried) == 3
    assert lrs(lowered.directive)[1] == pytest.approx(peak / SPACING)
    assert lowered.decision is not None
    assert [candidate.lr for candidate in lowered.decision.candidates] == pytest.approx(tried)
    assert "other images" in lowered.decision.reason
    assert lowered.directive.stage == 1
    assert lowered.directive.promise, "what the probes gained in the new data is promised of the steps in them"


def test_a_search_in_mid_run_takes_a_small_part_of_what_is_left() -> None:
    now = told(trained(10), REPLAN)
    remaining = now.state.remaining_steps
    assert remaining is not None
    _, after = looked_down(now, [2.0, 1.9])
    assert 0 < after.state.search_steps - now.state.search_steps < 0.09 * remaining


def test_with_few_steps_left_nothing_is_tried() -> None:
    now = trained(16)
    assert now.state.remaining_steps is not None
    assert now.state.remaining_steps < 500
    assert told(now, REPLAN).directive.phase is Phase.TRAIN


def test_data_that_change_unannounced_are_met_like_those_that_are_announced() -> None:
    now = trained(10)
    n_steps = now.directive.report_every
    noticed = machine.advance(now.state, part(now.directive, [4.0 + 0.01 * (i % 5) for i in range(n_steps)]))
    assert noticed.directive.phase is Phase.PROBE
    change = noticed.directive.change
    assert change is not None
    assert (change.kind, change.origin) == (ChangeKind.REPLAN, ChangeOrigin.POLICY)
    assert "4" in change.reason
    assert noticed.state.committed_steps == now.state.committed_steps + n_steps, "the steps stay"
    _, after = looked_down(noticed, [2.0, 1.9])
    assert after.directive.phase is Phase.TRAIN
    # Once: the losses of the new data are what they are from here on.
    again = machine.advance(after.state, part(after.directive, [2.0] * after.directive.report_every))
    assert again.directive.change is None


def test_a_sound_run_is_left_alone() -> None:
    now = trained(3)
    for level in (0.55, 0.5, 0.6, 0.45, 0.62, 0.4):
        noisy = [level + 0.2 * math.sin(7.0 * i) for i in range(now.directive.report_every)]
        now = machine.advance(now.state, part(now.directive, noisy))
        assert now.directive.change is None


def test_an_annealing_begins_where_the_run_is_and_can_be_undone() -> None:
    now = trained(4)
    before = now.state
    annealing = told(now, PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=150))
    assert annealing.directive.n_steps == 150
    assert lrs(annealing.directive)[:2] == pytest.approx((before.present_lr, before.present_lr))
    over = machine.advance(annealing.state, report_on(annealing.directive, 0.2))
    assert over.state.status is Status.FINISHED
    undone = told(over, PlanChange(kind=ChangeKind.UNDO_ANNEALING))
    assert undone.directive.restore
    assert undone.state.committed_steps == before.committed_steps
    assert undone.state.search_steps == before.search_steps + 150
    assert undone.state.total_steps == TOTAL
    assert undone.directive.n_steps == TOTAL - before.run_steps - 150
    assert lrs(undone.directive)[1] == pytest.approx(before.present_lr)


def test_a_setback_in_a_new_plan_leads_back_to_where_it_began() -> None:
    now = told(trained(10), PlanChange(kind=ChangeKind.EXTEND, total_steps=2 * TOTAL))
    committed = now.state.committed_steps
    back = machine.advance(now.state, report_on(now.directive, 1.0, steps=30))
    assert back.directive.restore
    assert back.state.committed_steps == committed
    assert lrs(back.directive)[1] == pytest.approx(lrs(now.directive)[1] / math.sqrt(10))
