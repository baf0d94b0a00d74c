"""The RPCs: convert, call the service in a thread, convert back."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

import grpc.aio
import structlog
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc
from lrpilot.wire.messages.schedule_parts import merged

from tuner_server.base.failures import FAILURES
from tuner_server.base.interest import Interest
from tuner_server.core.config import MAX_NAME
from tuner_server.core.errors import InvalidInputError, TunerError
from tuner_server.core.job.life import Life, Shown
from tuner_server.core.messages import MAX_MEASURES, MAX_REQUEST_ID, Directive, Report
from tuner_server.rpc import convert, plan_messages, schedule_messages, untrusted
from tuner_server.rpc.admission import admitted
from tuner_server.rpc.caller import CALLER
from tuner_server.rpc.handlers import Context, refuse
from tuner_server.service.long_reads import Turn, is_long
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob

DEFAULT_PAGE, MAX_PAGE = 50, 1000
WATCH_INTERVAL_S = 0.5
"""How often a watched job is looked at; other processes move it too, so there is nothing to wait on."""

MAX_LOGGED = 64
"""Characters of a job id from a client that go into the log: twice as many as an id has."""

MAX_SCHEDULE_BYTES = 16 * 2**20
"""The largest schedule that is one answer: that of a run of some four million steps."""
STALL_S = 30.0
"""How long a message of a schedule waits for its reader to take it."""
MANY_NUMBERS = 16_000
"""The losses and measures from which on a report is read in a thread."""

UNFORESEEN = "internal error; the server's log has it"
"""What a client is told of a fault of ours."""

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
            return await context.abort(grpc.StatusCode.INTERNAL, UNFORESEEN)
        return await refuse(context, refused)

    return call


def streaming(
    method: Callable[[Servicer, Request, Context], AsyncGenerator[Response, None]],
) -> Callable[[Servicer, Request, Context], AsyncIterator[Response]]:
    """An RPC with a stream of answers, whose errors are told as those of `unary`."""

    @functools.wraps(method)
    async def call(self: Servicer, request: Request, context: Context) -> AsyncIterator[Response]:
        structlog.contextvars.bind_contextvars(job_id=getattr(request, "job_id", "")[:MAX_LOGGED])
        try:
            async with contextlib.aclosing(method(self, request, context)) as responses:
                async for response in responses:
                    yield response
            return
        except TunerError as error:
            refused = error
        except grpc.aio.AbortError:
            raise  # the method itself has told its end
        except Exception as error:
            FAILURES.unforeseen(error)
            await context.abort(grpc.StatusCode.INTERNAL, UNFORESEEN)
        await refuse(context, refused)

    return call


class Servicer(tuner_pb2_grpc.TunerServiceServicer):
    """Implements lrpilot.v1.TunerService."""

    def __init__(
        self, service: TunerService, writers: Executor, readers: Executor, replayers: Executor, heartbeat_s: float
    ) -> None:
        """Serves `service`. The event loop never waits for a search or a database.

        Args:
            service: what the RPCs do.
            writers: threads for calls that open or change jobs.
            readers: threads for calls that look.
            replayers: threads for calls that take jobs back.
            heartbeat_s: how long a stream is silent at most.
        """
        self._service = service
        self._writers, self._readers, self._replayers = writers, readers, replayers
        self._heartbeat_s = heartbeat_s
        self._draining = asyncio.Event()
        self._replays = Interest()
        """Lasts until the server has stopped. A caller whose time is over comes again, and finds its job taken back."""

    def drain(self) -> None:
        """Ends the streams, which would go on for as long as their jobs. Other calls end by themselves."""
        self._draining.set()

    def stop(self) -> None:
        """Ends what still goes on without anybody who waits for it."""
        self._replays.end()

    async def _write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _called(self._writers, function, *args, **kwargs)

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _called(self._readers, function, *args, **kwargs)

    @unary
    async def CreateJob(self, request: pb.CreateJobRequest) -> pb.CreateJobResponse:
        """Opens a job."""
        config = admitted(request.config)
        stored = await self._write(self._service.create_job, CALLER.get().project, request.request_id, config)
        log.info("job created", job_id=stored.id, name=config.name, policy=stored.state.config.policy)
        return pb.CreateJobResponse(job=self._job(stored), directive=convert.directive_to_pb(stored.state.directive))

    @unary
    async def Advance(self, request: pb.AdvanceRequest) -> pb.AdvanceResponse:
        """Takes a report."""
        project, job_id, resume_id = CALLER.get().project, convert.job_id(request.job_id), _resume_id(request)

        def handed_on() -> tuple[Report, Future[Directive]]:
            report = convert.report_from_pb(request.report)
            return report, self._service.advance(project, job_id, report, resume_id)

        if _n_numbers(request.report) > MANY_NUMBERS:  # in a thread, so that the event loop never stands still for long
            report, answer = await self._write(contextvars.copy_context().run, handed_on)
        else:
            report, answer = handed_on()
        directive = await asyncio.wrap_future(answer)
        structlog.contextvars.bind_contextvars(  # for the line and the span of this call
            report=report.directive_number,
            outcome=report.outcome.value,
            phase=directive.phase.value,
            stage=directive.stage + 1,
            reason=directive.reason,
        )
        return pb.AdvanceResponse(directive=convert.directive_to_pb(directive))

    @unary
    async def GetJob(self, request: pb.GetJobRequest) -> pb.GetJobResponse:
        """Answers with one job."""
        return pb.GetJobResponse(job=self._job(await self._load(request.job_id)))

    @unary
    async def ListJobs(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        """Answers with a page of jobs."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise InvalidInputError.of("page_size", f"0 to {MAX_PAGE}, not {request.page_size}")
        statuses = {untrusted.known("states", convert.STATES, state) for state in request.states}
        lives = {untrusted.known("lives", convert.LIVES, life) for life in request.lives}
        shown = Shown(tuple(sorted(statuses)), tuple(sorted(lives)))
        project, n_most = CALLER.get().project, request.page_size or DEFAULT_PAGE
        token = untrusted.text("page_token", request.page_token)
        family = untrusted.text("family", request.family, MAX_NAME)
        called = untrusted.text("called", request.called, MAX_NAME)

        def read() -> pb.ListJobsResponse:
            page = self._service.list_jobs(project, n_most, token, shown=shown, family=family, called=called)
            jobs = [self._job(stored) for stored in page.jobs]
            return pb.ListJobsResponse(jobs=jobs, next_page_token=page.next_page_token)

        return await self._read(read)

    @unary
    async def ChangePlan(self, request: pb.ChangePlanRequest) -> pb.ChangePlanResponse:
        """Asks for a change of a job's plan."""
        job_id, change = convert.job_id(request.job_id), plan_messages.change_from_pb(request.change, "change")
        untrusted.name("change.request_id", change.request_id)
        stored = await self._write(self._service.change_plan, CALLER.get().project, job_id, change)
        log.info("plan changed", job_id=stored.id, change=change.kind.value, reason=change.reason)
        return pb.ChangePlanResponse(job=self._job(stored))

    @unary
    async def CancelJob(self, request: pb.CancelJobRequest) -> pb.CancelJobResponse:
        """Ends the tuning of a job."""
        job_id, reason = convert.job_id(request.job_id), untrusted.sentence("reason", request.reason)
        stored = await self._write(self._service.cancel_job, CALLER.get().project, job_id, reason)
        log.info("job cancelled", job_id=stored.id, reason=reason)
        return pb.CancelJobResponse(job=self._job(stored))

    @unary
    async def ResumeJob(self, request: pb.ResumeJobRequest) -> pb.ResumeJobResponse:
        """Takes a job back to where its client's checkpoint is."""
        job_id, resume_id = convert.job_id(request.job_id), _resume_id(request)
        project, number = CALLER.get().project, request.directive_number
        stored = await _called(
            self._replayers, self._service.resume_job, project, job_id, number, resume_id, self._replays.check
        )
        log.info("job resumed", job_id=stored.id, directive=request.directive_number)
        return pb.ResumeJobResponse(job=self._job(stored), directive=convert.directive_to_pb(stored.state.directive))

    @unary
    async def Beat(self, request: pb.BeatRequest) -> pb.BeatResponse:
        """Takes a sign of a client."""
        self._service.beat(CALLER.get().project, convert.job_id(request.job_id), _resume_id(request))
        structlog.contextvars.bind_contextvars(directive=request.directive_number, steps=request.steps)
        return pb.BeatResponse()

    @unary
    async def LeaveJob(self, request: pb.LeaveJobRequest) -> pb.LeaveJobResponse:
        """Notes that a client has left."""
        job_id, resume_id = convert.job_id(request.job_id), _resume_id(request)
        following = convert.job_id(request.continued_as) if request.continued_as else ""
        opened_by = untrusted.text("request_id", request.request_id)
        if await self._write(self._service.leave_job, CALLER.get().project, job_id, resume_id, following, opened_by):
            log.info("job deleted: it never ran", job_id=job_id, continued_as=following)
        return pb.LeaveJobResponse()

    @unary
    async def DescribeJob(self, request: pb.DescribeJobRequest) -> pb.DescribeJobResponse:
        """Gives a job another name, or another note."""
        stored = await self._write(
            self._service.describe_job,
            CALLER.get().project,
            convert.job_id(request.job_id),
            untrusted.name("name", request.name, MAX_NAME) if request.HasField("name") else None,
            untrusted.sentence("note", request.note) if request.HasField("note") else None,
        )
        log.info("job described", job_id=stored.id, name=stored.state.config.name, note=stored.note)
        return pb.DescribeJobResponse(job=self._job(stored))

    @unary
    async def DeleteJob(self, request: pb.DeleteJobRequest) -> pb.DeleteJobResponse:
        """Deletes a job."""
        job_id = convert.job_id(request.job_id)
        stored = await self._write(self._service.delete_job, CALLER.get().project, job_id, force=request.force)
        log.info("job deleted", job_id=stored.id, name=stored.state.config.name)
        return pb.DeleteJobResponse(job=self._job(stored))

    @unary
    async def GetSchedule(self, request: pb.GetScheduleRequest) -> pb.GetScheduleResponse:
        """Answers with the schedule found so far."""
        stored = await self._load(request.job_id)
        found: list[pb.StreamScheduleResponse] = []
        size = 0
        full = request.view == pb.SCHEDULE_VIEW_FULL
        async with self._turn(stored), contextlib.aclosing(self._schedule(stored, full=full)) as messages:
            async for message in messages:
                found.append(message)
                size += message.ByteSize()
                if size > MAX_SCHEDULE_BYTES:
                    raise InvalidInputError.of(
                        "view", f"the answer is more than {MAX_SCHEDULE_BYTES} bytes; StreamSchedule sends it in parts"
                    )
        return merged(found)

    @streaming
    async def StreamSchedule(
        self, request: pb.StreamScheduleRequest, context: Context
    ) -> AsyncGenerator[pb.StreamScheduleResponse, None]:
        """Sends the schedule found so far, with its history."""
        stored = await self._load(request.job_id)
        task = asyncio.current_task()
        assert task is not None
        async with self._turn(stored) as turn, contextlib.aclosing(self._schedule(stored, full=True)) as messages:
            with turn.cut_by(task.cancel):
                async for message in messages:
                    with _patient(task), turn.taking(message.ByteSize()):
                        yield message

    @contextlib.asynccontextmanager
    async def _turn(self, stored: StoredJob) -> AsyncIterator[Turn]:
        """The turn of an answer that reads a job's history. Raises: BusyError: too many ask for long ones."""
        if not is_long(stored):
            yield Turn()  # which nobody waits for
            return
        async with self._service.long_reads.turn(stored.project) as turn:
            yield turn

    async def _schedule(self, stored: StoredJob, *, full: bool) -> AsyncGenerator[pb.StreamScheduleResponse, None]:
        """A job's schedule in parts. Whoever cancels, or whose time is over, has left, and no more of it is read."""
        interest = Interest()
        with contextlib.ExitStack() as stack:
            stack.callback(interest.end)
            history = self._service.history(stored, interest.check)
            vitals = self._service.vitals(stored)
            messages = schedule_messages.schedule_to_pb(stored, history, full=full, vitals=vitals)
            while (message := await self._read(next, messages, None)) is not None:
                yield message

    @streaming
    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncGenerator[pb.WatchJobResponse, None]:
        """Sends the job now, whenever it or its life changes, and again where it does not for long; until it ends.

        A server that stops says UNAVAILABLE.
        """
        seen: tuple[int, Life | None] | None = None
        due_s = 0.0
        while True:
            stored = await self._load(request.job_id)
            now = (stored.version, self._service.vitals(stored).life)
            if now != seen or time.monotonic() >= due_s:
                seen, due_s = now, time.monotonic() + self._heartbeat_s
                yield pb.WatchJobResponse(job=self._job(stored))
            if not stored.state.status.live:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), WATCH_INTERVAL_S)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping; watch again")

    def _job(self, stored: StoredJob) -> pb.Job:
        return convert.job_to_pb(stored, self._service.vitals(stored))

    async def _load(self, job_id: str) -> StoredJob:
        return await self._read(self._service.get_job, CALLER.get().project, convert.job_id(job_id))


def _n_numbers(report: pb.Report) -> int:
    """How many losses and measures a report has, of as many measures as there may be."""
    return len(report.losses) + sum(len(measure.values) for measure in report.measures[:MAX_MEASURES])


async def _called(threads: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in one of these threads."""
    return await asyncio.get_running_loop().run_in_executor(threads, functools.partial(function, *args, **kwargs))


@contextlib.contextmanager
def _patient(task: asyncio.Task[Any]) -> Iterator[None]:
    """Ends a call if what is within takes longer than a reader is waited for."""
    late = asyncio.get_running_loop().call_later(STALL_S, task.cancel)
    try:
        yield
    finally:
        late.cancel()


def _resume_id(request: pb.AdvanceRequest | pb.ResumeJobRequest | pb.BeatRequest | pb.LeaveJobRequest) -> str:
    """The name of the last time that a client took its job back. Raises: InvalidInputError: it is no name."""
    return untrusted.text("resume_id", request.resume_id, MAX_REQUEST_ID)
