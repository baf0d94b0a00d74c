"""Every text that somebody can set, in everything that shows it: nothing obeys it, and no name has an order in it."""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import logging
import sys
from collections.abc import Iterator
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

import grpc
import lrpilot
import pytest
import structlog
from lrpilot.errors import ConfigError
from lrpilot.session.job_config import job_config as client_config
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.text.plain_text import plain
from matplotlib import image

from tests.support.hostile.words import MARKUP, ORDERS, check_plain
from tests.support.jobs.sample_jobs import job_config, run_job
from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers.operated_server import operated
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.server_process import ServerProcess, running
from tuner_server.cli.app import app
from tuner_server.ops import logs
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage

TIMEOUT_S = 30.0
WORDS = {**ORDERS, **MARKUP}
STORED = {name: text for name, text in WORDS.items() if name != "NUL"}
"""No database keeps a NUL."""
DRAWN = ("mathtext", "script", "no character", "terminal title", "HTML")
"""Those that a picture might make something of."""


class Site(NamedTuple):
    """A server on a database of old: its names were not looked at."""

    server: ServerProcess
    http: int
    jobs: dict[str, str]
    """Ids, by what their names do."""

    def get(self, path: str) -> tuple[Message, str]:
        """Headers and body of a page."""
        with contextlib.closing(http.client.HTTPConnection(HOST, self.http, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", path, headers={"Accept": "text/html"})
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.headers, answer.read().decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    db = f"sqlite:///{tmp_path_factory.mktemp('words')}/jobs.db"
    jobs = {}
    with open_storage(db) as storage, TunerService(storage) as service:
        for name, text in STORED.items():
            config = job_config(text, total_steps=400).model_copy(update={"family": text})
            jobs[name] = run_job(service, config, SimulatedTraining(validates=True), max_reports=2)
            service.cancel_job("default", jobs[name], text)
    port = free_port()
    with running(db, "--http", f"{HOST}:{port}") as server:
        yield Site(server, port, jobs)


@pytest.fixture
def transport(site: Site) -> Iterator[GrpcTransport]:
    with contextlib.closing(GrpcTransport(site.server.target)) as transport:
        yield transport


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command writes."""
    app(list(arguments), standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("field", ["name", "family", "policy", "policy_options", "option", "request_id"])
def test_no_name_may_have_an_order_in_it(transport: GrpcTransport, name: str, field: str) -> None:
    config = pb.JobConfig(base_lr=0.1, total_steps=100)
    request = pb.CreateJobRequest(request_id="r", config=config)
    match field:
        case "policy_options":
            request.config.policy_options.update({ORDERS[name]: 1})
        case "option":
            request.config.policy_options.update({"shape": [ORDERS[name]]})
        case "request_id":
            request.request_id = ORDERS[name]
        case _:
            setattr(request.config, field, ORDERS[name])
    with pytest.raises(grpc.RpcError) as caught:
        transport.stub.CreateJob(request, timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    named = "policy_options" if field == "option" else field
    assert str(caught.value.details()).partition(":")[0] == named


@pytest.mark.parametrize("name", MARKUP)
def test_what_is_no_order_is_a_name_like_any_other(transport: GrpcTransport, name: str) -> None:
    config = pb.JobConfig(name=MARKUP[name], base_lr=0.1, total_steps=100)
    created = transport.create_job(pb.CreateJobRequest(request_id=name, config=config), TIMEOUT_S)
    assert created.job.config.name == MARKUP[name]


@pytest.mark.parametrize("name", ORDERS)
def test_a_client_is_told_before_its_first_step(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: character \d+ is U\+"):
        client_config(
            policy=None,
            policy_options=None,
            lr_bounds=None,
            total_steps=None,
            seed=0,
            name=ORDERS[name],
            family="",
            base_lr=0.1,
        )


def test_the_list_shows_all_of_them(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "jobs", "--server", site.server.target, "--limit", "1000")
    check_plain(shown)
    for job_id in site.jobs.values():
        assert job_id[:4] in shown
    assert json.loads(said(capsys, "jobs", "--server", site.server.target, "--json", "--limit", "1000"))


@pytest.mark.parametrize("name", STORED)
def test_a_job_is_shown_and_exported(site: Site, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job_id, server = site.jobs[name], ("--server", site.server.target)
    shown = said(capsys, "show", job_id, *server)
    check_plain(shown)
    assert "cancelled" in shown
    file, picture = tmp_path / "schedule.json", tmp_path / "schedule.svg"
    said(capsys, "export", job_id, "-o", str(file), *server)
    schedule = lrpilot.Schedule.load(file)
    assert schedule.name == STORED[name]
    check_plain(schedule._repr_html_().replace("\n", ""))
    if name in DRAWN:
        schedule.plot(picture)
        ElementTree.parse(picture)


def test_a_picture_of_dots_is_drawn_whatever_its_title(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mathtext", "script"):
        picture = tmp_path / "schedule.png"
        said(capsys, "plot", site.jobs[name], "-o", str(picture), "--server", site.server.target)
        assert image.imread(picture).size


class Page(HTMLParser):
    """The elements of a page that run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.parametrize("name", STORED)
def test_a_page_and_its_files_obey_nothing(site: Site, name: str) -> None:
    job_id = site.jobs[name]
    plain_page = Page(site.get(f"/jobs/{site.jobs['long']}")[1])
    headers, text = site.get(f"/jobs/{job_id}")
    check_plain(text)
    page = Page(text)
    assert (page.scripts, page.handlers) == (plain_page.scripts, [])
    for file in ("data.csv", "data.json", "schedule.json"):
        headers, text = site.get(f"/jobs/{job_id}/{file}")
        disposition = headers["Content-Disposition"]
        check_plain(disposition)
        known_to_all, _, encoded = disposition.partition("; filename*=UTF-8''")
        assert known_to_all.isascii()
        assert known_to_all.startswith('attachment; filename="')
        assert known_to_all.endswith(f'-{file}"')
        for stem in (known_to_all.partition('"')[2][:-1], unquote(encoded)):
            check_plain(stem)
            assert not set(stem) & set('/\\:*?"<>|'), stem
            assert not stem.startswith(".")
            assert not stem.upper().startswith("CON.")
            assert len(stem.encode()) < 255
        if file == "data.csv":
            assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
        else:
            assert json.loads(text)
            check_plain(text)


def test_the_list_in_the_browser_obeys_nothing(site: Site) -> None:
    text = site.get("/")[1] + site.get("/?page=2")[1]
    check_plain(text)
    assert not Page(text).handlers
    for name in ("HTML", "turned round"):
        found = site.get(f"/?family=&q={site.jobs[name]}")[1]
        assert f"/jobs/{site.jobs[name]}" in found


def test_a_report_to_send_has_scripts_of_ours_alone(site: Site) -> None:
    text = site.get(f"/jobs/{site.jobs['HTML']}/report.html")[1]
    without = site.get(f"/jobs/{site.jobs['long']}/report.html")[1]
    assert Page(text).scripts == Page(without).scripts
    assert "<img src=x" not in text


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_a_log_has_a_line_for_each_event(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    former = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        with logs.on_standard_error("json" if log_format == "json" else "logfmt", "info"):
            for i, (name, text) in enumerate(WORDS.items()):
                structlog.get_logger().info(f"event {i}", name=text, kind=name)
                logging.getLogger("library").warning("its %s", text)
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = former[0]
        logging.getLogger().setLevel(former[1])
    text = capfd.readouterr().err
    check_plain(text)
    assert len(text.splitlines()) == 2 * len(WORDS)
    if log_format == "json":
        ours = [line for line in map(json.loads, text.splitlines()) if "name" in line]
        assert [line["name"] for line in ours] == list(WORDS.values())


@pytest.mark.parametrize("name", WORDS)
def test_reasons_are_taken_in_one_line(site: Site, transport: GrpcTransport, name: str) -> None:
    """They repeat what others wrote, so they are not refused."""
    config = pb.JobConfig(base_lr=0.1, total_steps=100)
    job_id = transport.create_job(pb.CreateJobRequest(request_id=f"c{name}", config=config), TIMEOUT_S).job.id
    change = pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, later_steps=5, reason=WORDS[name])
    changed = transport.stub.ChangePlan(pb.ChangePlanRequest(job_id=job_id, change=change), timeout=TIMEOUT_S)
    assert changed.job.requested[0].reason == plain(WORDS[name])
    request = pb.CancelJobRequest(job_id=job_id, reason=WORDS[name])
    assert transport.stub.CancelJob(request, timeout=TIMEOUT_S).job.message == plain(WORDS[name])


@pytest.mark.parametrize("name", WORDS)
def test_a_note_is_taken_in_one_line_and_another_name_like_the_first(
    site: Site, transport: GrpcTransport, name: str
) -> None:
    job_id = site.jobs["long"]
    request = pb.DescribeJobRequest(job_id=job_id, note=WORDS[name])
    assert transport.stub.DescribeJob(request, timeout=TIMEOUT_S).job.note == plain(WORDS[name])
    if name in ORDERS:
        request = pb.DescribeJobRequest(job_id=job_id, name=WORDS[name])
        with pytest.raises(grpc.RpcError, match="name: character"):
            transport.stub.DescribeJob(request, timeout=TIMEOUT_S)


@pytest.mark.parametrize("name", WORDS)
def test_what_a_server_says_is_one_line_of_the_clients_log(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server is trusted with the LR, and not with the user's terminal."""
    with caplog.at_level(logging.INFO, "lrpilot"):
        logging.getLogger("lrpilot").info("lrpilot: directive %d: %s", 1, WORDS[name])
        logging.getLogger("lrpilot").info("lrpilot: closing: %s", RuntimeError(WORDS[name]))
    for record in caplog.records:
        check_plain(record.getMessage())
        assert "\n" not in record.getMessage()


def test_a_strangers_names_of_methods_are_no_labels(tmp_path: Path) -> None:
    """Each would be another series, for ever, of whoever has no token."""
    with operated(f"sqlite:///{tmp_path}/jobs.db", "--auth", "tokens") as server:
        with grpc.insecure_channel(server.process.target) as channel:
            for name in ("/pwned.Service/Steal", "/lrpilot.v1.TunerService/Pwned"):
                call: grpc.UnaryUnaryMultiCallable[pb.GetJobRequest, pb.Job] = channel.unary_unary(
                    name, pb.GetJobRequest.SerializeToString
                )
                with pytest.raises(grpc.RpcError):
                    call(pb.GetJobRequest(), timeout=TIMEOUT_S)
        assert "wned" not in server.get("/metrics")[1]
        assert server.metric("lrpilot_rpcs_total", method="unknown", code="UNAUTHENTICATED") == 2


def test_an_error_is_one_line(site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from tuner_server.cli.app import main

    monkeypatch.setattr(sys, "argv", ["lrpilot", "show", "a\x1b[31m\nb", "--server", site.server.target])
    with pytest.raises(SystemExit):
        main()
    text = capfd.readouterr().err
    check_plain(text)
    assert len(text.splitlines()) == 1
