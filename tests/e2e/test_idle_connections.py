"""Connections that say nothing, on every port of a server that has few descriptors: they stop nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from tests.support.jobs.simulated_training import QUICK, config
from tests.support.servers import wire_client
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.wire_client import TIMEOUT_S
from tests.support.waiting import wait_until

N_DESCRIPTORS = 256
N_CONNECTIONS = 400
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What an HTTP/2 client says first, with empty settings."""
MOST_LOG_BYTES = 20_000


@dataclasses.dataclass
class SmallServer:
    """A server that may have few descriptors, with all its ports."""

    process: subprocess.Popen[str]
    rpc: int
    http: int
    metrics: int
    log: Path
    channel: grpc.Channel
    job_id: str

    def n_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def get(self, port: int, path: str) -> int:
        """The status of an answer over a new connection."""
        with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status

    def ask_health(self) -> int:
        """The health that a new channel is told."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"{HOST}:{self.rpc}", options=options) as channel:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S, wait_for_ready=True)
            return int(answer.status)

    def serves(self) -> None:
        """Asks for everything, over connections that are open and over new ones."""
        stub = tuner_pb2_grpc.TunerServiceStub(self.channel)
        assert stub.GetJob(pb.GetJobRequest(job_id=self.job_id), timeout=TIMEOUT_S).job.id == self.job_id
        assert self.ask_health() == health_pb2.HealthCheckResponse.SERVING
        assert self.get(self.metrics, "/livez") == 200
        assert self.get(self.metrics, "/readyz") == 200
        assert self.get(self.metrics, "/metrics") == 200
        assert self.get(self.http, "/") == 200


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with tempfile.TemporaryDirectory() as directory:
        http_port, metrics, log = free_port(), free_port(), Path(directory, "log")
        command = f"ulimit -n {N_DESCRIPTORS}; exec {sys.executable} -m tuner_server serve --listen {HOST}:0"
        command += f" --db sqlite:///{directory}/jobs.db --http {HOST}:{http_port} --metrics {HOST}:{metrics}"
        with (
            log.open("w") as errors,
            subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                rpc = int(process.stdout.readline().rpartition(":")[2])
                with grpc.insecure_channel(f"{HOST}:{rpc}") as channel:
                    stub = tuner_pb2_grpc.TunerServiceStub(channel)
                    job_id = wire_client.create(stub, config(400, **QUICK)).job.id
                    yield SmallServer(process, rpc, http_port, metrics, log, channel, job_id)
            finally:
                process.kill()


@contextlib.contextmanager
def idle(port: int, says: bytes) -> Iterator[list[socket.socket]]:
    """Connections that say something, and then nothing more."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(N_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection((HOST, port), TIMEOUT_S))
            with contextlib.suppress(ConnectionError):  # it was closed already
                connection.sendall(says)
            found.append(connection)
        yield found


def port_of(server: SmallServer, name: str) -> int:
    return int(getattr(server, name))


@pytest.mark.parametrize(
    ("port", "says"),
    [
        ("rpc", b""),
        ("rpc", PREFACE),
        pytest.param("rpc", PREFACE[:10], marks=pytest.mark.slow),
        ("http", b""),
        ("http", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A"),
        ("http", b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\ntoken="),
        ("metrics", b""),
        ("metrics", b"GET /livez HTTP/1.1\r\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_idle_connections_stop_nothing(server: SmallServer, port: str, says: bytes) -> None:
    before = server.log.stat().st_size
    with idle(port_of(server, port), says):
        server.serves()
        assert server.n_descriptors() < N_DESCRIPTORS
        server.serves()
    assert server.log.stat().st_size - before < MOST_LOG_BYTES


def test_idle_connections_on_all_ports_at_once(server: SmallServer) -> None:
    with idle(server.rpc, b""), idle(server.http, b""), idle(server.metrics, b""):
        server.serves()
        assert server.n_descriptors() < N_DESCRIPTORS


def test_a_full_port_says_so_once_and_not_for_every_connection(server: SmallServer) -> None:
    with idle(server.http, b""):
        wait_until(lambda: "connections turned away" in server.log.read_text())
    lines = [line for line in server.log.read_text().splitlines() if "turned away" in line and "port=http" in line]
    assert 1 <= len(lines) <= 10
