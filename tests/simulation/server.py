"""A server process: the service's own code, whose threads are tasks, and which can be killed wherever one waits."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from google.protobuf.message import Message
from lrpilot.v1 import tuner_pb2 as pb

from tests.simulation.disk import DiskFaults, SimulatedDatabase
from tests.simulation.world import Task, World
from tuner_server.core.errors import TunerError
from tuner_server.core.messages import Directive
from tuner_server.rpc import convert, plan_messages, untrusted
from tuner_server.service import tuner_service
from tuner_server.service.batch_worker import BatchWorker
from tuner_server.service.pipeline_observer import PipelineObserver, PipelineTask
from tuner_server.service.sign_writer import SignWriter
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Storage
from tuner_server.storage.sql import SqlStorage

PROJECT = "default"
T = TypeVar("T")
Reply = Callable[[Message | Exception], None]


class SteppedWorker(BatchWorker[T]):
    """A worker of the pipeline whose thread is a task for as long as something waits."""

    def __init__(self, server: SimulatedServer, *arguments: Any, **options: Any) -> None:
        self._server = server
        self._works = False
        super().__init__(*arguments, **options)

    def _start(self) -> None:
        """Nothing runs before something waits."""

    def put(self, item: T) -> bool:
        taken = super().put(item)
        if taken and not self._works:
            self._works = True
            self._server.spawn(self._step)
        return taken

    def _step(self) -> None:
        try:
            while len(self) and self._server.alive:
                self.work_on_next()
                self._server.world.pause()
        finally:
            self._works = False

    def close(self) -> None:
        self._closed = True
        while len(self) or self._works:
            self._server.world.sleep(1e-3)

    @property
    def alive(self) -> bool:
        return self._server.alive


class SteppedSigns(SignWriter):
    """The writer of signs, whose thread is a task for as long as a sign waits."""

    def __init__(self, server: SimulatedServer, storage: Storage, now: Callable[[], datetime.datetime]) -> None:
        self._server = server
        self._works = False
        super().__init__(storage, now)

    def _start(self) -> None:
        """Nothing runs before there is a sign."""

    def add(self, project: str, job_id: str, resume_id: str) -> None:
        super().add(project, job_id, resume_id)
        if not self._works:
            self._works = True
            self._server.spawn(self._step)

    def _step(self) -> None:
        self._server.world.sleep(self._interval_s)
        self._works = False
        self._write()

    def close(self) -> None:
        self._write()


class _Pausing(PipelineObserver):
    """Lets others in between around searches and commits."""

    def __init__(self, world: World) -> None:
        self._world = world

    def working(self, task: PipelineTask, origins: Sequence[object]) -> AbstractContextManager[None]:
        return self._around(task)

    @contextmanager
    def _around(self, task: PipelineTask) -> Any:
        self._world.note("server", task.value)
        self._world.pause()
        yield
        self._world.pause()


class SimulatedServer:
    """One address, at which there is a process most of the time."""

    def __init__(self, name: str, world: World, file: Path, faults: DiskFaults) -> None:
        self.name, self.world = name, world
        self._url = f"sqlite:///{file}"
        self._faults = faults
        self._tasks: list[Task] = []
        self.alive = False
        """Whether there is a process."""
        self.life = 0
        """Counts processes at this address: answers of an earlier one reach nobody."""
        self.on_death: Callable[[], None] = lambda: None
        """Hears that the process is gone."""

    def start(self) -> None:
        """Starts a process, if there is none."""
        if self.alive:
            return
        self.alive = True
        self.life += 1
        self.world.note(self.name, "starts")
        self._database = SimulatedDatabase(self._url, self.world, self._faults, self)
        with mock.patch.object(tuner_service, "SignWriter", functools.partial(SteppedSigns, self)):
            self._service = TunerService(
                SqlStorage(self._database),
                self.world.utc_now,
                _Pausing(self.world),
                lambda *arguments, **options: SteppedWorker(self, *arguments, **options),
            )

    def spawn(self, run: Callable[[], None]) -> None:
        """Starts a task of the present process."""
        self._tasks = [task for task in self._tasks if not task.ended]
        self._tasks.append(self.world.spawn(run))

    def die(self) -> None:
        """Kills the process, from outside or within one of its tasks: nothing of it happens any more."""
        if not self.alive:
            return
        self.alive = False
        self.world.note(self.name, "dies")
        self.on_death()
        tasks, self._tasks, database = self._tasks, [], self._database
        running = self.world.current
        for task in tasks:
            task.killed = True
        self.world.at(0.0, lambda: self._bury([task for task in tasks if task is not running], database))

    def stop(self) -> None:
        """Ends the process as an operator does: what waits is answered first. For a task."""
        if not self.alive:
            return
        self.world.note(self.name, "stops")
        life = self.life
        self._service.close()
        if self.life == life:
            self.die()

    @staticmethod
    def _bury(tasks: Sequence[Task], database: SimulatedDatabase) -> None:
        for task in tasks:
            task.kill()
        database.close()

    def handle(self, method: str, request: Any, timeout_s: float, reply: Reply) -> None:
        """Takes a request in; `reply` hears what comes of it, unless the process is gone by then."""
        life = self.life

        def answer(message: Message | Exception) -> None:
            if self.alive and self.life == life:
                reply(message)

        try:
            if method == "Advance":
                self._advance(request, timeout_s, answer)
            else:
                self.spawn(lambda: self._call(method, request, answer))
        except TunerError as error:
            answer(error)

    def _advance(self, request: pb.AdvanceRequest, timeout_s: float, answer: Reply) -> None:
        report = convert.report_from_pb(request.report)
        future = self._service.advance(PROJECT, convert.job_id(request.job_id), report, request.resume_id)
        # A handler is cancelled when its caller waits no more.
        self.world.at(timeout_s, lambda: _cancelled(future))
        future.add_done_callback(lambda done: None if done.cancelled() else answer(_directive_of(done)))

    def _call(self, method: str, request: Any, answer: Reply) -> None:
        """What the servicer does for a request, in a thread of its executor."""
        try:
            answer(HANDLERS[method](self._service, request))
        except TunerError as error:
            answer(error)


def _cancelled(future: Future[Directive]) -> None:
    future.cancel()


def _directive_of(done: Future[Directive]) -> Message | Exception:
    try:
        return pb.AdvanceResponse(directive=convert.directive_to_pb(done.result()))
    except Exception as error:
        return error


def _create(service: TunerService, request: pb.CreateJobRequest) -> Message:
    stored = service.create_job(PROJECT, request.request_id, convert.config_from_pb(request.config))
    return pb.CreateJobResponse(
        job=convert.job_to_pb(stored), directive=convert.directive_to_pb(stored.state.directive)
    )


def _resume(service: TunerService, request: pb.ResumeJobRequest) -> Message:
    job_id = convert.job_id(request.job_id)
    stored = service.resume_job(PROJECT, job_id, request.directive_number, request.resume_id)
    return pb.ResumeJobResponse(
        job=convert.job_to_pb(stored), directive=convert.directive_to_pb(stored.state.directive)
    )


def _cancel(service: TunerService, request: pb.CancelJobRequest) -> Message:
    reason = untrusted.text("reason", request.reason)
    return pb.CancelJobResponse(
        job=convert.job_to_pb(service.cancel_job(PROJECT, convert.job_id(request.job_id), reason))
    )


def _change(service: TunerService, request: pb.ChangePlanRequest) -> Message:
    change = plan_messages.change_from_pb(request.change, "change")
    return pb.ChangePlanResponse(
        job=convert.job_to_pb(service.change_plan(PROJECT, convert.job_id(request.job_id), change))
    )


def _get(service: TunerService, request: pb.GetJobRequest) -> Message:
    return pb.GetJobResponse(job=convert.job_to_pb(service.get_job(PROJECT, convert.job_id(request.job_id))))


def _leave(service: TunerService, request: pb.LeaveJobRequest) -> Message:
    service.leave_job(PROJECT, convert.job_id(request.job_id), request.resume_id)
    return pb.LeaveJobResponse()


HANDLERS: dict[str, Callable[[TunerService, Any], Message]] = {
    "CreateJob": _create,
    "ResumeJob": _resume,
    "CancelJob": _cancel,
    "ChangePlan": _change,
    "GetJob": _get,
    "LeaveJob": _leave,
}
"""What a server does for each call but Advance. A new call joins the simulation here, and in `reference.CALLS`."""
