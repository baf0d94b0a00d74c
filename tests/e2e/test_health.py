"""What operators are told when a server can't do its work, and that its log stops nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from tests.support.crashes import checking_clients
from tests.support.servers import fork_server, operated_server, server_process, wire_client
from tests.support.servers.operated_server import OperatedServer
from tests.support.servers.ports import free_port
from tests.support.servers.postgresql import PostgreSQL
from tests.support.waiting import wait_until
from tuner_server.storage import open_storage

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health(server: OperatedServer) -> int:
    """As gRPC's health service has it."""
    stub = health_pb2_grpc.HealthStub(server.process.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=wire_client.TIMEOUT_S).status
    return status


def refused(server: OperatedServer) -> str:
    """What a client is told that opens a job."""
    with pytest.raises(grpc.RpcError) as found:
        wire_client.create(server.process.stub, checking_clients.configs(1)[0])
    assert found.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(found.value.details())


def unready(server: OperatedServer) -> str:
    """Waits until the server says that it is not ready. Why not."""
    wait_until(lambda: server.readiness()[0] == 503)
    wait_until(lambda: health(server) == NOT_SERVING)
    assert server.metric("lrpilot_database_up") == 0
    assert server.get("/livez") == (200, "ok\n")  # to restart it would help nobody
    return str(server.readiness()[1]["database"])


def ready(server: OperatedServer) -> None:
    """Waits until it is, and opens a job."""
    wait_until(lambda: server.readiness()[0] == 200)
    wait_until(lambda: health(server) == SERVING)
    wire_client.create(server.process.stub, checking_clients.configs(1)[0])


def test_a_file_that_is_moved_and_replaced_under_a_server(sqlite_url: str, tmp_path: Path) -> None:
    path, away, other = tmp_path / "jobs.db", tmp_path / "away.db", tmp_path / "other.db"
    with operated_server.operated(sqlite_url) as server:
        path.rename(away)
        assert "deleted or moved" in unready(server)
        for _ in range(20):
            assert "deleted or moved" in refused(server)
        away.rename(path)
        ready(server)
        open_storage(f"sqlite:///{other}").close()
        other.replace(path)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink()  # SQLite would take them for the new file's
        assert "another file was put in its place" in unready(server)
        assert "start the server anew" in refused(server)
        _, log = server.process.wait()
    reasons = [line for line in log.splitlines() if 'event="calls fail"' in line]
    assert ["deleted or moved" in line for line in reasons] == [True, False]  # each once, whoever calls
    assert log.count('event="database can\'t be used"') == 2
    calls = [line for line in log.splitlines() if "code=UNAVAILABLE" in line]
    assert all("deleted or moved" in line or "put in its place" in line for line in calls)
    with contextlib.closing(open_storage(sqlite_url)) as storage:
        assert storage.page("default", 1).jobs == ()  # nothing was mixed into the new file


@pytest.mark.slow
def test_a_primary_that_takes_no_writes_any_more(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    def settle(statement: str) -> None:
        with psycopg.connect(postgresql_server.url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(statement.encode())
            connection.execute("SELECT pg_reload_conf()")

    with operated_server.operated(postgresql_url) as server:
        settle("ALTER SYSTEM SET default_transaction_read_only = on")
        try:
            assert "read-only" in unready(server)
            assert "read-only" in refused(server)
        finally:
            settle("ALTER SYSTEM RESET default_transaction_read_only")
        ready(server)
        _, log = server.process.wait()
    assert len([line for line in log.splitlines() if 'event="calls fail"' in line]) == 1


def test_a_reader_of_the_log_that_stops_stops_nothing(sqlite_url: str) -> None:
    process = server_process.start(sqlite_url)
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    target = process.stdout.readline().removeprefix("listening on ").strip()
    with grpc.insecure_channel(target) as channel:
        stub = tuner_pb2_grpc.TunerServiceStub(channel)
        for _ in range(100):
            stub.ListJobs(pb.ListJobsRequest(), timeout=wire_client.TIMEOUT_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(server_process.STOP_TIMEOUT_S) == 0
    process.communicate()


def test_variables_of_another_application_are_not_read_and_its_metrics_get_no_files(
    sqlite_url: str, tmp_path: Path
) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir()
    with operated_server.operated(
        sqlite_url, PROMETHEUS_MULTIPROC_DIR=str(directory), WEB_CONCURRENCY="auto", FORWARDED_ALLOW_IPS="*"
    ) as server:
        assert server.metric("lrpilot_database_up") == 1
    assert not list(directory.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["2>&-", ">/dev/full", "<&- >&- 2>&-"])
def test_a_launcher_that_gives_no_streams(sqlite_url: str, streams: str) -> None:
    port = free_port()
    command = f'exec "$0" -m tuner_server serve --listen 127.0.0.1:{port} --db {sqlite_url} --workers 2 {streams}'
    process = subprocess.Popen(["bash", "-c", command, sys.executable], stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(operated_server.PATIENCE_S)
            stub = tuner_pb2_grpc.TunerServiceStub(channel)
            stub.ListJobs(pb.ListJobsRequest(), timeout=wire_client.TIMEOUT_S)
        process.terminate()
        assert process.wait(server_process.STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_fork_server_that_hangs_is_replaced(sqlite_url: str) -> None:
    with operated_server.operated(sqlite_url, "--workers", "2") as server:
        parent = server.workers[0].parent()
        assert parent is not None
        parent.suspend()
        for worker in server.workers:
            worker.kill()
        wait_until(lambda: server.get("/livez")[0] == 200 and server.readiness()[0] == 503)
        parent.resume()
        wait_until(lambda: server.readiness()[1]["workers"] == "2 of 2")


def test_what_only_a_client_lacks_is_one_line(tmp_path: Path) -> None:
    for arguments, variables, said in (
        (("jobs", "prune", "--older-than", "1"), {"HOME": "/proc/none", "XDG_DATA_HOME": ""}, "set LRPILOT_DB="),
        (("serve",), {"HOME": "/proc/none", "XDG_DATA_HOME": ""}, "set LRPILOT_DB="),
        (("serve",), {"LRPILOT_DB": "sqlite:///\udcff"}, "must be UTF-8"),
    ):
        process = fork_server.shared().run(*arguments, **variables)
        _, errors = process.communicate(timeout=server_process.STOP_TIMEOUT_S)
        assert process.returncode == 2, errors
        assert len(errors.splitlines()) == 1
        assert said in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "name"), [("latin-1", b"na\xefve ? run"), ("ascii", b"na?ve ? run"), ("utf-8", "naïve ✓ run".encode())]
)
def test_a_terminal_that_lacks_characters(sqlite_url: str, encoding: str, name: bytes) -> None:
    with server_process.running(sqlite_url) as server:
        config = checking_clients.configs(1)[0].model_copy(update={"name": "naïve ✓ run"})
        created = wire_client.create(server.stub, config)
        for command in (["jobs"], ["show", created.job.id]):
            shown = subprocess.run(
                [sys.executable, "-m", "tuner_server", *command, "--server", server.target],
                capture_output=True,
                env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "200"},
                check=True,
            )
            assert name in shown.stdout
            assert shown.stderr == b""


@pytest.mark.slow
def test_output_that_nobody_takes(sqlite_url: str) -> None:
    with server_process.running(sqlite_url) as server:
        for redirection, code, said in (("| true", 0, ""), (">/dev/full", 1, "No space left"), (">&-", 0, "")):
            command = f'"$0" -m tuner_server jobs --json --server {server.target} {redirection}'
            ran = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True, check=False)
            assert ran.returncode == code
            assert re.fullmatch(f"lrpilot: .*{said}.*\n" if said else "", ran.stderr)


@pytest.mark.slow
def test_no_child_process_stays_behind(sqlite_url: str) -> None:
    with operated_server.operated(sqlite_url, "--workers", "2") as server:
        family = psutil.Process(server.process.process.pid).children(recursive=True)
        server.process.signal(signal.SIGTERM)
        assert server.process.wait()[0] == 0
    assert not psutil.wait_procs(family, timeout=operated_server.PATIENCE_S)[1]
