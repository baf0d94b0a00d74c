"""The RPCs: convert, call the service in a thread, convert back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

import grpc.aio
import structlog
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from tuner_server.base.failures import FAILURES
from tuner_server.core.config import MAX_NAME
from tuner_server.core.errors import InvalidInputError, TunerError
from tuner_server.core.messages import MAX_REQUEST_ID
from tuner_server.rpc import convert, plan_messages, untrusted
from tuner_server.rpc.caller import CALLER
from tuner_server.rpc.handlers import Context, refuse
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob

DEFAULT_PAGE, MAX_PAGE = 50, 1000
WATCH_INTERVAL_S = 0.5
"""How often a watched job is looked at; other processes move it too, so there is nothing to wait on."""

MAX_LOGGED = 64
"""Characters of a job id from a client that go into the log: twice as many as an id has."""

Request = TypeVar("Request")
Response = TypeVar("Response")
P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)


def unary(
    method: Callable[[Servicer, Request], Coroutine[Any, Any, Response]],
) -> Callable[[Servicer, Request, Context], Coroutine[Any, Any, Response]]:
    """An RPC with one answer, its errors turned into statuses. What was not foreseen is told to our log alone."""

    @functools.wraps(method)
    async def call(self: Servicer, request: Request, context: Context) -> Response:
        if job_id := getattr(request, "job_id", ""):
            structlog.contextvars.bind_contextvars(job_id=job_id[:MAX_LOGGED])
        try:
            return await method(self, request)
        except TunerError as error:
            refused = error
        except Exception as error:
            FAILURES.unforeseen(error)
            return await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")
        del request  # see `refuse`
        return await refuse(context, refused)

    return call


class Servicer(tuner_pb2_grpc.TunerServiceServicer):
    """Implements lrpilot.v1.TunerService."""

    def __init__(self, service: TunerService, executor: Executor) -> None:
        """Serves `service`, whose calls run in `executor`: the event loop never waits for a search or a database."""
        self._service = service
        self._executor = executor
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Ends the streams, which would go on for as long as their jobs. Other calls end by themselves."""
        self._draining.set()

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, functools.partial(function, *args, **kwargs))

    @unary
    async def CreateJob(self, request: pb.CreateJobRequest) -> pb.CreateJobResponse:
        """Opens a job."""
        config = convert.new_config_from_pb(request.config)
        stored = await self._run(self._service.create_job, CALLER.get().project, request.request_id, config)
        log.info("job created", job_id=stored.id, name=config.name, policy=stored.state.config.policy)
        return pb.CreateJobResponse(
            job=convert.job_to_pb(stored), directive=convert.directive_to_pb(stored.state.directive)
        )

    @unary
    async def Advance(self, request: pb.AdvanceRequest) -> pb.AdvanceResponse:
        """Takes a report."""
        report = convert.report_from_pb(request.report)
        job_id, resume_id = convert.job_id(request.job_id), _resume_id(request)
        answer = self._service.advance(CALLER.get().project, job_id, report, resume_id)
        directive = await asyncio.wrap_future(answer)
        structlog.contextvars.bind_contextvars(  # for the line and the span of this call
            report=report.directive_number,
            outcome=report.outcome.value,
            phase=directive.phase.value,
            stage=directive.stage,
            reason=directive.reason,
        )
        return pb.AdvanceResponse(directive=convert.directive_to_pb(directive))

    @unary
    async def GetJob(self, request: pb.GetJobRequest) -> pb.GetJobResponse:
        """Answers with one job."""
        return pb.GetJobResponse(job=convert.job_to_pb(await self._load(request.job_id)))

    @unary
    async def ListJobs(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        """Answers with a page of jobs."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise InvalidInputError.of("page_size", f"0 to {MAX_PAGE}, not {request.page_size}")
        states = {untrusted.known("states", convert.STATES, state) for state in request.states}
        page = await self._run(
            self._service.list_jobs,
            CALLER.get().project,
            request.page_size or DEFAULT_PAGE,
            untrusted.text("page_token", request.page_token),
            sorted(states),
            untrusted.text("family", request.family, MAX_NAME),
        )
        return pb.ListJobsResponse(
            jobs=[convert.job_to_pb(stored) for stored in page.jobs], next_page_token=page.next_page_token
        )

    @unary
    async def ChangePlan(self, request: pb.ChangePlanRequest) -> pb.ChangePlanResponse:
        """Asks for a change of a job's plan."""
        job_id, change = convert.job_id(request.job_id), plan_messages.change_from_pb(request.change, "change")
        untrusted.name("change.request_id", change.request_id)
        stored = await self._run(self._service.change_plan, CALLER.get().project, job_id, change)
        log.info("plan changed", job_id=stored.id, change=change.kind.value, reason=change.reason)
        return pb.ChangePlanResponse(job=convert.job_to_pb(stored))

    @unary
    async def CancelJob(self, request: pb.CancelJobRequest) -> pb.CancelJobResponse:
        """Ends the tuning of a job."""
        job_id, reason = convert.job_id(request.job_id), untrusted.sentence("reason", request.reason)
        stored = await self._run(self._service.cancel_job, CALLER.get().project, job_id, reason)
        log.info("job cancelled", job_id=stored.id, reason=reason)
        return pb.CancelJobResponse(job=convert.job_to_pb(stored))

    @unary
    async def ResumeJob(self, request: pb.ResumeJobRequest) -> pb.ResumeJobResponse:
        """Takes a job back to where its client's checkpoint is."""
        job_id, resume_id = convert.job_id(request.job_id), _resume_id(request)
        stored = await self._run(
            self._service.resume_job, CALLER.get().project, job_id, request.directive_number, resume_id
        )
        log.info("job resumed", job_id=stored.id, directive=request.directive_number)
        return pb.ResumeJobResponse(
            job=convert.job_to_pb(stored), directive=convert.directive_to_pb(stored.state.directive)
        )

    @unary
    async def GetSchedule(self, request: pb.GetScheduleRequest) -> pb.GetScheduleResponse:
        """Answers with the schedule found so far."""
        stored = await self._load(request.job_id)
        full = request.view == pb.SCHEDULE_VIEW_FULL
        entries = await self._run(self._service.history, stored, losses=full)
        return convert.schedule_to_pb(stored, entries, history=full)

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:
        """Sends the job now and whenever it changes, until it ends. A server that stops says UNAVAILABLE."""
        structlog.contextvars.bind_contextvars(job_id=request.job_id[:MAX_LOGGED])
        version = None
        while True:
            try:
                stored = await self._load(request.job_id)
            except TunerError as error:
                await refuse(context, error)
            if stored.version != version:
                version = stored.version
                yield pb.WatchJobResponse(job=convert.job_to_pb(stored))
            if not stored.state.status.live:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), WATCH_INTERVAL_S)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping; watch again")

    async def _load(self, job_id: str) -> StoredJob:
        return await self._run(self._service.get_job, CALLER.get().project, convert.job_id(job_id))


def _resume_id(request: pb.AdvanceRequest | pb.ResumeJobRequest) -> str:
    """The name of the last time that a client took its job back. Raises: InvalidInputError: it is no name."""
    return untrusted.text("resume_id", request.resume_id, MAX_REQUEST_ID)
