"""LRPilot behind Debian's nginx, with the very file that operators are given: TLS, a base path, streams, tokens."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import grpc
import pytest
import torch
import trustme
from lrpilot.credentials import Credentials
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.servers import fork_server
from tests.support.servers.guarded_server import add_token
from tests.support.servers.nginx import nginx
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.server_process import running
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.storage.access import open_access

pytestmark = pytest.mark.slow

TIMEOUT_S = 30.0
TOTAL = 400


class Site(NamedTuple):
    """A server behind nginx."""

    port: int
    token: str
    authority: Path
    tls: ssl.SSLContext

    @property
    def target(self) -> str:
        """Where clients find it."""
        return f"localhost:{self.port}"

    @property
    def credentials(self) -> Credentials:
        """What clients show."""
        return Credentials(token=self.token, ca_file=str(self.authority))

    @contextlib.contextmanager
    def asked(
        self, path: str, method: str = "GET", body: str = "", headers: dict[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer, as a browser gets it."""
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=TIMEOUT_S, context=self.tls)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            yield connection.getresponse()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("nginx")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(directory / "tuner.crt")
    certificate.private_key_pem.write_to_path(directory / "tuner.key")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    db = f"sqlite:///{directory}/jobs.db"
    with open_access(db) as access:
        token = add_token(access, DEFAULT_PROJECT).text
    http_port, port = free_port(), free_port()
    proxied = ("--base-path", "/lrpilot", "--trusted-proxies", HOST)
    with running(db, "--http", f"{HOST}:{http_port}", "--auth", "tokens", *proxied) as server:
        changes = {
            "127.0.0.1:50051": server.target,
            "127.0.0.1:8080": f"{HOST}:{http_port}",
            "/etc/nginx/tls": str(directory),
            "tuner.example.com": "localhost",
        }
        with nginx(directory, port, changes):
            yield Site(port, token, directory / "ca.pem", tls)


@pytest.fixture(scope="module")
def job_id(site: Site) -> str:
    """A run with the server on the far side of the proxy, to its end."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.ones(8))
    optimizer = torch.optim.SGD([parameter], lr=0.05)
    tuner = Tuner(
        nn.ParameterList([parameter]),
        optimizer,
        server=site.target,
        credentials=site.credentials,
        total_steps=TOTAL,
        name="far away",
        strict=True,
    )
    while not tuner.finished:
        loss = (parameter**2).sum() + 0.1 * torch.rand(())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        tuner.step(loss)
    return tuner.job_id


@pytest.fixture
def stub(site: Site) -> Iterator[GrpcTransport]:
    with contextlib.closing(GrpcTransport(site.target, site.credentials)) as transport:
        yield transport


def created(transport: GrpcTransport) -> pb.CreateJobResponse:
    config = pb.JobConfig(name="live", base_lr=0.1, total_steps=TOTAL, lr_bounds=pb.LrBounds(min=1e-3, max=1.0))
    request = pb.CreateJobRequest(request_id=str(time.time_ns()), config=config)
    return transport.create_job(request, TIMEOUT_S)


def test_a_run_is_tuned_through_the_proxy(site: Site, stub: GrpcTransport, job_id: str) -> None:
    job = stub.call(lambda: stub.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S)).job
    assert job.state == pb.JOB_STATE_FINISHED
    assert job.committed_steps + job.search_steps == TOTAL


def test_a_large_report_passes(stub: GrpcTransport) -> None:
    """More than a megabyte, at which nginx refuses by itself; what the server refuses, it refuses in its own words."""
    opened = created(stub)
    report = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, losses=[1.0] * 600_000)
    with pytest.raises(grpc.RpcError) as caught:
        stub.stub.Advance(pb.AdvanceRequest(job_id=opened.job.id, report=report), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # so many steps were not asked for
    assert "report" in str(caught.value.details())


def test_a_stranger_is_told_so_by_the_server_itself(site: Site) -> None:
    with contextlib.closing(GrpcTransport(site.target, Credentials(ca_file=str(site.authority)))) as stranger:
        with pytest.raises(grpc.RpcError) as caught:
            stranger.stub.ListJobs(pb.ListJobsRequest(), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_watch_hears_of_changes_at_once(stub: GrpcTransport) -> None:
    opened = created(stub)
    stream = stub.stub.WatchJob(pb.WatchJobRequest(job_id=opened.job.id), timeout=TIMEOUT_S)
    assert next(stream).job.state == opened.job.state
    stub.stub.CancelJob(pb.CancelJobRequest(job_id=opened.job.id, reason="seen enough"), timeout=TIMEOUT_S)
    assert next(stream).job.message == "seen enough"


def test_the_command_line_watches_through_it(site: Site, job_id: str) -> None:
    environment = {"LRPILOT_SERVER": site.target, "LRPILOT_TOKEN": site.token, "LRPILOT_TLS_CA": str(site.authority)}
    watch = fork_server.shared().run("watch", job_id, **environment)
    shown, problem = watch.communicate()
    assert watch.wait() == 0, shown + problem
    assert "finished" in shown


def test_whoever_signs_in_gets_pages_under_the_base_path(site: Site, job_id: str) -> None:
    page = {"Accept": "text/html"}
    with site.asked(f"/lrpilot/jobs/{job_id}", headers=page) as answer:
        login = answer.headers["Location"]
        assert (answer.status, login) == (303, f"/lrpilot/login?next=/lrpilot/jobs/{job_id}")
    origin = {
        **page,
        "Origin": f"https://localhost:{site.port}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    form = urlencode({"token": site.token, "next": f"/lrpilot/jobs/{job_id}"})
    with site.asked("/lrpilot/login", "POST", form, origin) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, f"/lrpilot/jobs/{job_id}")
        cookie = answer.headers["Set-Cookie"]
    assert "Secure" in cookie
    assert "Path=/lrpilot;" in cookie
    signed_in = {**page, "Cookie": cookie.partition(";")[0]}
    with site.asked(f"/lrpilot/jobs/{job_id}", headers=signed_in) as answer:
        text = answer.read().decode()
    assert "far away" in text
    assert 'data-src="/lrpilot/jobs/' in text
    with site.asked(f"/lrpilot/jobs/{job_id}/data.csv", headers=signed_in) as answer:
        assert len(answer.read().splitlines()) == TOTAL + 1
    with site.asked("/lrpilot/static/style.css") as answer:
        assert answer.status == 200
    with site.asked("/lrpilot/login", "POST", form, {**origin, "Origin": "https://evil.example"}) as answer:
        assert answer.status == 403


def test_what_a_browser_claims_to_be_forwarded_counts_for_nothing(site: Site) -> None:
    forged = {"Accept": "text/html", "X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}
    with site.asked("/lrpilot/login", "POST", urlencode({"token": site.token}), forged) as answer:
        assert answer.status == 403


def test_a_browser_hears_of_changes_at_once(site: Site, stub: GrpcTransport) -> None:
    """The first event is there while the stream goes on: nothing on the way keeps it until there are more."""
    opened = created(stub)
    headers = {"Authorization": f"Bearer {site.token}", "Accept": "text/event-stream"}
    with site.asked(f"/lrpilot/jobs/{opened.job.id}/events", headers=headers) as answer:
        assert _event(answer) == "change"
        stub.stub.CancelJob(pb.CancelJobRequest(job_id=opened.job.id), timeout=TIMEOUT_S)
        assert _event(answer) == "change"
        assert _event(answer) == "end"


def _event(answer: http.client.HTTPResponse) -> str:
    """The name of the next event."""
    while True:
        line = answer.readline().decode().strip()
        if line.startswith("event: "):
            return line.removeprefix("event: ")
