"""`make compose-demo`, as it is: two jobs share a tuner on PostgreSQL, in containers. `make compose-test` runs this."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from lrpilot import Schedule

from tests.support.servers.ports import HOST, free_port

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
JOBS = {"digits": 2000, "text": 2000}
"""Their `total_steps`, by name."""
SERVED = ["postgres", "tuner", "prometheus"]
"""What goes on running."""
UNTIL_SCRAPED_S = 60.0
PROMETHEUS = "lrpilot-prometheus"
"""Its image, by the name that compose.yaml gives it."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """The demo after its jobs have ended. `out` has what was exported, `text` what was printed."""

    out: Path
    text: str
    environment: dict[str, str]

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Compose on the demo's file."""
        command = [str(ROOT / "docker" / "compose.sh"), *arguments]
        return subprocess.run(command, env=self.environment, check=check, capture_output=True, text=True)

    def dashboard(self) -> httpx.Client:
        """A client that has the token which was printed."""
        (token,) = re.findall(r"its token +(lrp_\S+)", self.text)
        address = f"http://{HOST}:{self.environment['LRPILOT_HTTP_PORT']}"
        return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"})

    def prometheus(self, path: str, **parameters: str) -> Any:
        """What its API answers."""
        address = f"http://{HOST}:{self.environment['LRPILOT_PROMETHEUS_PORT']}/api/v1/{path}"
        answer = httpx.get(address, params=parameters)
        assert answer.status_code == 200, (parameters, answer.text)
        return answer.json()["data"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Raises: CalledProcessError: the demo failed."""
    ports = ("LRPILOT_PORT", "LRPILOT_HTTP_PORT", "LRPILOT_PROMETHEUS_PORT")
    environment = dict(os.environ) | {"COMPOSE_PROJECT_NAME": f"lrpilot-test-{os.getpid()}"}
    environment |= {name: str(free_port()) for name in ports}
    directory = tmp_path_factory.mktemp("demo")
    found = Demo(directory / "out", "", environment)
    command = [ROOT / "docker" / "demo.sh", found.out]
    log = directory / "log"
    try:
        with log.open("w") as file:
            ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        print(log.read_text())  # shown if a test fails
        assert ended.returncode == 0
        yield dataclasses.replace(found, text=log.read_text())
    finally:
        found.compose("--profile", "export", "down", "--volumes", "--remove-orphans")


@pytest.mark.parametrize("name", JOBS)
def test_a_schedule_is_exported_from_the_shared_tuner(demo: Demo, name: str) -> None:
    schedule = Schedule.load(demo.out / f"{name}.json")
    assert schedule.total_steps == JOBS[name]
    assert 0 < schedule.n_steps < JOBS[name]  # the rest was search
    report = (demo.out / f"{name}.html").read_text()
    assert f"<title>{name}" in report


def test_both_jobs_are_in_the_shared_database(demo: Demo) -> None:
    query = ("psql", "--host=127.0.0.1", "--username=lrpilot", "--tuples-only", "--command=SELECT name FROM jobs")
    answer = demo.compose("exec", "-T", "--env", "PGPASSWORD=demo", "postgres", *query).stdout
    assert sorted(answer.split()) == sorted(JOBS)


def test_the_dashboard_shows_both_jobs_to_who_has_the_token(demo: Demo) -> None:
    with demo.dashboard() as browser:
        page = browser.get("/").text
        assert all(name in page for name in JOBS)
        del browser.headers["Authorization"]
        assert browser.get("/jobs.json").status_code != 200


def test_prometheus_has_what_grafana_asks_for(demo: Demo) -> None:
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/lrpilot.json").read_text())
    (group,) = yaml.safe_load((ROOT / "docker/prometheus/alerts.yml").read_text())["groups"]
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    expressions += [rule["expr"] for rule in group["rules"]]
    values = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s"}
    for expression in expressions:
        for variable, value in values.items():
            expression = expression.replace(variable, value)
        demo.prometheus("query", query=expression)


def test_prometheus_counts_the_reports(demo: Demo) -> None:
    until = time.monotonic() + UNTIL_SCRAPED_S
    while not (found := demo.prometheus("query", query="sum(lrpilot_reports_total) > 0")["result"]):
        assert time.monotonic() < until
        time.sleep(1)
    assert float(found[0]["value"][1]) > len(JOBS)
    (target,) = demo.prometheus("targets")["activeTargets"]
    assert target["health"] == "up"
    assert {alert["labels"]["alertname"] for alert in demo.prometheus("alerts")["alerts"]} == set()
    (group,) = demo.prometheus("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}


def test_the_alert_on_backups_fires_after_two_days_without_one(demo: Demo) -> None:
    """Prometheus' own tests of rules, in its container's image."""
    volumes = {ROOT / "docker" / "prometheus": "/rules", Path(__file__).parent: "/cases"}
    mounts = [f"--volume={path}:{place}:ro" for path, place in volumes.items()]
    command = ["docker", "run", "--rm", *mounts, "--entrypoint=promtool", PROMETHEUS]
    ended = subprocess.run([*command, "test", "rules", "/cases/backup_alert.yml"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("service", SERVED)
def test_a_container_has_few_rights_and_says_how_it_is(demo: Demo, service: str) -> None:
    container = demo.compose("ps", "--quiet", service).stdout.strip()
    inspected = subprocess.run(["docker", "inspect", container], check=True, capture_output=True, text=True).stdout
    (found,) = json.loads(inspected)
    assert found["State"]["Health"]["Status"] == "healthy"
    assert found["Config"]["User"] not in {"", "root", "0"}
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    published = [address["HostIp"] for port in found["NetworkSettings"]["Ports"].values() for address in port or []]
    assert set(published) <= {"127.0.0.1"}
    assert demo.compose("exec", "-T", service, "id", "-u").stdout.strip() != "0"


def test_the_client_image_has_no_server_in_it(demo: Demo) -> None:
    command = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "pip", "digits", "list", "--format", "json")
    installed = {package["name"].lower() for package in json.loads(demo.compose(*command).stdout)}
    assert {"lrpilot", "grpcio", "torch"} <= installed
    assert not {"sqlalchemy", "starlette", "typer"} & installed


def test_the_server_image_has_no_pytorch_in_it(demo: Demo) -> None:
    listed = demo.compose("exec", "-T", "tuner", "pip", "list", "--format", "json").stdout
    installed = {package["name"].lower() for package in json.loads(listed)}
    assert {"lrpilot", "numpy", "sqlalchemy"} <= installed
    assert "torch" not in installed


def test_an_export_fails_without_its_job(demo: Demo) -> None:
    command = ("run", "--rm", "--no-deps", "-T", "export", "python", "/opt/export.py", "digits", "nobody")
    failed = demo.compose(*command, check=False)
    assert failed.returncode != 0
    assert "nobody must be a finished job of the shared tuner: it is not there" in failed.stderr
    assert failed.stdout == ""


def test_the_tuner_starts_again_with_its_jobs(demo: Demo) -> None:
    demo.compose("kill", "tuner")
    demo.compose("up", "--detach", "--no-deps", "tuner")
    until = time.monotonic() + UNTIL_SCRAPED_S
    with demo.dashboard() as browser:
        while True:
            try:
                page = browser.get("/").text
            except httpx.TransportError:
                assert time.monotonic() < until
                time.sleep(0.5)
            else:
                break
        assert all(name in page for name in JOBS)
