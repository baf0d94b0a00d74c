"""Any history of reports, changes and cancels, beside a client that knows nothing but its directives."""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.jobs.scripted_policy import mean, replaced, report_on
from tests.support.jobs.simulated_training import config
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError, PreconditionError
from tuner_server.core.evidence.restart import MAX_RESTARTS
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.job.requested import MAX_WAITING
from tuner_server.core.messages import (
    LOSS_WINDOW,
    ChangeKind,
    ChangeOrigin,
    Directive,
    Outcome,
    Phase,
    PlanChange,
    Report,
    Validation,
)

NAN, INF = math.nan, math.inf
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
