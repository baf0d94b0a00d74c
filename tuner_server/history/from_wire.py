"""A job as the API gives it -> a job as a storage gives it: a page can be made wherever a server can be asked."""

from __future__ import annotations

import datetime

from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.config import LrBounds
from tuner_server.core.job.life import Signs
from tuner_server.core.job.plan import Plan
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import Outcome
from tuner_server.rpc.convert import STATES, config_from_pb, directive_from_pb, ending_from_pb, report_from_pb
from tuner_server.rpc.decision_messages import decision_from_pb
from tuner_server.rpc.plan_messages import change_from_pb
from tuner_server.rpc.untrusted import known, optional, read_as
from tuner_server.storage import Entry, StoredJob, StoredReport


def job_and_history(response: pb.GetScheduleResponse) -> tuple[StoredJob, list[Entry]]:
    """What a page is made of, but for what the API keeps to itself: the project, and what core and policy remember.

    Args:
        response: with its history (SCHEDULE_VIEW_FULL).

    Raises:
        InvalidInputError: a newer server's, with values that this version doesn't know, or no values of a job.
    """
    job = response.job
    with read_as("job"):
        times = job.create_time, job.update_time, job.sign_time
        created, updated, signed = (time.ToDatetime(datetime.UTC) for time in times)
        state = _state(job)
    stored = StoredJob(job.id, "", state, 0, created, updated, Signs(signed), job.note)
    return stored, [_entry(entry, updated) for entry in response.history]


def _state(job: pb.Job) -> JobState:
    directive = directive_from_pb(job.directive)
    return JobState(
        config=config_from_pb(job.config),
        status=known("state", STATES, job.state),
        directive=directive,
        lease=directive,
        committed_steps=job.committed_steps,
        search_steps=job.search_steps,
        given_back_steps=job.given_back_steps,
        bounds=_bounds(job.lr_bounds) if job.HasField("lr_bounds") else None,
        last_loss=optional(job, "last_loss"),
        best_loss=optional(job, "best_loss"),
        last_validation=optional(job, "last_validation"),
        best_validation=optional(job, "best_validation"),
        wall_time_s=job.wall_time_s,
        message=job.message,
        unrepeatable=job.unrepeatable,
        plan=Plan(total_steps=job.total_steps if job.HasField("total_steps") else None),
        requested=tuple(change_from_pb(change, "job.requested") for change in job.requested),
        ending=ending_from_pb(job.ending) if job.HasField("ending") else None,
    )


def _bounds(message: pb.LrBounds) -> LrBounds:
    with read_as("job.lr_bounds"):
        return LrBounds(min=message.min, max=message.max)


def _entry(message: pb.HistoryEntry, time: datetime.datetime) -> Entry:
    decision = decision_from_pb(message.decision) if message.HasField("decision") else None
    return Entry(directive_from_pb(message.directive), decision, _report(message, time))


def _report(message: pb.HistoryEntry, time: datetime.datetime) -> StoredReport | None:
    if not message.HasField("report"):
        return None
    report = report_from_pb(message.report)
    return StoredReport(
        outcome=Outcome(report.outcome),
        n_steps=report.n_steps,
        validations=report.validations,
        wall_time_s=report.wall_time_s,
        report_time=time,
        losses=report.losses,
        replacement=report.replacement,
        note=report.note,
        measures=report.measures,
        change=report.change,
        ending=report.ending,
    )
