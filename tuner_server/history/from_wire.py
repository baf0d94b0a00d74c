"""A job as the API gives it -> a job as a storage gives it: a page can be made wherever a server can be asked."""

from __future__ import annotations

import datetime

from google.protobuf.message import Message
from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.config import LrBounds
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import Asked, Candidate, Decision, Extrapolation, Outcome, PosteriorCurve, Setback
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
        last_loss=_optional(job, "last_loss"),
        best_loss=_optional(job, "best_loss"),
        last_validation=_optional(job, "last_validation"),
        best_validation=_optional(job, "best_validation"),
        wall_time_s=job.wall_time_s,
        message=job.message,
        unrepeatable=job.unrepeatable,
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
        note=report.note,
        measures=report.measures,
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
        forecast=_optional(message, "forecast"),
        forecast_sd=_optional(message, "forecast_sd"),
        optimum=_optional(message, "optimum"),
        correction=_optional(message, "correction"),
        drawn_to=_optional(message, "drawn_to"),
        lowered_by=_optional(message, "lowered_by"),
        asked=_asked(message.asked) if message.HasField("asked") else None,
        extrapolation=_extrapolation(message.extrapolation) if message.HasField("extrapolation") else None,
    )


def _asked(message: pb.Asked) -> Asked:
    return Asked(acquisition=message.acquisition, kappa=_optional(message, "kappa"), low=message.low, high=message.high)


def _extrapolation(message: pb.Extrapolation) -> Extrapolation:
    return Extrapolation(forecaster=message.forecaster, horizon=message.horizon, losses=tuple(message.losses))


def _setback(message: pb.Setback) -> Setback:
    return Setback(
        lr=message.lr,
        loss=_optional(message, "loss"),
        bar=_optional(message, "bar"),
        start_loss=_optional(message, "start_loss"),
        gain=_optional(message, "gain"),
        validated=message.validated,
    )


def _candidate(message: pb.Candidate) -> Candidate:
    return Candidate(
        directive_number=message.directive_number,
        lr=message.lr,
        forecast=_optional(message, "forecast"),
        forecast_sd=_optional(message, "forecast_sd"),
        at_least=_optional(message, "at_least"),
        raw_forecast=_optional(message, "raw_forecast"),
    )


def _optional(message: Message, field: str) -> float | None:
    """A number that a message may have."""
    return getattr(message, field) if message.HasField(field) else None
