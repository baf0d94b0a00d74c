"""Jobs in this process that outlive the clients which began them: another client can go on with them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from lrpilot.errors import RefusedError, ServerError
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.schedule_parts import merged

from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.core.errors import InvalidInputError, NotFoundError, PreconditionError, TunerError
from tuner_server.core.job.machine import JobState
from tuner_server.core.messages import PlanChange
from tuner_server.rpc import convert, schedule_messages
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import KnownHistory, Storage, StoredJob, open_storage

_CODES: dict[type[TunerError], str] = {
    InvalidInputError: "INVALID_ARGUMENT",
    NotFoundError: "NOT_FOUND",
    PreconditionError: "FAILED_PRECONDITION",
}


class KeptJobs(Transport):
    """The server's service on a database of its own, called directly. Clients may share it; none closes it."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="lrpilot-kept-jobs-")
        storage = open_storage(f"sqlite:///{Path(folder, 'jobs.db')}")
        self._service = TunerService(storage)
        self._end = weakref.finalize(self, _end, self._service, storage, folder)
        self.job_id = ""
        """The job that was opened last, or that a client has gone on with."""

    @property
    def state(self) -> JobState:
        """The state of that job."""
        return self._service.get_job(DEFAULT_PROJECT, self.job_id).state

    @property
    def history(self) -> KnownHistory:
        """The history of that job, with its losses."""
        history = self._service.history(self._service.get_job(DEFAULT_PROJECT, self.job_id))
        return KnownHistory(history.read(losses=True, measures=True))

    def request(self, change: PlanChange) -> None:
        """Somebody asks for a change of that job. Raises: TunerError: as `TunerService.change_plan`."""
        self._service.change_plan(DEFAULT_PROJECT, self.job_id, change)

    def lose(self) -> None:
        """Forgets all jobs."""
        self._end()
        self.__init__()  # type: ignore[misc]  # there is nothing left of what it was

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        config = convert.config_from_pb(request.config)
        try:
            stored = self._service.create_job(DEFAULT_PROJECT, request.request_id, config)
        except TunerError as error:
            raise _told(error) from error
        self.job_id = stored.id
        return pb.CreateJobResponse(job=self._job(stored), directive=convert.directive_to_pb(stored.state.directive))

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        try:
            report = convert.report_from_pb(request.report)
            directive = self._service.advance(DEFAULT_PROJECT, request.job_id, report, request.resume_id).result()
        except TunerError as error:
            raise _told(error) from error
        return pb.AdvanceResponse(directive=convert.directive_to_pb(directive))

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        try:
            stored = self._service.resume_job(
                DEFAULT_PROJECT, request.job_id, request.directive_number, request.resume_id
            )
        except TunerError as error:
            raise _told(error) from error
        self.job_id = stored.id
        return pb.ResumeJobResponse(job=self._job(stored), directive=convert.directive_to_pb(stored.state.directive))

    def leave_job(self, request: pb.LeaveJobRequest, timeout_s: float) -> pb.LeaveJobResponse:
        try:
            self._service.leave_job(
                DEFAULT_PROJECT, request.job_id, request.resume_id, request.continued_as, request.request_id
            )
        except TunerError as error:
            raise _told(error) from error
        return pb.LeaveJobResponse()

    def get_schedule(self, request: pb.GetScheduleRequest, timeout_s: float) -> pb.GetScheduleResponse:
        stored = self._service.get_job(DEFAULT_PROJECT, request.job_id)
        history, vitals = self._service.history(stored), self._service.vitals(stored)
        return merged(schedule_messages.schedule_to_pb(stored, history, full=True, vitals=vitals))

    def listed(self) -> set[str]:
        """The ids of all jobs."""
        return {job.id for job in self._service.list_jobs(DEFAULT_PROJECT, 100).jobs}

    def close(self) -> None:
        """Keeps the jobs, for other clients."""

    def _job(self, stored: StoredJob) -> pb.Job:
        return convert.job_to_pb(stored, self._service.vitals(stored))


def _end(service: TunerService, storage: Storage, folder: str) -> None:
    service.close()
    storage.close()
    shutil.rmtree(folder)


def _told(error: TunerError) -> ServerError:
    """How a client's transport raises a refusal."""
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "INTERNAL")
    return RefusedError(str(error), code)
