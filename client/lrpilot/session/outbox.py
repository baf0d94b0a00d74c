"""One job at its server: what was reported, and what waits to be."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lrpilot.errors import RefusedError, ServerError
from lrpilot.session import directive_check
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import overlooked, rest_of, rolls_back

FORKED = "FAILED_PRECONDITION"
"""The status of calls over a connection that another process has made."""
LEFT_BEHIND = "FAILED_PRECONDITION"
"""The status of steps that the server's books can't hold."""

NEVER_ISSUED = "directive_number:"
"""The field that the refusal of a ResumeJob names, where the directive is none of those that the server has issued."""

Answer = TypeVar("Answer")
log = logging.getLogger("lrpilot")


class Outbox:
    """Reports of one job: in order, none lost, each unchanged however often it is sent.

    All that was delivered is kept. A server that lost the job is told it again, and decides the same: a schedule is a
    function of config, seed and reports.
    """

    def __init__(self, transport: Transport, config: pb.JobConfig) -> None:
        """A job that is to be opened with `config`."""
        self._transport = transport
        self._process = os.getpid()
        self._config = config
        self._request_id = str(uuid.uuid4())
        self._delivered: list[pb.Report] = []
        self._waiting: collections.deque[pb.Report] = collections.deque()
        self._rewind = False
        self._resume_id = ""
        self.job_id = ""
        """The server's name of the job; empty until it is open."""
        self.outstanding = pb.Directive()
        """The server's last answer."""

    @property
    def empty(self) -> bool:
        """Whether the server has every report."""
        return not self._waiting

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one whose job it is, to which the connection belongs."""
        return os.getpid() != self._process

    def open(self, timeout_s: float) -> pb.CreateJobResponse:
        """Opens the job. Raises: ServerError."""

        def create() -> pb.CreateJobResponse:
            request = pb.CreateJobRequest(request_id=self._request_id, config=self._config)
            response = self._transport.create_job(request, timeout_s)
            directive_check.check(response.directive, 1, self._config)
            if not response.job.id:
                raise ServerError("server: the job that it opened has no id", "INTERNAL")
            return response

        response = self._asked(create)
        self.job_id, self.outstanding = response.job.id, response.directive
        return response

    def add(self, report: pb.Report) -> None:
        """A report that is to be delivered after the others, as that on the directive that was answered to the last."""
        report.directive_number = self.outstanding.number + len(self._waiting)
        self._waiting.append(report)

    def deliver(self, timeout_s: float) -> None:
        """Delivers all that waits; `outstanding` is then the answer to the last one.

        Raises:
            ServerError: what could not be delivered, or whose answer makes no sense, still waits.
        """
        try:
            self._deliver(timeout_s)
        except RefusedError as error:
            if error.code != "NOT_FOUND" and not self._never_issued(error):
                raise
            log.warning("lrpilot: the server has lost job %s, or a part of it; it is told all of it again", self.job_id)
            self._tell_again(timeout_s)
            self._deliver(timeout_s)

    def _deliver(self, timeout_s: float) -> None:
        if self._rewind:
            request = pb.ResumeJobRequest(
                job_id=self.job_id, directive_number=self.outstanding.number, resume_id=self._resume_id
            )
            self._asked(lambda: self._transport.resume_job(request, timeout_s))
            self._rewind = False
        while self._waiting:
            report, before = self._waiting[0], self.outstanding
            self.outstanding = answer = self._advance(report, timeout_s)
            delivered = self._waiting.popleft()
            repeated = overlooked(before, delivered) and _asked(before.change) == _asked(answer.change)
            if _asked_at_the_server(answer) and not (delivered.HasField("change") or repeated):
                # A server that has lost the job does not know of it: it is told it with this report.
                delivered = pb.Report.FromString(delivered.SerializeToString())
                delivered.change.CopyFrom(_asked(answer.change))
                if answer.change.kind == pb.PLAN_CHANGE_KIND_EXTEND and not answer.change.HasField("later_steps"):
                    delivered.change.total_steps = answer.change.total_steps
            self._delivered.append(delivered)
            replans = answer.HasField("change") or delivered.HasField("replacement")
            if self._waiting and (replans or self._reshaped(before, delivered, answer)):
                self._replace_waiting(_profile_after(before, delivered))

    def _never_issued(self, error: RefusedError) -> bool:
        """Whether the server has not come, or has gone back from, where a checkpoint is that was resumed."""
        return self._rewind and str(error).startswith(NEVER_ISSUED)

    def _reshaped(self, directive: pb.Directive, report: pb.Report, answer: pb.Directive) -> bool:
        """Whether the answer to a part of committed steps has other LRs than those that waiting reports had.

        Steps that were rolled back had none that counts.
        """
        if report.outcome != pb.OUTCOME_PARTIAL or any(map(rolls_back, self._waiting)):
            return False
        return answer.profile != rest_of(directive, len(report.losses)).profile

    def _replace_waiting(self, profile: pb.Profile) -> None:
        """Tells the steps after a report whose answer was not waited for, and is another than was thought, as own ones.

        Raises:
            RefusedError: some of them were rolled back, to where the server knows of no snapshot.
        """
        if any(map(rolls_back, self._waiting)):
            raise RefusedError("the plan was changed at the server, and the run has gone back behind that", LEFT_BEHIND)
        losses = [loss for report in self._waiting for loss in report.losses]
        own = pb.Report(
            directive_number=self.outstanding.number,
            outcome=pb.OUTCOME_REPLACED,
            losses=losses,
            wall_time_s=sum(report.wall_time_s for report in self._waiting),
            replacement=pb.Replacement(profile=profile if losses else None),
        )
        last = self._waiting[-1]
        if last.HasField("change"):
            own.change.CopyFrom(last.change)
        self._waiting = collections.deque([own])

    def _advance(self, report: pb.Report, timeout_s: float) -> pb.Directive:
        def advance() -> pb.Directive:
            request = pb.AdvanceRequest(job_id=self.job_id, report=report, resume_id=self._resume_id)
            directive = self._transport.advance(request, timeout_s).directive
            directive_check.check(directive, report.directive_number + 1, self._config)
            return directive

        return self._asked(advance)

    def _tell_again(self, timeout_s: float) -> None:
        """Opens the job anew, and brings it to where it was. Raises: ServerError: it does not come out the same."""
        expected = self.outstanding
        self._request_id, self._resume_id, self._rewind = str(uuid.uuid4()), "", False
        self.open(timeout_s)
        for report in self._delivered:
            self.outstanding = self._advance(report, timeout_s)
        if self.outstanding != expected:
            raise RefusedError("the server lost the job, and decides otherwise now", "FAILED_PRECONDITION")

    def decisions(self, timeout_s: float) -> list[pb.Decision]:
        """What the server decided so far, and on what evidence. Raises: ServerError."""

        def read() -> list[pb.Decision]:
            request = pb.GetScheduleRequest(job_id=self.job_id, view=pb.SCHEDULE_VIEW_FULL)
            history = self._transport.get_schedule(request, timeout_s).history
            return [entry.decision for entry in history if entry.HasField("decision")]

        return self._asked(read)

    def beat(self, steps: int) -> None:
        """Says that so many steps of the outstanding directive are made; whatever fails is not told."""
        if self.forked:
            return
        request = pb.BeatRequest(
            job_id=self.job_id, directive_number=self.outstanding.number, steps=steps, resume_id=self._resume_id
        )
        try:
            self._transport.beat(request)
        except Exception:
            log.debug("lrpilot: no sign could be given", exc_info=True)

    def leave(self, timeout_s: float) -> None:
        """Says that this client is done with the job. Raises: ServerError."""
        self._deliver(timeout_s)  # the server must know whose job it is now
        request = pb.LeaveJobRequest(job_id=self.job_id, resume_id=self._resume_id)
        self._asked(lambda: self._transport.leave_job(request, timeout_s))

    def state_dict(self) -> dict[str, Any]:
        """The outbox as plain values."""
        return {
            "job_id": self.job_id,
            "request_id": self._request_id,
            "config": self._config.SerializeToString(),
            # torch.load takes no empty bytes among weights.
            "outstanding": self.outstanding.SerializeToString() or None,
            "delivered": [report.SerializeToString() for report in self._delivered],
            "waiting": [report.SerializeToString() for report in self._waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any], timeout_s: float) -> None:
        """Becomes another process's, and drops the job that this one opened. The server is not asked yet."""
        # A job that was taken up before is some run's.
        stray = ("", "") if self._resume_id else (self.job_id, self._request_id)
        self.job_id, self._request_id = state["job_id"], state["request_id"]
        self._config = pb.JobConfig.FromString(state["config"])
        self.outstanding = pb.Directive.FromString(state["outstanding"] or b"")
        self._delivered = [pb.Report.FromString(each) for each in state["delivered"]]
        self._waiting = collections.deque(pb.Report.FromString(each) for each in state["waiting"])
        self._rewind = bool(self.job_id)
        # From here on the server takes no more reports of the process that the state is from, should it live on.
        self._resume_id = str(uuid.uuid4()) if self.job_id else ""
        if stray[0] not in ("", self.job_id):
            with contextlib.suppress(ServerError):
                self._drop(*stray, timeout_s)

    def _drop(self, job_id: str, request_id: str, timeout_s: float) -> None:
        """Leaves a job that nobody trains, and which the server deletes if it never ran. Raises: ServerError."""
        request = pb.LeaveJobRequest(job_id=job_id, continued_as=self.job_id, request_id=request_id)
        self._asked(lambda: self._transport.leave_job(request, timeout_s))

    def close(self) -> None:
        """Lets go of the server, unless that is the business of the process that this one was forked from."""
        if self.forked:
            return
        try:
            self._transport.close()
        except Exception as error:
            log.warning("lrpilot: the connection could not be closed: %s: %s", type(error).__name__, error)

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` gets from the server. Raises: ServerError: whatever a transport raises becomes one."""
        if self.forked:
            raise ServerError("server: its connection belongs to the process that this one was forked from", FORKED)
        try:
            return ask()
        except ServerError:
            raise
        except Exception as error:
            message = f"server: {type(self._transport).__name__} raised {type(error).__name__}: {error}"
            raise ServerError(message, "UNKNOWN") from error


def _profile_after(directive: pb.Directive, report: pb.Report) -> pb.Profile:
    """The LRs of the steps that a run makes after a report on a directive, while it knows of no answer."""
    n_steps = len(report.losses)
    if not report.HasField("replacement"):
        return rest_of(directive, n_steps).profile
    profile = pb.Profile()
    profile.CopyFrom(report.replacement.profile)
    profile.offset += n_steps
    return profile


def _asked(change: pb.PlanChange) -> pb.PlanChange:
    """What was asked for with a change that took effect, but for the end that came of it."""
    asked = pb.PlanChange()
    asked.CopyFrom(change)
    asked.ClearField("total_steps")
    return asked


def _asked_at_the_server(answer: pb.Directive) -> bool:
    """Whether somebody at the server has asked for the change that takes effect with a directive."""
    return answer.HasField("change") and answer.change.origin == pb.PLAN_CHANGE_ORIGIN_OPERATOR
