"""A run's conversation with its tuner, which may go away: then training goes on, and joins again."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import time
import weakref
from collections.abc import Mapping
from typing import Any

from lrpilot.errors import ServerError
from lrpilot.session import directive_check
from lrpilot.session.annealing import Annealing
from lrpilot.session.outbox import Outbox
from lrpilot.session.run_state import RunState
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import committed, rest_of, rolls_back

PART_TIMEOUT_S = 0.5
"""The longest that training waits for an answer that it can do without."""
MOST_WAITS = 10
"""All waiting together is at most so many times the longest wait for one decision; then training goes on alone."""
LOOK_PAUSE_FACTOR = 20
"""While the server is away, so many times as long as a look for it took go by before the next one."""
LASTING = {"FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNIMPLEMENTED"}
"""Refusals that asking again would not change."""
WRONG_ARGUMENT = "INVALID_ARGUMENT"
"""The refusal that whoever made the job can do something about."""
BEAT_S = 60.0
"""Seconds between two signs to the server that steps are made, reports among them."""
LONGEST_REASON = 500
"""The most characters that a log has of the reason that a server gives."""

log = logging.getLogger("lrpilot")


class Session:
    """Gives a directive for every report, whatever the server does.

    Where the answer is known beforehand (a part of committed steps) a server that is away is not waited for. Where a
    decision is needed it is, up to `timeout_s`; then what is left is annealed, and when the server is back, it is told
    what was done without it and decides on the rest.
    """

    def __init__(self, transport: Transport, config: pb.JobConfig, timeout_s: float, strict: bool) -> None:
        """Talks to nobody yet. `strict`: whether to raise where training would go on without the server."""
        self._outbox = Outbox(transport, config)
        self._timeout_s = timeout_s
        self._patience_s = MOST_WAITS * timeout_s
        self._look_again = 0.0
        self._strict = strict
        self._alone: Annealing | None = None
        self._untold: list[pb.Report] = []
        self._last_report: pb.Report | None = None
        self._for_good = False
        self._closed = False
        self.beat_due = math.inf
        """The time, on the monotonic clock, from which on the next step is a reason to `beat`."""
        self.config = config
        """The job's, as the server completed it."""

    @property
    def job_id(self) -> str:
        """The server's name of the job; empty until the server has it."""
        return self._outbox.job_id

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that talks to the server."""
        return self._outbox.forked

    def beat(self, steps: int) -> None:
        """Says that the run goes on, after so many steps of its directive. It waits for nothing."""
        self._rest()
        if self.job_id and not self._closed:
            self._outbox.beat(steps)

    def open(self, run_state: RunState) -> pb.Directive:
        """The first directive; without a server, or with one that refuses for the time being, that of a plain schedule.

        Raises:
            RefusedError: the server finds fault with what the job is described by.
            ServerError: the server is away or refuses, and the session is strict.
        """
        try:
            self._open(self._timeout_s)
            return self._outstanding(run_state, rolled_back=False)
        except ServerError as error:
            if self._strict or error.code == WRONG_ARGUMENT:
                self.close()
                # Whoever reads it has made a slip, and need not see gRPC's frames, and ours below.
                raise error.with_traceback(None) from None
            return self._leave(error, run_state, restore=False)

    def answer(self, directive: pb.Directive, report: pb.Report, run_state: RunState) -> pb.Directive:
        """What follows on the report on `directive`, after which the run stands there.

        Whoever was interrupted in here may ask once more.

        Raises:
            ServerError: no decision can be had, and the session is strict.
        """
        self._rest()
        told, self._last_report = report is self._last_report, report
        if self._alone is not None:
            if not told:
                self._alone.take(report)
                if report.HasField("change"):
                    self._replan_alone(self._alone, report, run_state)
                elif self._alone.endless and run_state.steps_left is not None and not rolls_back(report):
                    self._untold.append(self._alone.replacement())
                    self._alone = self._alone.by_time(run_state)
            return self._go_on(self._alone, report, run_state)
        partial = report.outcome == pb.OUTCOME_PARTIAL
        away = not self._outbox.empty
        if not told:
            self._outbox.add(report)
        rolled_back = rolls_back(report) or not (committed(directive) or report.outcome == pb.OUTCOME_REPLANNED)
        if partial and away and time.monotonic() < self._look_again:
            return rest_of(directive, len(report.losses))
        try:
            self._timed(self._outbox.deliver, PART_TIMEOUT_S if partial else self._timeout_s)
            answer = self._outstanding(run_state, rolled_back=rolled_back)
        except ServerError as error:
            if partial and not self._outbox.empty and not _lasts(error):
                if not away:
                    log.warning("lrpilot: the server is away, training goes on as it was told: %s", error)
                return rest_of(directive, len(report.losses))
            if self._strict:
                raise
            restore = rolled_back and run_state.held
            if run_state.remaining == 0:
                log.warning("lrpilot: the run is over, and the server has not been told its end: %s", error)
                return pb.Directive(phase=pb.PHASE_STOP, stage=directive.stage, restore=restore)
            return self._leave(error, run_state, restore=restore, change=_change_of(report))
        if away:
            log.info("lrpilot: the server is back, and has all reports")
        run_state = _in_plan(answer, run_state)
        if answer.phase == pb.PHASE_STOP and run_state.remaining != 0:
            return self._leave(answer.reason, run_state, restore=answer.restore, change=_change_of(report))
        return answer

    def abandon(self, why: str, run_state: RunState) -> pb.Directive:
        """The tuning can't go on, for a reason of the client's own: what is left is annealed from where the run is.

        No further snapshot is taken. If none is held, a divergence leads nowhere back, and halves the LR all the same.
        """
        directive = self._leave(why, run_state, restore=False, rolls_back=run_state.held)
        directive.snapshot = False
        return directive

    def decisions(self) -> list[pb.Decision]:
        """What was decided so far, and on what evidence; nothing while the server is away."""
        if self._alone is not None:
            return []
        try:
            decisions: list[pb.Decision] = self._timed(self._outbox.decisions, PART_TIMEOUT_S)
        except ServerError:
            return []
        return decisions

    def state_dict(self) -> dict[str, Any]:
        """The session as plain values."""
        return {
            "outbox": self._outbox.state_dict(),
            "alone": self._alone.state_dict() if self._alone else None,
            "for_good": self._for_good,
            "untold": [report.SerializeToString() for report in self._untold],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, and takes the server back there. Raises: ServerError: only if strict."""
        self._outbox.load_state_dict(state["outbox"], self._timeout_s)
        self._alone = Annealing.from_state_dict(state["alone"]) if state["alone"] else None
        self._for_good = state["for_good"]
        self._untold = [pb.Report.FromString(each) for each in state["untold"]]
        if self._for_good or not self.job_id:
            return
        self._rest()
        _remember(self)
        try:
            self._timed(self._outbox.deliver, PART_TIMEOUT_S if self._alone else self._timeout_s)
        except ServerError as error:
            if self._strict:
                raise
            why = "refuses" if _lasts(error) else "is away"
            log.warning("lrpilot: the server %s, training goes on from its checkpoint: %s", why, error)

    def close(self) -> None:
        """Lets go of the server, after a last try to deliver what waits. May be repeated."""
        if self._closed:
            return
        self._closed, self.beat_due = True, math.inf
        _unclosed.discard(self)
        if self.job_id:
            with contextlib.suppress(ServerError):
                if not self._outbox.empty:
                    self._timed(self._outbox.deliver, PART_TIMEOUT_S)
                self._leave_job()
        self._outbox.close()

    def end(self) -> None:
        """Says that the process ends, if the server was there lately; what waits stays untold."""
        if not (self._closed or self.forked) and self.job_id and self._alone is None and self._outbox.empty:
            with contextlib.suppress(ServerError):
                self._leave_job()

    def _rest(self) -> None:
        """Puts the next beat off: the server hears of the run now."""
        self.beat_due = math.inf if self._closed else time.monotonic() + BEAT_S

    def _leave_job(self) -> None:
        """Says that nobody trains the job any more, unless it has ended. Raises: ServerError."""
        if self._outbox.outstanding.phase != pb.PHASE_STOP:
            self._timed(self._outbox.leave, PART_TIMEOUT_S)

    def _open(self, timeout_s: float) -> None:
        """Opens the job. Raises: ServerError."""
        response: pb.CreateJobResponse = self._timed(self._outbox.open, timeout_s)
        self._rest()
        _remember(self)
        self.config = response.job.config
        log.info("lrpilot: job %s, policy %s", self.job_id, self.config.policy)

    def _outstanding(self, run_state: RunState, *, rolled_back: bool) -> pb.Directive:
        """The server's last answer. Raises: ProtocolError: it can't be carried out where the run is."""
        answer = pb.Directive()
        answer.CopyFrom(self._outbox.outstanding)
        run_state = _in_plan(answer, run_state)
        directive_check.check_in_place(answer, run_state, rolled_back=rolled_back)
        # What is not to stay goes back, whether the server thinks of it or not.
        answer.restore = rolled_back and run_state.held
        return answer

    def _timed(self, call: Any, timeout_s: float) -> Any:
        """Calls with what is left of all patience, at most."""
        started = time.monotonic()
        try:
            return call(max(min(timeout_s, self._patience_s), 0.0))
        except ServerError:
            now = time.monotonic()
            self._look_again = now + LOOK_PAUSE_FACTOR * min(now - started, PART_TIMEOUT_S)
            raise
        finally:
            self._patience_s -= time.monotonic() - started

    def _leave(
        self,
        why: ServerError | str,
        run_state: RunState,
        *,
        restore: bool,
        rolls_back: bool = True,
        change: pb.PlanChange | None = None,
    ) -> pb.Directive:
        """Training goes on without the server: for a while after an error, for good after a stop.

        It begins where the run is, or rises first: where its end was moved, and where it has decayed to zero.
        """
        self._for_good = isinstance(why, str) or _lasts(why) or self._patience_s <= 0
        hope = "for good" if self._for_good else "until the server is back"
        log.warning(
            "lrpilot: training goes on without the server, and anneals its LR, %s: %s", hope, str(why)[:LONGEST_REASON]
        )
        if self._for_good:
            self.close()
        self._alone = Annealing.of_rest(run_state, change, restore=restore, rolls_back=rolls_back)
        return self._alone.directive

    def _replan_alone(self, alone: Annealing, report: pb.Report, run_state: RunState) -> None:
        """Goes on without the server in another plan, and remembers to tell it: what was done before, and the change.

        What to make of other data, batches or weights only the server knows. It can't be told of an annealing that is
        undone: some of its steps it has been told of, and some not.
        """
        change, restore = report.change, rolls_back(report) and run_state.held
        if change.kind == pb.PLAN_CHANGE_KIND_UNDO_ANNEALING and not self._for_good:
            self._give_up("an annealing was undone while the server was away")
        earlier = alone.replacement()
        earlier.change.CopyFrom(change)
        self._untold.append(earlier)
        self._alone = Annealing.of_rest(run_state, change, restore=restore)

    def _go_on(self, alone: Annealing, report: pb.Report, run_state: RunState) -> pb.Directive:
        """The next directive of one's own, or the server's, if it is back."""
        # After a divergence the client goes back first; the server is told later.
        if self._for_good or report.outcome == pb.OUTCOME_DIVERGED or time.monotonic() < self._look_again:
            return alone.directive
        try:
            answer = self._join(alone, run_state)
        except ServerError as error:
            if _lasts(error) or self._patience_s <= 0:
                self._give_up(error)
            return alone.directive
        if answer.phase == pb.PHASE_STOP and _in_plan(answer, run_state).remaining != 0:
            self._give_up(answer.reason)
            return alone.directive
        self._alone = None
        log.info("lrpilot: the server is back; it has been told what was done without it")
        return answer

    def _join(self, alone: Annealing, run_state: RunState) -> pb.Directive:
        """Tells the server what was done without it; its answer. Raises: ServerError."""
        if self.job_id:
            self._timed(self._outbox.deliver, PART_TIMEOUT_S)
        else:
            # What its first directive asks for does not matter: it is replaced.
            self._open(PART_TIMEOUT_S)
        outstanding = self._outbox.outstanding
        if outstanding.phase == pb.PHASE_STOP:
            # What it would have rolled back is not there any more.
            stop = pb.Directive()
            stop.CopyFrom(outstanding)
            stop.restore = False
            return stop
        while self._untold:
            self._outbox.add(self._untold.pop(0))
            self._timed(self._outbox.deliver, PART_TIMEOUT_S)
        self._outbox.add(alone.replacement())
        self._timed(self._outbox.deliver, PART_TIMEOUT_S)
        return self._outstanding(run_state, rolled_back=False)

    def _give_up(self, why: ServerError | str) -> None:
        log.warning("lrpilot: training goes on without the server for good: %s", str(why)[:LONGEST_REASON])
        self._for_good = True
        self.close()


def _change_of(report: pb.Report) -> pb.PlanChange | None:
    """The change of the plan that goes with a report; None: there is none."""
    return report.change if report.HasField("change") else None


def _in_plan(directive: pb.Directive, run_state: RunState) -> RunState:
    """Where a run is once a directive has told of a change of its plan."""
    if not directive.HasField("change"):
        return run_state
    change = directive.change
    return run_state.planned(change.total_steps if change.HasField("total_steps") else None)


def _lasts(error: ServerError) -> bool:
    return error.code in LASTING


_unclosed: weakref.WeakSet[Session] = weakref.WeakSet()


def _remember(session: Session) -> None:
    """Has a session end with the process if nobody closes it."""
    _unclosed.add(session)
    _end_with_the_process()


@functools.cache
def _end_with_the_process() -> None:
    """Comes with the first job, not before: what is registered last is called first, and our own server ends later."""
    atexit.register(_end_all)


def _end_all() -> None:
    for session in tuple(_unclosed):
        session.end()
