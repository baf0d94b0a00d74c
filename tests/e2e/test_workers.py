"""Several processes behind one port."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.crashes import checking_clients
from tests.support.crashes.checking_clients import CheckingClients
from tests.support.servers import operated_server, server_process, wire_client
from tests.support.servers.operated_server import OperatedServer
from tests.support.waiting import wait_until
from tuner_server.base.address import Address, reserved
from tuner_server.storage import open_storage

TWO = ("--workers", "2", "--grace-s", "5")


@pytest.fixture
def server(sqlite_url: str, tmp_path: Path) -> Iterator[OperatedServer]:
    """A server whose temporary folder has a path that is too long for a socket, and is gone once it serves."""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    with operated_server.operated(sqlite_url, *TWO, TMPDIR=str(folder)) as running:
        folder.rmdir()  # it is empty
        yield running


def test_a_killed_worker_is_replaced_and_at_the_end_all_drain(server: OperatedServer) -> None:
    assert server.readiness() == (200, {"ready": True, "database": "up", "workers": "2 of 2"})
    with CheckingClients([server.process.target], checking_clients.configs(4)) as jobs:
        for _ in range(2):
            jobs.wait_for(6)
            first, second = server.workers
            first.kill()
            first.wait()
            wait_until(lambda: len(server.workers) == 2)
            assert second in server.workers
        jobs.wait_for(6)
    wait_until(lambda: server.metric("lrpilot_workers") == 2)
    assert server.metric("lrpilot_worker_restarts_total") == 2
    # What those that were killed had counted is not gone: every report was counted by whoever took it, but for those
    # whose commit was the last that it did.
    total = sum(value for (name, _), value in server.metrics().items() if name == "lrpilot_reports_total")
    assert total >= jobs.acknowledged - 2 * len(checking_clients.configs(4))
    assert_refused(server.process.target, "2")
    drain(server)


def drain(server: OperatedServer) -> None:
    """Ends a server by SIGTERM, in the right order."""
    with contextlib.ExitStack() as stack:
        watches = []
        created = wire_client.create(server.process.stub, checking_clients.configs(1)[0])
        for _ in range(4):  # over connections of their own, which go to either worker
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(grpc.insecure_channel(server.process.target, options=options))
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=wire_client.TIMEOUT_S
            )
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watches.append(watch)
        job = server.process.stub.WatchJob(pb.WatchJobRequest(job_id=created.job.id), timeout=wire_client.TIMEOUT_S)
        assert next(job).job.id == created.job.id
        server.process.signal(signal.SIGTERM)
        for watch in watches:
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        with pytest.raises(grpc.RpcError) as ended:
            next(job)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        code, log = server.process.wait()
        assert code == 0
        assert log.count("event=stopped") == 3
        assert "Traceback" not in log


def assert_refused(target: str, workers: str) -> None:
    """A second server does not get the port."""
    process = server_process.start("sqlite:////nowhere/jobs.db", "--workers", workers, listen=target)
    output, errors = process.communicate(timeout=server_process.STOP_TIMEOUT_S)
    assert (process.returncode, output) == (2, "")
    assert errors.splitlines() == [f"lrpilot: listen: {target} can't be bound: Address already in use"]


def test_workers_end_when_their_supervisor_is_killed_and_the_port_is_free_again(server: OperatedServer) -> None:
    family = psutil.Process(server.process.process.pid).children(recursive=True)
    assert len(server.workers) == 2
    server.process.kill()
    _, alive = psutil.wait_procs(family, timeout=operated_server.PATIENCE_S)
    assert not alive
    reserved("listen", Address.parse(server.process.target)).close()


def test_workers_that_can_not_start_are_one_line_and_exit_code_1(sqlite_url: str, tmp_path: Path) -> None:
    open_storage(sqlite_url).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        database.execute("UPDATE lrpilot_schema_version SET version_num = 'of the future'")
        database.commit()
    process = server_process.start(sqlite_url, *TWO)
    output, errors = process.communicate(timeout=server_process.STOP_TIMEOUT_S)
    assert (process.returncode, output) == (1, "")
    last = errors.splitlines()[-1]
    assert last.startswith("lrpilot: ")
    assert "newer version" in last
    assert "Traceback" not in errors


@pytest.mark.slow
def test_the_end_of_standard_input_ends_all(server: OperatedServer) -> None:
    family = psutil.Process(server.process.process.pid).children(recursive=True)
    code, _ = server.process.wait()  # which closes it
    assert code == 0
    assert not psutil.wait_procs(family, timeout=operated_server.PATIENCE_S)[1]


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(server: OperatedServer) -> None:
    hanging, _ = server.workers
    hanging.suspend()
    wait_until(lambda: server.readiness() == (200, {"ready": True, "database": "up", "workers": "1 of 2"}))
    wait_until(lambda: not hanging.is_running())
    wait_until(lambda: server.readiness()[1]["workers"] == "2 of 2")


@pytest.mark.slow
def test_workers_that_lost_their_fork_server_are_replaced(server: OperatedServer) -> None:
    orphans = server.workers
    parent = orphans[0].parent()
    assert parent is not None
    parent.kill()
    _, alive = psutil.wait_procs(orphans, timeout=operated_server.PATIENCE_S)
    assert not alive
    wait_until(lambda: server.readiness()[1]["workers"] == "2 of 2")
