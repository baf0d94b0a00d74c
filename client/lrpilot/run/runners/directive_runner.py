"""How directives are carried out on a run, one after another; whatever fails, training goes on."""

from __future__ import annotations

import abc
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lrpilot.backends.base import Backend
from lrpilot.data.position import DataPosition
from lrpilot.distributed.backend import DistributedBackend
from lrpilot.distributed.session import SharedSession
from lrpilot.distributed.together import together
from lrpilot.errors import ServerError
from lrpilot.run.coasting import Coasting, attempt
from lrpilot.run.early_warnings import NOTHING, look
from lrpilot.run.ending import Ending
from lrpilot.run.lease import Event, Lease
from lrpilot.run.measuring import begin_measuring, measured
from lrpilot.run.promise import is_above
from lrpilot.run.repetition import Repetition
from lrpilot.run.rollback import Rollback
from lrpilot.run.run_plan import RunPlan
from lrpilot.run.run_record import RunRecord
from lrpilot.run.runners.announcer import Announcer
from lrpilot.run.tuned_lr import TunedLr
from lrpilot.session.annealing import lr_of_rest
from lrpilot.session.run_state import RunState
from lrpilot.session.session import Session
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.divergence import first_divergence
from lrpilot.wire.limits import MAX_NOTE
from lrpilot.wire.messages.directive_steps import bar_of
from lrpilot.wire.messages.directives import begins_unsearched, rolls_back

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks


log = logging.getLogger("lrpilot")


class DirectiveRunner(abc.ABC):
    """Carries out one directive after another on a backend.

    Whatever fails in the middle ends the tuning and not the training: the steps that are left are then annealed.
    """

    _session: Session | SharedSession
    _lease: Lease

    def __init__(
        self,
        backend: Backend,
        ranks: Ranks | None,
        total_steps: int | None,
        total_time_s: float | None,
        *,
        strict: bool,
        adopt: bool,
    ) -> None:
        """Begins nothing yet: `_follow` does, with the first directive of a session."""
        self._backend = backend if ranks is None else DistributedBackend(backend, ranks)
        self._ranks = ranks
        self._plan = RunPlan(total_steps, total_time_s)
        self._started = time.monotonic()
        self._strict = strict
        self._record = RunRecord(backend.base_lrs)
        self._lr = TunedLr(self._backend)
        self._validations: list[pb.Validation] = []
        self._position = DataPosition()
        self._finished = False
        self._repetition = Repetition()
        # The last report, then the answer to it, until what it asks for has begun.
        self._due: pb.Report | pb.Directive | None = None
        self._interrupted = False
        self._rollback = Rollback()
        self._announcer = Announcer()
        self._ending = Ending(self._backend, ranks, adopt=adopt)

    @property
    @abc.abstractmethod
    def rank(self) -> int:
        """The number of this process among those that train together; 0 if it trains alone."""

    @property
    @abc.abstractmethod
    def phase(self) -> str:
        """What the present steps are for."""

    @abc.abstractmethod
    def _on_begun(self, directive: pb.Directive) -> None:
        """A directive has begun."""

    @abc.abstractmethod
    def _on_decided(self, directive: pb.Directive) -> None:
        """Committed steps begin, for a new reason."""

    @abc.abstractmethod
    def _on_reported(self, directive: pb.Directive, report: pb.Report, start: int) -> None:
        """Steps are over; so many had been made before them."""

    @abc.abstractmethod
    def _on_finished(self) -> None:
        """The run is over."""

    def _end(self) -> None:
        """Ends what is open."""
        lease = self._lease
        if self._finished:
            return
        if isinstance(lease, Coasting):
            self._settle()
        elif lease.committed and lease.done and not self._rollback.due:
            self._end_committed(lease)
        if not isinstance(lease, Coasting) and (self._rollback.due or not lease.committed):
            if self._rollback.possible:
                self._backend.restore()
            self._set_lr(self._run_state().lr)
        self._finish()

    def _end_committed(self, lease: Lease) -> None:
        """Reports the committed steps since the last report, which have diverged, or stay."""
        if self._ranks is not None and sys.exception() is not None:
            # The other ranks may be anywhere, so that the losses can't be had; the steps are in the model all the same.
            self._record.add(lease.directive, pb.Report(losses=[math.nan] * lease.done, outcome=pb.OUTCOME_PARTIAL))
            lease.expire()
            return
        losses = self._flushed_losses()
        diverged = first_divergence(losses, lease.limit) is not None
        report = self._report(pb.OUTCOME_DIVERGED if diverged else pb.OUTCOME_PARTIAL, losses)
        self._book(report)
        self._session.answer(lease.directive, report, self._run_state())

    def _handle(self, lease: Lease) -> None:
        """What is due after this step besides an LR."""
        self._guarded(lambda: self._carry_on(lease))

    def _guarded(self, act: Callable[[], None]) -> None:
        """Whatever fails in `act` ends the tuning, and not the training.

        Raises:
            ServerError: `strict` is set.
            RuntimeError: another rank has gone, and with it the training.
        """
        try:
            act()
        except Exception as error:
            if (self._strict and isinstance(error, ServerError)) or (self._ranks is not None and self._ranks.lost):
                raise
            self._coast(error)
        except BaseException:
            self._interrupted = True
            raise

    def _catch_up(self) -> bool:
        """Does what an interrupt left undone; whether there was something."""
        if self._finished:
            return False
        lease, interrupted = self._lease, self._interrupted
        self._interrupted = False
        if interrupted and self._due is not None:
            self._guarded(self._proceed)
        elif lease.done >= lease.directive.n_steps:
            self._handle(lease)
        else:
            return False
        return True

    def _carry_on(self, lease: Lease) -> None:
        if isinstance(lease, Coasting):
            self._settle()
            self._coast_along(lease.after())
            return
        if self._due is not None:
            raise InterruptedError("a decision was interrupted, and further steps were made meanwhile")
        event = lease.event()
        if event & (Event.END | Event.PART) and (skipped := self._backend.forget_skipped()):
            lease.take_back(len(skipped))
            self._set_lr(lease.lr())
            return
        seen = look(self._backend, lease.directive, self._ranks) if Event.CHECK in event else NOTHING
        if (Event.CHECK in event and self._backend.diverged()) or (
            Event.VALIDATE in event and not self._validated(lease)
        ):
            self._advance(pb.OUTCOME_DIVERGED)
        elif Event.END in event:
            self._advance(pb.OUTCOME_COMPLETED, note=seen.note)
        elif seen.ends:
            self._advance(pb.OUTCOME_DIVERGED, note=seen.note)
        elif Event.PART in event:
            self._advance(pb.OUTCOME_PARTIAL)
        else:
            self._set_lr(lease.lr())

    def _advance(self, outcome: pb.Outcome.ValueType, change: pb.PlanChange | None = None, note: str = "") -> None:
        """Reports, with a change of the plan if there is one and what a warning saw, and follows the answer."""
        if outcome == pb.OUTCOME_COMPLETED:
            self._ending.decide(self._lease.directive, self._validations)
        directive, losses = self._lease.directive, self._flushed_losses()
        self._lr.look()
        if first_divergence(losses, self._lease.limit) is not None:  # on CUDA the watch is a look behind
            outcome = pb.OUTCOME_DIVERGED
        elif losses and outcome != pb.OUTCOME_DIVERGED and self._fell_short(directive, losses):
            outcome = pb.OUTCOME_FELL_SHORT
        report = self._report(outcome, losses)
        report.note = note
        report = self._noted(report, self._note(losses))
        if change is not None:
            report.change.CopyFrom(change)
        self._book(report)
        self._proceed()

    def _noted(self, report: pb.Report, note: str) -> pb.Report:
        """A report with a note on it, if there is one."""
        if note:
            log.warning("lrpilot: there is no further search: %s", note)
            report.outcome, report.note = pb.OUTCOME_UNREPEATABLE, note
        return report

    def _note(self, losses: Sequence[float]) -> str:
        """What speaks against a probe as a repetition of the first one's beginning; empty: nothing."""
        repetition, backend = self._repetition, self._backend
        comparable = repetition.comparable and backend.loss_precedes_updates
        if not comparable or not repetition.differs(losses[0], backend.loss_noise):
            return ""
        return repetition.sentence(losses[0], attempt(self._backend.suspects) or [])[:MAX_NOTE]

    def _flushed_losses(self) -> list[float]:
        """Takes the losses since the last report off the backend.

        Those that an interrupt has lost are no numbers. One that came between a loss and its count leaves one too many.
        """
        losses, done = self._backend.flush(), self._lease.done
        if len(losses) != done:
            self._repetition.lose()
        return [math.nan] * (done - len(losses)) + losses[max(len(losses) - done, 0) :]

    def _proceed(self) -> None:
        """Asks what follows on the last report, and begins it; from where it was interrupted, if it was."""
        if isinstance(self._due, pb.Report):
            self._due = self._session.answer(self._lease.directive, self._due, self._run_state())
        if self._due is not None:
            self._follow(self._due)
        self._due = None

    def _fell_short(self, directive: pb.Directive, losses: Sequence[float]) -> bool:
        """Whether these committed steps did worse than was promised."""
        bar = bar_of(directive.promise, self._lease.done - len(losses))
        validations = [validation.loss for validation in self._validations]
        return bar is not None and is_above(bar, losses, validations, self._record.last_validation)

    def _report(self, outcome: pb.Outcome.ValueType, losses: Sequence[float]) -> pb.Report:
        return pb.Report(
            outcome=outcome,
            losses=losses,
            validations=self._validations,
            wall_time_s=self._lap(),
            measures=measured(self._backend, self._lease.directive, len(losses), alone=self._ranks is None),
            ending=self._ending.decided if outcome == pb.OUTCOME_COMPLETED else None,
        )

    def _lap(self) -> float:
        """Seconds since the last report; what comes between two directives is part of the time of the next one."""
        started, self._started = self._started, time.monotonic()
        return self._started - started

    def _book(self, report: pb.Report, directive: pb.Directive | None = None) -> None:
        """Books a report, on the present directive or on one that was carried out with it."""
        lease, record = self._lease, self._record
        start = record.committed if lease.committed else record.tried
        stays = lease.committed or report.outcome == pb.OUTCOME_REPLANNED
        self._rollback.steps_reported(stay=stays and not rolls_back(report))
        if self.rank == 0:
            untrained = record.steps == 0 and self._backend.loss_precedes_updates
            self._announcer.suspicion.reported(directive or lease.directive, report.losses, untrained=untrained)
        booked = report
        if rolls_back(report) and not self._rollback.possible:  # nothing can be rolled back
            booked = pb.Report(losses=report.losses, validations=report.validations, outcome=pb.OUTCOME_PARTIAL)
        record.add(directive or lease.directive, booked)
        self._ending.reported(report.outcome)
        if report.HasField("change"):
            record.replan(report.change, self._plan.total_steps)
        self._due = report
        lease.expire()
        self._on_reported(directive or lease.directive, report, start)

    def _follow(self, directive: pb.Directive) -> None:
        """Begins a directive. The order is part of the contract: restore, round, snapshot, then the LR."""
        self._plan.follow(directive)
        if directive.HasField("change") and directive.change.origin != pb.PLAN_CHANGE_ORIGIN_CLIENT:
            self._record.replan(directive.change, self._plan.total_steps)
        restored = directive.restore
        if directive.phase != pb.PHASE_STOP:
            self._ending.reopen()
        if restored:
            directive = self._go_back(directive)
        if directive.phase == pb.PHASE_STOP:
            self._set_lr(self._run_state().lr if restored else self._lr.now)
            self._finish()
            return
        if directive.HasField("round"):
            self._backend.take_round(directive.round.factor, directive.round.momentum)
        if directive.snapshot:
            directive = self._remember(directive)
        together(self._ranks, lambda: self._begin(directive))
        self._ending.begin(directive)
        lease = self._lease
        self._announce(lease)
        self._on_begun(directive)
        if lease.validates_first:
            self._validated(lease)

    def _begin(self, directive: pb.Directive) -> None:
        comparable = self._position.follow(directive)
        if directive.snapshot:
            self._repetition = Repetition()
        self._repetition.begin(comparable)
        self._lease = lease = self._begin_steps(directive)
        begin_measuring(self._backend, directive, lease.room)
        self._validations = []
        self._set_lr(lease.lr())

    def _begin_steps(self, directive: pb.Directive) -> Lease:
        lease = Lease(directive)
        self._backend.begin(lease.room, lease.limit)
        return lease

    def _announce(self, lease: Lease) -> None:
        """Says what comes next, and what nobody should overlook where people see it."""
        directive = lease.directive
        if begins_unsearched(directive, self._session.config):
            self._record.unsearched = True
            if self.rank == 0:
                log.warning(
                    "lrpilot: no search: %d steps are too few for one, so the highest LR is the %.3g that was set",
                    directive.n_steps,
                    lease.profile.start_lr,
                )
            return
        if self._announcer.announce(lease, self.phase):
            self._on_decided(directive)

    def _remember(self, directive: pb.Directive) -> pb.Directive:
        """Takes a directive's snapshot; where that fails in the middle of a run, the tuning ends, and not the run."""
        try:
            self._backend.take(self._position.roots)
        except Exception as error:
            if self._record.steps == 0:
                self._session.close()
                raise  # nothing has begun: there is an argument to change
            self._rollback.snapshot_failed()
            return self._abandon("no snapshot can be taken", error)
        self._rollback.snapshot_taken()
        self._record.mark()
        return directive

    def _go_back(self, directive: pb.Directive) -> pb.Directive:
        """Restores for a directive; where that fails the tuning ends, and the run goes on with what was put back."""
        self._rollback.begun()
        try:
            together(self._ranks, lambda: self._backend.restore(committed=self._lease.committed))
        except Exception as error:
            return directive if self._rollback.abandoned else self._abandon("the snapshot can't be put back", error)
        return directive

    def _abandon(self, what: str, error: Exception) -> pb.Directive:
        """What comes in place of a directive that the run, and not the server, has prevented."""
        if self._ranks is not None and (self._ranks.parted or self._ranks.lost):
            raise error
        self._rollback.abandon()
        return self._session.abandon(f"{what}: {type(error).__name__}: {error}", self._run_state())

    def _coast(self, error: Exception) -> None:
        """The tuning has failed in the middle of something: goes on without, over so many steps as are left."""
        log.warning(
            "lrpilot: the tuning has failed; training goes on without it, and anneals its LR: %s: %s",
            type(error).__name__,
            error,
            exc_info=error,
        )
        if self._ranks is not None:
            self._ranks.part()
        remaining = self._run_state().steps_left
        if remaining is not None:
            remaining = max(remaining - self._lease.done, 0)
        rolled_back = self._settle()
        if rolled_back:
            attempt(lambda: self._backend.restore(committed=self._lease.committed))
        follow = pb.Directive(phase=pb.PHASE_TRAIN, restore=rolled_back, batches=pb.BATCH_SOURCE_REPLAYED)
        attempt(lambda: self._position.follow(follow))
        attempt(self._session.close)
        self._due = None
        self._rollback.begun()
        self._rollback.abandon()
        run_state = self._run_state()
        lr = lr_of_rest(None, run_state)
        self._coast_along(None if remaining == 0 else Coasting.over(remaining, lr, rise_from=run_state.lr))

    def _settle(self) -> bool:
        """Books the steps since the last report, as far as that can be done; whether steps are to be rolled back."""
        lease = self._lease
        losses = attempt(self._flushed_losses)
        diverged = self._ranks is None and losses is not None and not all(map(math.isfinite, losses))
        goes_back = lease.done > 0 and (diverged or not lease.committed)
        rolled_back = self._rollback.due or (self._rollback.possible and goes_back)
        rolled_back &= not isinstance(lease, Coasting)
        report = pb.Report(
            losses=[math.nan] * lease.done if losses is None else losses,
            outcome=pb.OUTCOME_DIVERGED if rolled_back else pb.OUTCOME_PARTIAL,
            wall_time_s=time.monotonic() - self._started,
        )
        if lease.done:
            attempt(lambda: self._record.add(lease.directive, report))
        lease.expire()
        return rolled_back

    def _coast_along(self, lease: Coasting | None) -> None:
        """Goes on with so many steps, or ends after the last one."""
        if lease is None:
            self._finish()
            return
        attempt(self._ending.reopen)
        attempt(lambda: self._ending.begin(None))
        self._lease, self._validations, self._started = lease, [], time.monotonic()
        attempt(lambda: self._backend.begin(lease.directive.n_steps))
        begin_measuring(self._backend, lease.directive, lease.directive.n_steps)
        attempt(lambda: self._set_lr(lease.lr()))

    def _finish(self) -> None:
        self._finished = True
        attempt(self._ending.conclude)
        attempt(self._backend.finish)
        log.info("lrpilot: done, %d steps committed and %d rolled back", self._record.committed, self._record.searched)
        self._on_finished()

    def _run_state(self) -> RunState:
        """Where the reported steps have led."""
        record = self._record
        # Several ranks would not agree on it to the step.
        in_time = None if self._ranks is not None else self._plan.steps_in_time(record.wall_time_s, record.steps)
        return RunState(
            lr=self._backend.base_lrs[0] if record.last_lr is None else record.last_lr,
            remaining=None,
            warm=record.committed > 0,
            held=self._rollback.possible,
            steps=record.steps,
            peak=record.peak_lr,
            in_time=in_time,
        ).planned(self._plan.total_steps)

    def _set_lr(self, lr: float) -> None:
        self._lr.set(lr, begun=self._record.steps > 0 or self._due is not None)

    def _validated(self, lease: Lease) -> bool:
        """Validates, where that is possible; false if it shows a divergence in a probe."""
        known = any(validation.step == lease.done for validation in self._validations)  # before an interrupt
        if known or not self._backend.has_validation:
            return True
        loss = self._backend.validate()
        if loss is not None:
            self._validations.append(pb.Validation(step=lease.done, loss=loss))
        return loss is not None or lease.committed
