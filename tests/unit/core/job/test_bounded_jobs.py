"""A job ends at some time, and what is kept with every step of it does not grow, whatever its client does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from lrpilot.wire.profile import Profile

from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.core import policies
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Status, Transition
from tuner_server.core.job.requested import MAX_WAITING
from tuner_server.core.messages import (
    ChangeKind,
    ChangeOrigin,
    Directive,
    Outcome,
    Phase,
    PlanChange,
    Replacement,
    Report,
)

NEEDS_MEASURES = {"fedhyper"}
"""Policies of a federation, whose directives are rounds."""


def opened(policy: str = "budget") -> Transition:
    bounds = {"min": 1e-4, "max": 1.0}
    return machine.create(JobConfig.checked(policy=policy, total_steps=10**9, lr_bounds=bounds, base_lr=0.1))


def replan(i: int) -> PlanChange:
    return PlanChange(kind=ChangeKind.REPLAN, origin=ChangeOrigin.CLIENT, reason=f"the {i}th data set")


def single_step(directive: Directive, i: int, **fields: Any) -> Report:
    report = {"directive_number": directive.number, "losses": (1.0,), "measures": {}, **fields}
    return Report(**{**report, "measures": dict.fromkeys(directive.measures, (1.0,))})


def in_parts(directive: Directive, i: int) -> Report:
    """Reports every single step of what is committed."""
    if not directive.phase.committed:
        return diverges(directive, i)
    return single_step(directive, i, outcome=Outcome.PARTIAL if directive.n_steps > 1 else Outcome.COMPLETED)


def alone(directive: Directive, i: int) -> Report:
    """Never does what it is told."""
    own = Replacement(profile=Profile.constant(0.1, 1))
    number = directive.number
    return Report(directive_number=number, outcome=Outcome.REPLACED, losses=(1.0,), replacement=own)


def replans(directive: Directive, i: int) -> Report:
    """Begins anew after every step."""
    if not directive.phase.committed:
        return diverges(directive, i)
    return single_step(directive, i, outcome=Outcome.REPLANNED, change=replan(i))


def diverges(directive: Directive, i: int) -> Report:
    return Report(directive_number=directive.number, outcome=Outcome.DIVERGED, losses=(1.0, math.nan))


@pytest.mark.parametrize("report", [in_parts, alone, replans])
@pytest.mark.parametrize("policy", sorted(set(policies.POLICIES) - NEEDS_MEASURES))
def test_the_state_of_a_job_does_not_grow(policy: str, report: Callable[[Directive, int], Report]) -> None:
    transition, sizes = opened(policy), []
    for i in range(160):
        transition = machine.advance(transition.state, report(transition.directive, i))
        assert transition.state.status.live
        sizes.append(len(transition.state.model_dump_json()))
    # Numbers get more digits, and a search comes and goes.
    assert max(sizes[80:]) < 1.15 * max(sizes[:80])


def test_a_job_ends_with_a_sentence_when_it_has_had_more_directives_than_any_sound_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "MAX_DIRECTIVES", 8)
    transition = opened()
    for i in range(7):
        transition = machine.advance(transition.state, alone(transition.directive, i))
        assert transition.state.status.live
    last = machine.advance(transition.state, alone(transition.directive, 8))
    assert (last.directive.phase, last.state.status) == (Phase.STOP, Status.FAILED)
    assert "8 directives were reported" in last.state.message
    assert "report in larger parts" in last.directive.reason
    assert last.state.committed_steps == 8, "what was reported counts all the same"


def test_a_finished_job_can_not_be_extended_beyond_its_directives(monkeypatch: pytest.MonkeyPatch) -> None:
    state = opened().state.model_copy(update={"status": Status.FINISHED})
    stop = Directive(number=9, phase=Phase.STOP, n_steps=0)
    monkeypatch.setattr(machine, "MAX_DIRECTIVES", 9)
    report = Report(directive_number=9, outcome=Outcome.REPLANNED, losses=(), change=replan(0))
    again = machine.advance(state.model_copy(update={"directive": stop, "lease": stop}), report)
    assert (again.directive.phase, again.state.status) == (Phase.STOP, Status.FAILED)


def test_a_client_can_not_pile_up_changes_during_a_search() -> None:
    training = SimulatedTraining()
    transition = opened("autolrs")
    assert transition.directive.phase.searches
    waiting = tuple(replan(i) for i in range(MAX_WAITING))
    state = transition.state.model_copy(update={"requested": waiting})
    report = training.run(transition.directive)
    with pytest.raises(InvalidInputError, match=r"report\.change: 20 changes wait"):
        machine.advance(state, report.model_copy(update={"change": replan(99)}))
    machine.advance(state, report.model_copy(update={"change": waiting[3]}))  # told again
    machine.advance(state, report)
