"""Searches side by side: every job goes on as if it were alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from lrpilot.wire.profile import Profile

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tuner_server.core import policies
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError, PreconditionError
from tuner_server.core.job import lockstep, machine
from tuner_server.core.job.lockstep import PendingSearch
from tuner_server.core.job.machine import Status, Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Report
from tuner_server.core.policies.base import Asking, Options, Policy, PolicyState, Progress, Step
from tuner_server.core.search import suggest as suggesting
from tuner_server.core.search.acquisition import LogExpectedImprovement
from tuner_server.core.search.observations import observations
from tuner_server.core.search.suggest import Query, Suggestion

JOBS = [
    *[config(600, **QUICK).model_copy(update={"seed": seed}) for seed in range(3)],
    *[
        JobConfig(total_steps=3000, lr_bounds=LrBounds(min=10**-low, max=1.0), base_lr=0.1, seed=low)
        for low in range(2, 6)
    ],
]


def alone(asked: JobConfig, training: SimulatedTraining) -> list[Transition]:
    transitions = [machine.create(asked)]
    while transitions[-1].directive.phase is not Phase.STOP:
        transitions.append(machine.advance(transitions[-1].state, training.run(transitions[-1].directive)))
    return transitions


@pytest.mark.parametrize("seed", range(3))
def test_jobs_whose_searches_are_made_together_go_on_as_if_each_were_alone(seed: int) -> None:
    expected = [alone(asked, SimulatedTraining(i)) for i, asked in enumerate(JOBS)]
    trainings = [SimulatedTraining(i) for i in range(len(JOBS))]
    got = [[machine.create(asked)] for asked in JOBS]
    dice = random.Random(seed)
    largest = 0
    while live := [i for i, own in enumerate(got) if own[-1].directive.phase is not Phase.STOP]:
        # Some of them, in any order: what shares a batch is chance.
        some = dice.sample(live, dice.randint(1, len(live)))
        begun = {i: lockstep.begin(got[i][-1].state, trainings[i].run(got[i][-1].directive)) for i in some}
        searches = {i: b for i, b in begun.items() if isinstance(b, PendingSearch)}
        largest = max(largest, len(searches))
        finished = dict(zip(searches, lockstep.finish_all(list(searches.values())), strict=True))
        for i, result in begun.items():
            got[i].append(finished[i] if isinstance(result, PendingSearch) else result)
    assert got == expected
    assert largest > 3


def test_no_searches_have_no_transitions() -> None:
    assert lockstep.finish_all([]) == []


def test_a_report_that_needs_no_suggestion_is_done_at_once_and_a_wrong_one_is_refused() -> None:
    asked = config(600, **QUICK)
    transition = next(t for t in alone(asked, SimulatedTraining()) if t.directive.phase is Phase.TRAIN)
    directive = transition.directive
    part = Report(directive_number=directive.number, outcome=Outcome.PARTIAL, losses=(1.0,))
    assert isinstance(lockstep.begin(transition.state, part), Transition)
    with pytest.raises(PreconditionError):
        lockstep.begin(transition.state, part.model_copy(update={"directive_number": directive.number + 1}))
    with pytest.raises(InvalidInputError):
        lockstep.begin(transition.state, part.model_copy(update={"losses": (1.0,) * (directive.n_steps + 1)}))


class Asks(Policy[Options, PolicyState]):
    """Asks for two suggestions between two probes, and can't do without."""

    name = "asks"
    options_type = Options
    state_type = PolicyState

    def start(self, progress: Progress) -> Asking[PolicyState]:
        yield from ()
        assert self.config.lr_bounds is not None
        directive = Directive(phase=Phase.PROBE, n_steps=1, profile=Profile.constant(0.1, 1))
        return Step(PolicyState(), directive)

    def advance(
        self, state: PolicyState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[PolicyState]:
        for _ in range(2):
            yield query(self.config.seed)
        return (yield from self.start(progress))

    def rejoin(self, state: PolicyState, progress: Progress) -> Asking[PolicyState]:
        return self.start(progress)

    def without_search(self, state: PolicyState, progress: Progress, reason: str) -> Step[PolicyState]:
        raise NotImplementedError


def query(seed: int) -> Query:
    return Query(observations([]), (-3.0, 0.0), LogExpectedImprovement(), seed=seed)


def test_what_fails_fails_its_own_job_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, Asks.name, Asks)
    suggest = suggesting.suggest

    def fragile(query: Query) -> Suggestion:
        if query.seed == 1:
            raise ArithmeticError("not positive definite")
        return suggest(query)

    def fragile_all(queries: Sequence[Query]) -> list[Suggestion]:
        return [fragile(query) for query in queries]

    monkeypatch.setattr(lockstep, "suggest", fragile)
    monkeypatch.setattr(lockstep, "suggest_all", fragile_all)
    searches: list[Any] = []
    for seed in range(3):
        asked = JobConfig(policy="asks", total_steps=10, lr_bounds=LrBounds(min=1e-3, max=1), base_lr=0.1, seed=seed)
        transition = machine.create(asked)
        report = Report(directive_number=1, outcome=Outcome.COMPLETED, losses=(1.0,))
        searches.append(lockstep.begin(transition.state, report))
    sound, broken, other = lockstep.finish_all(searches)
    assert (sound.state.status, other.state.status) == (Status.SEARCHING, Status.SEARCHING)
    assert broken.state.status is Status.FAILED
    assert broken.state.message == "policy asks: ArithmeticError: not positive definite"
