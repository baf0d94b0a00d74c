"""Jobs at once, against servers that may fail, which check every word that they are told.

Each client is a thread that runs one job after the other, by simulated training and over the library's own transport.
Every report goes to any of the servers, some to two at once, some again later, and is repeated until one answers. Once
a directive has been told to a client, it must not come with another content, from no server, at no time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import ATTEMPT_S, GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.jobs import simulated_training
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining
from tests.support.servers import wire_client
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.rpc.convert import config_to_pb, directive_to_pb

PATIENCE_S = 60.0
"""Longer than any fault."""
PAUSE_S = 0.05
"""Between two attempts: short, so that servers are under load as soon as they are back."""
REPEATED_SHARE = 0.1
"""The share of requests sent again after their answer is there, and of reports that two servers get at once."""
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def configs(n: int) -> list[JobConfig]:
    """Different jobs of both policies, with short directives."""
    budget = {"probe_steps": 10, "refinements": 2, "max_candidates": 6}
    return [
        simulated_training.config(400, has_validation=seed % 4 < 2, **QUICK).model_copy(update={"seed": seed})
        if seed % 2
        else JobConfig(
            policy="budget",
            policy_options=budget,
            total_steps=500,
            lr_bounds=LrBounds(min=1e-3, max=1.0),
            base_lr=0.1,
            seed=seed,
            has_validation=seed % 4 < 2,
        )
        for seed in range(n)
    ]


def training(config: JobConfig) -> SimulatedTraining:
    """Of a job."""
    return SimulatedTraining(config.seed, validates=config.has_validation)


@dataclasses.dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a job comes to in a plain loop with no server: its directives, in bytes, and its reports."""

    directives: list[bytes]
    reports: list[pb.Report]


def undisturbed(config: JobConfig) -> Undisturbed:
    """Runs it."""
    exchanges = simulated_training.drive(config, training(config)).exchanges
    return Undisturbed(
        directives=[content(directive_to_pb(each.directive)) for each in exchanges],
        reports=[wire_client.report_to_pb(each.report) for each in exchanges if each.report is not None],
    )


def content(message: Message) -> bytes:
    """What equal messages share, and no others."""
    return message.SerializeToString(deterministic=True)


class Client:
    """Asks any of several servers, until one answers. For one thread."""

    def __init__(self, targets: Sequence[str], chance: random.Random) -> None:
        """`chance` decides whom it asks."""
        self._transports = {target: GrpcTransport(target) for target in targets}
        self._targets = targets
        self._chance = chance
        self.refusals: Counter[str] = Counter()
        """Attempts that came to nothing, by status."""

    def call(self, method: str, request: Message) -> Any:
        """Calls until there is an answer. Raises: ServerError: anything else than unavailable, or that for too long."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            target = self._chance.choice(self._targets)
            transport = self._transports[target]
            try:
                return transport.call(functools.partial(getattr(transport.stub, method), request, timeout=ATTEMPT_S))
            except UnavailableError as error:
                self.refusals[error.code] += 1
                if time.monotonic() > deadline:
                    raise
            # A connection that has failed waits for a second before it is tried again.
            transport.close()
            self._transports[target] = GrpcTransport(target)
            time.sleep(PAUSE_S)

    def call_two(self, method: str, request: Message) -> list[Any]:
        """As `call`, and another server is asked at the same time. The answers: one, or both. Raises: as `call`."""
        stub = self._transports[self._chance.choice(self._targets)].stub
        other = getattr(stub, method).future(request, timeout=ATTEMPT_S)
        answers = [self.call(method, request)]
        try:
            answers.append(other.result())
        except (grpc.RpcError, grpc.FutureCancelledError):
            # Let go of, when `call` met a server that was away.
            if other.code() not in (*_AWAY, grpc.StatusCode.CANCELLED):
                raise
        return answers

    def close(self) -> None:
        """Lets go of all servers."""
        for transport in self._transports.values():
            transport.close()


def check_history(client: Client, job_id: str, expected: Undisturbed) -> None:
    """A job that has finished is in the database as it should be."""
    request = pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_FULL)
    found = client.call("GetSchedule", request)
    assert found.job.state == pb.JOB_STATE_FINISHED, f"job {job_id}"
    assert [content(entry.directive) for entry in found.history] == expected.directives, f"job {job_id}"
    reports = [entry.report for entry in found.history if entry.HasField("report")]
    assert reports == expected.reports, f"job {job_id}"


class CheckingClients:
    """Threads that run jobs. A context manager: at the end of the block each of them has finished its job."""

    def __init__(self, targets: Sequence[str], configs: Sequence[JobConfig], seed: int = 0) -> None:
        """Makes a thread for each of `configs`, which its jobs have in common."""
        self._targets = targets
        self._seed = seed
        self._expected = [undisturbed(config) for config in configs]
        self._configs = configs
        self._ending = threading.Event()
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(len(configs), thread_name_prefix="client")
        self._threads: list[Future[None]] = []
        self.acknowledged = 0
        """Reports that were answered, each counted once."""
        self.ended = 0
        """Jobs that ran to their end and were found as they should be."""
        self.refusals: Counter[str] = Counter()
        """Attempts that came to nothing, by status."""

    def __enter__(self) -> Self:
        self._threads = [self._pool.submit(self._run_jobs, number) for number in range(len(self._configs))]
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._pool.shutdown()
        if exc is None:
            for thread in self._threads:
                thread.result()

    def wait_for(self, n_more: int) -> None:
        """Until so many more reports were acknowledged. Raises: what ended a thread."""
        with self._changed:
            target = self.acknowledged + n_more
            while self.acknowledged < target:
                for thread in self._threads:
                    if thread.done():
                        thread.result()
                        raise RuntimeError("a client ended before its time")
                assert self._changed.wait(PATIENCE_S), f"no report was acknowledged for {PATIENCE_S} s"

    def _run_jobs(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        with contextlib.closing(Client(self._targets, chance)) as client:
            try:
                for _ in itertools.takewhile(lambda _: not self._ending.is_set(), itertools.count()):
                    self._run(client, chance, self._configs[number], self._expected[number])
            finally:
                with self._changed:
                    self.refusals += client.refusals
                    self._ending.set()  # what ends one thread early ends all
                    self._changed.notify_all()

    def _run(self, client: Client, chance: random.Random, config: JobConfig, expected: Undisturbed) -> None:
        """One job, from its creation to its history."""
        create = pb.CreateJobRequest(request_id=str(uuid.uuid4()), config=config_to_pb(config))
        created = client.call("CreateJob", create)
        job_id = created.job.id
        told, sent = [created.directive], list[pb.AdvanceRequest]()
        if chance.random() < REPEATED_SHARE:
            assert client.call("CreateJob", create).job.id == job_id
        train = training(config)
        while told[-1].phase != pb.PHASE_STOP:
            report = wire_client.report_to_pb(train.run(wire_client.directive_from_pb(told[-1])))
            sent.append(pb.AdvanceRequest(job_id=job_id, report=report))
            if chance.random() < REPEATED_SHARE:
                answer, *more = client.call_two("Advance", sent[-1])
                assert all(other == answer for other in more), f"job {job_id}: two answers to report {len(sent)}"
            else:
                answer = client.call("Advance", sent[-1])
            told.append(answer.directive)
            with self._changed:
                self.acknowledged += 1
                self._changed.notify_all()
            if chance.random() < REPEATED_SHARE:
                i = chance.randrange(len(sent))
                again = client.call("Advance", sent[i]).directive
                assert content(again) == content(told[i + 1]), f"job {job_id}: directive {i + 2} has changed"
        self._check(client, job_id, told, [request.report for request in sent], expected)
        with self._changed:
            self.ended += 1

    def _check(
        self, client: Client, job_id: str, told: list[pb.Directive], sent: list[pb.Report], expected: Undisturbed
    ) -> None:
        """What the client was told is what the servers have, and what an undisturbed server would have said."""
        assert [content(directive) for directive in told] == expected.directives, f"job {job_id}"
        assert sent == expected.reports, f"job {job_id}"
        check_history(client, job_id, expected)
