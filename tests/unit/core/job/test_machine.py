"""The life of a job: what moves it, what is refused, and what its books say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lrpilot.wire.profile import Profile

from tests.support.jobs.scripted_policy import Scripted, report_on, scripted_config, step, until
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core import policies
from tuner_server.core.errors import InvalidInputError, PreconditionError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import TRANSITIONS, JobState, Status, Transition
from tuner_server.core.job.standing import Standing
from tuner_server.core.messages import ChangeKind, Directive, Outcome, Phase, PlanChange, Report, Validation
from tuner_server.core.policies.base import Asking, PolicyState, Progress

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


# --- a policy's methods -----------------------------------------------------------------------------------------------


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
