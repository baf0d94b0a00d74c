"""A rollback that was not complete: no probe tells anything, so the search ends, for good, at the LR that was set."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs import budget_jobs
from tests.support.jobs.incomplete_rollback import NOTE, LeakingTraining
from tests.support.jobs.simulated_training import QUICK, Run, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.messages import Outcome, Phase, Replacement, Report
from tuner_server.service import family

BASE_LR = 0.1
BUDGET = budget_jobs.config(1000, **budget_jobs.PLAIN)
AUTOLRS = config(800, **QUICK)
OPEN_END = config(None, **QUICK)
JOBS = {"budget": BUDGET, "autolrs": AUTOLRS, "autolrs without an end": OPEN_END}


def report_on(state: JobState, outcome: Outcome, losses: tuple[float, ...], **fields: Any) -> Report:
    return Report(directive_number=state.directive.number, outcome=outcome, losses=losses, **fields)


def found_out(asked: JobConfig, probes: int = 1) -> Transition:
    """A job right after a probe that did not begin as the first one had."""
    transition = machine.create(asked)
    for _ in range(probes):
        state = transition.state
        transition = machine.advance(state, report_on(state, Outcome.COMPLETED, (1.0,) * state.directive.n_steps))
    assert transition.directive.phase is Phase.PROBE
    losses = (0.9, math.nan)
    return machine.advance(transition.state, report_on(transition.state, Outcome.UNREPEATABLE, losses, note=NOTE))


def written_and_read(transition: Transition) -> Transition:
    state = JobState.model_validate_json(transition.state.model_dump_json())
    return Transition(state, state.directive)


def profile_of(transition: Transition) -> Profile:
    assert transition.directive.profile is not None
    return transition.directive.profile


@pytest.mark.parametrize("name", JOBS)
def test_what_follows_is_the_lr_that_was_set_over_all_that_is_left_and_a_decision_says_why(name: str) -> None:
    transition = found_out(JOBS[name])
    state, directive, profile = transition.state, transition.directive, profile_of(transition)
    assert (directive.phase, directive.restore, profile.start_lr) == (Phase.TRAIN, True, BASE_LR)
    assert (state.unrepeatable, state.status) == (NOTE, Status.TRAINING)
    if state.remaining_steps is None:
        assert profile.shape == Shape.CONSTANT
    else:
        assert directive.n_steps == state.remaining_steps
        assert (profile.shape, profile.end_lr) == (Shape.LINEAR, 0.0)
    assert transition.decision is not None
    assert transition.decision.reason in directive.reason
    assert NOTE in transition.decision.reason
    assert not transition.decision.candidates


@pytest.mark.parametrize("name", JOBS)
def test_its_steps_are_search_steps(name: str) -> None:
    state = found_out(JOBS[name]).state
    probed = machine.create(JOBS[name]).directive.n_steps
    assert (state.committed_steps, state.search_steps, state.given_back_steps) == (0, probed + 2, 0)


@pytest.mark.parametrize("name", JOBS)
def test_nothing_is_promised(name: str) -> None:
    transition = machine.create(JOBS[name])
    n_steps = transition.directive.n_steps
    fallen = (2.0,) * (n_steps // 2) + (1.0,) * (n_steps - n_steps // 2)
    transition = machine.advance(transition.state, report_on(transition.state, Outcome.COMPLETED, fallen))
    transition = machine.advance(transition.state, report_on(transition.state, Outcome.UNREPEATABLE, (0.9,), note=NOTE))
    assert not transition.directive.promise


@pytest.mark.parametrize("name", ["budget", "autolrs"])
def test_a_run_goes_on_to_its_end_without_a_search(name: str) -> None:
    run = drive(JOBS[name], LeakingTraining(sound_probes=2))
    assert run.state.status is Status.FINISHED
    first, *rest = run.exchanges[run.directives.index(run.of(Phase.TRAIN)[0].directive) :]
    assert first.report is not None
    assert {exchange.directive.phase for exchange in rest} == {Phase.TRAIN, Phase.STOP}
    assert run.state.run_steps == run.state.config.total_steps


def test_without_an_end_one_lease_follows_the_other_at_the_same_lr() -> None:
    run = drive(OPEN_END, LeakingTraining(), max_directives=40)
    leases = [exchange.directive for exchange in run.of(Phase.TRAIN)]
    assert len(run.of(Phase.PROBE)) == 2
    assert {directive.profile.start_lr for directive in leases if directive.profile} == {BASE_LR}
    assert len({directive.stage for directive in leases}) > 5


@pytest.mark.parametrize("name", JOBS)
def test_a_divergence_after_that_lowers_the_lr_and_searches_no_more(name: str) -> None:
    transition = written_and_read(found_out(JOBS[name]))
    for i in range(1, 4):
        report = report_on(transition.state, Outcome.DIVERGED, (1.0, math.nan))
        transition = written_and_read(machine.advance(transition.state, report))
        assert (transition.directive.phase, transition.directive.restore) == (Phase.TRAIN, True)
        assert profile_of(transition).start_lr == pytest.approx(BASE_LR / math.sqrt(10) ** i)
        assert not transition.directive.promise


@pytest.mark.parametrize("name", JOBS)
def test_a_client_that_was_alone_after_that_does_not_search_either(name: str) -> None:
    diverged = machine.advance(
        (found := found_out(JOBS[name])).state, report_on(found.state, Outcome.DIVERGED, (1.0, math.nan))
    )
    for transition, lr in ((found, BASE_LR), (diverged, BASE_LR / math.sqrt(10))):
        state = written_and_read(transition).state
        own = Replacement(profile=Profile.constant(0.01, 20))
        joined = machine.advance(state, report_on(state, Outcome.REPLACED, (1.0,) * 20, replacement=own))
        assert joined.directive.phase is Phase.TRAIN
        assert profile_of(joined).start_lr == pytest.approx(lr)
        assert not joined.directive.promise


def test_a_later_search_may_find_it_out() -> None:
    run = drive(config(800, **QUICK), LeakingTraining(sound_probes=QUICK["candidates"] + 1))
    stages = [exchange.directive.stage for exchange in run.of(Phase.TRAIN)]
    assert (stages[0], stages[-1]) == (0, 1)
    assert run.state.status is Status.FINISHED
    committed = run.of(Phase.TRAIN)[-1].directive.profile
    assert committed is not None
    assert (committed.start_lr, committed.end_lr) == (BASE_LR, 0.0)


def test_a_job_that_was_cancelled_is_stopped_and_remembers_it() -> None:
    transition = machine.create(BUDGET)
    cancelled = machine.cancel(transition.state, "enough")
    stopped = machine.advance(cancelled, report_on(cancelled, Outcome.UNREPEATABLE, (0.9,), note=NOTE))
    assert (stopped.directive.phase, stopped.state.status) == (Phase.STOP, Status.CANCELLED)
    assert (stopped.directive.restore, stopped.state.unrepeatable) == (True, NOTE)


def test_it_is_no_evidence_for_the_jobs_of_its_family() -> None:
    def run(sound_probes: int) -> Run:
        return drive(BUDGET, LeakingTraining(sound_probes=sound_probes))

    assert family.optimum_of(run(1000).state) is not None
    for sound_probes in range(6):
        assert family.optimum_of(run(sound_probes).state) is None
