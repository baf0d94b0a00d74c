"""`--http` as its users start it, with worker processes, TLS and tokens; and what the command line shows of a job."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
import trustme
from lrpilot.credentials import Credentials
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.jobs.sample_jobs import job_config
from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers import wire_client
from tests.support.servers.command_line import lrpilot_command
from tests.support.servers.guarded_server import add_project, add_token, guarded
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.server_process import ServerProcess, running
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.access.records import Limits
from tuner_server.access.shares import LIMITS, Lane, Shares
from tuner_server.base.address import Address
from tuner_server.storage.access import open_access

TIMEOUT_S = 30.0


def get(port: int, path: str, token: str = "", tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Status and body."""
    if tls is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    else:
        connection = http.client.HTTPSConnection(HOST, port, timeout=TIMEOUT_S, context=tls)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read().decode()


@contextlib.contextmanager
def streaming(port: int, path: str, token: str) -> Iterator[http.client.HTTPResponse]:
    """An answer that goes on, until the block ends."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        yield connection.getresponse()


@contextlib.contextmanager
def let_in(port: int, path: str, token: str) -> Iterator[None]:
    """The same, as soon as there is a place for it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        with streaming(port, path, token) as response:
            if response.status == 200:
                yield
                return
        assert time.monotonic() < deadline, "no stream was let in"


def issued(authority: trustme.CA, directory: Path, *identities: str) -> tuple[Path, Path]:
    """A server's certificate and key."""
    certificate = authority.issue_cert(*identities)
    cert, key = directory / "cert.pem", directory / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    key.touch(mode=0o600)
    certificate.private_key_pem.write_to_path(key)
    return cert, key


def listed(target: str, token: str) -> None:
    """Makes a call of the API."""
    with contextlib.closing(GrpcTransport(target, Credentials(token=token))) as transport:
        transport.stub.ListJobs(pb.ListJobsRequest(), timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('dashboard') / 'jobs.db'}"


@pytest.fixture(scope="module")
def server(db: str) -> Iterator[ServerProcess]:
    with running(db) as server:
        yield server


@pytest.fixture(scope="module")
def job_id(server: ServerProcess) -> str:
    """The id of a job that has finished."""
    return wire_client.drive(server.stub, job_config("job"), SimulatedTraining(validates=True))[0]


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_it_serves_with_the_servers_certificate_and_tokens(db: str, job_id: str, workers: str, tmp_path: Path) -> None:
    authority, port = trustme.CA(), free_port()
    cert, key = issued(authority, tmp_path, HOST)
    with contextlib.closing(open_access(db)) as access:
        token = add_token(access, DEFAULT_PROJECT).text
    tls = ssl.create_default_context()
    authority.configure_trust(tls)

    arguments = ("--http", f"{HOST}:{port}", "--auth", "tokens", "--tls-cert", str(cert), "--tls-key", str(key))
    with running(db, *arguments, "--workers", workers):
        assert get(port, f"/jobs/{job_id}/curves.json", tls=tls)[0] == 401
        status, body = get(port, f"/jobs/{job_id}/curves.json", token, tls)
        assert (status, json.loads(body)["n_steps"]) == (200, 4000)
        with pytest.raises(http.client.HTTPException):
            get(port, "/")  # not without TLS


def served(authorities: Sequence[trustme.CA], port: int, client: trustme.CA | None = None) -> list[bool]:
    """Whether somebody who trusts that authority, and shows a certificate of `client`, is served; for each of them."""
    found = []
    for authority in authorities:
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
        if client is not None:
            client.issue_cert("somebody").configure_cert(tls)
        try:
            found.append(get(port, "/", tls=tls)[0] == 200)
        except (ssl.SSLError, ConnectionError):
            found.append(False)
    return found


def test_renewed_certificates_are_used_without_a_restart(db: str, tmp_path: Path) -> None:
    both, port = (trustme.CA(), trustme.CA()), free_port()
    cert, key = issued(both[0], tmp_path, HOST)
    with running(db, "--http", f"{HOST}:{port}", "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        assert served(both, port) == [True, False]

        former = key.read_bytes()
        issued(both[1], tmp_path, HOST)
        renewed = key.read_bytes()
        key.write_bytes(former)  # half of a renewal: certificate and key don't fit
        assert served(both, port) == [True, False]
        key.write_bytes(renewed)
        assert served(both, port) == [False, True]
        key.unlink()
        assert served(both, port) == [False, True]
        _, log = server.wait()
    assert "certificates can't be read again; the former ones are kept" in log
    assert "certificates were read again" in log


def test_renewed_client_authorities_let_in_their_clients_and_no_others(db: str, tmp_path: Path) -> None:
    authority, former, renewed, port = trustme.CA(), trustme.CA(), trustme.CA(), free_port()
    cert, key = issued(authority, tmp_path, HOST)
    client_ca = tmp_path / "clients.pem"
    former.cert_pem.write_to_path(client_ca)
    files = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(client_ca))
    with running(db, "--http", f"{HOST}:{port}", *files):
        assert [served([authority], port, client) for client in (former, renewed, None)] == [[True], [False], [False]]
        renewed.cert_pem.write_to_path(client_ca)
        assert [served([authority], port, client) for client in (former, renewed, None)] == [[False], [True], [False]]


def test_mutual_tls_serves_those_who_have_a_certificate_of_the_authority(db: str, job_id: str, tmp_path: Path) -> None:
    authority, stranger, port = trustme.CA(), trustme.CA(), free_port()
    cert, key = issued(authority, tmp_path, HOST)
    client_ca = tmp_path / "clients.pem"
    authority.cert_pem.write_to_path(client_ca)

    def client(signed_by: trustme.CA | None) -> ssl.SSLContext:
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
        if signed_by is not None:
            signed_by.issue_cert("somebody").configure_cert(tls)
        return tls

    files = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(client_ca))
    with running(db, "--http", f"{HOST}:{port}", *files):
        status, body = get(port, f"/jobs/{job_id}/curves.json", tls=client(authority))
        assert (status, json.loads(body)["n_steps"]) == (200, 4000)
        for refused in (client(None), client(stranger)):
            # With TLS 1.3 a client hears of it when it reads; what it hears depends on who closes first.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get(port, f"/jobs/{job_id}/curves.json", tls=refused)


def test_calls_of_the_api_and_of_the_dashboard_count_together(db: str) -> None:
    port = free_port()
    with contextlib.closing(open_access(db)) as access:
        for name in ("calls", "looks"):
            add_project(access, name, Limits(max_calls_per_s=0.05))
        calls, looks = add_token(access, "calls").text, add_token(access, "looks").text
    with running(db, "--http", f"{HOST}:{port}", "--auth", "tokens") as server:
        listed(server.target, calls)
        assert get(port, "/", calls)[0] == 429
        assert get(port, "/", looks)[0] == 200
        with pytest.raises(grpc.RpcError) as refusal:
            listed(server.target, looks)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_streams_of_the_api_and_of_the_dashboard_count_together(tmp_path: Path) -> None:
    limits = dict(LIMITS) | {Lane.READING: dataclasses.replace(LIMITS[Lane.READING], streams=3)}
    url, port = f"sqlite:///{tmp_path}/jobs.db", free_port()
    with contextlib.closing(open_access(url)) as access:
        token = add_token(access, DEFAULT_PROJECT).text
    with (
        guarded(url, http=Address(HOST, port), shares=Shares(limits=limits)) as server,
        contextlib.ExitStack() as stack,
    ):
        transport = stack.enter_context(contextlib.closing(GrpcTransport(server.target, Credentials(token=token))))
        job_id = wire_client.create(transport.stub, job_config("watched")).job.id
        watching = transport.stub.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=TIMEOUT_S)
        stack.callback(watching.cancel)
        next(watching)
        looking = stack.enter_context(contextlib.ExitStack())
        for path in ("/events", f"/jobs/{job_id}/events"):
            assert looking.enter_context(streaming(port, path, token)).status == 200

        with streaming(port, "/events", token) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
            assert "3 streams" in json.loads(refused.read())["error"]
        assert get(port, "/", token)[0] == 200, "other requests are no streams"

        for leave in (watching.cancel, looking.close):
            leave()
            stack.enter_context(let_in(port, "/events", token))


def test_a_server_stops_while_somebody_looks(db: str, job_id: str) -> None:
    port = free_port()
    with running(db, "--http", f"{HOST}:{port}") as server:
        with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", "/events")
            response = connection.getresponse()
            assert response.readline() == b"retry: 2000\r\n"
            server.process.send_signal(15)
            response.read()
        code, log = server.wait()
    assert code == 0
    assert "level=error" not in log
    assert "Traceback" not in log


def test_an_address_that_others_reach_needs_tls_and_tokens(db: str) -> None:
    result = lrpilot_command("serve", "--db", db, "--listen", f"{HOST}:0", "--http", "0.0.0.0:0")
    assert result.returncode == 2
    assert result.stderr.startswith("lrpilot: http: 0.0.0.0:0 can be reached by others")


def test_a_job_is_shown_and_watched_with_its_curves(server: ServerProcess, job_id: str) -> None:
    for command in ("show", "watch"):
        result = lrpilot_command(command, job_id[:8], "--server", server.target)
        assert result.returncode == 0, result.stderr
        assert job_id in result.stdout
        for name in ("loss", "LR"):
            assert re.search(rf"^{name} .*[\u2800-\u28ff]", result.stdout, re.MULTILINE)
    assert lrpilot_command("watch", "none", "--server", server.target).returncode == 2


def test_a_report_is_one_file(server: ServerProcess, job_id: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert lrpilot_command("report", job_id[:8], "-o", str(file), "--server", server.target).returncode == 0
    text = file.read_text()
    assert "probes tried LRs from" in text
    assert "plotly.js" in text
    result = lrpilot_command("report", job_id, "-o", str(tmp_path / "none" / "r.html"), "--server", server.target)
    assert (result.returncode, "output" in result.stderr) == (2, True)
