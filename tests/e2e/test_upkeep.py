"""What a server hears from its operator and its service manager: SIGHUP, sd_notify, the ends of certificates."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme

from tests.support.servers import fork_server
from tests.support.servers.operated_server import operated
from tests.support.servers.server_process import running
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30.0


class Manager:
    """A service manager's socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.bind(address.replace("@", "\0"))

    def next_about(self, word: str) -> list[str]:
        """The lines of the next message that has the word; others are let pass."""
        while True:
            lines = self._socket.recv(4096).decode().splitlines()
            if any(line.startswith(word) for line in lines):
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def db(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path, days=20)


def written(directory: Path, days: float) -> tuple[Path, Path]:
    """A certificate that ends after so many days, and its key."""
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    issued = trustme.CA().issue_cert("localhost", not_after=end)
    cert, key = directory / "cert.pem", directory / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    key.touch(mode=0o600)
    issued.private_key_pem.write_to_path(key)
    return cert, key


@contextlib.contextmanager
def managed(address: str, *arguments: str, **variables: str) -> Iterator[tuple[Manager, fork_server.ForkedProcess]]:
    """A server whose manager listens at an address."""
    with contextlib.closing(Manager(address)) as manager:
        process = fork_server.shared().run(
            "serve", "--listen", "127.0.0.1:0", *arguments, NOTIFY_SOCKET=address, **variables
        )
        try:
            yield manager, process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()


@pytest.mark.parametrize(("workers", "abstract"), [(1, False), (2, True)], ids=["a path", "an abstract name"])
def test_the_service_manager_is_told_how_the_server_is(tmp_path: Path, db: str, workers: int, abstract: bool) -> None:
    address = f"@lrpilot-{os.getpid()}-{workers}" if abstract else str(tmp_path / "notify")
    watchdog = {"WATCHDOG_USEC": "400000"}
    with managed(address, "--db", db, "--workers", str(workers), **watchdog) as (manager, process):
        ready = manager.next_about("READY=1")
        listening = process.stdout.readline().removeprefix("listening on ").strip()
        assert ready[1] == f"STATUS=serving at {listening}"
        manager.next_about("WATCHDOG=1")
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                assert "NOTIFY_SOCKET" not in child.environ()
        process.send_signal(signal.SIGHUP)
        assert manager.next_about("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        manager.next_about("READY=1")
        process.send_signal(signal.SIGTERM)
        manager.next_about("STOPPING=1")
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hangup_has_the_level_of_the_log_read_again_and_ends_nothing(tmp_path: Path, db: str, workers: int) -> None:
    file = tmp_path / "lrpilot.toml"
    file.write_text('log_level = "warning"\n')
    with operated(db, "--config", str(file), "--workers", str(workers)) as server:
        process = server.process
        process.signal(signal.SIGHUP)
        file.write_text('log_level = "debug"\ngrace_s = 3\n')
        process.signal(signal.SIGHUP)
        wait_until(lambda: any("settings were read again" in line for line in process.log))
        file.write_text("log_level = 7\n")
        process.signal(signal.SIGHUP)
        wait_until(lambda: any("settings can't be read again" in line for line in process.log))
        for each in server.workers:
            each.send_signal(signal.SIGHUP)
        assert server.readiness()[0] == 200
        process.signal(signal.SIGTERM)
        code, log = process.wait()
    assert code == 0
    assert "takes effect with the next start" in log
    assert "setting=grace_s" in log
    assert log.count("settings were read again") <= 2, "one process of several tells"
    assert "event=draining" in log, "lines below `warning` are written by now"


def test_certificates_that_end_soon_are_in_the_log_and_in_the_metrics(
    tmp_path: Path, db: str, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    name = "lrpilot_tls_certificate_expiry_timestamp_seconds"
    with operated(db, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        process = server.process
        wait_until(lambda: any("certificate ends soon" in line for line in process.log))
        former = server.metric(name, file="tls_cert")
        cert.write_text("no certificate")
        process.signal(signal.SIGHUP)
        wait_until(lambda: any("certificates can't be used" in line for line in process.log))
        assert server.metric(name, file="tls_cert") == former, "the former ones are used still"
        written(tmp_path, days=3)
        process.signal(signal.SIGHUP)
        wait_until(lambda: any("days=3.0" in line and "level=error" in line for line in process.log))
        assert server.metric(name, file="tls_cert") < former


@pytest.mark.parametrize(("days", "words"), [(20, "in 20 days"), (-2, "2 days ago")])
def test_the_settings_are_shown_with_the_ends_of_certificates(tmp_path: Path, days: float, words: str) -> None:
    cert, key = written(tmp_path, days)
    shown = fork_server.shared().run("config", "--tls-cert", str(cert), "--tls-key", str(key), COLUMNS="200")
    text, _ = shown.communicate(TIMEOUT_S)
    assert words in text
    cert.write_text("no certificate")
    shown = fork_server.shared().run("config", "--tls-cert", str(cert), "--tls-key", str(key), "--json")
    text, _ = shown.communicate(TIMEOUT_S)
    assert "no PEM certificates" in text


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """With a program that is there, as systemd looks for it."""
    unit = tmp_path / "lrpilot.service"
    text = (ROOT / "deploy" / "systemd" / "lrpilot.service").read_text()
    unit.write_text(text.replace("/opt/lrpilot/bin/lrpilot", "/bin/true"))
    try:
        found = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no systemd-analyze")
    complaints = [line for line in found.stderr.splitlines() if "lrpilot" in line]
    assert not complaints


def test_a_terminal_that_closes_ends_no_server(db: str) -> None:
    """Its SIGHUP goes to every process of the server at once, also while they start."""
    with running(db, "--workers", "2") as server:
        for each in psutil.Process(server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGHUP)
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGTERM)
        code, log = server.wait()
    assert code == 0
    assert "worker ended" not in log
