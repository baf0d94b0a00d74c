"""What comes to a server in a year, in an hour: jobs that end, crash, resume and are cancelled, readers, and strangers.

All of it follows from a seed, but for the times. Every actor is a thread that goes round until it is told to stop; what
one of them gets that it should not get is kept as a fault.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import grpc
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from benchmarks.load.workload import POLICIES, Plan, SimulatedJob, load_curves

PAUSE_S = 0.05
"""Between two reports of a job: five jobs make a load that leaves the machine room."""
DEADLINE_S = 30.0
MOST_TRIES, AGAIN_S = 10, 1.0
"""How often a call is made before it counts as a fault that it is not taken, and the pause between."""
MAX_FAULTS = 20
T = TypeVar("T")
VIEWS = ("", "curves.json", "data.csv", "data.json", "schedule.json", "report.html")
"""What a reader asks of a job."""


class Traffic:
    """The actors around one server. A context manager: they work within the block."""

    def __init__(self, target: str, page: str, operators: str, seed: int, n_jobs: int = 5) -> None:
        """Makes them.

        Args:
            target: HOST:PORT of the server.
            page: HOST:PORT of its dashboard.
            operators: HOST:PORT of its metrics and probes.
            seed: of all that is drawn.
            n_jobs: jobs at a time.
        """
        self._target, self._page, self._operators = target, page, operators
        self._seed = seed
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.done: Counter[str] = Counter()
        """What was done, by kind."""
        self.faults: list[str] = []
        """What came and should not, at most `MAX_FAULTS`."""
        self._jobs: list[str] = []
        """Ids of the newest jobs."""
        actors: list[Callable[[random.Random], None]] = [
            *[self._train] * n_jobs,
            self._read,
            self._watch,
            self._look_at_probes,
            self._be_strange,
        ]
        self._threads = [threading.Thread(target=self._go_round, args=(i, act)) for i, act in enumerate(actors)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _go_round(self, number: int, act: Callable[[random.Random], None]) -> None:
        chance = random.Random(f"{self._seed} {number}")
        while not self._ending.is_set():
            try:
                act(chance)
            except Exception as error:
                with self._lock:
                    if len(self.faults) < MAX_FAULTS:
                        self.faults.append(f"{act.__name__}: {type(error).__name__}: {error}"[:500])
                time.sleep(1.0)

    def _count(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def _train(self, chance: random.Random) -> None:
        """One job with a connection of its own, to its end or to what befalls it."""
        plan = Plan(chance.getrandbits(30), chance.choice(POLICIES), chance.getrandbits(31), 0)
        job = SimulatedJob(plan, load_curves())
        fate = chance.choice(("ends", "ends", "crashes", "is cancelled", "resumes", "repeats"))
        turn = chance.randrange(3, 40)
        with grpc.insecure_channel(self._target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = tuner_pb2_grpc.TunerServiceStub(channel)
            created = self._answer(partial(stub.CreateJob, job.request(), timeout=DEADLINE_S))
            job_id, directive = created.job.id, created.directive
            with self._lock:
                self._jobs = [*self._jobs[-20:], job_id]
            for number in range(10_000):
                if directive.phase == pb.PHASE_STOP or self._ending.is_set():
                    break
                request = pb.AdvanceRequest(job_id=job_id, report=job.report(directive))
                report = partial(stub.Advance, request, timeout=DEADLINE_S)
                answer = self._answer(report).directive
                if answer.number != directive.number + 1:
                    raise AssertionError(f"job {job_id}: report {directive.number} led to directive {answer.number}")
                if fate == "repeats" and chance.random() < 0.2:
                    again = self._answer(report).directive
                    if again != answer:
                        raise AssertionError(f"job {job_id}: two answers to report {directive.number}")
                directive = answer
                self._count("reports")
                if number == turn and fate == "crashes":
                    break
                if directive.phase == pb.PHASE_STOP:
                    break
                if number == turn and fate == "is cancelled":
                    stub.CancelJob(pb.CancelJobRequest(job_id=job_id, reason="soak"), timeout=DEADLINE_S)
                    break
                if number == turn and fate == "resumes":
                    to = max(directive.number - chance.randrange(1, 4), 1)
                    resume = pb.ResumeJobRequest(job_id=job_id, directive_number=to)
                    directive = stub.ResumeJob(resume, timeout=DEADLINE_S).directive
                time.sleep(PAUSE_S)
        self._count(f"jobs whose run {fate}")

    def _answer(self, call: Callable[[], T]) -> T:
        """What a call is told; one that the server can't take now is made again, as clients do, and is counted."""
        for tried in range(MOST_TRIES):
            try:
                return call()
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or tried == MOST_TRIES - 1:
                    raise
            self._count("calls that were UNAVAILABLE, and made again")
            time.sleep(AGAIN_S)
        raise AssertionError(MOST_TRIES)

    def _get(self, address: str, path: str) -> int:
        """The status of a page, which is read to its end."""
        host, _, port = address.partition(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=DEADLINE_S)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def _read(self, chance: random.Random) -> None:
        """A page, a file, or the list."""
        with self._lock:
            path = f"/jobs/{chance.choice(self._jobs)}" if self._jobs and chance.random() < 0.8 else "/"
        view = chance.choice(VIEWS) if path != "/" else ""
        address = f"{path}/{view}" if view else path
        try:
            status = self._get(self._page, address)
        except http.client.IncompleteRead:  # pruned, or gone back, while it was read: it is whole when asked for again
            self._count("pages that were cut")
            status = self._get(self._page, address)
        if status not in (200, 404):  # the job may have been pruned
            raise AssertionError(f"{path}/{view}: {status}")
        self._count("pages")
        time.sleep(chance.uniform(0.2, 1.0))

    def _watch(self, chance: random.Random) -> None:
        """Streams that are left without a word, over gRPC and in a browser."""
        with self._lock:
            job_id = chance.choice(self._jobs) if self._jobs else ""
        if job_id:
            with grpc.insecure_channel(self._target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                watch = tuner_pb2_grpc.TunerServiceStub(channel).WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=5)
                with contextlib.suppress(grpc.RpcError):
                    next(watch)
            host, _, port = self._page.partition(":")
            with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as browser:
                browser.sendall(f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {self._page}\r\n\r\n".encode())
                browser.recv(1000)
            self._count("streams")
        time.sleep(chance.uniform(0.5, 2.0))

    def _look_at_probes(self, _chance: random.Random) -> None:
        """What Prometheus and Kubernetes ask."""
        for path in ("/livez", "/readyz", "/metrics"):
            status = self._get(self._operators, path)
            if status != 200:
                raise AssertionError(f"{path}: {status}")
        self._count("probes")
        time.sleep(5.0)

    def _be_strange(self, chance: random.Random) -> None:
        """Bytes that are no message, messages that never come, and requests that are refused."""
        host, _, port = chance.choice((self._target, self._page, self._operators)).partition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=DEADLINE_S) as peer:
            peer.sendall(
                chance.choice((b"", b"\0\xff" * 500, b"GET / HTTP/1.1\r\nHost:", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            )
            time.sleep(chance.uniform(0.0, 2.0))
        with grpc.insecure_channel(self._target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = tuner_pb2_grpc.TunerServiceStub(channel)
            config = pb.JobConfig(
                policy=chance.choice(("", "none", "budget")), total_steps=chance.choice((-1, 0, 10**12))
            )
            with contextlib.suppress(grpc.RpcError):
                stub.CreateJob(pb.CreateJobRequest(request_id=str(chance.random()), config=config), timeout=DEADLINE_S)
            with contextlib.suppress(grpc.RpcError):
                stub.Advance(pb.AdvanceRequest(job_id="0" * 32), timeout=DEADLINE_S)
        self._count("strangers")
        time.sleep(chance.uniform(0.2, 1.0))
