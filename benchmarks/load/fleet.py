"""The jobs of one client process, on one event loop: each with a channel of its own, as real jobs have."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc.aio
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from benchmarks.load.tally import Recorder, Tally
from benchmarks.load.workload import Curve, Kind, Plan, SimulatedJob, kind_of

DEADLINE_S = 60.0
"""The deadline of a call: far above a client's, so that what is slow is measured, and not cut off."""
PAUSE_S = 0.2
"""Before a call that failed is repeated, as a client does."""
# Channels to one target would share their connection.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]

Response = TypeVar("Response")


class Arrival(enum.StrEnum):
    """When a job reports."""

    PLACE = "place"
    """At once, until it is where its plan says; not counted."""
    SPREAD = "spread"
    """When its steps would be done, by a timetable that a late answer doesn't change."""
    BURST = "burst"
    """At once: a closed loop, which saturates the server."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A time in which reports arrive in one way."""

    arrival: Arrival
    seconds: float = 0.0
    step_s: float = 0.0
    """The time of a training step, in SPREAD."""


class ClientJob:
    """A simulated job at its server."""

    def __init__(self, target: str, job: SimulatedJob) -> None:
        self._job = job
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._stub = tuner_pb2_grpc.TunerServiceStub(self._channel)
        self._id = ""
        self._directive = pb.Directive()

    async def place(self, recorder: Recorder) -> None:
        """Opens the job and brings it to where its plan says."""
        await self._open(recorder)
        for _ in range(self._job.plan.place):
            await self._send(self._job.report(self._directive), recorder, time.perf_counter())

    async def burst(self, recorder: Recorder, end: float) -> None:
        """Reports at once, again and again."""
        while time.perf_counter() < end:
            report = self._job.report(self._directive)
            await self._send(report, recorder, time.perf_counter())

    async def spread(self, recorder: Recorder, end: float, step_s: float) -> None:
        """Reports by the timetable. What is late is sent at once; its latency counts from when it was due."""
        due = time.perf_counter()
        report = self._job.report(self._directive)
        think_s = self._job.think_s(report, step_s)
        due += self._job.phase() * think_s
        total_s, sent = think_s, 1
        while due < end and (now := time.perf_counter()) < end:
            if due > now:
                await asyncio.sleep(due - now)
            await self._send(report, recorder, due)
            report = self._job.report(self._directive)
            think_s = self._job.think_s(report, step_s)
            due += think_s
            total_s, sent = total_s + think_s, sent + 1
        recorder.unsent += max(0.0, end - due) / (total_s / sent)

    async def close(self) -> None:
        await self._channel.close()

    async def _open(self, recorder: Recorder) -> None:
        request, sent = self._job.request(), time.perf_counter()
        created = await self._repeated(lambda: self._stub.CreateJob(request, timeout=DEADLINE_S), recorder)
        elapsed = time.perf_counter() - sent
        recorder.answered(Kind.CREATE, elapsed, elapsed)
        self._id, self._directive = created.job.id, created.directive

    async def _send(self, report: pb.Report, recorder: Recorder, due: float) -> None:
        request = pb.AdvanceRequest(job_id=self._id, report=report)
        reported, sent = self._directive.phase, time.perf_counter()
        answer = await self._repeated(lambda: self._stub.Advance(request, timeout=DEADLINE_S), recorder)
        received = time.perf_counter()
        self._directive = answer.directive
        recorder.answered(kind_of(reported, self._directive.phase), received - due, received - sent)
        if self._directive.phase == pb.PHASE_STOP:
            await self._open(recorder)

    async def _repeated(self, call: Callable[[], Awaitable[Response]], recorder: Recorder) -> Response:
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                recorder.failed(error.code().name)
            await asyncio.sleep(PAUSE_S)


class Fleet:
    """Several jobs. Used on one event loop."""

    def __init__(self, target: str, plans: Sequence[Plan], curves: Sequence[Curve]) -> None:
        self._jobs = [ClientJob(target, SimulatedJob(plan, curves)) for plan in plans]

    async def run(self, window: Window) -> Tally:
        """All jobs, until the window is over and every call in flight is answered."""
        recorder = Recorder()
        start, cpu = time.perf_counter(), time.process_time()
        end = start + window.seconds
        match window.arrival:
            case Arrival.PLACE:
                await asyncio.gather(*(job.place(recorder) for job in self._jobs))
            case Arrival.SPREAD:
                await asyncio.gather(*(job.spread(recorder, end, window.step_s) for job in self._jobs))
            case Arrival.BURST:
                await asyncio.gather(*(job.burst(recorder, end) for job in self._jobs))
        await asyncio.sleep(max(0.0, end - time.perf_counter()))
        return recorder.tally(time.perf_counter() - start, time.process_time() - cpu)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(job.close() for job in self._jobs))
