"""The life of a job, driven by plain loops: what moves it, what is refused, and what its books say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lrpilot.wire.early_warning import EarlyWarning, WarningRule
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core import policies
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError, PolicyError, PreconditionError
from tuner_server.core.evidence.restart import MAX_RESTARTS
from tuner_server.core.job import machine
from tuner_server.core.job.machine import TRANSITIONS, JobState, Status, Transition
from tuner_server.core.job.report_check import check_replacement, check_report
from tuner_server.core.job.requested import MAX_WAITING
from tuner_server.core.job.standing import Standing
from tuner_server.core.messages import (
    LOSS_WINDOW,
    Average,
    Bar,
    ChangeKind,
    ChangeOrigin,
    Decision,
    Directive,
    Ending,
    Outcome,
    Phase,
    PlanChange,
    Replacement,
    Report,
    Validation,
    Weights,
)
from tuner_server.core.policies.base import Asking, Options, Policy, PolicyState, Progress, Step


def report_on(
    directive: Directive, outcome: Outcome = Outcome.COMPLETED, n: int | None = None, **fields: Any
) -> Report:
    n = directive.n_steps if n is None else n
    fields.setdefault("losses", (1.0,) * n)
    return Report(directive_number=directive.number, outcome=outcome, **fields)


def step(transition: Transition, outcome: Outcome = Outcome.COMPLETED, n: int | None = None) -> Transition:
    return machine.advance(transition.state, report_on(transition.directive, outcome, n))


def mean(losses: Sequence[float]) -> float:
    return math.fsum(losses) / len(losses)


def until(phase: Phase, **options: Any) -> Transition:
    """A job whose outstanding directive is of that phase."""
    transition = machine.create(config(400, **QUICK | options))
    while transition.directive.phase is not phase:
        transition = step(transition)
    return transition


class ScriptedOptions(Options):
    """Phases in order, of `n_steps` each, that ask for `measures`; "raise" raises."""

    script: tuple[str, ...]
    n_steps: int = 5
    measures: tuple[str, ...] = ()


class Scripted(Policy[ScriptedOptions, PolicyState]):
    """Does what its options say."""

    name = "scripted"
    options_type = ScriptedOptions
    state_type = PolicyState

    def start(self, progress: Progress) -> Step[PolicyState]:
        return self._next(0)

    def advance(
        self, state: PolicyState, directive: Directive, report: Report, progress: Progress
    ) -> Step[PolicyState]:
        return self._next(directive.number)

    def rejoin(self, state: PolicyState, progress: Progress) -> Step[PolicyState]:
        return self._next(-1)

    def without_search(self, state: PolicyState, progress: Progress, reason: str) -> Step[PolicyState]:
        return self._next(-1)

    def _next(self, index: int) -> Step[PolicyState]:
        word = self.options.script[index]
        if word == "raise":
            raise PolicyError("as scripted")
        phase = Phase(word)
        n_steps = 0 if phase is Phase.STOP else self.options.n_steps
        profile = Profile.constant(0.1, n_steps) if n_steps else None
        measures = self.options.measures
        return Step(PolicyState(), Directive(phase=phase, n_steps=n_steps, profile=profile, measures=measures))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, Scripted.name, Scripted)


def scripted_config(*script: str, total_steps: int | None = 100) -> JobConfig:
    return config(total_steps).model_copy(update={"policy": "scripted", "policy_options": {"script": script}})


# --- the transition table ---------------------------------------------------------------------------------------------

LIVE = [Status.WARM_UP, Status.SEARCHING, Status.TRAINING]
PHASES_WITH_STEPS = [phase for phase in Phase if phase is not Phase.STOP]


def test_every_status_is_in_the_table_and_ends_lead_nowhere() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert [status for status in Status if status.live] == LIVE


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("after", Phase)
@pytest.mark.parametrize("before", PHASES_WITH_STEPS)
def test_a_policy_moves_the_job_along_the_table_or_fails_it(before: Phase, after: Phase) -> None:
    transition = step(machine.create(scripted_config(before, after)))
    if (before, after) == (Phase.TRAIN, Phase.WARM_UP):
        assert transition.state.status is Status.FAILED
        assert "training does not lead to warm_up" in transition.state.message
        assert transition.directive.phase is Phase.STOP
    else:
        assert transition.directive.phase is after
        expected = {
            Phase.WARM_UP: Status.WARM_UP,
            Phase.RANGE_TEST: Status.SEARCHING,
            Phase.PROBE: Status.SEARCHING,
            Phase.TRAIN: Status.TRAINING,
            Phase.STOP: Status.FINISHED,
        }[after]
        assert transition.state.status is expected
    assert transition.directive.restore is not before.committed
    begins_at_a_snapshot = before.committed and after in (Phase.PROBE, Phase.RANGE_TEST)
    assert transition.directive.snapshot is begins_at_a_snapshot


def ended(status: Status) -> JobState:
    transition = until(Phase.TRAIN)
    if status is Status.CANCELLED:
        state = machine.cancel(transition.state, "enough")
        return machine.advance(state, report_on(transition.directive)).state
    if status is Status.FAILED:
        return machine._stop(transition.state, report_on(transition.directive), Status.FAILED, "broken").state
    return drive(config(400, **QUICK), SimulatedTraining()).state


@pytest.mark.parametrize("status", [Status.FINISHED, Status.CANCELLED, Status.FAILED])
def test_an_ended_job_refuses_every_event(status: Status) -> None:
    state = ended(status)
    before = state.model_dump_json()
    assert state.status is status
    for outcome in set(Outcome) - {Outcome.REPLANNED}:
        with pytest.raises(PreconditionError, match="ended"):
            machine.advance(state, report_on(state.directive, outcome, 1))
    extend = PlanChange(kind=ChangeKind.EXTEND, total_steps=500)
    with pytest.raises(PreconditionError, match="ended"):
        machine.request(state, extend)
    if status is not Status.FINISHED:  # which its own client may extend
        with pytest.raises(PreconditionError, match="ended"):
            machine.advance(state, report_on(state.directive, Outcome.REPLANNED, 0, change=extend))
    with pytest.raises(PreconditionError, match="ended"):
        machine.cancel(state, "")
    assert state.model_dump_json() == before


@pytest.mark.parametrize("phase", [Phase.WARM_UP, Phase.PROBE, Phase.TRAIN])
@pytest.mark.parametrize("off_by", [-1, 1, 1000])
def test_a_wrong_number_is_refused_and_leaves_the_job_alone(phase: Phase, off_by: int) -> None:
    state = until(phase, warmup_steps=10).state
    before = state.model_dump_json()
    report = report_on(state.directive).model_copy(update={"directive_number": state.directive.number + off_by})
    with pytest.raises(PreconditionError, match=r"report\.directive_number"):
        machine.advance(state, report)
    assert state.model_dump_json() == before
    machine.advance(state, report_on(state.directive))


# --- a policy that breaks the contract --------------------------------------------------------------------------------


@pytest.mark.usefixtures("scripted")
def test_a_policy_that_raises_fails_the_job_and_rolls_the_probe_back() -> None:
    transition = step(machine.create(scripted_config("probe", "raise")))
    assert transition.state.status is Status.FAILED
    assert "as scripted" in transition.state.message
    assert transition.directive.phase is Phase.STOP
    assert transition.directive.restore


@pytest.mark.usefixtures("scripted")
def test_a_policy_can_not_ask_for_more_steps_than_are_left() -> None:
    transition = step(machine.create(scripted_config("train", "train", total_steps=9)))
    assert transition.state.status is Status.FAILED
    assert "5 steps asked for, 4 are left" in transition.state.message


@pytest.mark.usefixtures("scripted")
def test_a_stop_of_the_policy_ends_the_job_before_its_budget() -> None:
    transition = step(machine.create(scripted_config("train", "stop")))
    assert transition.state.status is Status.FINISHED
    assert transition.state.committed_steps == 5
    assert transition.directive.n_steps == 0


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        machine.create(config().model_copy(update={"policy": "magic"}))
    assert caught.value.violations[0].field == "policy"
    assert "autolrs" in caught.value.violations[0].description


# --- numbers and books ------------------------------------------------------------------------------------------------


def test_directives_are_numbered_from_1_with_parts_and_stop() -> None:
    run = drive(config(800, **QUICK), SimulatedTraining())
    assert [directive.number for directive in run.directives] == list(range(1, len(run.directives) + 1))
    assert any(exchange.report and exchange.report.outcome is Outcome.PARTIAL for exchange in run.exchanges)


@pytest.mark.parametrize(("total_steps", "policy"), [(800, "budget"), (None, "open_ended")])
def test_the_state_names_the_policy_that_was_chosen_for_it(total_steps: int | None, policy: str) -> None:
    unnamed = config(total_steps).model_copy(update={"policy": ""})
    assert machine.create(unnamed).state.config.policy == policy


def test_books_of_a_probe_a_commit_and_a_divergence() -> None:
    transition = until(Phase.TRAIN)
    assert (transition.state.committed_steps, transition.state.search_steps) == (0, 3 * 8)
    transition = step(transition)
    assert (transition.state.committed_steps, transition.state.search_steps) == (40, 3 * 8)
    transition = step(transition, Outcome.DIVERGED, 5)  # a probe of the second stage
    assert (transition.state.committed_steps, transition.state.search_steps) == (40, 3 * 8 + 5)
    while transition.directive.phase is not Phase.TRAIN:
        transition = step(transition)
    searched = transition.state.search_steps
    transition = step(transition, Outcome.PARTIAL, 30)
    assert (transition.state.committed_steps, transition.state.search_steps) == (70, searched)
    transition = step(transition, Outcome.DIVERGED, 7)
    assert (transition.state.committed_steps, transition.state.search_steps) == (40, searched + 37)
    assert (transition.state.given_back_steps, transition.state.probe_steps) == (37, searched)
    assert transition.directive.restore


def test_a_probe_does_not_touch_the_standing() -> None:
    transition = until(Phase.TRAIN)
    assert (transition.state.last_loss, transition.state.best_loss) == (None, None)
    losses = (9.0,) * 30 + tuple(float(i) for i in range(10))
    transition = machine.advance(transition.state, report_on(transition.directive, losses=losses))
    assert (transition.state.last_loss, transition.state.best_loss) == (4.5, 4.5)
    probe = report_on(transition.directive, losses=(0.1,) * transition.directive.n_steps)
    assert Standing.of(machine.advance(transition.state, probe).state) == Standing.of(transition.state)


def test_a_divergence_gives_the_standing_back_with_the_steps() -> None:
    transition = machine.create(config(400, has_validation=True, warmup_steps=30, **QUICK))
    before = Standing.of(transition.state)
    part = report_on(transition.directive, Outcome.PARTIAL, losses=(0.5,) * 20)
    transition = machine.advance(transition.state, part)
    assert transition.state.best_loss == 0.5
    transition = step(transition, Outcome.DIVERGED, 3)
    assert (transition.state.committed_steps, Standing.of(transition.state)) == (0, before)


def test_a_state_from_before_there_was_a_best_loss_goes_on() -> None:
    whole = step(until(Phase.TRAIN))
    old = json.loads(whole.state.model_dump_json(exclude={"recent_losses", "best_loss", "snapshot_standing"}))
    state = JobState.model_validate_json(json.dumps(old))
    assert (state.last_loss, state.best_loss) == (1.0, None)
    transition = Transition(state, whole.directive)
    while transition.directive.phase is not Phase.TRAIN:
        transition = step(transition)
    assert step(transition).state.best_loss == 1.0


def test_validations_of_committed_steps_are_kept_the_best_too() -> None:
    transition = machine.create(config(400, has_validation=True, **QUICK))
    seen: list[tuple[float | None, float | None]] = []
    for loss in (0.5, 0.7):
        while transition.directive.phase is not Phase.TRAIN:
            directive = transition.directive
            validations = tuple(Validation(step=s, loss=0.1) for s in directive.validate_at)
            transition = machine.advance(transition.state, report_on(directive, validations=validations))
        validations = (Validation(step=transition.directive.n_steps, loss=loss),)
        transition = machine.advance(transition.state, report_on(transition.directive, validations=validations))
        seen.append((transition.state.last_validation, transition.state.best_validation))
    assert seen == [(0.5, 0.5), (0.7, 0.5)]


def test_wall_time_adds_up() -> None:
    transition = until(Phase.PROBE)
    transition = machine.advance(transition.state, report_on(transition.directive, wall_time_s=1.5))
    transition = machine.advance(transition.state, report_on(transition.directive, wall_time_s=0.25))
    assert transition.state.wall_time_s == 1.75


@pytest.mark.parametrize("parts", [[1], [39], [13, 13, 13], [10, 20]])
def test_parts_give_the_same_as_the_whole(parts: list[int]) -> None:
    transition = until(Phase.TRAIN)
    losses = tuple(float(i % 7) for i in range(transition.directive.n_steps))
    whole = machine.advance(transition.state, report_on(transition.directive, losses=losses))
    lrs: list[float] = []
    for n in parts:
        assert transition.directive.profile is not None
        lrs += [transition.directive.profile.lr(i) for i in range(n)]
        part = report_on(transition.directive, Outcome.PARTIAL, losses=losses[:n])
        transition, losses = machine.advance(transition.state, part), losses[n:]
        assert not transition.directive.restore
        assert not transition.directive.snapshot
    transition = machine.advance(transition.state, report_on(transition.directive, losses=losses))
    ignored = {"directive": {"number"}, "lease": {"number"}}
    assert transition.state.model_dump(exclude=ignored) == whole.state.model_dump(exclude=ignored)


def test_the_rest_after_a_part_goes_on_in_the_profile_and_its_validations() -> None:
    transition = machine.create(config(400, has_validation=True, warmup_steps=30, **QUICK))
    whole = transition.directive
    rest = step(transition, Outcome.PARTIAL, 12).directive
    assert whole.profile is not None
    assert rest.profile is not None
    assert rest.n_steps == 18
    assert [rest.profile.lr(i) for i in range(18)] == [whole.profile.lr(12 + i) for i in range(18)]
    directive = Directive(
        phase=Phase.TRAIN, n_steps=9, profile=Profile.constant(0.1, 9), validate_at=(0, 4, 5, 9), restore=True
    )
    assert directive.after(4).validate_at == (1, 5)
    assert not directive.after(4).restore


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.RANGE_TEST, Phase.WARM_UP, Phase.PROBE, Phase.TRAIN])
@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.PARTIAL, Outcome.DIVERGED])
def test_after_a_cancel_the_open_report_is_taken_and_answered_with_stop(phase: Phase, outcome: Outcome) -> None:
    if outcome is Outcome.PARTIAL and not phase.committed:
        return
    transition = machine.create(config(400, bounds=phase is not Phase.RANGE_TEST, **QUICK, warmup_steps=10))
    while transition.directive.phase is not phase:
        transition = step(transition)
    state = machine.cancel(transition.state, "enough")
    assert (state.status, state.directive) == (Status.CANCELLED, transition.directive)
    n = transition.directive.n_steps if outcome is Outcome.COMPLETED else 3
    stopped = machine.advance(state, report_on(state.directive, outcome, n))
    assert stopped.directive.phase is Phase.STOP
    assert stopped.directive.reason == "enough"
    assert stopped.directive.restore is (not phase.committed or outcome is Outcome.DIVERGED)
    assert stopped.state.status is Status.CANCELLED


# --- bad reports ------------------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
PROBE_OF_8 = Directive(number=3, phase=Phase.PROBE, n_steps=8, profile=Profile.constant(0.1, 8), validate_at=(4, 8))
TEST_OF_8 = PROBE_OF_8.model_copy(update={"phase": Phase.RANGE_TEST, "validate_at": ()})
TRAIN_OF_8 = PROBE_OF_8.model_copy(update={"phase": Phase.TRAIN, "validate_at": (8,)})
HELD_OF_8 = TRAIN_OF_8.model_copy(update={"promise": (Bar(from_step=2, loss=0.5),)})
FIRST_OF_8 = PROBE_OF_8.model_copy(update={"validate_at": (0, 8)})
WARNED_OF_8 = PROBE_OF_8.model_copy(
    update={
        "measures": ("norm",),
        "warnings": (EarlyWarning(measure="norm", rule=WarningRule.ABOVE, level=1.0, row=1),),
    }
)
MEASURED_OF_8 = TRAIN_OF_8.model_copy(update={"measures": ("norm", "other")})
BOTH = (Validation(step=4, loss=1.0), Validation(step=8, loss=1.0))


@pytest.mark.parametrize(
    ("directive", "report", "field"),
    [
        (PROBE_OF_8, report_on(PROBE_OF_8, n=7, validations=BOTH), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, n=9, validations=BOTH), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, n=0), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 0), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 9), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.PARTIAL, 4), "report.outcome"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, 8), "report.losses"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, 0), "report.losses"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, losses=(1.0,) * 5 + (NAN, 1.0, 1.0)), "report.losses[5]"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, losses=(INF,) + (1.0,) * 7), "report.losses[0]"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, losses=(1.0, -INF)), "report.losses[1]"),
        (PROBE_OF_8, report_on(PROBE_OF_8), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=BOTH[:1]), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=BOTH[::-1]), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=(BOTH[0], *BOTH)), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=(*BOTH, Validation(step=5, loss=1.0))), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 5, validations=BOTH), "report.validations"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, validations=BOTH), "report.validations"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, validations=(Validation(step=8, loss=NAN),)), "report.validations[0].loss"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, wall_time_s=-1.0), "report.wall_time_s"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, replacement=Replacement()), "report.replacement"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, wall_time_s=NAN), "report.wall_time_s"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, wall_time_s=1.7e308), "report.wall_time_s"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.FELL_SHORT, 3), "report.outcome"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.FELL_SHORT, 3), "report.outcome"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.UNREPEATABLE, 3, note="odd"), "report.outcome"),
        (TEST_OF_8, report_on(TEST_OF_8, Outcome.UNREPEATABLE, 3, note="odd"), "report.outcome"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 0, note="odd"), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 9, note="odd"), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 3, note=" "), "report.note"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 3, note="odd"), "report.note"),
        (
            PROBE_OF_8,
            report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 3, note="odd", validations=BOTH[:1]),
            "report.validations",
        ),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, measures={"norm": (1.0,) * 8}), "report.measures"),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"third": (1.0,) * 8}), "report.measures"),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"norm": (1.0,) * 7}), "report.measures"),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"norm": (1.0,) * 8, "other": ()}), "report.measures"),
        (
            MEASURED_OF_8,
            report_on(MEASURED_OF_8, Outcome.PARTIAL, 3, measures={"norm": (1.0,) * 8}),
            "report.measures",
        ),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 0), "report.losses"),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 9), "report.losses"),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, losses=(1.0, INF)), "report.losses[1]"),
        (FIRST_OF_8, report_on(FIRST_OF_8, validations=(Validation(step=0, loss=1.0),)), "report.validations"),
        (
            FIRST_OF_8,
            report_on(FIRST_OF_8, validations=(Validation(step=0, loss=INF), BOTH[1])),
            "report.validations[0].loss",
        ),
    ],
)
def test_a_bad_report_is_refused_by_the_field_at_fault(directive: Directive, report: Report, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_report(directive, report, has_validation=True)
    assert [violation.field for violation in caught.value.violations] == [field]


AVERAGED_OF_8 = TRAIN_OF_8.model_copy(update={"average": Average(memory_steps=4.0, every=2)})


def ending(adopted: Weights = Weights.AVERAGE, memory_steps: float = 4.0, **losses: float) -> Ending:
    return Ending(adopted=adopted, memory_steps=memory_steps, **losses)


@pytest.mark.parametrize(
    ("directive", "report", "field"),
    [
        (TRAIN_OF_8, report_on(TRAIN_OF_8, ending=ending()), "report.ending"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, Outcome.PARTIAL, 3, ending=ending()), "report.ending"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, Outcome.DIVERGED, 3, ending=ending()), "report.ending"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(memory_steps=5.0)), "report.ending.memory_steps"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=NAN)), "report.ending.last"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=1.0, average=INF)), "report.ending.average"),
    ],
)
def test_an_ending_that_can_not_be_is_refused(directive: Directive, report: Report, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_report(directive, report, has_validation=True)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_job_without_a_validation_has_an_ending_without_one() -> None:
    check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending()), has_validation=False)
    check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=1.0)), has_validation=True)
    check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8), has_validation=True)  # its client could not average
    with pytest.raises(InvalidInputError, match="left out"):
        check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=1.0)), has_validation=False)


def test_search_steps_have_no_average() -> None:
    with pytest.raises(ValueError, match="steps that stay"):
        Directive.model_validate({**PROBE_OF_8.model_dump(), "average": {"memory_steps": 4.0, "every": 2}})


@pytest.mark.parametrize(
    ("directive", "report", "has_validation"),
    [
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=BOTH), True),
        (PROBE_OF_8, report_on(PROBE_OF_8), False),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, losses=(1.0, NAN, INF)), True),
        (
            PROBE_OF_8,
            report_on(PROBE_OF_8, Outcome.DIVERGED, 5, validations=(Validation(step=4, loss=INF),)),
            True,
        ),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 8), True),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 1, note="odd"), True),
        (WARNED_OF_8, report_on(WARNED_OF_8, Outcome.DIVERGED, 3, note="norm was above 1"), True),
        (WARNED_OF_8, report_on(WARNED_OF_8, note="norm was above 1", validations=BOTH), True),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, losses=(NAN, INF) * 4, note="odd"), True),
        (
            PROBE_OF_8,
            report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 5, note="o", validations=(Validation(step=4, loss=NAN),)),
            True,
        ),
        (TRAIN_OF_8, report_on(TRAIN_OF_8), True),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, 7), True),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, validations=BOTH[1:]), True),
        (MEASURED_OF_8, report_on(MEASURED_OF_8), False),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"other": (INF, NAN) * 4}), False),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, Outcome.PARTIAL, 3, measures={"norm": (1.0,) * 3}), False),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, Outcome.DIVERGED, 1, measures={"norm": (NAN,)}), False),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 1), True),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 8, validations=BOTH[1:]), True),
        (FIRST_OF_8, report_on(FIRST_OF_8, validations=(Validation(step=0, loss=2.0), BOTH[1])), True),
        (FIRST_OF_8, report_on(FIRST_OF_8, validations=BOTH[1:]), True),
    ],
)
def test_a_sound_report_is_taken(directive: Directive, report: Report, has_validation: bool) -> None:
    check_report(directive, report, has_validation)


def measuring(*measures: str, asked: tuple[str, ...] = ("norm",)) -> JobConfig:
    options = {"script": ("train", "train"), "n_steps": 8, "measures": asked}
    return config(100).model_copy(update={"policy": "scripted", "policy_options": options, "measures": measures})


@pytest.mark.usefixtures("scripted")
def test_a_policy_gets_what_it_asked_to_have_measured_and_every_part_of_a_directive_asks_for_it() -> None:
    transition = machine.create(measuring("norm", "other"))
    assert transition.directive.measures == ("norm",)
    part = report_on(transition.directive, Outcome.PARTIAL, 3, measures={"norm": (1.0, 2.0, 3.0)})
    rest = machine.advance(transition.state, part)
    assert rest.directive.measures == ("norm",)
    last = report_on(rest.directive, measures={"norm": (4.0,) * 5})
    assert machine.advance(rest.state, last).directive.measures == ("norm",)
    with pytest.raises(InvalidInputError, match="measures"):
        machine.advance(rest.state, report_on(rest.directive, measures={"norm": (4.0,) * 8}))


class Generating(Scripted):
    """The same, with methods that are generators."""

    def start(self, progress: Progress) -> Asking[PolicyState]:  # type: ignore[override]
        yield from ()
        return super().start(progress)

    def without_search(  # type: ignore[override]
        self, state: PolicyState, progress: Progress, reason: str
    ) -> Asking[PolicyState]:
        yield from ()
        return super().without_search(state, progress, reason)


def test_a_policy_may_return_its_steps_or_be_a_generator_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kind in (Scripted, Generating):
        monkeypatch.setitem(policies.POLICIES, "scripted", kind)
        transition = machine.create(scripted_config("probe", "train"))
        failed = report_on(transition.directive, Outcome.UNREPEATABLE, note="it began at another loss")
        found.append((transition, machine.advance(transition.state, failed)))
    assert found[0] == found[1]


class Forgetful(Scripted):
    """Its second answer is none: forgotten by a plain method, or by a generator."""

    def advance(self, state: PolicyState, directive: Directive, report: Report, progress: Progress) -> Any:
        return self._forgotten() if self.options.n_steps == 5 else None

    @staticmethod
    def _forgotten() -> Any:
        yield from ()


@pytest.mark.parametrize("n_steps", [5, 6], ids=["generator", "plain"])
def test_a_policy_whose_method_gives_no_step_is_told_so(monkeypatch: pytest.MonkeyPatch, n_steps: int) -> None:
    monkeypatch.setitem(policies.POLICIES, "scripted", Forgetful)
    asked = scripted_config("train")
    asked = asked.model_copy(update={"policy_options": {**asked.policy_options, "n_steps": n_steps}})
    transition = machine.create(asked)
    end = machine.advance(transition.state, report_on(transition.directive))
    assert end.state.status is Status.FAILED
    assert end.state.message == (
        "policy scripted: PolicyError: `advance` gave NoneType; it has to return a Step, or to be a generator that "
        "yields queries and returns a Step"
    )


@pytest.mark.usefixtures("scripted")
def test_a_policy_that_asks_for_what_the_client_can_not_measure_breaks_the_contract() -> None:
    with pytest.raises(InvalidInputError, match=r"'scripted' can't tune this job: PolicyError: measures .* norm"):
        machine.create(measuring("other"))
    started = machine.create(measuring("norm"))
    state = started.state.model_copy(update={"config": measuring()})
    failed = machine.advance(state, report_on(started.directive))
    assert failed.state.status is Status.FAILED
    assert "norm" in failed.state.message


def test_a_measure_is_asked_for_once() -> None:
    fields = PROBE_OF_8.model_dump() | {"measures": ("norm", "norm")}
    with pytest.raises(ValueError, match="twice"):
        Directive.model_validate(fields)


@pytest.mark.usefixtures("scripted")
def test_steps_of_the_clients_own_have_no_measures() -> None:
    transition = machine.create(measuring("norm"))
    own = replaced(transition.directive, 3, measures={"norm": (1.0,) * 3})
    with pytest.raises(InvalidInputError) as caught:
        machine.advance(transition.state, own)
    assert [violation.field for violation in caught.value.violations] == ["report.measures"]


def replaced(directive: Directive, n: int, wasted: int = 0, **fields: Any) -> Report:
    fields.setdefault("replacement", Replacement(profile=Profile.constant(0.1, n) if n else None, wasted_steps=wasted))
    return report_on(directive, Outcome.REPLACED, n, **fields)


@pytest.mark.parametrize("phase", [Phase.RANGE_TEST, Phase.WARM_UP, Phase.PROBE, Phase.TRAIN])
def test_a_client_that_trained_on_by_itself_joins_again_at_a_snapshot_of_its_own(phase: Phase) -> None:
    transition = machine.create(config(400, bounds=phase is not Phase.RANGE_TEST, **QUICK, warmup_steps=10))
    while transition.directive.phase is not phase:
        transition = step(transition)
    before = transition.state
    joined = machine.advance(before, replaced(before.directive, 30, wasted=7))
    assert joined.state.committed_steps == before.committed_steps + 30
    assert joined.state.search_steps == before.search_steps + 7
    assert joined.directive.number == before.directive.number + 1
    assert joined.directive.snapshot
    assert not joined.directive.restore


@pytest.mark.usefixtures("scripted")
def test_it_may_join_at_the_end_or_after_a_cancel() -> None:
    begun = machine.create(scripted_config("probe", "train", total_steps=20))
    ended = machine.advance(begun.state, replaced(begun.directive, 13, wasted=7))
    assert (ended.state.status, ended.directive.restore) == (Status.FINISHED, False)
    cancelled = machine.advance(machine.cancel(begun.state, "enough"), replaced(begun.directive, 3))
    assert (cancelled.state.status, cancelled.directive.reason) == (Status.CANCELLED, "enough")
    assert cancelled.state.committed_steps == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 301}, "report.losses"),
        ({"n": 200, "wasted": 101}, "report.losses"),
        ({"n": 2, "losses": (1.0, NAN)}, "report.losses[1]"),
        ({"n": 2, "replacement": None}, "report.replacement"),
        ({"n": 2, "replacement": Replacement()}, "report.replacement.profile"),
        ({"n": 2, "validations": (Validation(step=1, loss=1.0),)}, "report.validations"),
        ({"n": 2, "note": "odd"}, "report.note"),
        ({"n": 2, "wall_time_s": -1.0}, "report.wall_time_s"),
    ],
)
def test_what_a_client_can_not_have_done_is_refused(fields: dict[str, Any], field: str) -> None:
    directive = Directive(number=1, phase=Phase.PROBE, n_steps=8, profile=Profile.constant(0.1, 8))
    with pytest.raises(InvalidInputError) as caught:
        check_replacement(replaced(directive, **fields), 300)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_refused_report_leaves_the_job_alone() -> None:
    state = until(Phase.TRAIN).state
    before = state.model_dump_json()
    with pytest.raises(InvalidInputError):
        machine.advance(state, report_on(state.directive, n=3))
    assert state.model_dump_json() == before


# --- determinism, and the promise of total_steps ----------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [True, False])
def test_the_same_seed_and_reports_give_the_same_directives_bit_for_bit(bounds: bool) -> None:
    runs = [drive(config(1200, bounds=bounds, **QUICK), SimulatedTraining(seed=3)) for _ in range(2)]
    assert runs[0].exchanges == runs[1].exchanges
    assert runs[0].state.model_dump_json() == runs[1].state.model_dump_json()


def test_another_seed_gives_another_schedule() -> None:
    lrs = []
    for seed in (0, 1):
        run = drive(config(400, **QUICK).model_copy(update={"seed": seed}), SimulatedTraining())
        lrs.append([directive.profile.start_lr for directive in run.directives if directive.profile])
    assert lrs[0] != lrs[1]


def test_a_job_with_no_end_goes_on() -> None:
    run = drive(config(None, **QUICK), SimulatedTraining(), max_directives=60)
    assert run.state.status.live
    assert run.state.remaining_steps is None
    assert run.state.directive.stage > 5


LOSSES = st.floats(-1e3, 1e3, width=32)
BAD = st.sampled_from([NAN, INF, -INF])


class JobMachine(RuleBasedStateMachine):
    """Any sequence of reports and cancels, with the state written and read at any time.

    Beside the job runs a client that knows nothing but its directives: the losses of the steps that are in its model,
    how many there were when it took its snapshot, how many it ran in all.
    """

    transition: Transition
    reach: float
    """How far above its bounds the policy may go, as a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.config: JobConfig
        self.events: list[tuple[Report | None, Transition | JobState]] = []
        self.in_model: list[float] = []
        self.snapshot = self.n_run = self.n_restarts = 0
        self.repeatable = True
        self.reports: list[Report] = []
        self.told: list[Report] = []
        self.cancelled = False
        self.highest_factor = 1.0
        self.total: int | None = None
        self.former_total: int | None = None
        self.n_asked = 0
        self.before_annealing: tuple[int | None, int] | None = None

    def _open(self, config: JobConfig) -> None:
        self.config = config
        self.total = config.total_steps
        self.transition = machine.create(config)
        self._carry_out()

    def teardown(self) -> None:
        """A job is a function of its reports: as the server took them, and as its client can tell them again."""
        if not hasattr(self, "transition") or self.cancelled:
            return
        waiting: dict[str, Any] = {"requested": (), "request_ids": ()}
        state = self.transition.state.model_copy(update=waiting)
        for reports in (self.reports, self.told):
            found = machine.replay(self.config, reports)
            assert found.directive == self.directive
            assert found.state.model_copy(update=waiting).model_dump_json() == state.model_dump_json()

    @property
    def directive(self) -> Directive:
        return self.transition.directive

    def running(self) -> bool:
        return self.directive.phase is not Phase.STOP

    @precondition(running)
    @rule(level=LOSSES, end=LOSSES)
    def complete(self, level: float, end: float) -> None:
        n = self.directive.n_steps
        self._report(Outcome.COMPLETED, n, (level,) * (n // 2) + (end,) * (n - n // 2))

    @precondition(lambda self: self.directive.phase.committed and self.directive.n_steps > 1)
    @rule(data=st.data(), level=LOSSES)
    def partial(self, data: st.DataObject, level: float) -> None:
        n = data.draw(st.integers(1, self.directive.n_steps - 1))
        self._report(Outcome.PARTIAL, n, (level,) * n)

    @precondition(running)
    @rule(data=st.data(), level=LOSSES, last=LOSSES | BAD)
    def diverge(self, data: st.DataObject, level: float, last: float) -> None:
        n = data.draw(st.integers(1, self.directive.n_steps))
        self._report(Outcome.DIVERGED, n, (level,) * (n - 1) + (last,))

    @precondition(lambda self: bool(self.directive.promise))
    @rule(data=st.data(), level=LOSSES)
    def fall_short(self, data: st.DataObject, level: float) -> None:
        n = data.draw(st.integers(1, self.directive.n_steps))
        self._report(Outcome.FELL_SHORT, n, (level,) * n)

    @precondition(lambda self: self.directive.phase is Phase.PROBE)
    @rule(data=st.data(), first=LOSSES | BAD)
    def begin_unlike_the_first(self, data: st.DataObject, first: float) -> None:
        n = data.draw(st.integers(1, self.directive.n_steps))
        self._report(Outcome.UNREPEATABLE, n, (first,) * n, note="odd")

    @precondition(lambda self: self.running() and not self.directive.promise)
    @rule()
    def fall_short_of_nothing(self) -> None:
        with pytest.raises(InvalidInputError, match="nothing was promised"):
            machine.advance(self.transition.state, report_on(self.directive, Outcome.FELL_SHORT))

    @precondition(running)
    @rule(data=st.data(), level=LOSSES)
    def replace(self, data: st.DataObject, level: float) -> None:
        left = self._left_as_the_client_knows()
        n = data.draw(st.integers(0, 50 if left is None else min(left, 50)))
        wasted = data.draw(st.integers(0, 10 if left is None else min(left - n, 10)))
        before, report = self.directive, replaced(self.directive, n, wasted, losses=(level,) * n)
        change = before.change
        if change is not None and change.origin is not ChangeOrigin.CLIENT:
            self._take_back(change, n + wasted)
        self.transition = machine.advance(self.transition.state, report)
        self.in_model += [level] * n
        self.n_run += n + wasted
        self.before_annealing = None
        self._carry_out()
        self._note(before, report)
        assert not self.directive.restore
        assert self.directive.snapshot or not self.running()

    def _left_as_the_client_knows(self) -> int | None:
        """The steps that are left to a client which could not hear of the change that its next directive tells."""
        change, left = self.directive.change, self.transition.state.remaining_steps
        moves = change is not None and (change.kind is ChangeKind.ANNEAL or change.later_steps is not None)
        if change is None or change.origin is ChangeOrigin.CLIENT or not moves:
            return left
        return None if self.former_total is None else max(self.former_total - self.n_run, 0)

    def _take_back(self, change: PlanChange, n: int) -> None:
        """The client could not hear of a change, and has run so many steps instead: it waits again."""
        if change.kind is ChangeKind.ANNEAL:
            assert self.before_annealing is not None
            self.total = self.before_annealing[0]
        if change.later_steps is not None and self.total is not None:
            self.total -= change.later_steps
        if change.kind is not ChangeKind.REPLAN and self.total is not None:
            self.total = max(self.total, self.n_run + n)

    @precondition(lambda self: self.directive.phase.committed)
    @rule(data=st.data(), level=LOSSES)
    def change_the_plan(self, data: st.DataObject, level: float) -> None:
        n = data.draw(st.integers(0, self.directive.n_steps))
        self._report(Outcome.REPLANNED, n, (level,) * n, change=self._drawn(data, n, ChangeOrigin.CLIENT))

    @precondition(lambda self: self.directive.phase.searches and not self.transition.state.requested)
    @rule(data=st.data(), level=LOSSES)
    def change_the_plan_in_a_search(self, data: st.DataObject, level: float) -> None:
        """As a client may that does not wait for its end."""
        n = self.directive.n_steps
        self._report(Outcome.COMPLETED, n, (level,) * n, change=self._drawn(data, n, ChangeOrigin.CLIENT))

    @precondition(lambda self: self.transition.state.status is Status.FINISHED)
    @rule(data=st.data())
    def change_the_plan_after_the_end(self, data: st.DataObject) -> None:
        self._report(Outcome.REPLANNED, 0, (), change=self._drawn(data, 0, ChangeOrigin.CLIENT))

    @precondition(lambda self: self.transition.state.status.live and len(self.transition.state.requested) < MAX_WAITING)
    @rule(data=st.data())
    def ask_for_a_change(self, data: st.DataObject) -> None:
        """As somebody at the server does."""
        change = self._drawn(data, 0, ChangeOrigin.OPERATOR)
        state = machine.request(self.transition.state, change)
        assert machine.request(state, change) == state
        self.transition = Transition(state, self.directive)

    @precondition(lambda self: self.transition.state.status.live or self.transition.state.status is Status.FINISHED)
    @rule()
    def refuse_impossible_changes(self) -> None:
        state = self.transition.state
        if not self.directive.phase.searches and self.before_annealing is None:
            change = PlanChange(kind=ChangeKind.UNDO_ANNEALING)
            with pytest.raises(InvalidInputError, match="no annealing"):
                machine.advance(state, report_on(self.directive, Outcome.REPLANNED, 0, change=change))
        if state.status.live and self.n_run:
            with pytest.raises(InvalidInputError, match="give no fewer"):
                machine.request(state, PlanChange(kind=ChangeKind.EXTEND, total_steps=self.n_run - 1))

    def _drawn(self, data: st.DataObject, n: int, origin: ChangeOrigin) -> PlanChange:
        """A change that can be made after so many more steps."""
        kinds = [ChangeKind.REPLAN, ChangeKind.ANNEAL]
        if self.total is not None:
            kinds.append(ChangeKind.EXTEND)
        if self.before_annealing is not None and origin is ChangeOrigin.CLIENT and not self.directive.phase.searches:
            kinds.append(ChangeKind.UNDO_ANNEALING)
        match kind := data.draw(st.sampled_from(kinds)):
            case ChangeKind.EXTEND if data.draw(st.booleans()):
                later = data.draw(st.sampled_from([1, 50, 50, 300]))
                self.n_asked += 1
                name = "" if origin is ChangeOrigin.CLIENT else f"request {self.n_asked}"
                return PlanChange(kind=kind, later_steps=later, origin=origin, request_id=name)
            case ChangeKind.EXTEND:
                end = self.n_run + n + data.draw(st.integers(0, 400))
                return PlanChange(kind=kind, total_steps=end, origin=origin)
            case ChangeKind.ANNEAL:
                return PlanChange(kind=kind, anneal_steps=data.draw(st.integers(1, 100)), origin=origin)
            case ChangeKind.REPLAN:
                factor = data.draw(st.sampled_from([None, None, 2.0, 0.25]))
                return PlanChange(kind=kind, batch_factor=factor, reason="other data", origin=origin)
        return PlanChange(kind=kind, origin=origin)

    def _asked(self, directive: Directive) -> PlanChange | None:
        """What was asked for with the change in a directive, but for the end that came of it."""
        return directive.change and directive.change.model_copy(update={"total_steps": None})

    def _note(self, reported: Directive, report: Report) -> None:
        """Keeps a report as the server took it, and as its client tells it again; and the plan that it led to."""
        taken, change = self.transition.report, self.directive.change
        assert taken is not None
        self.reports.append(taken)
        overlooked = report.outcome is Outcome.REPLACED and reported.change is not None
        overlooked &= reported.change is None or reported.change.origin is not ChangeOrigin.CLIENT
        overlooked &= self._asked(reported) == self._asked(self.directive)
        if change is not None and change.origin is ChangeOrigin.OPERATOR and report.change is None and not overlooked:
            absolute = change.kind is ChangeKind.EXTEND and change.later_steps is None
            end = change.total_steps if absolute else None
            report = report.model_copy(update={"change": change.model_copy(update={"total_steps": end})})
        self.told.append(report)
        if change is None:
            return
        self.highest_factor *= max(change.lr_factor, 1.0)
        self.former_total = self.total
        match change.kind:
            case ChangeKind.EXTEND if change.later_steps is not None:
                self.total = None if self.total is None else self.total + change.later_steps
                self.before_annealing = None
            case ChangeKind.EXTEND:
                assert change.total_steps is not None
                self.total, self.before_annealing = change.total_steps, None
                assert change.total_steps >= self.n_run
            case ChangeKind.ANNEAL:
                assert change.anneal_steps is not None
                # An annealing in another one has the end of that.
                planned = self.total if self.before_annealing is None else self.before_annealing[0]
                self.before_annealing = planned, len(self.in_model)
                self.total = self.n_run + change.anneal_steps
            case ChangeKind.UNDO_ANNEALING:
                assert self.before_annealing is not None
                before, step = self.before_annealing
                assert len(self.in_model) == self.snapshot == step
                self.total = None if before is None else max(before, self.n_run)
                self.before_annealing = None
            case ChangeKind.REPLAN:
                self.before_annealing = None
        assert change.total_steps == self.total
        assert self.directive.snapshot or not self.running()

    @precondition(running)
    @rule()
    def refuse(self) -> None:
        before = self.transition.state.model_dump_json()
        with pytest.raises(InvalidInputError):
            machine.advance(self.transition.state, report_on(self.directive, n=self.directive.n_steps + 1))
        with pytest.raises(PreconditionError):
            machine.advance(self.transition.state, report_on(self.directive.model_copy(update={"number": 0})))
        assert self.transition.state.model_dump_json() == before

    @precondition(lambda self: self.transition.state.status.live)
    @rule(really=st.sampled_from([False] * 7 + [True]))
    def cancel(self, really: bool) -> None:
        if really:
            self.cancelled = True
            state = machine.cancel(self.transition.state, "enough")
            self.transition = Transition(state, self.directive)

    @rule()
    def write_and_read(self) -> None:
        state = self.transition.state
        text = state.model_dump_json()
        read = JobState.model_validate_json(text)
        assert read.model_dump_json() == text
        self.transition = Transition(read, read.directive)

    def _report(
        self, outcome: Outcome, n: int, losses: tuple[float, ...], note: str = "", change: PlanChange | None = None
    ) -> None:
        before, directive = self.transition.state, self.directive
        due = [s for s in directive.validate_at if s <= n] if self.config.has_validation else []
        report = report_on(
            directive,
            outcome,
            losses=losses,
            validations=tuple(Validation(step=s, loss=1.0) for s in due),
            note=note,
            change=change,
        )
        self.transition = machine.advance(before, report)
        again = machine.advance(JobState.model_validate_json(before.model_dump_json()), report)
        assert again.directive == self.directive
        assert again.state.model_dump_json() == self.transition.state.model_dump_json()
        self.in_model += losses
        self.n_run += n
        self.repeatable &= outcome is not Outcome.UNREPEATABLE
        self.n_restarts += directive.phase.committed and outcome.rolls_back
        assert self.directive.number == directive.number + 1
        undoes = outcome is Outcome.REPLANNED and change is not None and change.kind is ChangeKind.UNDO_ANNEALING
        stays = directive.phase.committed or outcome is Outcome.REPLANNED
        assert self.directive.restore is (not stays or outcome.rolls_back or undoes)
        self._carry_out()
        self._note(directive, report)

    def _carry_out(self) -> None:
        if self.directive.restore:
            del self.in_model[self.snapshot :]
        if self.directive.snapshot:
            self.snapshot = len(self.in_model)
            if self.directive.change is None:
                self.before_annealing = None

    @invariant()
    def books_are_those_of_the_client(self) -> None:
        state = self.transition.state
        assert state.committed_steps == len(self.in_model)
        assert state.committed_steps + state.search_steps == self.n_run
        if self.running():
            assert state.snapshot_step == self.snapshot

    @invariant()
    def the_standing_is_that_of_the_model(self) -> None:
        """Nothing that was rolled back counts, and it is all one in how many reports the losses came."""
        state, losses = self.transition.state, self.in_model
        windows = [losses[i : i + LOSS_WINDOW] for i in range(len(losses) - LOSS_WINDOW + 1)]
        assert state.recent_losses == tuple(losses[-LOSS_WINDOW:])
        assert state.last_loss == (mean(losses[-LOSS_WINDOW:]) if losses else None)
        assert state.best_loss == pytest.approx(min(map(mean, windows)) if windows else None)

    @invariant()
    def total_steps_is_a_promise(self) -> None:
        state, total = self.transition.state, self.total
        assert state.total_steps == total
        if state.status is Status.FAILED:
            assert self.n_restarts > MAX_RESTARTS, state.message
            assert "the LR is not the cause" in state.message
            return
        if total is None:
            assert state.status is not Status.FINISHED
            return
        assert self.n_run + self.directive.n_steps <= total
        if state.status is Status.FINISHED:
            assert self.n_run == total
            assert not self.running()

    @invariant()
    def bars_are_for_committed_steps_and_as_the_client_wants_them(self) -> None:
        steps = [bar.from_step for bar in self.directive.promise]
        assert steps == sorted(steps)
        assert not any(math.isnan(bar.loss) for bar in self.directive.promise)
        assert self.directive.phase is Phase.TRAIN or not steps

    @invariant()
    def nothing_is_tried_or_promised_once_a_rollback_was_not_complete(self) -> None:
        assert self.repeatable is not bool(self.transition.state.unrepeatable)
        if not self.repeatable:
            assert self.directive.phase in (Phase.TRAIN, Phase.STOP)
            assert not self.directive.promise

    @invariant()
    def committed_lrs_are_within_reach(self) -> None:
        profile = self.directive.profile
        if self.directive.phase in (Phase.PROBE, Phase.TRAIN):
            assert profile is not None
            assert self.transition.state.bounds is not None
            highest = self.transition.state.bounds.max * self.reach * self.highest_factor
            if self.transition.state.plan is not None:
                # A run whose plan has changed goes on from where it is, or begins where it was set.
                highest = max(highest, self.transition.state.peak_lr or 0.0, self.config.base_lr)
            if not self.repeatable:
                # What follows is the LR that was set: `test_unrepeatable.py`. A range test may have found others.
                highest = max(highest, self.transition.state.config.base_lr)
            assert 0 < profile.start_lr <= highest


class AutoLrsMachine(JobMachine):
    """With the published method."""

    reach = 1 + 1e-12

    @initialize(
        tau=st.integers(4, 60),
        probe_share=st.integers(2, 6),
        candidates=st.integers(1, 3),
        tau_max=st.integers(60, 120),
        warmup_steps=st.sampled_from([0, 0, 7, 120]),
        spare=st.integers(0, 400),
        endless=st.sampled_from([False, False, False, True]),
        bounds=st.booleans(),
        has_validation=st.booleans(),
    )
    def open(
        self,
        tau: int,
        probe_share: int,
        candidates: int,
        tau_max: int,
        warmup_steps: int,
        spare: int,
        endless: bool,
        bounds: bool,
        has_validation: bool,
    ) -> None:
        tau_prime = max(1, tau // probe_share)
        total = 40 + warmup_steps + tau + candidates * tau_prime + spare
        asked = config(
            None if endless else total,
            bounds=bounds,
            has_validation=has_validation,
            tau=tau,
            tau_prime=tau_prime,
            tau_max=tau_max,
            candidates=candidates,
            warmup_steps=warmup_steps,
            forecaster="last_value",
            validations=4,
        )
        self._open(asked)


class BudgetMachine(JobMachine):
    """With one search and one decay."""

    reach = 10 * (1 + 1e-9)

    @initialize(
        total_steps=st.integers(1, 200) | st.integers(200, 3000),
        probe_steps=st.integers(4, 40),
        refinements=st.integers(0, 3),
        max_candidates=st.integers(1, 12),
        bounds=st.booleans(),
        has_validation=st.booleans(),
    )
    def open(
        self,
        total_steps: int,
        probe_steps: int,
        refinements: int,
        max_candidates: int,
        bounds: bool,
        has_validation: bool,
    ) -> None:
        options = {"probe_steps": probe_steps, "refinements": refinements, "max_candidates": max_candidates}
        asked = config(total_steps, bounds=bounds, has_validation=has_validation)
        self._open(asked.model_copy(update={"policy": "budget", "policy_options": options | {"widening": 10.0}}))


class OpenEndedMachine(JobMachine):
    """With plateaus and no end, or one that is known."""

    reach = 10 * (1 + 1e-9)

    @initialize(
        total_steps=st.none() | st.integers(1, 3000),
        probe_steps=st.integers(4, 40),
        first_stage=st.integers(20, 200),
        bounds=st.booleans(),
        has_validation=st.booleans(),
    )
    def open(
        self, total_steps: int | None, probe_steps: int, first_stage: int, bounds: bool, has_validation: bool
    ) -> None:
        options = {"probe_steps": probe_steps, "first_stage": first_stage, "widening": 10.0}
        asked = config(total_steps, bounds=bounds, has_validation=has_validation)
        self._open(asked.model_copy(update={"policy": "open_ended", "policy_options": options}))


SETTINGS = hypothesis.settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
AutoLrsMachine.TestCase.settings = SETTINGS
BudgetMachine.TestCase.settings = SETTINGS
OpenEndedMachine.TestCase.settings = SETTINGS
TestAutoLrsMachine = AutoLrsMachine.TestCase
TestBudgetMachine = BudgetMachine.TestCase
TestOpenEndedMachine = OpenEndedMachine.TestCase


# --- what is recorded -------------------------------------------------------------------------------------------------


def recording(*names: str, asked: tuple[str, ...] = (), script: tuple[str, ...] = ("train",)) -> JobConfig:
    options = {"script": script, "measures": asked}
    update = {"measures": ("norm", "other"), "recorded": names, "policy": "scripted", "policy_options": options}
    return config(100).model_copy(update=update)


@pytest.mark.usefixtures("scripted")
def test_what_is_recorded_is_measured_at_every_committed_step_and_at_no_other() -> None:
    script = ("warm_up", "train", "probe", "train", "stop")
    transition, asked = machine.create(recording("norm", script=script)), []
    while transition.directive.phase is not Phase.STOP:
        asked.append(transition.directive.measures)
        transition = step(transition)
    assert asked == [("norm",), ("norm",), (), ("norm",)]
    rest = step(machine.create(recording("norm")), Outcome.PARTIAL, 2).directive
    assert rest.measures == ("norm",)


@pytest.mark.usefixtures("scripted")
def test_what_the_policy_asks_for_comes_before_what_is_recorded() -> None:
    assert machine.create(recording("norm", "other", asked=("other",))).directive.measures == ("other", "norm")


@pytest.mark.parametrize(
    ("measures", "recorded", "words"),
    [
        (("norm",), ("norm", "secrets"), r"can't measure secrets; give some of norm"),
        ((), ("norm",), r"can't measure norm; leave it out"),
        (("norm",), ("norm", "norm"), r"there twice"),
        (("norm",), ("no name",), r"match"),
    ],
)
def test_what_can_not_be_measured_is_not_recorded(
    measures: tuple[str, ...], recorded: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        JobConfig.checked(base_lr=0.1, measures=measures, recorded=recorded)
    assert caught.value.violations[0].field.startswith("recorded")


# --- what a policy makes of a part of committed steps ----------------------------------------------------------------


class Reshaping(Scripted):
    """Has the LR of the rest fall, and counts the parts that it was told of; "longer" asks for more steps."""

    name = "reshaping"

    def reshape(
        self, state: PolicyState, directive: Directive, report: Report, progress: Progress
    ) -> Step[PolicyState] | None:
        word = self.options.script[1]
        if word == "raise":
            raise PolicyError("as scripted")
        if word == "nothing":
            return None
        assert progress.reported_steps == 0
        profile = Profile(Shape.points([(0, 1), (report.n_steps / 5, 1), (1, 0)]), 0.1, 0.0, 5)
        update = {"profile": profile, "reason": "lower"} | ({"n_steps": 6} if word == "longer" else {})
        decision = Decision(stage=0, lr=0.1, reason="lower")
        return Step(state.model_copy(update={"search_ended": True}), directive.model_copy(update=update), decision)


@pytest.fixture
def reshaping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, Reshaping.name, Reshaping)


def part(word: str) -> tuple[Transition, Transition]:
    """A job with a directive of five steps, before and after a report on two of them."""
    before = machine.create(scripted_config("train", word).model_copy(update={"policy": "reshaping"}))
    return before, step(before, Outcome.PARTIAL, 2)


@pytest.mark.usefixtures("reshaping")
def test_a_policy_may_give_the_rest_of_committed_steps_other_lrs() -> None:
    before, after = part("falls")
    assert (after.directive.n_steps, after.directive.number, after.directive.snapshot) == (3, 2, False)
    assert after.directive.profile is not None
    assert [after.directive.profile.lr(i) for i in range(3)] == pytest.approx([0.1, 0.2 / 3, 0.1 / 3])
    assert after.decision is not None
    assert (after.decision.reason, after.directive.reason) == ("lower", "lower")
    assert after.state.policy_state == {"search_ended": True}
    assert after.state.snapshot_step == before.state.snapshot_step == 0
    # What is rolled back later goes back to the snapshot from before the first part.
    undone = machine.advance(after.state, report_on(after.directive, Outcome.DIVERGED, 1, losses=(NAN,)))
    assert undone.directive.restore
    assert undone.state.committed_steps == 0


@pytest.mark.usefixtures("reshaping")
def test_a_policy_that_makes_nothing_of_a_part_is_answered_its_rest() -> None:
    before, after = part("nothing")
    assert after.directive == before.directive.after(2).model_copy(update={"number": 2})
    assert after.decision is None


@pytest.mark.usefixtures("reshaping")
@pytest.mark.parametrize(("word", "words"), [("longer", "nothing else"), ("raise", "as scripted")])
def test_a_policy_that_asks_for_more_than_other_lrs_fails_the_job(word: str, words: str) -> None:
    _, after = part(word)
    assert after.state.status is Status.FAILED
    assert words in after.state.message
    assert after.directive.phase is Phase.STOP
