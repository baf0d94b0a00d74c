"""Plans that change while a run goes on: by its own program and at the server, with the server there and away."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lrpilot.errors import ConfigError
from lrpilot.session import session
from lrpilot.wire.plan_change import ChangeKind, ChangeOrigin

from tests.support.jobs.unsteady_jobs import UnsteadyJobs
from tests.support.training.planned_run import TOTAL, PlannedRun
from tests.support.training.same_bits import assert_same
from tuner_server.core.errors import InvalidInputError, NotFoundError, PreconditionError
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import PlanChange


@pytest.fixture(autouse=True, scope="module")
def impatience() -> Iterator[None]:
    """A run that has lost its server looks for it at every report: these runs are over in less than a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "LOOK_PAUSE_FACTOR", 0)
        yield


@pytest.fixture
def jobs() -> UnsteadyJobs:
    return UnsteadyJobs()


def asks(kind: ChangeKind, **fields: Any) -> PlanChange:
    return PlanChange(kind=kind, **fields)


def assert_same_books(run: PlannedRun, jobs: UnsteadyJobs) -> None:
    """The server's books are the client's."""
    state, tuner = jobs.state, run.tuner
    assert tuner.committed_step + tuner.search_steps == run.n_steps
    assert (state.committed_steps, state.search_steps) == (tuner.committed_step, tuner.search_steps)
    assert state.total_steps == tuner.schedule.total_steps


# --- the training program ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 3, 60, 300, TOTAL])
def test_an_extended_run_makes_the_steps_that_it_was_given(jobs: UnsteadyJobs, after: int) -> None:
    run = PlannedRun(jobs)
    run.train(after)
    run.tuner.extend(150)
    run.tuner.extend(50)
    run.train()
    assert run.n_steps == TOTAL + 200
    assert run.lrs[-1] < 0.02 * max(run.lrs)
    assert jobs.state.status is Status.FINISHED
    assert_same_books(run, jobs)
    kinds = [replan.kind for replan in run.tuner.schedule.replans]
    assert kinds == [ChangeKind.EXTEND] * 2


def test_after_the_end_a_run_goes_on_as_often_as_it_is_extended(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs)
    for total in (TOTAL, TOTAL + 40, TOTAL + 41):
        if total > TOTAL:
            run.tuner.extend(total - run.n_steps)
        run.train()
        assert (run.n_steps, run.tuner.finished, run.tuner.remaining_steps) == (total, True, 0)
        assert_same_books(run, jobs)
    run.tuner.close()
    with pytest.raises(ConfigError, match="extend: the tuner is closed"):
        run.tuner.extend(5)


def test_a_change_in_a_search_waits_for_its_end_and_none_is_lost(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs)
    run.train(7)
    assert run.tuner.searching
    run.tuner.extend(100)
    run.tuner.replan("other data", batch_size=8) if run.tuner._position.batch_size else run.tuner.replan("other data")
    run.tuner.extend(11)
    run.train_to_commit()
    kinds = [
        (entry.directive.change.kind, entry.directive.change.reason) for entry in jobs.history if entry.directive.change
    ]
    assert kinds == [(ChangeKind.EXTEND, ""), (ChangeKind.REPLAN, "other data"), (ChangeKind.EXTEND, "")]
    run.train()
    assert run.n_steps == TOTAL + 111
    assert_same_books(run, jobs)


@pytest.mark.parametrize("whole", [True, False], ids=["to its end", "in its middle"])
def test_an_annealing_is_undone_bit_by_bit(jobs: UnsteadyJobs, whole: bool) -> None:
    run = PlannedRun(jobs)
    run.train_to_commit()
    before, lr = run.everything(), run.tuner.lr
    run.tuner.anneal(40)
    run.train(None if whole else 13)
    assert run.tuner.finished is whole
    assert not torch.equal(run.model.weight, before["model"]["weight"])
    n_committed = jobs.state.committed_steps
    run.tuner.undo_annealing()
    after = run.everything()
    assert_same(after["model"], before["model"])
    assert_same(after["optimizer"]["state"], before["optimizer"]["state"])
    assert not run.tuner.finished
    assert run.tuner.lr <= lr * (1 + 1e-9)
    assert jobs.state.committed_steps <= n_committed
    with pytest.raises(ConfigError, match="there is no annealing"):
        run.tuner.undo_annealing()
    run.train()
    assert run.n_steps == TOTAL
    assert_same_books(run, jobs)
    assert [r.kind for r in run.tuner.schedule.replans] == [ChangeKind.ANNEAL, ChangeKind.UNDO_ANNEALING]


def test_what_can_not_be_is_refused(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs)
    for wrong in (0, -1, 1.5, True, 2**41):
        with pytest.raises(ConfigError, match="steps"):
            run.tuner.extend(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="steps"):
        run.tuner.extend(2**40 - 5)
    with pytest.raises(ConfigError, match="batch_scaling"):
        run.tuner.replan(batch_scaling="cube")
    with pytest.raises(ConfigError, match="does not say its own"):
        run.tuner.replan(batch_size=64)
    run.train()
    with pytest.raises(ConfigError, match="anneal: the run is over"):
        run.tuner.anneal(5)
    with pytest.raises(ConfigError, match="replan: the run is over"):
        run.tuner.replan()
    assert run.n_steps == TOTAL


# --- the server is away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [100, 300, TOTAL])
@pytest.mark.parametrize("away", [5, 100, 10_000], ids=["shortly", "for a while", "to the end"])
def test_a_run_that_is_extended_without_the_server_goes_on_and_tells_it_later(
    jobs: UnsteadyJobs, after: int, away: int
) -> None:
    run = PlannedRun(jobs)
    run.train(after)
    jobs.away = True
    run.tuner.extend(200)
    run.train(min(away, TOTAL + 200 - after - 1))
    jobs.away = False
    run.train()
    assert run.n_steps == TOTAL + 200
    assert run.tuner.finished
    assert_same_books(run, jobs)
    assert jobs.state.status is Status.FINISHED


@pytest.mark.parametrize("kind", [ChangeKind.EXTEND, ChangeKind.REPLAN, ChangeKind.ANNEAL])
@pytest.mark.parametrize("n_lost", [1, 2, 4])
def test_an_answer_that_tells_of_a_change_and_is_lost_is_made_up_for(
    jobs: UnsteadyJobs, kind: ChangeKind, n_lost: int
) -> None:
    """The server has changed the plan, and the client has gone on as it was told before."""
    run = PlannedRun(jobs)
    run.train_to_commit()
    fields = {ChangeKind.EXTEND: {"total_steps": 900}, ChangeKind.ANNEAL: {"anneal_steps": 60}}.get(kind, {})
    jobs.request(asks(kind, **fields))
    jobs.lose_answers = n_lost
    run.train(1)
    run.train()
    assert_same_books(run, jobs)
    assert jobs.state.status is Status.FINISHED
    assert run.tuner.finished
    assert run.n_steps == {ChangeKind.EXTEND: 900, ChangeKind.REPLAN: TOTAL}.get(kind, run.n_steps)
    assert [replan.kind for replan in run.tuner.schedule.replans][-1:] == [kind]


@pytest.mark.parametrize("kind", [ChangeKind.EXTEND, ChangeKind.REPLAN, ChangeKind.ANNEAL])
@pytest.mark.parametrize("during", ["search", "training"])
def test_a_job_that_was_lost_is_told_again_with_what_was_asked_for_at_the_server(
    jobs: UnsteadyJobs, kind: ChangeKind, during: str
) -> None:
    run = PlannedRun(jobs)
    run.train(7)
    if during == "training":
        run.train_to_commit()
    fields = {ChangeKind.EXTEND: {"total_steps": 900}, ChangeKind.ANNEAL: {"anneal_steps": 200}}.get(kind, {})
    jobs.request(asks(kind, reason="asked for", **fields))
    while not any(entry.directive.change for entry in jobs.history):
        run.train(1)
    run.train(50)
    before = jobs.state.total_steps
    jobs.lose()
    run.train()
    assert jobs.state.status is Status.FINISHED
    assert jobs.state.total_steps == before == run.n_steps
    assert_same_books(run, jobs)
    [change] = [entry.directive.change for entry in jobs.history if entry.directive.change]
    assert (change.origin, change.reason) == (ChangeOrigin.OPERATOR, "asked for")


# --- ends that are moved from where they are --------------------------------------------------------------------------


def later(steps: int, name: str = "") -> PlanChange:
    return asks(ChangeKind.EXTEND, later_steps=steps, request_id=name)


def ends_told(jobs: UnsteadyJobs) -> list[tuple[int | None, int | None]]:
    """By how much the end was moved, and where to, for each change that took effect."""
    changes = [entry.directive.change for entry in jobs.history if entry.directive.change]
    return [(change.later_steps, change.total_steps) for change in changes]


def test_each_of_several_who_extend_at_once_counts(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs)
    run.train_to_commit()
    for name in ("one", "two", "one"):
        jobs.request(later(100, name))
    run.tuner.extend(7)
    run.train()
    assert run.n_steps == TOTAL + 207
    assert sorted(end for end, _ in ends_told(jobs) if end) == [7, 100, 100]
    assert ends_told(jobs)[-1][1] == TOTAL + 207
    assert_same_books(run, jobs)


def test_a_request_of_a_name_counts_once_though_it_has_taken_effect_or_the_client_goes_back(
    jobs: UnsteadyJobs,
) -> None:
    run = PlannedRun(jobs)
    run.train_to_commit()
    checkpoint = run.checkpoint()
    jobs.request(later(100, "one"))
    run.train(200)
    assert jobs.state.total_steps == TOTAL + 100
    jobs.request(later(100, "one"))
    again = PlannedRun(jobs)
    again.load(checkpoint)
    jobs.request(later(100, "one"))
    again.train()
    assert again.n_steps == TOTAL + 100
    assert_same_books(again, jobs)


@pytest.mark.parametrize("n_lost", [1, 2, 4])
def test_an_end_that_is_moved_twice_is_moved_twice_though_the_answer_is_lost(jobs: UnsteadyJobs, n_lost: int) -> None:
    """The client has gone on as it was told before, and has extended its run itself."""
    run = PlannedRun(jobs)
    run.train_to_commit()
    jobs.request(later(300, "one"))
    jobs.lose_answers = n_lost
    run.train(1)
    run.tuner.extend(50)
    run.tuner.extend(50)
    run.train()
    assert run.n_steps == TOTAL + 400
    assert run.tuner.finished
    assert_same_books(run, jobs)


def test_a_job_that_was_lost_is_told_again_by_how_much_its_end_was_moved(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs)
    run.train_to_commit()
    jobs.request(later(200, "one"))
    jobs.request(later(200, "two"))
    run.train(100)
    before = ends_told(jobs)
    jobs.lose()
    run.train(100)
    jobs.request(later(200, "two"))
    run.train()
    assert ends_told(jobs) == before == [(200, TOTAL + 200), (200, TOTAL + 400)]
    assert run.n_steps == TOTAL + 400
    assert_same_books(run, jobs)


def test_an_end_is_moved_from_that_of_the_annealing_that_waits_before_it(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs, None)
    run.train_to_commit()
    with pytest.raises(InvalidInputError, match="no end that could be moved"):
        jobs.request(later(50, "none"))
    jobs.request(asks(ChangeKind.ANNEAL, anneal_steps=60))
    jobs.request(later(50, "one"))
    run.train()
    (_, annealed), extended = ends_told(jobs)
    assert annealed is not None
    assert extended == (50, annealed + 50) == (50, run.n_steps)
    assert_same_books(run, jobs)


def test_an_end_that_is_gone_when_its_turn_comes_stays_gone(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs, None)
    run.train_to_commit()
    run.tuner.anneal(60)
    run.train(1)
    jobs.request(later(50, "one"))
    run.tuner.undo_annealing()
    run.train(400)
    assert run.tuner.remaining_steps is None
    assert ends_told(jobs)[-1] == (50, None)
    assert jobs.state.status.live


@pytest.mark.parametrize(
    "fields", [{}, {"total_steps": 900, "later_steps": 5}, {"later_steps": 0}, {"later_steps": 2**40}]
)
def test_an_end_is_given_in_one_way(jobs: UnsteadyJobs, fields: dict[str, int]) -> None:
    run = PlannedRun(jobs)
    run.train_to_commit()
    with pytest.raises(InvalidInputError, match=r"change\.(total|later)_steps"):
        jobs.request(asks(ChangeKind.EXTEND, **fields))
    with pytest.raises(InvalidInputError, match=r"change\.later_steps"):
        jobs.request(asks(ChangeKind.ANNEAL, anneal_steps=5, later_steps=5))


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["before the checkpoint", "after the checkpoint", "after it, and not heard"])
def test_what_was_asked_for_at_the_server_outlives_a_resume(jobs: UnsteadyJobs, asked: str) -> None:
    run = PlannedRun(jobs)
    run.train_to_commit()
    change = asks(ChangeKind.EXTEND, total_steps=777)
    if asked == "before the checkpoint":
        jobs.request(change)
        run.train(100)
    checkpoint = run.checkpoint()
    if asked == "after the checkpoint":
        jobs.request(change)
        run.train(100)
        assert jobs.state.total_steps == 777
    elif asked == "after it, and not heard":
        jobs.request(change)
    again = PlannedRun(jobs)
    again.load(checkpoint)
    again.train()
    assert again.n_steps == 777
    assert_same_books(again, jobs)


def test_a_checkpoint_holds_the_changes_that_wait_and_can_be_written(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs)
    run.train(7)
    run.tuner.extend(30)
    file = io.BytesIO()
    torch.save(run.checkpoint(), file)
    file.seek(0)
    run.train()
    again = PlannedRun(jobs)
    again.load(torch.load(file, weights_only=True))
    again.train()
    assert run.n_steps == again.n_steps == TOTAL + 30
    assert_same(run.everything()["model"], again.everything()["model"])


def test_a_run_that_was_resumed_in_an_annealing_can_undo_it(jobs: UnsteadyJobs) -> None:
    run = PlannedRun(jobs)
    run.train_to_commit()
    before = run.everything()
    run.tuner.anneal(30)
    run.train(12)
    again = PlannedRun(jobs)
    again.load(run.checkpoint())
    again.tuner.undo_annealing()
    assert_same(again.everything()["model"], before["model"])
    again.train()
    assert again.n_steps == TOTAL
    assert_same_books(again, jobs)


# --- everything in any order ------------------------------------------------------------------------------------------


class PlanMachine(RuleBasedStateMachine):
    """A run, its server and somebody at the server, in any order."""

    run: PlannedRun

    @initialize(total_steps=st.sampled_from([None, 300, TOTAL]))
    def begin(self, total_steps: int | None) -> None:
        self.total_steps = total_steps
        self.jobs = UnsteadyJobs()
        self.run = PlannedRun(self.jobs, total_steps)
        self.checkpoint: dict[str, Any] | None = None
        self.before_annealing: dict[str, Any] | None = None
        self.n_asked = 0

    @rule(n_steps=st.sampled_from([1, 3, 20, 90]))
    def train(self, n_steps: int) -> None:
        self.run.train(n_steps)

    @precondition(lambda self: self.run.tuner.remaining_steps is not None)
    @rule(n_steps=st.sampled_from([1, 30, 200]))
    def extend(self, n_steps: int) -> None:
        self.run.tuner.extend(n_steps)
        self._forget()

    @precondition(lambda self: not self.run.tuner.finished)
    @rule()
    def replan(self) -> None:
        self.run.tuner.replan("other data")
        self._forget()

    @precondition(lambda self: not self.run.tuner.finished)
    @rule(n_steps=st.sampled_from([1, 25]))
    def anneal(self, n_steps: int) -> None:
        searching = self.run.tuner.searching
        before = None if searching or self.jobs.away or self.jobs.lose_answers else self.run.everything()
        self.run.tuner.anneal(n_steps)
        self.before_annealing = before

    @precondition(lambda self: self.run.tuner._plan.annealing)
    @rule()
    def undo(self) -> None:
        before, self.before_annealing = self.before_annealing, None
        try:
            self.run.tuner.undo_annealing()
        except ConfigError:
            return
        if before is not None:
            assert_same(self.run.everything()["model"], before["model"])

    @precondition(lambda self: not self.jobs.away)
    @rule(kind=st.sampled_from([ChangeKind.EXTEND, ChangeKind.REPLAN, ChangeKind.ANNEAL]), steps=st.integers(0, 60))
    def ask(self, kind: ChangeKind, steps: int) -> None:
        try:
            state = self.jobs.state
        except NotFoundError:  # a run that goes on without the server for good: the job that it opened anew was deleted
            return
        if kind is ChangeKind.EXTEND and state.total_steps is not None and steps % 2:
            self.n_asked += 1
            change = asks(kind, later_steps=steps, request_id=f"request {self.n_asked}")
        elif kind is ChangeKind.EXTEND and state.total_steps is not None:
            change = asks(kind, total_steps=state.run_steps + 5 * steps)
        elif kind is ChangeKind.REPLAN:
            change = asks(kind)
        else:
            change = asks(ChangeKind.ANNEAL, anneal_steps=steps + 1)
        with contextlib.suppress(PreconditionError):
            self.jobs.request(change)
        self._forget()

    @rule(away=st.booleans())
    def server_goes_or_comes(self, away: bool) -> None:
        self.jobs.away = away
        self._forget()

    @rule(n=st.sampled_from([1, 1, 3]))
    def lose_answers(self, n: int) -> None:
        self.jobs.lose_answers = n
        self._forget()

    @rule()
    def save(self) -> None:
        self.checkpoint = self.run.checkpoint()

    @precondition(lambda self: self.checkpoint is not None and not self.jobs.away)
    @rule()
    def resume(self) -> None:
        assert self.checkpoint is not None
        self.jobs.lose_answers = 0
        run = PlannedRun(self.jobs, self.total_steps)
        run.load(copy.deepcopy(self.checkpoint))
        self.run = run
        self._forget()

    def _forget(self) -> None:
        """The annealing need not begin and end where this test thinks any more."""
        self.before_annealing = None

    @invariant()
    def no_step_is_forgotten(self) -> None:
        tuner = self.run.tuner
        assert tuner.committed_step + tuner.search_steps == self.run.n_steps
        assert tuner.remaining_steps is None or tuner.remaining_steps >= 0
        assert all(0 <= lr < 100 for lr in self.run.lrs)

    def teardown(self) -> None:
        """It comes to its end, and the server knows all of it unless the run had to part with it."""
        if not hasattr(self, "run"):
            return
        self.jobs.away, self.jobs.lose_answers = False, 0
        for _ in range(40):
            self.run.train(60)
            if self.run.tuner.finished or self.run.tuner.remaining_steps is None:
                break
        while self.run.tuner.searching:
            self.run.train(5)
        if self.run.tuner.remaining_steps is None:
            self.run.tuner.anneal(10)
        self.run.train()
        assert self.run.tuner.finished
        talk = self.run.tuner._session
        assert isinstance(talk, session.Session)
        if not (talk._for_good or talk._alone):
            assert_same_books(self.run, self.jobs)
            assert self.jobs.state.status is Status.FINISHED
        self.run.tuner.close()


PlanMachine.TestCase.settings = hypothesis.settings(
    max_examples=30, stateful_step_count=25, deadline=None, derandomize=True
)
TestPlanMachine = PlanMachine.TestCase
