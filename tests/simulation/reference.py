"""What the contract promises of a job, in its plainest form: no database, no cache, one call after the other.

What a directive says is the business of `core.job.machine`, whose fold over the reports taken is the schedule. All else
is here: which reports are taken, what a repeated one gets, what going back forgets, and what anybody is shown.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.config import JobConfig
from tuner_server.core.errors import ConflictError, PreconditionError, TunerError
from tuner_server.core.job import machine
from tuner_server.core.job.life import Signs
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.messages import ChangeOrigin, Outcome, PlanChange, Report
from tuner_server.core.search.prior import Prior
from tuner_server.rpc import convert, plan_messages
from tuner_server.rpc.status import code_of
from tuner_server.service.tuner_service import RESUMES_KEPT, fingerprint
from tuner_server.storage import StoredJob

_ANY_TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
REMEMBERED = 50_000
"""Steps of the reference that are kept: histories have most of theirs in common."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A report that was taken."""

    report: Report
    """As the history has it."""
    fingerprint: bytes


@dataclasses.dataclass(frozen=True)
class ReferenceJob:
    """A job: the states in which its directives 1, 2, ... were outstanding, and the reports on all but the last."""

    origin: str
    """The digest of what it was made from."""
    states: tuple[JobState, ...]
    taken: tuple[Taken, ...]

    @functools.cached_property
    def key(self) -> str:
        """Equal jobs have equal ones, whatever led to them."""
        state = self.state
        reports = (f"{taken.fingerprint.hex()} {taken.report.change}" for taken in self.taken)
        phases = [state.directive.phase for state in self.states]  # reports that were taken after a cancellation
        return _digest(
            self.origin,
            *reports,
            *map(str, (state.requested, state.request_ids, state.resume_ids, state.status, state.message, phases)),
        )

    @property
    def state(self) -> JobState:
        """The present one."""
        return self.states[-1]

    def with_state(self, state: JobState) -> ReferenceJob:
        """The job in another present state."""
        return dataclasses.replace(self, states=(*self.states[:-1], state))


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What a call comes to: what its caller is shown, and the job afterwards."""

    job: ReferenceJob
    shown: bytes
    refused: str = ""


def created(config: JobConfig, prior: Prior | None) -> ReferenceJob:
    """A new job."""
    key = _digest(config.model_dump_json(), str(prior))
    return ReferenceJob(key, (machine.create(config, prior).state,), ())


def _create(job: ReferenceJob, request: pb.CreateJobRequest) -> ReferenceJob:
    opened = job.states[0].config
    config = convert.config_from_pb(request.config)
    if fingerprint(config) != fingerprint(opened.model_copy(update={"policy": config.policy})):
        raise ConflictError("the request id was used with another config")
    return job


def _advance(job: ReferenceJob, request: pb.AdvanceRequest) -> ReferenceJob:
    report = convert.report_from_pb(request.report)
    number = report.directive_number
    if number < len(job.states):
        if number < 1 or job.taken[number - 1].fingerprint != fingerprint(report):
            raise PreconditionError("another report was taken, or none could be")
        return job
    if request.resume_id != job.state.resumed_as:
        raise PreconditionError("another client has taken the job back since")
    transition = machine.advance(job.state, report)
    taken = Taken(transition.report or report, fingerprint(report))
    return dataclasses.replace(job, states=(*job.states, transition.state), taken=(*job.taken, taken))


def _resume(job: ReferenceJob, request: pb.ResumeJobRequest) -> ReferenceJob:
    number = request.directive_number
    if not 1 <= number <= len(job.states):
        raise PreconditionError("that directive was never issued")
    resume_id, before = request.resume_id, job.state.resume_ids
    if number == len(job.states) and resume_id == job.state.resumed_as:
        return job
    if resume_id and resume_id in before:
        raise PreconditionError("this request came before")
    ids = before if resume_id == job.state.resumed_as else (*before, resume_id)[-RESUMES_KEPT:]
    if number == len(job.states):
        return job.with_state(job.state.model_copy(update={"resume_ids": ids}))
    earlier = folded(job, number - 1)
    forgotten = zip(job.taken[number - 1 :], job.states[number - 1 :], job.states[number:], strict=False)
    asked = [taken.report.change for taken, before, after in forgotten if _took_effect(taken.report, before, after)]
    asked = [change for change in (*asked, *job.state.requested) if _of_an_operator(change)]
    waits = tuple(dict.fromkeys((*earlier.requested, *asked)))
    kept = {"requested": waits, "request_ids": job.state.request_ids, "resume_ids": ids}
    state = earlier.model_copy(update=kept)
    if job.state.status is Status.CANCELLED:
        state = machine.cancel(state, job.state.message)
    return dataclasses.replace(job, states=(*job.states[: number - 1], state), taken=job.taken[: number - 1])


def _took_effect(report: Report, before: JobState, after: JobState) -> bool:
    """Whether a change took effect with a report, for the first time."""
    again = report.outcome is Outcome.REPLACED and before.directive.change is not None
    return report.change is not None and after.directive.change is not None and not again


def _of_an_operator(change: PlanChange | None) -> bool:
    return change is not None and change.origin is ChangeOrigin.OPERATOR


def _cancel(job: ReferenceJob, request: pb.CancelJobRequest) -> ReferenceJob:
    return job.with_state(machine.cancel(job.state, request.reason))


def _change(job: ReferenceJob, request: pb.ChangePlanRequest) -> ReferenceJob:
    return job.with_state(machine.request(job.state, plan_messages.change_from_pb(request.change, "change")))


def _get(job: ReferenceJob, _request: pb.GetJobRequest) -> ReferenceJob:
    return job


CALLS: dict[str, Callable[[ReferenceJob, Any], ReferenceJob]] = {
    "CreateJob": _create,
    "Advance": _advance,
    "ResumeJob": _resume,
    "CancelJob": _cancel,
    "ChangePlan": _change,
    "GetJob": _get,
    "LeaveJob": _get,
}
"""What each call does to a job. Raises: TunerError: it is refused, and does nothing."""


_steps: dict[tuple[str, str], Step] = {}
_folds: dict[str, JobState] = {}


def step(job: ReferenceJob, method: str, request: Message, digest: str) -> Step:
    """What a call comes to; `digest` is that of the method and the request without the names of jobs."""
    known = _steps.get((job.key, digest))
    if known is None:
        if len(_steps) >= REMEMBERED:
            _steps.clear()
        known = _steps[job.key, digest] = _step(job, method, request)
    return known


def _step(job: ReferenceJob, method: str, request: Message) -> Step:
    try:
        after = CALLS[method](job, request)
    except TunerError as error:
        return Step(job, b"", code_of(error).name)
    if method != "Advance":
        return Step(after, shown_job(stored(after)))
    directive = after.states[request.report.directive_number].directive  # type: ignore[attr-defined]
    return Step(after, content(convert.directive_to_pb(directive)))


def folded(job: ReferenceJob, n_reports: int) -> JobState:
    """The state to which the config and so many of the reports taken lead by themselves."""
    first = job.states[0]
    state = machine.create(first.config, first.prior).state
    key = _digest(first.config.model_dump_json(), str(first.prior))
    for taken in job.taken[:n_reports]:
        key = _digest(key, taken.fingerprint.hex(), str(taken.report.change))
        if key not in _folds:
            if len(_folds) >= REMEMBERED:
                _folds.clear()
            _folds[key] = machine.advance(state, taken.report).state
        state = _folds[key]
    return state


def stored(job: ReferenceJob) -> StoredJob:
    """The job as a database would have it, without a name."""
    return StoredJob("", "", job.state, 0, _ANY_TIME, _ANY_TIME, Signs(_ANY_TIME))


def shown_job(job: StoredJob | pb.Job) -> bytes:
    """What anybody is shown of a job, but for its name and times."""
    message = pb.Job()
    message.CopyFrom(job if isinstance(job, pb.Job) else convert.job_to_pb(job))
    for field in ("id", "create_time", "update_time", "life", "sign_time"):
        message.ClearField(field)
    return content(message)


def content(message: Message) -> bytes:
    """What equal messages share, and no others."""
    return message.SerializeToString(deterministic=True)


def digest_of(method: str, request: Message) -> str:
    """The digest of a call, without the name of its job or of the request that made it."""
    plain = type(request)()
    plain.CopyFrom(request)
    for field in ("job_id", "request_id"):
        if field in plain.DESCRIPTOR.fields_by_name:
            plain.ClearField(field)
    return _digest(method, content(plain).hex())


def _digest(*words: str) -> str:
    return hashlib.blake2b("\n".join(words).encode(), digest_size=16).hexdigest()
