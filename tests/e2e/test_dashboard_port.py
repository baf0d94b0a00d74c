"""`--http` as its users start it, with worker processes, TLS and tokens; and what the command line shows of a job."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support import wire, zygote
from tests.support.guarded import add_token
from tests.support.ports import HOST, free_port
from tests.support.server_process import ServerProcess, running
from tests.support.shown import job_config
from tests.support.simulated import SimulatedTraining
from tuner_server.access.principal import DEFAULT_PROJECT
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


def lrpilot_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it."""
    process = zygote.shared().run(*arguments, COLUMNS="120")
    output, errors = process.communicate(TIMEOUT_S)
    return subprocess.CompletedProcess(arguments, process.wait(), output, errors)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('dashboard') / 'jobs.db'}"


@pytest.fixture(scope="module")
def server(db: str) -> Iterator[ServerProcess]:
    with running(db) as server:
        yield server


@pytest.fixture(scope="module")
def job_id(server: ServerProcess) -> str:
    """Of a job that has finished."""
    return wire.drive(server.stub, job_config("job"), SimulatedTraining(validates=True))[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_with_the_servers_certificate_and_tokens(db: str, job_id: str, workers: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    cert, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    certificate.cert_chain_pems[0].write_to_path(cert)
    key.touch(mode=0o600)
    certificate.private_key_pem.write_to_path(key)
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


def test_a_server_stops_while_somebody_looks(db: str, job_id: str) -> None:
    port = free_port()
    with running(db, "--http", f"{HOST}:{port}") as server:
        with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", "/events")
            response = connection.getresponse()
            assert response.readline() == b"retry: 2000\n"
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
