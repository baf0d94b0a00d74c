"""Peers that are silent: calls whose message does not come, clients that vanished, servers that vanished."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lrpilot.credentials import Credentials
from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.transport.job_stream import JobStream
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tests.support.servers import wire_client
from tests.support.servers.faulty_proxy import BlackHole, Proxy, Refuse
from tests.support.servers.guarded_server import GuardedServer, add_token, guarded
from tests.support.servers.wire_client import TIMEOUT_S, directive_from_pb
from tests.support.waiting import wait_until
from tuner_server.access.principal import DEFAULT_PROJECT, Scope
from tuner_server.access.shares import LIMITS, Lane
from tuner_server.rpc.server import ConnectionRules
from tuner_server.storage.access import open_access

WATCHFUL = ConnectionRules(ping_s=0.3, ping_answer_s=0.3, heartbeat_s=0.1)
"""Rules by which a peer that vanished is found soon."""
SILENT_S = 1.0
N_STUCK = 2 * max(limits.arriving for limits in LIMITS.values())


class Tuner:
    """A server, its tokens, and a job on it."""

    def __init__(self, server: GuardedServer, tokens: dict[Scope, str], all_scopes: str) -> None:
        self.server, self.tokens, self.all_scopes = server, tokens, all_scopes
        with self.connected(Scope.TRAIN) as transport:
            created = wire_client.create(transport.stub, config(400, **QUICK))
        self.job_id, self.directive, self._training = created.job.id, created.directive, SimulatedTraining()

    @contextlib.contextmanager
    def connected(self, scope: Scope, target: str = "") -> Iterator[GrpcTransport]:
        """A connection with a token of that scope."""
        credentials = Credentials(token=self.tokens[scope])
        with contextlib.closing(GrpcTransport(target or self.server.target, credentials)) as transport:
            yield transport

    def report(self) -> None:
        """Makes the job's next report."""
        report = wire_client.report_to_pb(self._training.run(directive_from_pb(self.directive)))
        with self.connected(Scope.TRAIN) as transport:
            answer = transport.advance(pb.AdvanceRequest(job_id=self.job_id, report=report), TIMEOUT_S)
        self.directive = answer.directive

    def health(self) -> int:
        """The health that a new channel is told."""
        with grpc.insecure_channel(self.server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            return int(answer.status)


@pytest.fixture(scope="module")
def tuner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuner]:
    url = f"sqlite:///{tmp_path_factory.mktemp('peers')}/jobs.db"
    with open_access(url) as access, guarded(url, connections=WATCHFUL) as server:
        tokens = {scope: add_token(access, DEFAULT_PROJECT, scope).text for scope in Scope}
        yield Tuner(server, tokens, add_token(access, DEFAULT_PROJECT).text)


@contextlib.contextmanager
def stuck(tuner: Tuner, method: str, n: int, token: str = "") -> Iterator[list[Any]]:
    """Calls whose message does not come, until the block ends."""
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(tuner.server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: Any = channel.stream_stream(method)
        try:
            calls = [call(never(), metadata=metadata, timeout=TIMEOUT_S) for _ in range(n)]
            time.sleep(0.2)  # until they have reached the server
            yield calls
        finally:
            ended.set()


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_a_stranger_whose_messages_do_not_come_stops_nobody(tuner: Tuner, method: str) -> None:
    with stuck(tuner, method, N_STUCK), stuck(tuner, method, N_STUCK):
        assert tuner.health() == health_pb2.HealthCheckResponse.SERVING
        tuner.report()


@pytest.mark.parametrize("method", ["GetJob", "GetSchedule", "ListJobs", "WatchJob"])
def test_readers_whose_messages_do_not_come_do_not_stop_training(tuner: Tuner, method: str) -> None:
    with stuck(tuner, f"/lrpilot.v1.TunerService/{method}", N_STUCK, tuner.tokens[Scope.READ]):
        tuner.report()
        assert tuner.health() == health_pb2.HealthCheckResponse.SERVING


def test_a_token_whose_messages_do_not_come_makes_room_for_others_of_its_project(tuner: Tuner) -> None:
    with (
        stuck(tuner, "/lrpilot.v1.TunerService/GetJob", N_STUCK, tuner.tokens[Scope.READ]),
        stuck(tuner, "/lrpilot.v1.TunerService/Advance", N_STUCK, tuner.tokens[Scope.TRAIN]),
        contextlib.closing(GrpcTransport(tuner.server.target, Credentials(token=tuner.all_scopes))) as other,
    ):
        assert other.stub.GetJob(pb.GetJobRequest(job_id=tuner.job_id), timeout=TIMEOUT_S).job.id == tuner.job_id
        request = pb.ResumeJobRequest(job_id=tuner.job_id, directive_number=tuner.directive.number)
        assert other.resume_job(request, TIMEOUT_S).directive == tuner.directive


def test_streams_of_clients_that_vanished_are_given_back(tuner: Tuner) -> None:
    most = LIMITS[Lane.READING].streams
    watched = pb.WatchJobRequest(job_id=tuner.job_id)

    def refused() -> bool:
        with tuner.connected(Scope.READ) as other:
            stream = other.stub.WatchJob(watched, timeout=TIMEOUT_S)
            try:
                next(stream)
            except grpc.RpcError:
                return True
            stream.cancel()
            return False

    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(tuner.server.target))
        # A connection has fewer calls at a time than a project has streams.
        transports = [stack.enter_context(tuner.connected(Scope.READ, proxy.target)) for _ in range(4)]
        streams = [transport.stub.WatchJob(watched) for transport in transports for _ in range(most // 4)]
        for stream in streams:
            next(stream)
        assert refused()
        proxy.begin(BlackHole())
        wait_until(lambda: not refused())


def test_a_watch_whose_connection_died_without_a_word_comes_back(tuner: Tuner) -> None:
    said: list[str] = []
    with Proxy(tuner.server.target) as proxy, tuner.connected(Scope.READ, proxy.target) as transport:
        changes = JobStream(transport, tuner.job_id, TIMEOUT_S, said.append, SILENT_S).changes()
        number = next(changes).directive.number
        proxy.begin(BlackHole())
        tuner.report()
        proxy.end()
        assert next(job for job in changes if job.directive.number != number)
        assert said == [], "the server was there all the time"


def test_a_watch_says_once_that_the_server_is_away(tuner: Tuner) -> None:
    said: list[str] = []
    with Proxy(tuner.server.target) as proxy, tuner.connected(Scope.READ, proxy.target) as transport:
        changes = JobStream(transport, tuner.job_id, TIMEOUT_S, said.append, SILENT_S).changes()
        next(changes)
        over = proxy.fail(Refuse(), 2.0)
        assert next(changes)  # perhaps one that was on its way
        over.result(TIMEOUT_S)
        wait_until(lambda: bool(next(changes)) and len(said) == 2)
    assert "trying again for" in said[0]
    assert "answers again" in said[1]


@pytest.mark.parametrize("fault", [Refuse(), BlackHole()], ids=repr)
def test_a_watch_gives_a_server_up_that_does_not_come_back(tuner: Tuner, fault: Any) -> None:
    said: list[str] = []
    with Proxy(tuner.server.target) as proxy, tuner.connected(Scope.READ, proxy.target) as transport:
        changes = JobStream(transport, tuner.job_id, 1.0, said.append, 0.5).changes()
        next(changes)
        proxy.begin(fault)
        with pytest.raises(UnavailableError):
            list(changes)
        assert len(said) == 1
        assert "CANCELLED" not in said[0]


def test_a_watch_ends_with_its_job(tuner: Tuner) -> None:
    with tuner.connected(Scope.TRAIN) as training, tuner.connected(Scope.READ) as transport:
        job_id = wire_client.create(training.stub, config(400, **QUICK), "ends").job.id
        changes = JobStream(transport, job_id, TIMEOUT_S, print).changes()
        next(changes)
        with tuner.connected(Scope.CANCEL) as other:
            other.stub.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=TIMEOUT_S)
        assert [job.state for job in changes][-1] == pb.JOB_STATE_CANCELLED
