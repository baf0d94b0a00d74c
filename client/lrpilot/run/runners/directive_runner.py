"""How directives are carried out on a run, one after another; whatever fails, training goes on."""

from __future__ import annotations

import abc
import logging
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrpilot.distributed.together import together
from lrpilot.run.coasting import Coasting, attempt
from lrpilot.run.early_warnings import NOTHING, look
from lrpilot.run.lease import Event, Lease
from lrpilot.run.measuring import begin_measuring, measured
from lrpilot.run.promise import is_above
from lrpilot.run.repetition import Repetition
from lrpilot.run.runners.coasting_runner import CoastingRunner
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.divergence import first_divergence
from lrpilot.wire.limits import MAX_NOTE
from lrpilot.wire.messages.directive_steps import bar_of
from lrpilot.wire.messages.directives import begins_unsearched, rolls_back

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

CLOSING_PATIENCE_S = 60.0
"""How long a rank that closes its tuner waits for the others to do so."""

log = logging.getLogger("lrpilot")


class DirectiveRunner(CoastingRunner, abc.ABC):
    """Carries out one directive after another on a backend."""

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
        if self._ranks is not None and (sys.exception() is not None or not self._all_close(self._ranks)):
            # The other ranks may be anywhere, so the losses can't be had; the steps are in the model all the same.
            self._record.add(lease.directive, pb.Report(losses=[math.nan] * lease.done, outcome=pb.OUTCOME_PARTIAL))
            lease.expire()
            return
        losses = self._flushed_losses()
        diverged = first_divergence(losses, lease.limit) is not None
        report = self._report(pb.OUTCOME_DIVERGED if diverged else pb.OUTCOME_PARTIAL, losses)
        self._book(report)
        self._session.answer(lease.directive, report, self._run_state())

    def _all_close(self, ranks: Ranks) -> bool:
        if ranks.all_come("close", CLOSING_PATIENCE_S):
            return True
        log.warning(
            "lrpilot: close() was not called on all ranks within %g s, so that %d steps are not reported: call it on "
            "every rank, after the same step",
            CLOSING_PATIENCE_S,
            self._lease.done,
        )
        return False

    def _handle(self, lease: Lease) -> None:
        """What is due after this step besides an LR."""
        self._guarded(lambda: self._carry_on(lease))

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
        diverged = Event.CHECK in event and self._backend.diverged()
        self._on_met()
        if diverged or (Event.VALIDATE in event and not self._validated(lease)):
            self._advance(pb.OUTCOME_DIVERGED)
        elif Event.END in event:
            self._advance(pb.OUTCOME_COMPLETED, note=seen.note)
        elif seen.ends:
            self._advance(pb.OUTCOME_DIVERGED, note=seen.note)
        elif Event.PART in event:
            self._advance(pb.OUTCOME_PARTIAL)
        else:
            self._set_lr(lease.lr())

    @abc.abstractmethod
    def _on_met(self) -> None:
        """Something is due after this step, for which all ranks have come."""

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
        lease = self._lease_of(directive)
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

    def _validated(self, lease: Lease) -> bool:
        """Validates, where that is possible; false if it shows a divergence in a probe."""
        known = any(validation.step == lease.done for validation in self._validations)  # before an interrupt
        if known or not self._backend.has_validation:
            return True
        loss = self._backend.validate()
        if loss is not None:
            self._validations.append(pb.Validation(step=lease.done, loss=loss))
        return loss is not None or lease.committed
