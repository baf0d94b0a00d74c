"""A job as the API gives it -> a job as a storage gives it: a page can be made wherever a server can be asked."""

from __future__ import annotations

import datetime

from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.config import LrBounds
from tuner_server.core.job_state import JobState
from tuner_server.core.messages import Candidate, Decision, Outcome, PosteriorCurve, Setback
from tuner_server.rpc.convert import STATES, config_from_pb, directive_from_pb, known, report_from_pb
from tuner_server.storage import Entry, StoredJob, StoredReport


def job_and_history(response: pb.GetScheduleResponse) -> tuple[StoredJob, list[Entry]]:
    """What a page is made of, but for what the API keeps to itself: the project, and what core and policy remember.

    Args:
        response: with its history (SCHEDULE_VIEW_FULL).

    Raises:
        InvalidInputError: a newer server's, with values that this version doesn't know.
    """
    job = response.job
    created, updated = (time.ToDatetime(datetime.UTC) for time in (job.create_time, job.update_time))
    entries = [_entry(entry, updated) for entry in response.history]
    directive = directive_from_pb(job.directive)
    state = JobState(
        config=config_from_pb(job.config),
        status=known("state", STATES, job.state),
        directive=directive,
        lease=directive,
        committed_steps=job.committed_steps,
        search_steps=job.search_steps,
        given_back_steps=job.given_back_steps,
        bounds=LrBounds(min=job.lr_bounds.min, max=job.lr_bounds.max) if job.HasField("lr_bounds") else None,
        last_loss=job.last_loss if job.HasField("last_loss") else None,
        best_loss=job.best_loss if job.HasField("best_loss") else None,
        last_validation=job.last_validation if job.HasField("last_validation") else None,
        best_validation=job.best_validation if job.HasField("best_validation") else None,
        wall_time_s=job.wall_time_s,
        message=job.message,
    )
    return StoredJob(job.id, "", state, 0, created, updated), entries


def _entry(message: pb.HistoryEntry, time: datetime.datetime) -> Entry:
    decision = _decision(message.decision) if message.HasField("decision") else None
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
    )


def _decision(message: pb.Decision) -> Decision:
    posterior = None
    if message.HasField("posterior"):
        curve = message.posterior
        posterior = PosteriorCurve(
            lr=tuple(curve.lr), mean=tuple(curve.mean), sd=tuple(curve.sd), acquisition=tuple(curve.acquisition)
        )
    return Decision(
        stage=message.stage,
        lr=message.lr,
        reason=message.reason,
        candidates=tuple(_candidate(candidate) for candidate in message.candidates),
        posterior=posterior,
        setback=_setback(message.setback) if message.HasField("setback") else None,
        forecast=message.forecast if message.HasField("forecast") else None,
        forecast_sd=message.forecast_sd if message.HasField("forecast_sd") else None,
        optimum=message.optimum if message.HasField("optimum") else None,
        correction=message.correction if message.HasField("correction") else None,
    )


def _setback(message: pb.Setback) -> Setback:
    return Setback(
        lr=message.lr,
        loss=message.loss if message.HasField("loss") else None,
        bar=message.bar if message.HasField("bar") else None,
        start_loss=message.start_loss if message.HasField("start_loss") else None,
        gain=message.gain if message.HasField("gain") else None,
        validated=message.validated,
    )


def _candidate(message: pb.Candidate) -> Candidate:
    return Candidate(
        directive_number=message.directive_number,
        lr=message.lr,
        forecast=message.forecast if message.HasField("forecast") else None,
        forecast_sd=message.forecast_sd if message.HasField("forecast_sd") else None,
        at_least=message.at_least if message.HasField("at_least") else None,
    )
